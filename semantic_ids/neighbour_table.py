"""The table and feature view ``item_neighbours_<codebook>``: the neighbour lists of a codebook as features of items.

A row per item known at the codebook's fit end, available from then on: an earlier row of a training set, or a later item, has
none. The lists never change; another codebook has other ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semantic_ids.codebook import Codebook
from semantic_ids.encoders import Encoder
from semantic_ids.neighbour_lists import NeighbourLists, NeighbourSpec, make_lists, neighbours_path
from semantic_ids.pairs.known_items import KnownItems, pairs_among
from semantic_ids.pairs.mining import ItemPairs, PairSpec
from semantic_ids.records import CodebookRecord
from sidkit.core.arrays import Floats
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import hashes_of, read_verified, replaced, say_discarded, update_sealed
from sidkit.core.repo import Repo


def co_clicks(
    repo: Repo, known: KnownItems, fit_end_us: int, neighbours: NeighbourSpec, mining: PairSpec
) -> ItemPairs | None:
    """Pairs by Swing of the clicks before the fit end, if a list needs them."""
    if not neighbours.needs_pairs:
        return None
    most = {"swing_top": neighbours.count, "pairs_per_target": neighbours.count}
    spec = mining.model_copy(update={"sources": ("swing",), "rehearsal": 0.0, **most})
    return pairs_among(repo, known, np.zeros((len(known), 1), dtype=np.float32), fit_end_us, spec)


def lists_of(
    spec: NeighbourSpec, known: KnownItems, encoder: Encoder, vectors: Floats, pairs: ItemPairs | None
) -> NeighbourLists | None:
    """The lists of the items of a fit; None if the spec names none.

    Raises
    ------
    FitError
        When a list is unknown, or the encoder has only columns that were trained on clicks.
    """
    if not spec.lists:
        return None
    start, stop = encoder.content_columns
    return make_lists(spec, list(known.ids), known.content, vectors[:, start:stop], pairs)


def write_neighbours(repo: Repo, record: CodebookRecord, codebook: Codebook) -> None:
    """Write the table of a codebook with lists, unless it is there."""
    if codebook.neighbours is None:
        return
    table = neighbours_path(repo, record.name)
    sidecar = table.with_suffix(".json")
    if _is_written(table, sidecar, record):
        return
    lists = codebook.neighbours.table
    at = pa.array(np.full(len(lists), record.fit_end_us), pa.timestamp("us", tz="UTC"))
    for name in ("event_timestamp", "created_timestamp"):
        lists = lists.append_column(name, at)
    with replaced(table, sidecar) as temporary:
        pq.write_table(lists, temporary, compression="zstd")
    update_sealed(sidecar, {"codebook_hash": record.content_hash, "files": hashes_of(table.parent, [table.name])})


def _is_written(table: Path, sidecar: Path, record: CodebookRecord) -> bool:
    if not (table.exists() and sidecar.exists()):
        return False
    try:
        return bool(read_verified(sidecar).get("codebook_hash") == record.content_hash)
    except ArtifactCorruptError as error:
        say_discarded(error.path, error.problem)
        return False
