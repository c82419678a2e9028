"""The items that requests can retrieve: codes, vectors, counts and attributes as arrays, as of the last materialization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from semantic_ids.catalog import table_path
from semantic_ids.item_vectors import ItemVectors
from sidkit.core.arrays import Bools, Codes, Floats, Ints
from sidkit.core.engine import connection, literal, quoted
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, WINDOWS
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.tables import read_log

if TYPE_CHECKING:
    import duckdb

    from semantic_ids.codebook import Codebook

NEVER_US = np.iinfo(np.int64).max
"""``removed_us`` of an item that was not removed."""
_CHUNK_ROWS = 50_000
_BUILT_IN = ("category", "price")
"""Columns of ``item_content`` that are attributes too."""


@dataclass(frozen=True)
class ItemIndex:
    """All items, sorted by id.

    Attributes
    ----------
    ids : pandas.Index
        Item ids, ``object [items]``.
    codes : int32 [items, levels]
        -1 for an item without codes.
    unit : float32 [items, dim]
        The codebook's vectors at length 1; zero without content.
    clicks : mapping
        Window (``1d``, ``7d``, ``30d``, ``all``) -> clicks ``float64 [items]``.
    removed_us : int64 [items]
        When an item stopped to be a candidate, microseconds UTC; :data:`NEVER_US` if it did not.
    stale : bool [items]
        Whether the content is newer than the codes, so that ``sidkit codebooks refresh`` would assign new ones.
    attributes : mapping
        Column -> values, an Arrow array of texts or numbers.
    titles : list of str or None
        Empty if the items have no titles.
    """

    ids: pd.Index[Any]
    codes: Codes
    unit: Floats
    clicks: dict[str, npt.NDArray[np.float64]]
    removed_us: Ints
    stale: Bools
    attributes: dict[str, pa.Array]
    titles: list[str | None]

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, item_ids: Sequence[str]) -> Ints:
        """Positions of some items, ``int64 [ids]``; -1 for an unknown id."""
        return np.fromiter(map(self._place.get, item_ids, repeat(-1)), np.int64, len(item_ids))

    @cached_property
    def _place(self) -> dict[str, int]:
        return dict(zip(self.ids, range(len(self.ids)), strict=True))

    @property
    def megabytes(self) -> float:
        """Size of the arrays, without the ids."""
        arrays: list[Any] = [self.codes, self.unit, self.removed_us, self.stale]
        return float(sum(each.nbytes for each in [*arrays, *self.clicks.values(), *self.attributes.values()])) / 1e6


def load_index(repo: Repo, codebook: Codebook, name: str, until_us: int) -> ItemIndex:
    """Read the newest row of every item from the feature tables.

    Parameters
    ----------
    repo : Repo
        A repository with feature tables.
    codebook : Codebook
        Its encoder computes the vectors.
    name : str
        Name of the codebook.
    until_us : int
        Rows available later are left out, microseconds UTC.

    Raises
    ------
    ArtifactError
        When a table is missing or damaged.
    """
    tables = _Tables(repo, until_us)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        content = tables.newest(opened, checked(repo.tables / "item_content.parquet"), _BUILT_IN)
        stats = tables.newest(
            opened, checked(repo.tables / "item_stats.parquet"), [f"clicks_{window}" for window in WINDOWS]
        )
        sid = tables.newest(opened, checked(table_path(repo, name)), ["codes"])
        attributes = _attribute_columns(repo, tables, opened)
        life = _life_spans(repo, opened)
        ids = pd.Index(np.unique(np.concatenate([content.ids, stats.ids])).astype(object))
        at_content, at_sid = content.at(ids), sid.at(ids)
        unit = _unit_vectors(repo, codebook, opened, until_us, ids)
    columns = {each: content.column(each, ids) for each in _BUILT_IN}
    if attributes is not None:
        columns |= {each: attributes.column(each, ids) for each in attributes.names}
    removed = life.column("removed_us", ids)
    return ItemIndex(
        ids=ids,
        codes=_codes(sid.column("codes", ids), len(codebook.sizes)),
        unit=unit,
        clicks={window: _numbers(stats.column(f"clicks_{window}", ids)) for window in WINDOWS},
        removed_us=removed.fill_null(int(NEVER_US)).to_numpy(zero_copy_only=False).astype(np.int64),
        stale=(at_content >= 0) & (at_sid < at_content),
        attributes={each: column for each, column in columns.items() if column.null_count < len(column)},
        titles=life.column("title", ids).to_pylist() if "title" in life.names else [],
    )


@dataclass(frozen=True)
class _Newest:
    """Newest rows of a table: ``ids`` sorted, ``table`` with the columns and ``newest_us``."""

    ids: npt.NDArray[np.object_]
    table: pa.Table

    @property
    def names(self) -> list[str]:
        return [name for name in self.table.column_names if name not in {"item_id", "newest_us"}]

    def column(self, name: str, ids: pd.Index[Any]) -> pa.Array:
        """A column in the order of other ids; null for items without a row."""
        places = pd.Index(self.ids, dtype=object).get_indexer(ids)
        return self.table.column(name).combine_chunks().take(pa.array(places, mask=places < 0))

    def at(self, ids: pd.Index[Any]) -> Ints:
        """The time of the newest row, ``int64 [ids]``; -1 without one."""
        times: Ints = self.column("newest_us", ids).fill_null(-1).to_numpy(zero_copy_only=False)
        return times


@dataclass(frozen=True)
class _Tables:
    repo: Repo
    until_us: int

    def newest(self, opened: duckdb.DuckDBPyConnection, path: Path, columns: Sequence[str]) -> _Newest:
        chosen = "".join(f"arg_max_null({quoted(name)}, event_timestamp) AS {quoted(name)}, " for name in columns)
        table = opened.execute(
            f"SELECT item_id, {chosen} epoch_us(max(event_timestamp)) AS newest_us FROM read_parquet({literal(path)}) "
            "WHERE epoch_us(event_timestamp) <= $until GROUP BY item_id ORDER BY item_id",
            {"until": self.until_us},
        ).to_arrow_table()
        return _newest(table)


def _newest(table: pa.Table) -> _Newest:
    return _Newest(table.column("item_id").to_numpy(zero_copy_only=False).astype(object), table)


def _attribute_columns(repo: Repo, tables: _Tables, opened: duckdb.DuckDBPyConnection) -> _Newest | None:
    """Attributes with one text, number or flag per item."""
    path = repo.tables / f"{ITEM_ATTRIBUTES}.parquet"
    names = [name for name, kind in repo.settings.features.items.items() if kind in {"category", "number", "flag"}]
    if not names or not path.exists():
        return None
    present = set(pq.read_schema(path).names)
    return tables.newest(opened, checked(path), [name for name in names if name in present])


def _life_spans(repo: Repo, opened: duckdb.DuckDBPyConnection) -> _Newest:
    """``removed_us`` and ``title`` of the log's items, where the source has them."""
    path = literal(read_log(repo).items)
    present = {row[0] for row in opened.execute(f"DESCRIBE SELECT * FROM read_parquet({path})").fetchall()}
    moment = "coalesce(updated_at, created_at)" if "updated_at" in present else "created_at"
    removed = f"epoch_us(arg_max_null(removed_at, {moment}))" if "removed_at" in present else "CAST(NULL AS BIGINT)"
    title = f", arg_max_null(title, {moment}) AS title" if "title" in present else ""
    return _newest(
        opened.execute(
            f"SELECT item_id, {removed} AS removed_us{title} FROM read_parquet({path}) GROUP BY item_id ORDER BY item_id"
        ).to_arrow_table()
    )


