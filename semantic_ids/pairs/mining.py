"""Mine (trigger, target) item pairs from the positives before a cut-off."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from semantic_ids.pairs.sources import clicks_of, fill_scores, merged, shares, top_scores, trigger_counts
from sidkit.core.arrays import Doubles, Ints
from sidkit.core.clock import iso
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection, literal, set_variables, working_on
from sidkit.core.errors import FitError, TimeError
from sidkit.core.section import Section
from sidkit.core.shards import Shard

Source = Literal["user_to_item", "swing"]

_SQL = Path(__file__).parent
_LONG_AGO_US = -(2**62)


@dataclass(frozen=True)
class ItemPairs:
    """Pairs among a set of items, and the click count of each item.

    ``trigger`` and ``target`` are ``int64 [pairs]`` indices into the items, never equal to each other; ``weight`` is
    ``float32 [pairs]``, above 0; ``clicks`` is ``int64 [items]``, the positives before the cut-off, used by the logQ
    correction; ``end_us`` is the cut-off, microseconds UTC: nothing later was used. ``backtest`` optionally holds the
    backtest split of the same items and window.
    """

    trigger: Ints
    target: Ints
    weight: npt.NDArray[np.float32]
    clicks: Ints
    end_us: int
    backtest: BacktestSplit | None = None

    def __len__(self) -> int:
        return len(self.trigger)

    def mark(self) -> str:
        """Hex SHA-256 fingerprint of the pairs and clicks, in order."""
        digest = hashlib.sha256()
        for part in (self.trigger, self.target, self.weight, self.clicks):
            digest.update(np.ascontiguousarray(part).tobytes())
        for half in (self.backtest.earlier, self.backtest.later) if self.backtest else ():
            digest.update(half.mark().encode())
        return digest.hexdigest()

    def either_way(self, items: int) -> Ints:
        """Pair keys ``trigger * items + target`` in both directions: ``int64 [2 * pairs]``."""
        return np.concatenate([self.trigger * items + self.target, self.target * items + self.trigger])

    def where(self, mask: npt.NDArray[np.bool_]) -> ItemPairs:
        """The pairs selected by a ``bool [pairs]`` mask, without the backtest split."""
        return ItemPairs(self.trigger[mask], self.target[mask], self.weight[mask], self.clicks, self.end_us)


@dataclass(frozen=True)
class BacktestSplit:
    """Backtest split of one window: train on ``earlier``, evaluate on ``later``.

    ``earlier`` holds the pairs available at the cut, ``later`` the pairs between the cut and the end of the window that
    are not among the earlier ones. The split imitates how the full fit will be evaluated on future clicks.
    """

    earlier: ItemPairs
    later: ItemPairs

    @classmethod
    def of(cls, earlier: ItemPairs, later: ItemPairs) -> BacktestSplit | None:
        """Build a split; None when either half is empty."""
        return cls(earlier, later) if len(earlier) and len(later) else None


class PairSpec(Section):
    """Configuration of pair mining (``[pairs]`` of a preset). The caps bound time, memory and the share of head items."""

    sources: tuple[Source, ...] = Field(default=("user_to_item", "swing"), min_length=1)
    """Sources of pairs. ``user_to_item``: the item in a user's history that is most similar to the clicked target
    (QARM, arXiv 2411.11739). ``swing``: items that the same pairs of users clicked."""
    pairs_per_target: int = Field(default=20, ge=1)
    """Maximum pairs per target, highest weights first."""
    history_length: int = Field(default=50, ge=1, le=1000)
    """Length of the click history that is searched for a trigger."""
    targets_per_item: int = Field(default=20, ge=1)
    """Maximum clicks per target item for which a trigger is searched, newest first."""
    swing_alpha: float = Field(default=1.0, ge=0, le=1e6)
    """Swing's smoothing constant; larger values penalise users with many common items less."""
    swing_users_per_item: int = Field(default=50, ge=2, le=1000)
    """Maximum users per item in Swing, newest first; the cost grows with its square."""
    swing_items_per_user: int = Field(default=50, ge=2, le=1000)
    """Maximum items per user in Swing, newest first."""
    swing_top: int = Field(default=20, ge=1)
    """Maximum Swing neighbours per target, highest scores first."""
    rehearsal: float = Field(default=0.0, ge=0, lt=1)
    """Newest share of the clicks to hold out as a backtest of the fit; 0 for no backtest."""


