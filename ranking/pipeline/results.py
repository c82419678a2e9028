"""Typed results of the main job, as data frames, sentences and HTML; :mod:`sidkit.cli.run_report` prints them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ranking.data.codebook_window import CodebookWindow
from ranking.data.rows_used import PartRows
from ranking.data.split import TimeSplit
from ranking.pipeline.conclusions import RunFacts, ServingChoice, conclusions
from ranking.pipeline.evaluation import COMPARED, RunEvaluation
from ranking.pipeline.feature_importance import read_importance
from ranking.pipeline.questions import Question
from ranking.training.calibration import SAMPLED_METRICS, Calibration
from semantic_ids.catalog import Catalog
from semantic_ids.quality.hit_rate import NotMeasured
from sidkit.core.files import read_json
from sidkit.core.integrity import read_checked_json
from sidkit.core.records import record_of
from sidkit.core.redact import redacted
from sidkit.core.repo import Repo


@dataclass(frozen=True)
class CodebookFacts:
    """The codebook of a run with metrics of its codes."""

    name: str
    quantizer: str
    levels: int
    utilisation: tuple[float, ...]
    """Share of codes in use, per level."""
    perplexity: tuple[float, ...]
    """Perplexity of the codes divided by the number of codes, per level."""
    collision_rate: float
    """1 - distinct codes / items."""
    independent_code_rate: float
    """Share of items that share all codes with no other item."""
    service: str
    """Feature service of its rankers."""

    @classmethod
    def read(cls, repo: Repo, name: str) -> CodebookFacts:
        """Read from the catalogue and the codebook's metrics."""
        record = Catalog.open(repo).codebook(name)
        path = repo.codebooks / name / "metrics.json"
        described = {
            "name": name,
            "quantizer": record.quantizer,
            "levels": record.levels,
            "service": record.service_name,
        }
        return record_of(cls, {**read_checked_json(path), **described}, path)


@dataclass(frozen=True)
class HitRates:
    """Item-to-item hit rates at 30 of a codebook's vectors; None, with a reason, if not measured."""

    seen: float | None
    """Hit rate for targets known at the fit."""
    new: float | None
    """Hit rate for targets added after the fit."""
    reason: str | None = None

    @classmethod
    def read(cls, path: Path, codebook: str) -> HitRates:
        """Read the output of a run's stage ``hit_rate``."""
        hits = read_json(path) or NotMeasured("no later click").as_json()
        if hits["rates"] is None:
            return cls(None, None, hits["reason"])
        rates = hits["rates"][codebook]
        seen, new = (rates[part]["value"] if rates[part] else None for part in ("seen", "new"))
        return cls(seen, new)

    def as_json(self) -> dict[str, float | None] | None:
        """Return ``seen`` and ``new``, or None if not measured."""
        return None if self.reason is not None else {"seen": self.seen, "new": self.new}


@dataclass(frozen=True)
class LogChanges:
    """Changes of the log in the last ingest that read the source."""

    new: int
    """New events."""
    changed: int
    removed: int
    vanished: int
    """Events no longer in the source."""
    merged: dict[str, int]
    """Table -> rows merged with another row of the same event."""
    rejected: dict[str, dict[str, int]]
    """Table -> reason -> rejected rows."""

    @classmethod
    def of(cls, facts: Any, path: Path) -> LogChanges:
        """Build from the facts of the stage ``ingest`` in the stage record ``path``."""
        return record_of(cls, facts, path)


@dataclass(frozen=True)
class StageTime:
    """Rows and seconds of a stage; a reused stage has its original seconds."""

    name: str
    rows: int
    seconds: float


REPORT = "report.html"
"""File of the HTML report in the folder of a run."""