def _unit_vectors(
    repo: Repo, codebook: Codebook, opened: duckdb.DuckDBPyConnection, until_us: int, ids: pd.Index[Any]
) -> Floats:
    """The codebook's vectors of the newest content, a chunk at a time."""
    modalities = codebook.encoder.modalities_
    unit = np.zeros((len(ids), codebook.encoder.output_dim), dtype=np.float32)
    columns = ", ".join(quoted(name) for name in modalities)
    rows = opened.execute(
        f"SELECT item_id, {columns} FROM read_parquet({literal(checked(repo.tables / 'item_content.parquet'))}) "
        "WHERE epoch_us(event_timestamp) <= $until "
        "QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY event_timestamp DESC) = 1",
        {"until": until_us},
    ).to_arrow_reader(_CHUNK_ROWS)
    for batch in rows:
        table = pa.Table.from_batches([batch])
        vectors = codebook.vectors(ItemVectors.from_arrow(table, modalities))
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit[ids.get_indexer(pd.Index(table.column("item_id").to_pylist(), dtype=object))] = vectors / np.maximum(
            length, 1e-12
        )
    return unit


def _codes(column: pa.Array, levels: int) -> Codes:
    codes = np.full((len(column), levels), -1, dtype=np.int32)
    present = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    codes[present] = np.asarray(column.drop_null().flatten()).reshape(len(present), levels)
    return codes


def _numbers(column: pa.Array) -> npt.NDArray[np.float64]:
    numbers: npt.NDArray[np.float64] = np.nan_to_num(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    return numbers
