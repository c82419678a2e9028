"""A sweep over codebooks on a repository's items: fit on items known at a time, evaluate on later clicks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from semantic_ids.encoders import ContentEncoder
from semantic_ids.fitting import CodebookSpec
from semantic_ids.pairs.known_items import known_items, pairs_among
from semantic_ids.quality.hit_rate import held_out_pairs
from semantic_ids.quality.sweep import SweepGrid, SweepReport, Trial, sweep
from sidkit.core.config import load_section
from sidkit.core.repo import Repo
from sidkit.tables import read_build, read_log


def sweep_repo(
    repo: Repo,
    preset: Path,
    fit_end_us: int | None,
    sample: int,
    seed: int,
    on_trial: Callable[[Trial], None] | None = None,
) -> SweepReport:
    """Fit the grid of a preset on a sample of a repository's items; see :func:`semantic_ids.quality.sweep.sweep`.

    Parameters
    ----------
    repo : Repo
        With built tables.
    preset : Path
        File with the sections ``[codebook]`` and ``[sweep]``.
    fit_end_us : int, optional
        Fit on data known by this time (microseconds UTC) and evaluate on later clicks; default: 80 % of the log.
    sample, seed : int
        Items to fit on (the others are held out), and the seed of the sample and of every fit.
    on_trial : callable, optional
        Called after each trial.
    """
    spec, grid = load_section(CodebookSpec, preset, "codebook"), load_section(SweepGrid, preset, "sweep")
    as_of_us = read_build(repo)["as_of_us"]
    log = read_log(repo)
    end_us = fit_end_us or int(log.first_us + 0.8 * (log.last_us - log.first_us))
    known = known_items(repo, end_us)
    vectors = ContentEncoder().fit(known.content).encode(known.content)
    training = pairs_among(repo, known, vectors, end_us, spec.pairs)
    # Evaluate on swing pairs only: user_to_item picks triggers by content similarity, which would favour content.
    swing_only = spec.pairs.model_copy(update={"sources": ("swing",)})
    evaluation = None
    if end_us < as_of_us:
        future = pairs_among(repo, known, vectors, as_of_us, swing_only, start_us=end_us)
        pairs = held_out_pairs(future, np.ones(len(known), dtype=bool), training, most_triggers=1000, seed=seed)
        evaluation = pairs if len(pairs) else None
    return sweep(
        known.content,
        grid,
        sample,
        seed,
        floors=spec.floors,
        pairs=training if len(training) else None,
        evaluation=evaluation,
        force=spec.force,
        on_trial=on_trial,
    )
