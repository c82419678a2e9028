"""Base class of generated data sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from sidkit.core.config import Feedback


class GeneratedDataset(ABC):
    """A data set written by code: synthetic data, a download, an export of another system.

    The class attributes become ``[source]`` of the repository's ``sidkit.toml``; see
    :class:`sidkit.core.config.SourceSettings`.

    Parameters
    ----------
    variant : str
        Text after the name on the command line, such as ``weak`` in ``synthetic:weak``; empty by default.

    Examples
    --------
    ::

        class MyWorld(GeneratedDataset):
            modalities = ("text",)

            def write(self, folder, impressions):
                pq.write_table(log, folder / "interactions.parquet")  # user_id, item_id, timestamp, label
                pq.write_table(items, folder / "items.parquet")  # item_id, created_at, ...
                pq.write_table(vectors, folder / "item_embeddings.parquet")  # item_id, text
                return len(log)
    """

    modalities: tuple[str, ...] = ("text",)
    feedback: Feedback = "impressions"
    conversions: bool = False

    def __init__(self, variant: str = "") -> None:
        self.variant = variant

    @abstractmethod
    def write(self, folder: Path, impressions: int) -> int:
        """Write the tables of the input contract as ``<table>.parquet``; the same arguments give the same rows.

        Parameters
        ----------
        folder : Path
            An empty folder.
        impressions : int
            Approximate number of rows of ``interactions`` (``--impressions``); ignored by a data set of fixed size.

        Returns
        -------
        int
            Number of rows of ``interactions``.
        """

    def fingerprint(self) -> str:
        """Text that changes whenever :meth:`write` may write other rows for the same arguments; empty by default.

        A data set that reads files names them here with their sizes and times, so that ``sidkit run`` writes it again.
        """
        return ""
