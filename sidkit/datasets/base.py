"""The contract of a data set that code writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from sidkit.core.config import Feedback


class GeneratedDataset(ABC):
    """A data set that is written into a repo: a synthetic world, a download, an export of another system.

    The class attributes become ``[source]`` of the repo's ``sidkit.toml`` (:class:`sidkit.core.config.SourceSettings` says what
    they mean).

    Parameters
    ----------
    variant : str
        What follows the name on the command line, ``weak`` of ``synthetic:weak``; empty where nothing does.

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
            About how many rows of ``interactions`` are wanted (``--impressions``); a data set of a fixed size ignores it.

        Returns
        -------
        int
            Rows of ``interactions``.
        """
