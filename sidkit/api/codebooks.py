"""A codebook of a project: look-ups of codes, items and similar items, and exports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from semantic_ids.codebook import Codebook
    from semantic_ids.export import ExportReport
    from semantic_ids.records import CodebookRecord
    from semantic_ids.similar import ItemNeighbours


class ProjectCodebook:
    """A published codebook; answers are as of the feature tables.

    Parameters
    ----------
    repo : Repo
        The repository.
    name : str, optional
        Name of the codebook; default: the one in state ``serving``.

    Raises
    ------
    UnknownVersionError
        When there is no such codebook, or none is serving.
    LifeCycleError
        When it is not published.
    """

    def __init__(self, repo: Repo, name: str | None = None) -> None:
        from semantic_ids.lookup import published

        self._repo = repo
        self.record: CodebookRecord = published(repo, name)

    def __repr__(self) -> str:
        return f"<codebook {self.name}, {self.record.state}: {self.record.summary}>"

    @property
    def name(self) -> str:
        """Name of the codebook."""
        return self.record.name

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level."""
        return self.record.sizes

    @cached_property
    def model(self) -> Codebook:
        """The fitted encoder and quantizer (:class:`semantic_ids.Codebook`)."""
        from semantic_ids.codebook import load_committed

        return load_committed(self._repo.codebooks / self.name, self.record)[0]

    @cached_property
    def _neighbours(self) -> ItemNeighbours:
        from semantic_ids.similar import ItemNeighbours

        return ItemNeighbours(self._repo, self.model)

    def codes(self, items: str | Sequence[str]) -> dict[str, tuple[int, ...] | None]:
        """The codes of one or several items, coarse to fine; None for an item without codes.

        Parameters
        ----------
        items : str or sequence of str
            Item ids.
        """
        from semantic_ids.lookup import codes_of

        ids = [items] if isinstance(items, str) else [str(item) for item in items]
        return {
            item: None if codes is None else tuple(codes)
            for item, codes in codes_of(self._repo, ids, self.name).items()
        }

    def items(self, codes: Sequence[int], limit: int = 50) -> pd.DataFrame:
        """The items whose codes begin with a prefix, sorted by id.

        Parameters
        ----------
        codes : sequence of int
            All codes of an item, or the first ones.
        limit : int
            Maximum number of items.

        Returns
        -------
        pandas.DataFrame
            Columns ``item_id``, ``codes``, ``title`` (None without one).

        Raises
        ------
        ConfigError
            When there are more codes than levels.
        """
        from semantic_ids.lookup import items_of

        text = ",".join(str(int(code)) for code in codes)
        rows = [(item, tuple(own), title) for item, own, title in items_of(self._repo, text, self.name, limit)]
        return pd.DataFrame(rows, columns=["item_id", "codes", "title"])

    def similar(self, item: str, k: int = 10) -> pd.DataFrame:
        """The items with the most similar encoder vectors.

        Parameters
        ----------
        item : str
            Item id.
        k : int
            Number of items.

        Returns
        -------
        pandas.DataFrame
            Columns ``item_id``, ``similarity`` (cosine, falling) and ``codes``.

        Raises
        ------
        ConfigError
            When the item has no content.
        """
        near = self._neighbours.of(item, k)
        codes = self.codes(list(near.ids))
        return pd.DataFrame(
            {"item_id": near.ids, "similarity": near.similarity, "codes": [codes[name] for name in near.ids]}
        )

    def neighbours(self, item: str, name: str = "content") -> pd.DataFrame:
        """The neighbours of an item in a list of the codebook (``[codebook.neighbours]``), as of its fit.

        Parameters
        ----------
        item : str
            Item id.
        name : str
            The list.

        Returns
        -------
        pandas.DataFrame
            Columns ``item_id`` and ``weight`` (falling); empty for an item without neighbours.

        Raises
        ------
        FitError
            When the codebook has no such list.
        ConfigError
            When the item was unknown at the fit.
        """
        from semantic_ids.neighbour_lists import NeighbourLists

        ids, weights = (self.model.neighbours or NeighbourLists.made([], {})).row_of(item, name)
        return pd.DataFrame({"item_id": ids, "weight": weights})

    def table(self) -> pd.DataFrame:
        """The newest codes of all items: columns ``item_id`` and ``codes`` (None without content), sorted by id."""
        from semantic_ids.lookup import all_codes

        table = all_codes(self._repo, self.name)
        codes = [None if row is None else tuple(int(code) for code in row) for row in table.column("codes").to_pylist()]
        ids = table.column("item_id").to_numpy(zero_copy_only=False).astype(object)
        return pd.DataFrame({"item_id": np.asarray(ids, dtype=object), "codes": pd.Series(codes, dtype=object)})

    def export(self, path: str | Path) -> ExportReport:
        """Write the newest codes of all items to a file; see :func:`semantic_ids.export.export_codes`.

        Parameters
        ----------
        path : str or Path
            A ``.parquet`` or ``.csv`` file, or a ``.json`` file for a prefix trie.

        Raises
        ------
        ConfigError
            When the suffix is another one.
        """
        from semantic_ids.export import export_codes
        from sidkit.core.files import typed_path

        return export_codes(self._repo, typed_path(path), self.name)

    def _repr_html_(self) -> str:
        from markupsafe import escape

        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in {"state": self.record.state, "codes": self.record.summary, **self.record.tags}.items()
        )
        return f"<table><caption>{escape(self.name)}</caption>{rows}</table>"
