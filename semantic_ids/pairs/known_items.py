"""Items known at a point in time: their ids, their content as of that time, and item pairs among them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.backtest import Mine, backtest_split, cut_before_newest
from semantic_ids.pairs.mining import ItemPairs, PairSpec, mine_pairs
from sidkit.core.arrays import Bools, Floats
from sidkit.core.engine import connection, literal, quoted
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.tables import read_log


@dataclass(frozen=True)
class KnownItems:
    """Items with content at a point in time, sorted by item id: ``ids`` ``object [items]``, ``content`` their newest
    vectors, ``first_us`` the time of the oldest content row, microseconds UTC (0 if there are no rows).
    """

    ids: npt.NDArray[np.object_]
    content: ItemVectors
    first_us: int

    def __len__(self) -> int:
        return len(self.ids)

    def are_in(self, others: KnownItems) -> Bools:
        """``bool [items]``: whether each item is among the others."""
        # By hashes: numpy.isin compares every object with every other.
        found: Bools = pd.Index(self.ids, dtype=object).isin(others.ids)
        return found


def known_items(repo: Repo, at_us: int) -> KnownItems:
    """The items whose content was available to serving at ``at_us``, microseconds UTC."""
    modalities, path = repo.settings.source.content_vectors, checked(repo.tables / "item_content.parquet")
    has_content = " OR ".join(f"{quoted(name)} IS NOT NULL" for name in modalities)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        opened.execute(
            f"CREATE TEMP VIEW known AS SELECT item_id, event_timestamp, file_row_number, {has_content} AS has_content "
            f"FROM read_parquet({literal(path)}, file_row_number = true) WHERE epoch_us(event_timestamp) <= {at_us}"
        )
        # Vectors do not pass through DuckDB, which would sort them and hold them twice.
        newest = opened.execute(
            "SELECT item_id, file_row_number FROM (FROM known QUALIFY row_number() OVER "
            "(PARTITION BY item_id ORDER BY event_timestamp DESC) = 1) WHERE has_content ORDER BY item_id"
        ).to_arrow_table()
        first = opened.execute("SELECT coalesce(min(epoch_us(event_timestamp)), 0) FROM known").fetchone()
    ids = newest.column("item_id").to_numpy(zero_copy_only=False).astype(object)
    numbers = newest.column("file_row_number").to_numpy()
    items = ItemVectors.from_parquet(path, numbers, modalities, spill=repo.data / "tmp")
    return KnownItems(ids, items, int(first[0]) if first else 0)


def pairs_among(
    repo: Repo,
    known: KnownItems,
    vectors: Floats,
    end_us: int,
    spec: PairSpec,
    start_us: int | None = None,
    mined: Mine | None = None,
) -> ItemPairs:
    """Mine pairs among these items from clicks that became available in ``(start_us, end_us]``; indices refer to ``known``.

    The result carries a backtest split if the spec sets ``rehearsal`` and the window has no start.

    Parameters
    ----------
    repo : Repo
        With a validated log.
    known : KnownItems
        The items to mine pairs for.
    vectors : float32 [items, dim]
        For finding the most similar item of a history.
    end_us, start_us : int
        The window, microseconds UTC; without a start, all clicks up to the end are used.
    spec : PairSpec
        Sources and caps.
    mined : callable, optional
        Gives pairs that were mined before, in shards (:class:`semantic_ids.pairs.shards.PairShards`).
    """
    log, engine, spill = read_log(repo).parts, repo.settings.engine, repo.data / "tmp" / "duckdb"
    delay_us = repo.settings.time.delay_us

    def mine_now(pair_spec: PairSpec, end: int, start: int | None) -> ItemPairs:
        return mine_pairs(
            log, list(known.ids), vectors, end, pair_spec, delay_us=delay_us, engine=engine, spill=spill, start_us=start
        )

    mine = mined or mine_now
    pairs = mine(spec, end_us, start_us)
    if not spec.rehearsal or start_us is not None:
        return pairs
    cut_us = cut_before_newest(log, spec.rehearsal, end_us, delay_us=delay_us, engine=engine, spill=spill)
    return replace(pairs, backtest=backtest_split(mine, spec, cut_us, end_us))
