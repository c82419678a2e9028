"""Backtest split of a fit: pairs available at a cut within the window, and pairs from the clicks after the cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from semantic_ids.pairs.mining import EVALUATION_PAIRS, BacktestSplit, ItemPairs, PairSpec
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection, literal

Mine = Callable[[PairSpec, int, int | None], ItemPairs]
"""(spec, end_us, start_us) -> pairs of one set of items."""


def backtest_split(mine: Mine, spec: PairSpec, cut_us: int, end_us: int) -> BacktestSplit | None:
    """Mine both halves of a backtest split; the later half, used for evaluation, has Swing pairs only.

    Parameters
    ----------
    mine : callable
        Mines pairs among the items of the fit.
    spec : PairSpec
        Of the training pairs.
    cut_us, end_us : int
        The cut and the end of the window, microseconds UTC.

    Returns
    -------
    BacktestSplit or None
        None when either half is empty.
    """
    if cut_us >= end_us:
        return None
    earlier, later = mine(spec, cut_us, None), mine(EVALUATION_PAIRS, end_us, cut_us)
    items = len(later.clicks)
    known = np.isin(later.trigger * items + later.target, earlier.either_way(items))
    return BacktestSplit.of(earlier, later.where(~known))


def cut_before_newest(
    log: Sequence[Path], share: float, end_us: int, *, delay_us: int, engine: EngineSettings, spill: Path
) -> int:
    """Time, microseconds UTC, that separates the newest ``share`` of the clicks available by ``end_us`` from the rest.

    Returns ``end_us`` if there are no clicks.

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
    available_us = f"epoch_us(timestamp) + {delay_us}"
    with connection(engine, spill) as opened:
        row = opened.execute(
            f"SELECT quantile_disc({available_us}, {1 - share!r}) FROM read_parquet([{parts}]) "
            f"WHERE label = 1 AND {available_us} <= {end_us}"
        ).fetchone()
    return int(row[0]) if row and row[0] is not None else end_us
