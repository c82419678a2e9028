"""Control parts of frames: what shuffled or random codes yield in place of the codebook's.

A control part holds the codes of all item versions of a frame, and the features that are counted by them: those of code
prefixes. Counts of shuffled codes are no permutation of columns, so :mod:`ranking.data.control_frame` counts them anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranking.data.control_codes import ControlKind
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.item_table import ItemTable
from ranking.data.numeric_features import numeric_columns
from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import ArtifactCorruptError, EvaluationError
from sidkit.core.files import read_json, write_json
from sidkit.core.integrity import MANIFEST, read_verified

CONTROL_CODES = "item_sid.parquet"
"""The codes of all items of the catalogue, like ``item_sid_<codebook>``."""
TRAIN = "train.parquet"
"""The features of training rows that are larger than memory."""
_ARRAYS, _FACTS, _CODES = "arrays.safetensors", "control.json", "codes"


@dataclass(frozen=True)
class ControlPart:
    """A control part of a frame.

    Attributes
    ----------
    kind : str
        ``shuffled`` or ``random``.
    seed : int
        Seed of the permutation, or of the hash.
    features : tuple of str
        The features of code prefixes, in the order of the columns of ``numbers``.
    codes : int32 [item versions, levels]
        Codes of the frame's item versions; -1 in those without.
    numbers : mapping
        ``train`` (if the training rows fit in memory), ``validation`` and ``test`` -> raw values ``float32 [rows, features]``.
    streamed : Path, optional
        Parquet with the features of training rows on disk, in the row groups of the frame's.
    """

    kind: ControlKind
    seed: int
    features: tuple[str, ...]
    codes: Codes
    numbers: Mapping[str, Floats]
    streamed: Path | None = None

    def applied(self, part: str, data: Dataset) -> Dataset:
        """A part of the frame with the codes and features of the control.

        Parameters
        ----------
        part : str
            ``train``, ``validation`` or ``test``.
        data : Dataset
            That part of the frame.

        Raises
        ------
        EvaluationError
            When the rows or items are not those of the frame that the control part was made for.
        """
        made_for = len(self.numbers[part]) if part in self.numbers else 0
        if len(data) != made_for:
            raise EvaluationError(
                f"expected the {made_for:,} {part} rows that the control part was made for, got {len(data):,}; train the arm "
                "on the frame of the same run"
            )
        place = {name: at for at, name in enumerate(numeric_columns(data.schema))}
        numeric = data.numeric.copy()
        numeric[:, [place[name] for name in self.features]] = self.numbers[part]
        return dataclasses.replace(data, items=self._items(data), numeric=numeric)

    def applied_to_training(self, data: Dataset | DiskDataset) -> Dataset | DiskDataset:
        """The training rows with the codes and features of the control; see :meth:`applied`."""
        if isinstance(data, Dataset):
            return self.applied("train", data)
        if self.streamed is None:
            raise EvaluationError(
                "expected a control part with training rows on disk, as the frame has them, got one without; run the command "
                "again"
            )
        return dataclasses.replace(data, items=self._items(data), replaced=self.streamed)

    def _items(self, data: Dataset | DiskDataset) -> ItemTable:
        if len(data.items) != len(self.codes):
            raise EvaluationError(
                f"expected the {len(self.codes):,} item versions that the control part was made for, got {len(data.items):,}; "
                "train the arm on the frame of the same run"
            )
        return dataclasses.replace(data.items, codes=self.codes)

    @classmethod
    def load(cls, folder: Path) -> ControlPart:
        """Read a control part.

        Raises
        ------
        ArtifactCorruptError
            When a file is missing or damaged.
        """
        from safetensors.numpy import load_file

        read_verified(folder / MANIFEST)
        facts, arrays = read_json(folder / _FACTS), load_file(folder / _ARRAYS)
        if not isinstance(facts, dict) or _CODES not in arrays:
            raise ArtifactCorruptError(folder / _FACTS, "it is no control part of a frame")
        return cls(
            kind=facts["kind"],
            seed=facts["seed"],
            features=tuple(facts["features"]),
            codes=arrays[_CODES],
            numbers={part: numbers for part, numbers in arrays.items() if part != _CODES},
            streamed=folder / TRAIN if (folder / TRAIN).exists() else None,
        )

    def write(self, folder: Path) -> None:
        """Write the files of a control part into a folder; that of training rows on disk is written before."""
        from safetensors.numpy import save_file

        arrays: dict[str, npt.NDArray[np.generic]] = {_CODES: self.codes, **self.numbers}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _ARRAYS)
        write_json(folder / _FACTS, {"kind": self.kind, "seed": self.seed, "features": list(self.features)})
