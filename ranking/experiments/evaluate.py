"""Evaluate a trained ranker on labelled rows that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ranking.data.dataset import read_rows
from ranking.data.frame_builder import build_dataset
from ranking.data.targets import Target
from ranking.evaluation.evaluator import ArmMetrics, SliceSize, refuse_leakage
from ranking.pipeline.evaluation import evaluate_arms, slices_json
from ranking.training.calibration import SAMPLED_ROWS, Calibration
from ranking.training.load_ranker import load_ranker
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.lookup import count_unknown
from sidkit.core.clock import iso
from sidkit.core.errors import EvaluationError
from sidkit.core.extras import require
from sidkit.core.records import record_json
from sidkit.core.repo import Repo
from sidkit.tables import read_build


@dataclass(frozen=True)
class GivenRows:
    """Counts of the input rows, and of the rows excluded from the evaluation."""

    rows: int
    before_start: int
    """Rows before the start of the evaluation, which are excluded."""
    start: str
    """ISO-8601, UTC."""
    after_tables: int
    """Evaluated rows later than the time up to which the tables were built."""
    of_unknown_items: int


@dataclass(frozen=True)
class RankerEvaluation:
    """Metrics of a ranker on held-out rows."""

    ranker: str
    slices: dict[str, ArmMetrics]
    """Slice -> metrics."""
    rows: dict[str, SliceSize]
    gauc_by: str
    """``request`` or ``user``."""
    given: GivenRows
    target: Target
    """What the ranker predicts; the label of the rows."""
    calibration: Calibration
    """Whether log-loss and calibration are those of rates."""

    def as_json(self) -> dict[str, Any]:
        """The JSON object of ``sidkit ranker evaluate --json``."""
        return {
            **record_json(self),
            "slices": slices_json(self.slices),
            "calibrated": self.calibration.calibrated,
            "calibration": self.calibration.reason,
        }


def evaluate_ranker(repo: Repo, name: str, rows_path: Path, since_us: int | None = None) -> RankerEvaluation:
    """Evaluate a ranker.

    Parameters
    ----------
    repo : Repo
        Repository with built tables.
    name : str
        Name of the ranker.
    rows_path : Path
        File with labelled rows.
    since_us : int, optional
        Evaluate only rows at or after this time (microseconds UTC). Default: the latest ``fit_end`` of the ranker and its
        codebook.

    Raises
    ------
    ContractError
        If a row violates the log contract.
    LeakageError
        If ``since_us`` is before a ``fit_end``.
    EvaluationError
        If no rows remain, or all have the same label.
    """
    require("scipy", purpose="evaluating a ranker", extra="rank")
    from sidkit.stores.feast_repo import open_store

    catalog = Catalog.open(repo)
    record = catalog.ranker(name)
    codebook = catalog.codebook(record.codebook)
    ends = {record.name: record.fit_end_us, codebook.name: codebook.fit_end_us}
    start = max(ends.values()) if since_us is None else since_us
    refuse_leakage(start, ends)
    ranker = load_ranker(repo.rankers / name, codebook, "evaluating a ranker")
    given = read_rows(rows_path, target=ranker.config.target, context=ranker.config.schema.context)
    rows = given.take(np.flatnonzero(given.at_us >= start))
    if not len(rows):
        raise EvaluationError(
            f"expected rows at or after {iso(start)}, where the evaluation starts; the last of the {len(given):,} rows of "
            f"{rows_path} is at {iso(int(given.at_us.max()))}; add later rows"
        )
    if rows.label.min() == rows.label.max():
        raise EvaluationError(
            f"expected rows of both labels; all {len(rows):,} rows of {rows_path} at or after {iso(start)} have label "
            f"{rows.label[0]}; add rows of the other label"
        )
    data = build_dataset(
        open_store(repo),
        record.service,
        Codebook.load(repo.codebooks / codebook.name),
        rows,
        rate=ranker.smoothing_rate,
        history_length=ranker.config.history_length,
        schema=ranker.config.schema,
        vectors=ranker.config.vectors,
    )
    calibration = Calibration.of(repo.settings, ranker.config.target, ranker.positive_rate)
    if rows.sampled is not None and rows.sampled.any():
        calibration = SAMPLED_ROWS
    evaluated = evaluate_arms(data, {record.arm: [calibration.apply(ranker.score(data))]}, [], None)
    return RankerEvaluation(
        name,
        evaluated.arms[record.arm],
        evaluated.rows,
        evaluated.gauc_by,
        GivenRows(
            rows=len(given),
            before_start=len(given) - len(rows),
            start=iso(start),
            after_tables=int((rows.at_us > read_build(repo)["as_of_us"]).sum()),
            of_unknown_items=count_unknown(repo, pa.array(rows.item_ids, pa.string())),
        ),
        ranker.config.target,
        calibration,
    )