EVALUATION_PAIRS = PairSpec(sources=("swing",))
"""Pairs used for evaluation. ``user_to_item`` picks triggers by content similarity, which would favour content vectors."""


def mine_pairs(
    log: Sequence[Path],
    item_ids: Sequence[str],
    vectors: npt.NDArray[np.float32],
    end_us: int,
    spec: PairSpec | None = None,
    *,
    delay_us: int,
    engine: EngineSettings,
    spill: Path,
    start_us: int | None = None,
) -> ItemPairs:
    """Mine pairs from the clicks that were available to serving at a cut-off.

    A click is used when ``start_us < its time + delay_us <= end_us``. The result does not depend on the row order, the
    number of threads or the order of ``item_ids``. With ``start_us`` at an encoder's ``fit_end``, the pairs are future
    pairs for hit rates: both clicks of a pair are later than ``start_us``.

    *User to item* (QARM, arXiv 2411.11739): for each of the newest clicks of a target, the trigger is the most similar
    (cosine of ``vectors``) of the user's last ``history_length`` strictly earlier clicks on other items. Ties go to the
    newer click, then to the smaller id.
    *Swing*: ``score(i, j)`` is the sum of ``1 / (alpha + |I_u & I_v|)`` over user pairs ``u, v`` who both clicked ``i``
    and ``j``, in fixed-point units of ``2^-32``; each target keeps its ``swing_top`` highest scores.
    Within a source, a pair's weight is its share of the target's total (of clicks, or of the scores it keeps), so all
    targets weigh the same; the weights of two sources are added. Each target keeps its ``pairs_per_target`` pairs of
    highest weight, ties going to the smaller trigger id. Pairs are sorted by target id, weight and trigger id.

    Parameters
    ----------
    log : sequence of Path
        Parquet files of the validated log (``read_log(repo).parts``).
    item_ids : sequence of str
        The items to mine pairs for; ``trigger``, ``target`` and ``clicks`` index into it. Clicks on other items are
        ignored.
    vectors : ndarray
        ``float32 [items, dim]``, for the cosine similarity. A zero vector has cosine 0 to all items.
    end_us : int
        The cut-off, microseconds UTC.
    spec : PairSpec, optional
        Sources and caps.
    delay_us : int
        The availability delay, microseconds.
    engine : EngineSettings
        Threads and memory of DuckDB.
    spill : Path
        Where DuckDB spills beyond its memory.
    start_us : int, optional
        Clicks available by then are excluded, microseconds UTC.

    Returns
    -------
    ItemPairs
        Possibly empty.

    Raises
    ------
    FitError
        When ids are null or not unique, the vectors have the wrong shape or are not finite, or the log has no file.
    TimeError
        When the window is empty.
    """
    spec = spec or PairSpec()
    if start_us is not None and start_us >= end_us:
        raise TimeError(
            f"the window ({iso(start_us)}, {iso(end_us)}] of the pairs is empty; choose an end later than its start"
        )
    ids, order = in_id_order(item_ids)
    unit = unit_vectors(vectors, len(ids))[order]
    if not len(log):
        raise FitError("the log has no files; ingest it first and pass read_log(repo).parts")
    with connection(engine, spill) as opened:
        prepare(opened, log, ids, end_us, start_us, delay_us, spec)
        clicks = clicks_of(opened, len(ids))
        mined = []
        if "user_to_item" in spec.sources:
            keys, counts = trigger_counts(opened, unit, spec.history_length)
            mined.append((keys, shares(keys // len(ids), counts)))
        opened.execute("DROP TABLE clicks")
        if "swing" in spec.sources:
            fill_scores(opened)
            mined.append(top_scores(opened, len(ids), spec.swing_top))
    return pairs_of(mined, order, clicks, spec, end_us)


def pairs_of(
    mined: Sequence[tuple[Ints, Doubles]], order: Ints, clicks: Ints, spec: PairSpec, end_us: int
) -> ItemPairs:
    """The heaviest pairs of each target, from all sources: keys and weights by id, as in :mod:`semantic_ids.pairs.sources`.

    ``order`` ``int64 [items]`` has the row of each id, and ``clicks`` ``int64 [items]`` those of each id.
    """
    keys, weights = merged(mined, len(order), spec.pairs_per_target)
    by_row = np.zeros(len(order), dtype=np.int64)
    by_row[order] = clicks
    return ItemPairs(
        trigger=order[keys % len(order)] if len(keys) else keys,
        target=order[keys // len(order)] if len(keys) else keys,
        weight=weights.astype(np.float32),
        clicks=by_row,
        end_us=end_us,
    )


def in_id_order(item_ids: Sequence[str]) -> tuple[pa.Array, Ints]:
    """The ids sorted by their bytes, and the row of each, so that ties broken by id do not depend on the row order."""
    ids = pa.array(item_ids, pa.string())
    if ids.null_count or len(ids) != pc.count_distinct(ids).as_py():
        raise FitError(
            f"item ids must be unique and not null, got {len(ids)} ids, {ids.null_count} of them null and "
            f"{len(ids) - len(ids.unique())} repeated; pass one row per item"
        )
    order = pc.sort_indices(ids).to_numpy().astype(np.int64)
    return ids.take(pa.array(order)), order


def unit_vectors(vectors: npt.NDArray[np.float32], items: int) -> npt.NDArray[np.float32]:
    """Vectors of length 1, ``float32 [items, dim]``; a zero vector stays one.

    Raises
    ------
    FitError
        When they have another shape, or are not finite.
    """
    if vectors.ndim != 2 or len(vectors) != items:
        raise FitError(f"expected vectors of shape ({items}, dim) for {items} items, got {vectors.shape}")
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors).all(axis=1)).sum())
        raise FitError(
            f"{bad} of {items} vectors contain NaN or infinite values; fix the vectors and encode the items again"
        )
    length = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


@working_on("mining pairs of items")
def prepare(
    opened: duckdb.DuckDBPyConnection,
    log: Sequence[Path],
    ids: pa.Array,
    end_us: int,
    start_us: int | None,
    delay_us: int,
    spec: PairSpec,
    shard: Shard | None = None,
) -> None:
    """Create the tables ``clicks``, ``engaged`` and ``mined`` (the users of the shard, by default all) of sorted ``ids``."""
    start_us = start_us if start_us is not None else _LONG_AGO_US
    set_variables(
        opened,
        {
            "items_per_user": spec.swing_items_per_user,
            "users_per_item": spec.swing_users_per_item,
            "targets_per_item": spec.targets_per_item,
            "alpha": spec.swing_alpha,
        },
    )
    parts = ", ".join(literal(part) for part in log)
    opened.execute(
        "CREATE TEMP VIEW events AS SELECT user_id, item_id, epoch_us(timestamp) AS ts_us "
        f"FROM read_parquet([{parts}]) WHERE label = 1 "
        f"AND epoch_us(timestamp) + {delay_us} > {start_us} AND epoch_us(timestamp) + {delay_us} <= {end_us}"
    )
    listed = pa.table({"item_id": ids, "item": pa.array(np.arange(len(ids), dtype=np.int32))})
    opened.register("listed", listed)
    opened.execute((_SQL / "clicks.sql").read_text(encoding="utf-8"))
    users = "true" if shard is None else shard.sql("user_id")
    opened.execute(f"CREATE TEMP TABLE mined AS SELECT who FROM users WHERE {users}; DROP TABLE users")
