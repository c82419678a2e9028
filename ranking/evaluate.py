"""Judge one trained ranker on labelled rows, refused when it has seen them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ranking.artifact import Ranker
from ranking.evaluation.judge import judge, refuse_leakage
from ranking.split import check_both_classes
from ranking.training_set import build_training_set, read_rows
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.errors import EvaluationError
from sidkit.repo import Repo


def evaluate_ranker(repo: Repo, name: str, rows_path: Path, since_us: int | None = None) -> dict[str, Any]:
    """Judge a ranker.

    Parameters
    ----------
    repo : Repo
        With built tables.
    name : str
        The ranker.
    rows_path : Path
        Labelled rows.
    since_us : int, optional
        Only rows from this moment on (microseconds UTC); by default the latest ``fit_end`` of the ranker and its parents.

    Raises
    ------
    LeakageError
        When ``since_us`` lies before a ``fit_end``.
    EvaluationError
        When no rows are left, or all have one label.
    """
    from sidkit.stores.feast_repo import open_store

    catalog = Catalog.open(repo)
    record = catalog.ranker(name)
    codebook = catalog.codebook(record.codebook)
    ends = {record.name: record.fit_end_us, codebook.name: codebook.fit_end_us}
    start = max(ends.values()) if since_us is None else since_us
    refuse_leakage(start, ends)
    ranker = Ranker.load(repo.rankers / name)
    rows = read_rows(rows_path)
    rows = rows.take(np.flatnonzero(rows.at_us >= start))
    if not len(rows):
        raise EvaluationError(f"{rows_path} has no row from the evaluation's start on")
    check_both_classes(rows.label, "evaluated")
    data = build_training_set(
        open_store(repo), record.service, Codebook.load(repo.codebooks / codebook.name), rows,
        rate=ranker.scaling.rate, history_length=ranker.config.history_length,
    )  # fmt: skip
    verdict = judge(data, {record.arm: [ranker.score(data)]}, [], None)
    return {
        "ranker": name,
        "slices": verdict["arms"][record.arm],
        "rows": verdict["rows"],
        "gauc_by": verdict["gauc_by"],
    }
