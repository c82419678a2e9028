"""Base class of rankers that users train themselves, with any library, and register to be served."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

import numpy.typing as npt

from ranking.data.project_dataset import ProjectDataset
from sidkit.core.plugins import Registry


class ExternalRanker(ABC):
    """A trained model that scores rows with our features.

    The class is written in a Python file of its own, which imports installed packages only: `Project.register_ranker` copies
    this file into the artefact, with its hash. The files that :meth:`save` writes are hashed too, and verified before
    :meth:`load` reads them.

    Examples
    --------
    ::

        class Constant(ExternalRanker):
            def __init__(self, value):
                self.value = value

            def save(self, folder):
                (folder / "value.json").write_text(json.dumps(self.value))

            @classmethod
            def load(cls, folder):
                return cls(json.loads((folder / "value.json").read_text()))

            def score(self, rows):
                return np.full(len(rows), self.value)
    """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that :meth:`score` needs to an empty folder.

        Use formats that are read without executing code: safetensors, ``.npz`` of numbers, JSON, Parquet, the text format of a
        tree library; not pickle.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read the files of :meth:`save`; also in another process, on another machine."""

    @abstractmethod
    def score(self, rows: ProjectDataset) -> npt.ArrayLike:
        """Predict the probability of a click, ``[rows]`` in 0..1.

        Parameters
        ----------
        rows : ProjectDataset
            Rows without labels, in training's form; at serving, the candidates of one request. A score must not depend on
            the other rows.
        """


EXTERNAL_RANKERS: Registry[ExternalRanker] = Registry(
    "ranker class", "sidkit.rankers", "ranking.training.external_ranker:ExternalRanker", {}
)
"""Registry of the classes of external rankers; all are plug-ins."""
