"""Lists of the nearest items of every item: by content, by one modality, by clicks of the same users, or mixed.

Lists are made at the fit of a codebook, of the items known at its fit end and of clicks in its window, and are part of its
artefact. An item that comes later is in no list, neither as an item nor as a neighbour.

Sources: graphs per modality (LATTICE, arXiv 2104.09036, section 3.1), their mixture with a graph of clicks (MM-GEF, arXiv
2308.07222), and the weights of arXiv 2411.09065.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Bools, Doubles, Floats, Ints, one_chunk
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import ArtifactError, ConfigError, FitError
from sidkit.core.names import neighbours_view
from sidkit.core.repo import Repo
from sidkit.core.section import Section

CONTENT, CO_CLICKS, MIXED = "content", "co_clicks", "mixed"
OF_CLICKS = frozenset({CO_CLICKS, MIXED})
"""Lists that depend on clicks."""
NEIGHBOURS = "neighbours"
"""Key of a codebook's manifest: the names of its lists."""
_CELLS = 2**24  # similarities held at once: 128 MB


class NeighbourSpec(Section):
    """Neighbour lists of a codebook (``[codebook.neighbours]`` of a preset)."""

    lists: tuple[str, ...] = ()
    """Lists to make. ``content``: by the encoder's vectors; the name of a modality: by its vectors alone; ``co_clicks``: items
    that the same users clicked (Swing); ``mixed``: ``content`` and ``co_clicks`` added. By default none."""
    count: int = Field(default=32, ge=1, le=256)
    """Maximum number of neighbours of an item."""
    content_share: float = Field(default=0.5, ge=0, le=1)
    """``mixed``: weight of the neighbours by content."""
    least_clicks: int = Field(default=5, ge=1)
    """``mixed``: an item with fewer clicks in the window has its neighbours by content alone."""

    @field_validator("lists")
    @classmethod
    def _lists_are_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"expected distinct lists, got {', '.join(names)}; name each once")
        return names

    @property
    def needs_pairs(self) -> bool:
        """Whether a list depends on clicks."""
        return not OF_CLICKS.isdisjoint(self.lists)


@dataclass(frozen=True, eq=False)
class NeighbourList:
    """The neighbours of a set of items: ``near`` int64 [items, count], indices into the items, nearest first, -1 where there
    are fewer; ``weight`` float32 [items, count], which sum to 1, or are 0 for an item without neighbours.
    """

    near: Ints
    weight: Floats


