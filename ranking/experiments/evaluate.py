"""Evaluate one trained ranker on labelled rows, refused when it has seen them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ranking.data.dataset import build_dataset, read_rows
from ranking.evaluation.evaluator import ArmMetrics, SliceSize, refuse_leakage
from ranking.pipeline.evaluation import evaluate_arms, slices_json
from ranking.training.ranker import Ranker
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.lookup import count_unknown
from sidkit.core.clock import iso
from sidkit.core.errors import EvaluationError
from sidkit.core.records import record_json
from sidkit.core.repo import Repo
from sidkit.tables import read_build


@dataclass(frozen=True)
class GivenRows:
    """The labelled rows that came, and how many of them were evaluated."""

    rows: int
    before_start: int
    """Rows before the evaluation's start, which are left out."""
    start: str
    """ISO-8601, UTC."""
    after_tables: int
    """Evaluated rows after the moment up to which the tables were built."""
    of_unknown_items: int


@dataclass(frozen=True)
class RankerEvaluation:
    """What a ranker comes to on rows that it has not seen."""

    ranker: str
    slices: dict[str, ArmMetrics]
    """Slice -> metrics."""
    rows: dict[str, SliceSize]
    gauc_by: str
    """``request`` or ``user``."""
    given: GivenRows

    def as_json(self) -> dict[str, Any]:
        """The JSON object of ``sidkit ranker evaluate --json``."""
        return {**record_json(self), "slices": slices_json(self.slices)}


def evaluate_ranker(repo: Repo, name: str, rows_path: Path, since_us: int | None = None) -> RankerEvaluation:
    """Evaluate a ranker.

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
    ContractError
        When a row breaks the contract of the log.
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
    given = read_rows(rows_path)
    rows = given.take(np.flatnonzero(given.at_us >= start))
    if not len(rows):
        raise EvaluationError(
            f"{rows_path} has no row from the evaluation's start on: {len(given):,} rows came, the last at "
            f"{iso(int(given.at_us.max()))}, and the evaluation starts at {iso(start)}"
        )
    if rows.label.min() == rows.label.max():
        raise EvaluationError(
            f"the {len(rows):,} rows of {rows_path} from {iso(start)} on are all of label {rows.label[0]}: nothing can be "
            "ranked; expected rows of both labels"
        )
    data = build_dataset(
        open_store(repo),
        record.service,
        Codebook.load(repo.codebooks / codebook.name),
        rows,
        rate=ranker.scaling.rate,
        history_length=ranker.config.history_length,
    )
    found = evaluate_arms(data, {record.arm: [ranker.score(data)]}, [], None)
    return RankerEvaluation(
        name,
        found.arms[record.arm],
        found.rows,
        found.gauc_by,
        GivenRows(
            rows=len(given),
            before_start=len(given) - len(rows),
            start=iso(start),
            after_tables=int((rows.at_us > read_build(repo)["as_of_us"]).sum()),
            of_unknown_items=count_unknown(repo, pa.array(rows.item_ids, pa.string())),
        ),
    )