@dataclass(frozen=True, repr=False)
class RunResult:
    """Result of the main job.

    In a notebook it shows the arms, what codes gained, and the conclusions; :attr:`report` is the page with everything.
    """

    data: str
    """The data as passed by the user."""
    preset: str
    repo: Repo
    folder: Path
    """Folder of the run: ``verdict.json``, ``hit_rate.json``, the frame and the predictions."""
    codebook: CodebookFacts
    window: CodebookWindow
    """The training rows that follow the clicks which the codebook learned from."""
    split: TimeSplit
    as_of_us: int
    """Time as of which features were built, microseconds UTC."""
    serving: ServingChoice
    """The promoted ranker, and what it was chosen from."""
    questions: tuple[Question, ...]
    """The pairs of arms that show what codes gain."""
    seeds: int
    impressions: int | None
    """Impressions of a generated data set; None for the user's own data."""
    hit_rate: HitRates
    evaluation: RunEvaluation
    rankers: dict[str, tuple[str | None, ...]]
    """Arm -> ranker artefact of each seed; None for an arm that cannot serve."""
    log: LogChanges
    stages: tuple[StageTime, ...]
    peak_rss_mb: float
    sampled: int
    """Labelled rows that are sampled negatives."""
    warnings: tuple[str, ...]
    parts: PartRows
    """Used and available rows of each part."""
    calibration: Calibration
    """Whether scores are rates, with the reason."""

    @property
    def scores(self) -> str:
        """What scores predict, whether they are rates, and on which rows log-loss and calibration are measured."""
        sentence = f"Target: {self.evaluation.target}. {self.calibration.sentence}"
        return f"{sentence} {SAMPLED_METRICS}" if self.sampled else sentence

    @property
    def ranker(self) -> str | None:
        """Name of the serving ranker; None if no arm may serve."""
        return self.serving.ranker

    @property
    def report(self) -> Path:
        """The HTML report: one file that needs no network."""
        return self.folder / REPORT

    @property
    def arms(self) -> pd.DataFrame:
        """Metrics, one row per arm and slice: ``all``, ``cold`` and ``warm``; undefined values are NaN.

        ``low`` and ``high`` are the bounds of the AUC's 95 % interval over users.
        """
        evaluation = self.evaluation
        rows = []
        for arm, slices in evaluation.arms.items():
            for name in (name for name in COMPARED if name in slices):
                metrics, size = slices[name], evaluation.rows[name]
                low, high = metrics.auc_interval or (None, None)
                rows.append(
                    {
                        "arm": arm,
                        "slice": name,
                        "rows": size.rows,
                        "positives": size.positives,
                        "auc": metrics.auc,
                        "low": low,
                        "high": high,
                        "gauc": metrics.gauc,
                        "logloss": metrics.logloss,
                        "calibration": metrics.calibration,
                    }
                )
        return pd.DataFrame(rows).astype(dict.fromkeys(("auc", "low", "high", "gauc", "logloss", "calibration"), float))

    @property
    def comparisons(self) -> pd.DataFrame:
        """AUC differences, one row per arm, baseline and slice, with 95 % interval, outcome and the reason for it."""
        columns = ["arm", "baseline", "slice", "difference", "low", "high", "positives", "outcome", "reason"]
        rows = [
            (
                each.arm,
                each.baseline,
                each.slice,
                each.value,
                each.low,
                each.high,
                each.positives,
                each.reasoned.outcome,
                each.reasoned.reason,
            )
            for each in self.evaluation.differences
        ]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(("difference", "low", "high"), float))

    @property
    def importance(self) -> pd.DataFrame:
        """Permutation importance on validation rows, one row per arm, feature and slice: the ``drop`` of the AUC when the
        feature is shuffled, and its ``spread`` over repeats. Of boosting and of the serving ranker.
        """
        return read_importance(self.folder)

    @cached_property
    def conclusions(self) -> tuple[str, ...]:
        """Sentences: which ranker serves and why, what codes gained, and what to do next."""
        facts = RunFacts(
            repo=str(self.repo.path),
            data=redacted(self.data),
            preset=self.preset,
            codebook=self.codebook.name,
            seeds=self.seeds,
            impressions=self.impressions,
            has_vectors=bool(self.repo.settings.source.modalities),
        )
        return conclusions(self.evaluation, self.questions, self.serving, facts)

    def __repr__(self) -> str:
        """Name the preset, the arms, the serving ranker and the report."""
        arms = ", ".join(self.evaluation.arms)
        return f"RunResult(preset={self.preset!r}, arms=[{arms}], ranker={self.ranker!r}, report={str(self.report)!r})"

    def _repr_html_(self) -> str:
        """Show conclusions and tables in a notebook."""
        said = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.conclusions)
        pairs_shown = {(question.arm, question.baseline) for question in self.questions}
        compared = self.comparisons
        shown = compared[[pair in pairs_shown for pair in zip(compared["arm"], compared["baseline"], strict=True)]]
        tables = "".join(
            frame.to_html(index=False, float_format=lambda value: f"{value:.4f}", na_rep="", border=0)
            for frame in (self.arms, shown)
        )
        return f"<ul>{said}</ul>{tables}<p>Report: {escape(str(self.report))}</p>"
