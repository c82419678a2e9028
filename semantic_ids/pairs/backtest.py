"""The rehearsal of a fit: pairs that could be mined at a cut within the window, and pairs of what came after the cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from semantic_ids.pairs.mining import JUDGES, ItemPairs, PairSpec, Rehearsal
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection, literal

Mine = Callable[[PairSpec, int, int | None], ItemPairs]
"""(spec, end_us, start_us) -> pairs of one set of items."""


def rehearse(mine: Mine, spec: PairSpec, cut_us: int, end_us: int) -> Rehearsal | None:
    """Mine both halves, the later one by what judges: Swing's pairs alone.

    Parameters
    ----------
    mine : callable
        Mines pairs of the items of the fit.
    spec : PairSpec
        Of the pairs that are learned from.
    cut_us, end_us : int
        The cut and the end of the window, microseconds UTC.

    Returns
    -------
    Rehearsal or None
        None where either half holds no pair.
    """
    if cut_us >= end_us:
        return None
    earlier, later = mine(spec, cut_us, None), mine(JUDGES, end_us, cut_us)
    items = len(later.clicks)
    known = np.isin(later.trigger * items + later.target, earlier.either_way(items))
    return Rehearsal.of(earlier, later.where(~known))


def cut_before_newest(
    log: Sequence[Path], share: float, end_us: int, *, delay_us: int, engine: EngineSettings, spill: Path
) -> int:
    """The moment, microseconds UTC, after which the newest ``share`` of the clicks known by ``end_us`` became known.

    ``end_us`` itself where nothing was clicked.

    Parameters
    ----------
    log : sequence of Path
        Parquet files of the validated log.
    share : float
        Above 0 and below 1.
    end_us : int
        The end of the window, microseconds UTC.
    delay_us : int
        The availability delay, microseconds.
    engine : EngineSettings
        Threads and memory of DuckDB.
    spill : Path
        Where DuckDB spills beyond its memory.
    """
    parts = ", ".join(literal(part) for part in log)
    known = f"epoch_us(timestamp) + {delay_us}"
    with connection(engine, spill) as opened:
        found = opened.execute(
            f"SELECT quantile_disc({known}, {1 - share!r}) FROM read_parquet([{parts}]) "
            f"WHERE label = 1 AND {known} <= {end_us}"
        ).fetchone()
    return int(found[0]) if found and found[0] is not None else end_us
