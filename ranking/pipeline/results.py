"""Typed results of the main job; :mod:`sidkit.cli.run_report` formats them as JSON and tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranking.data.rows_used import PartRows
from ranking.data.split import TimeSplit
from ranking.pipeline.evaluation import RunEvaluation
from semantic_ids.catalog import Catalog
from semantic_ids.quality.hit_rate import NotMeasured
from sidkit.core.files import read_json
from sidkit.core.integrity import read_checked_json
from sidkit.core.records import record_of
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
    """Share of items that share all codes with another item."""
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


@dataclass(frozen=True)
class RunResult:
    """Result of the main job."""

    data: str
    """The data as passed by the user."""
    preset: str
    repo: Repo
    folder: Path
    """Folder of the run: ``verdict.json``, ``hit_rate.json``, the frame and the predictions."""
    codebook: CodebookFacts
    split: TimeSplit
    as_of_us: int
    """Time as of which features were built, microseconds UTC."""
    serving_ranker: str | None
    """The promoted ranker; None if no arm may serve."""
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