class NeighbourLists:
    """The neighbour lists of a codebook by name.

    Parameters
    ----------
    table : pyarrow.Table
        ``item_id`` (text, sorted), and for each list ``<name>_ids`` (list of text) and ``<name>_weights`` (list of float32).
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the lists."""
        return tuple(name.removesuffix("_ids") for name in self.table.column_names if name.endswith("_ids"))

    @property
    def learned_from_clicks(self) -> bool:
        """Whether a list depends on clicks."""
        return not OF_CLICKS.isdisjoint(self.names)

    @property
    def ids(self) -> pa.Array:
        """Ids of the items."""
        return one_chunk(self.table.column("item_id"))

    def of(self, name: str) -> NeighbourList:
        """One list with indices into :attr:`ids`.

        Raises
        ------
        FitError
            When there is no such list.
        """
        self._refuse_missing(name)
        ids = one_chunk(self.table.column(f"{name}_ids"))
        count = pc.list_value_length(ids).to_numpy(zero_copy_only=False).astype(np.int64)
        near = np.full((len(ids), int(count.max(initial=0))), -1, dtype=np.int64)
        weight = np.zeros(near.shape, dtype=np.float32)
        filled = np.arange(near.shape[1]) < count[:, None]
        near[filled] = pc.index_in(ids.flatten(), value_set=self.ids).to_numpy(zero_copy_only=False)
        weight[filled] = one_chunk(self.table.column(f"{name}_weights")).flatten().to_numpy(zero_copy_only=False)
        return NeighbourList(near, weight)

    def row_of(self, item: str, name: str) -> tuple[list[str], list[float]]:
        """Ids and weights of the neighbours of one item, nearest first.

        Raises
        ------
        FitError
            When there is no such list.
        ConfigError
            When the item has no row.
        """
        self._refuse_missing(name)
        at = pc.index(self.ids, item).as_py()
        if at < 0:
            raise ConfigError(
                f"expected an item that was known when the codebook was fitted, got {item!r}; check the id, or fit another "
                "codebook"
            )
        ids, weights = (self.table.column(f"{name}_{part}")[at].as_py() for part in ("ids", "weights"))
        return ids, weights

    def _refuse_missing(self, name: str) -> None:
        if name not in self.names:
            raise FitError(
                f"the codebook has no neighbour list {name!r}, expected one of {', '.join(self.names) or 'none'}; add it to "
                "[codebook.neighbours] lists of the preset and fit the codebook again"
            )

    @classmethod
    def made(cls, item_ids: Sequence[str], lists: Mapping[str, NeighbourList]) -> NeighbourLists:
        """Name the items of lists whose indices refer to ``item_ids``."""
        ids = pa.array(item_ids, pa.string())
        columns: dict[str, pa.Array] = {"item_id": ids}
        for name, each in lists.items():
            filled = each.near >= 0
            offsets = pa.array(np.concatenate([[0], np.cumsum(filled.sum(axis=1))]), pa.int32())
            columns[f"{name}_ids"] = pa.ListArray.from_arrays(offsets, ids.take(pa.array(each.near[filled])))
            columns[f"{name}_weights"] = pa.ListArray.from_arrays(offsets, pa.array(each.weight[filled], pa.float32()))
        return cls(pa.table(columns))

    def write(self, path: Path) -> None:
        """Write a Parquet file."""
        pq.write_table(self.table, path, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> NeighbourLists | None:
        """Read the file of :meth:`write`; None if there is none."""
        return cls(pq.read_table(path)) if path.is_file() else None


def neighbours_of(repo: Repo, codebook: str) -> tuple[str, ...]:
    """Names of the lists of a fitted codebook.

    Raises
    ------
    ArtifactError
        When it has a table, and neither its manifest nor the table can be read: the feature definitions would lose its view.
    """
    try:
        return tuple(read_manifest(repo.codebooks / codebook, verify=False).get(NEIGHBOURS, ()))
    except ArtifactError:
        table = neighbours_path(repo, codebook)
        if not table.exists():
            return ()
        try:
            return NeighbourLists(pq.read_schema(table).empty_table()).names
        except (OSError, pa.ArrowInvalid):
            pass
        raise


def neighbours_path(repo: Repo, codebook: str) -> Path:
    """Path of a codebook's table of neighbours."""
    return repo.tables / f"{neighbours_view(codebook)}.parquet"


def make_lists(
    spec: NeighbourSpec, ids: Sequence[str], content: ItemVectors, fused: Floats, pairs: ItemPairs | None
) -> NeighbourLists:
    """Make the lists of a spec.

    Parameters
    ----------
    spec : NeighbourSpec
        Names and sizes.
    ids : sequence of str
        The items.
    content : ItemVectors
        Their content, for lists of one modality.
    fused : float32 [items, dim]
        Their vectors by the encoder, of the columns that were not trained on clicks.
    pairs : ItemPairs, optional
        Pairs by Swing of clicks in the window, for lists that depend on clicks.

    Raises
    ------
    FitError
        When a list is unknown, or the encoder has only columns that were trained on clicks.
    """

    def made(name: str) -> NeighbourList:
        if name == CO_CLICKS:
            return pair_list(pairs, len(ids), spec.count)
        if name == MIXED:
            both = made(CONTENT), made(CO_CLICKS)
            clicks = pairs.clicks if pairs is not None else np.zeros(len(ids), dtype=np.int64)
            return mixed_list(*both, clicks >= spec.least_clicks, spec.content_share, spec.count)
        if name == CONTENT and not fused.shape[1]:
            raise FitError(
                f"codebook.neighbours.lists: {CONTENT!r} needs vectors that were not trained on clicks, but all columns of the "
                "encoder were; name modalities instead, or use the encoder content"
            )
        if name != CONTENT and name not in content.matrices:
            raise FitError(
                f"codebook.neighbours.lists: expected {CONTENT}, {CO_CLICKS}, {MIXED} or a modality of the source "
                f"({', '.join(content.matrices)}), got {name!r}; correct it"
            )
        return content_list(fused if name == CONTENT else content.matrices[name], spec.count)

    return NeighbourLists.made(ids, {name: made(name) for name in spec.lists})


def content_list(vectors: Floats, count: int) -> NeighbourList:
    """The items with the nearest unit vectors, by exact search among all of them; see
    :func:`sidkit.core.neighbour_search.search`.

    Parameters
    ----------
    vectors : float32 [items, dim]
        Vectors; an item whose vector is zero has no neighbours and is none.
    count : int
        Maximum number of neighbours.
    """
    import torch

    from sidkit.core.neighbour_search import search

    norm = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    known = np.flatnonzero(norm[:, 0] > 0)
    unit = torch.from_numpy(vectors[known] / norm[known])  # in double, so that lists do not depend on the chunks
    width = max(0, min(count, len(known) - 1))
    near = np.full((len(vectors), width), -1, dtype=np.int64)
    weight = np.zeros((len(vectors), width), dtype=np.float32)
    step = max(1, _CELLS // max(1, len(known)))
    for start in range(0, len(known), step):
        own = torch.arange(start, min(start + step, len(known)))
        found, share = search(unit[own], unit, count, own)
        near[known[own]], weight[known[own]] = known[found.numpy()], share.numpy()
    return _heaviest_first(NeighbourList(near, weight))


def pair_list(pairs: ItemPairs | None, items: int, count: int) -> NeighbourList:
    """The triggers of every target, heaviest first."""
    if pairs is None:
        return NeighbourList(np.full((items, 0), -1, dtype=np.int64), np.zeros((items, 0), dtype=np.float32))
    return _of_edges(pairs.target, pairs.trigger, pairs.weight.astype(np.float64), items, count)


def mixed_list(
    content: NeighbourList, clicked: NeighbourList, enough: Bools, content_share: float, count: int
) -> NeighbourList:
    """Add the weights of two lists (MM-GEF, arXiv 2308.07222).

    Parameters
    ----------
    content, clicked : NeighbourList
        By content, and by clicks.
    enough : bool [items]
        Items with enough clicks; the others have their neighbours by content alone, and so has an item that no pair names.
    content_share : float
        Weight of the first list.
    count : int
        Maximum number of neighbours; the heaviest.
    """
    share = np.where(enough & (clicked.weight.sum(axis=1) > 0), content_share, 1.0)[:, None]
    near = np.concatenate([content.near, clicked.near], axis=1)
    weight = np.concatenate([content.weight * share, clicked.weight * (1 - share)], axis=1)
    row, column = np.nonzero((near >= 0) & (weight > 0))
    return _of_edges(row, near[row, column], weight[row, column].astype(np.float64), len(near), count)


def _of_edges(row: Ints, near: Ints, weight: Doubles, items: int, count: int) -> NeighbourList:
    """Add the weights of equal edges, and take the heaviest of every item; ties go to the lower index."""
    keys, inverse = np.unique(row * items + near, return_inverse=True)
    total = np.bincount(inverse.ravel(), weights=weight, minlength=len(keys))
    of, to = np.divmod(keys, items) if len(keys) else (keys, keys)
    order = np.lexsort((to, -total, of))
    of, to, total = of[order], to[order], total[order]
    starts = np.searchsorted(of, np.arange(items))
    nth = np.arange(len(of)) - starts[of]
    kept = nth < count
    width = int(nth[kept].max(initial=-1)) + 1
    found = NeighbourList(np.full((items, width), -1, dtype=np.int64), np.zeros((items, width), dtype=np.float32))
    sums = np.bincount(of[kept], weights=total[kept], minlength=items)
    found.near[of[kept], nth[kept]] = to[kept]
    found.weight[of[kept], nth[kept]] = total[kept] / sums[of[kept]]
    return found


def _heaviest_first(each: NeighbourList) -> NeighbourList:
    order = np.argsort(-each.weight, axis=1, kind="stable")
    return NeighbourList(np.take_along_axis(each.near, order, axis=1), np.take_along_axis(each.weight, order, axis=1))
