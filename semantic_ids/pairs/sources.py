"""The two sources of pairs, user-to-item and Swing, as counts that add up over users.

Items and users are numbered in the order of their ids; a pair's key is ``target * items + trigger``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Doubles, Floats, Ints
from sidkit.core.engine import set_variables, working_on

SCORES = "scores (first_item INTEGER, second_item INTEGER, score BIGINT)"
"""Name and columns of the table of Swing's scores."""
_SQL = Path(__file__).parent
_BATCH_ROWS = 500_000
_TARGETS_AT_ONCE = 2048
_USER_PAIRS_AT_ONCE = 2**23


def clicks_of(opened: duckdb.DuckDBPyConnection, items: int) -> Ints:
    """Clicks of each id by the users of ``mined``, ``int64 [items]``."""
    counted = opened.execute(
        "SELECT item, count(*) AS clicks FROM clicks SEMI JOIN mined USING (who) GROUP BY item"
    ).fetchnumpy()
    clicks = np.zeros(items, dtype=np.int64)
    clicks[np.asarray(counted["item"])] = np.asarray(counted["clicks"])
    return clicks


def trigger_counts(opened: duckdb.DuckDBPyConnection, unit: Floats, length: int) -> tuple[Ints, Ints]:
    """Pair keys of user-to-item, ascending, and how often each is the best trigger of a click by a user of ``mined``.

    Parameters
    ----------
    opened : DuckDBPyConnection
        With the tables of :func:`semantic_ids.pairs.mining.prepare`.
    unit : float32 [items, dim]
        Vectors of length 1, in the order of the ids.
    length : int
        Length of the history that is searched.
    """
    query = (_SQL / "user_to_item.sql").read_text(encoding="utf-8")
    rest, keys = None, []
    for batch in opened.execute(query).to_arrow_reader(_BATCH_ROWS):
        rows = {name: np.asarray(batch.column(name)) for name in ("who", "item", "place", "earlier")}
        rows["chosen"] = batch.column("chosen").to_numpy(zero_copy_only=False)
        if rest is not None:
            rows = {name: np.concatenate([rest[name], column]) for name, column in rows.items()}
        complete = int(np.searchsorted(rows["who"], rows["who"][-1]))  # the last user may continue in the next batch
        rest = {name: column[complete:] for name, column in rows.items()}
        keys.append(_best_triggers({name: column[:complete] for name, column in rows.items()}, unit, length))
    if rest is not None:
        keys.append(_best_triggers(rest, unit, length))
    key, count = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *keys]), return_counts=True)
    return key, count.astype(np.int64)


def _best_triggers(rows: dict[str, npt.NDArray[np.int32]], unit: npt.NDArray[np.float32], length: int) -> Ints:
    """One key per chosen click that has an earlier click on another item in its history."""
    item = rows["item"].astype(np.int64)
    chosen = np.flatnonzero(rows["chosen"])
    earlier = rows["earlier"][chosen].astype(np.int64)
    newest = chosen - rows["place"][chosen] + earlier
    keys = [np.zeros(0, dtype=np.int64)]
    back = np.arange(length)
    for start in range(0, len(chosen), _TARGETS_AT_ONCE):
        part = slice(start, start + _TARGETS_AT_ONCE)
        target = item[chosen[part]]
        valid = back < earlier[part, None]
        trigger = item[np.where(valid, newest[part, None] - back, 0)]  # [targets, history], newest first
        valid &= trigger != target[:, None]
        # Not BLAS: its rounding depends on the number of targets per call.
        cosine = np.einsum("thd,td->th", unit[trigger], unit[target])
        cosine[~valid] = -np.inf
        best = trigger[np.arange(len(target)), cosine.argmax(axis=1)]  # argmax takes the first of equals: the newest
        keys.append((target * len(unit) + best)[valid.any(axis=1)])
    return np.concatenate(keys)


@working_on("mining pairs of items")
def fill_scores(opened: duckdb.DuckDBPyConnection) -> None:
    """Create the table ``scores`` of Swing: ``first_item``, ``second_item``, ``score``, several rows per pair of items.

    Only pairs of users whose first one is in ``mined`` are counted; scores are integers, so that those of shards add up.
    """
    opened.execute("CREATE TEMP VIEW first_users AS SELECT who, item FROM engaged SEMI JOIN mined USING (who)")
    pairs = opened.execute(
        "SELECT sum(n * (n - 1) // 2) FROM (SELECT count(*) AS n FROM engaged GROUP BY item)"
    ).fetchone()
    buckets = 1 + int((pairs and pairs[0]) or 0) // _USER_PAIRS_AT_ONCE
    query = (_SQL / "swing.sql").read_text(encoding="utf-8")
    opened.execute(f"CREATE TEMP TABLE {SCORES}")
    for bucket in range(buckets):
        set_variables(opened, {"bucket": bucket, "buckets": buckets})
        opened.execute(f"INSERT INTO scores {query}")


@working_on("mining pairs of items")
def top_scores(opened: duckdb.DuckDBPyConnection, items: int, top: int) -> tuple[Ints, Doubles]:
    """Pair keys of Swing, ascending, and each trigger's share of the target's ``top`` highest scores."""
    found = opened.execute(
        """
        WITH total AS (
            SELECT first_item, second_item, CAST(sum(score) AS BIGINT) AS score FROM scores GROUP BY ALL
        ),
        directed AS (
            SELECT first_item AS target, second_item AS trig, score FROM total
            UNION ALL
            SELECT second_item AS target, first_item AS trig, score FROM total
        )
        SELECT CAST(target AS BIGINT) * $items + trig AS key, score FROM directed
        QUALIFY row_number() OVER (PARTITION BY target ORDER BY score DESC, trig) <= $top
        ORDER BY key
        """,
        {"items": items, "top": top},
    ).fetchnumpy()
    key = np.asarray(found["key"], dtype=np.int64)
    return key, shares(key // items, np.asarray(found["score"], dtype=np.int64))


def shares(target: Ints, amount: Ints) -> Doubles:
    """Each amount divided by the total of its target; targets are ascending."""
    if not len(target):
        return np.zeros(0)
    starts = np.flatnonzero(np.diff(target, prepend=-1))
    totals = np.add.reduceat(amount, starts)
    share: Doubles = amount / np.repeat(totals, np.diff(starts, append=len(target)))
    return share


def merged(sources: Sequence[tuple[Ints, Doubles]], items: int, per_target: int) -> tuple[Ints, Doubles]:
    """Add the weights of all sources and keep each target's heaviest pairs, sorted by target, weight and trigger."""
    keys, inverse = np.unique(np.concatenate([key for key, _ in sources]), return_inverse=True)
    weights = np.zeros(len(keys))
    np.add.at(weights, inverse, np.concatenate([weight for _, weight in sources]))
    if not len(keys):
        return keys, weights
    target = keys // items
    order = np.lexsort((keys, -weights, target))
    ranked = target[order]
    starts = np.flatnonzero(np.diff(ranked, prepend=-1))
    nth = np.arange(len(ranked)) - np.repeat(starts, np.diff(starts, append=len(ranked)))
    heaviest = order[nth < per_target]
    return keys[heaviest], weights[heaviest]
