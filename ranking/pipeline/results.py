"""What the main job comes to, as typed records; :mod:`sidkit.cli.run_report` makes JSON and tables of them."""

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
    """The codebook of a run and the figures of its codes."""

    name: str
    quantizer: str
    levels: int
    utilisation: tuple[float, ...]
    """Share of each level's codes that some item has."""
    perplexity: tuple[float, ...]
    """Perplexity of each level's codes over its number of codes."""
    collision_rate: float
    """Share of items that share all codes with another."""
    service: str
    """The feature service of its rankers."""

    @classmethod
    def read(cls, repo: Repo, name: str) -> CodebookFacts:
        """Read the catalogue and the codebook's metrics."""
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
    """Item-to-item hit rates at 30 of a codebook's vectors; all None, with the reason, where they were not measured."""

    seen: float | None
    """For targets that were known at the fit."""
    new: float | None
    """For targets that were not."""
    reason: str | None = None

    @classmethod
    def read(cls, path: Path, codebook: str) -> HitRates:
        """Read the file of a run's stage ``hit_rate``."""
        found = read_json(path) or NotMeasured("no later click").as_json()
        if found["rates"] is None:
            return cls(None, None, found["reason"])
        rates = found["rates"][codebook]
        seen, new = (rates[part]["value"] if rates[part] else None for part in ("seen", "new"))
        return cls(seen, new)

    def as_json(self) -> dict[str, float | None] | None:
        """``seen`` and ``new``; null where nothing was measured."""
        return None if self.reason is not None else {"seen": self.seen, "new": self.new}


@dataclass(frozen=True)
class LogChanges:
    """What the last ingest that read the source did, in events and rows."""

    new: int
    changed: int
    removed: int
    vanished: int
    """Events that are no longer in the source."""
    merged: dict[str, int]
    """Table -> rows merged with another row of their event."""
    rejected: dict[str, dict[str, int]]
    """Table -> reason -> rows."""

    @classmethod
    def of(cls, facts: Any, path: Path) -> LogChanges:
        """From the facts of the stage ``ingest`` in the record ``path``."""
        return record_of(cls, facts, path)


@dataclass(frozen=True)
class StageTime:
    """A stage of a job; of one that was not done again, what it once took."""

    name: str
    rows: int
    seconds: float


@dataclass(frozen=True)
class RunResult:
    """What a run of the main job came to."""

    data: str
    """As it was given."""
    preset: str
    repo: Repo
    folder: Path
    """Of the run: ``verdict.json``, ``hit_rate.json``, the frame and the predictions."""
    codebook: CodebookFacts
    split: TimeSplit
    as_of_us: int
    """Up to when features were built, microseconds UTC."""
    serving_ranker: str | None
    """The ranker that was promoted; None where no arm may serve."""
    hit_rate: HitRates
    evaluation: RunEvaluation
    rankers: dict[str, tuple[str | None, ...]]
    """Arm -> the artefact of each seed; None for an arm that cannot serve."""
    log: LogChanges
    stages: tuple[StageTime, ...]
    peak_rss_mb: float
    sampled: int
    """Labelled rows that are sampled negatives."""
    warnings: tuple[str, ...]
    parts: PartRows
    """How many rows of each part were used, of how many."""
