"""Monitor the serving ranker: drift of its features, codes and scores by day, against the rows that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from ranking.data.frame_table import CODES
from ranking.evaluation.slices import COLD_BELOW
from ranking.monitoring.drift import DRIFT, DriftBounds, FeatureDrift, MonitoredRows, drift_of, worst_first
from ranking.monitoring.outcomes import RankerOutcome, outcomes
from ranking.monitoring.rows import SCORE, Monitored, TrainingRows, Window, served
from semantic_ids.catalog import Catalog
from sidkit.core.arrays import Doubles, Ints, one_chunk
from sidkit.core.clock import DAY_US
from sidkit.core.errors import ConfigError

if TYPE_CHECKING:
    from sidkit.core.repo import Repo

Source = Literal["log", "rows"]
SOURCES: tuple[Source, ...] = ("log", "rows")


@dataclass(frozen=True)
class DaySummary:
    """The rows of one day, or of the reference (``day`` is then ``reference``).

    ``cold`` is the share of rows whose item had fewer than 10 interactions before, ``new`` that of items created after the
    ranker's ``fit_end``, ``without_codes`` that of items without codes, ``unknown`` that of items that the online store had no
    row for (None if the rows were not served).
    """

    day: str
    rows: int
    requests: int
    cold: float
    new: float
    without_codes: float
    unknown: float | None
    score: float


@dataclass(frozen=True)
class MonitorResult:
    """Drift of a ranker's inputs and scores."""

    ranker: str
    source: Source
    total: int
    """Rows in the monitored time, of which some may be sampled."""
    reference: DaySummary
    days: tuple[DaySummary, ...]
    features: tuple[FeatureDrift, ...]
    """Worst first; the score is one of them."""
    bounds: DriftBounds
    outcomes: tuple[RankerOutcome, ...]
    """Metrics of the served scores whose labels have arrived; empty without any."""

    @property
    def drifting(self) -> tuple[FeatureDrift, ...]:
        """The features of which a day exceeds the bound."""
        return tuple(each for each in self.features if each.verdict == DRIFT)

    @property
    def ok(self) -> bool:
        """Whether no feature exceeds the bound on any day."""
        return not self.drifting

    def as_json(self) -> dict[str, Any]:
        """The JSON object of ``sidkit monitor --json``."""
        features = [
            {
                "name": each.name,
                "verdict": each.verdict,
                "worst_psi": each.worst,
                "reference_missing": each.missing,
                "reference_mean": each.mean,
                "usual_psi": each.usual,
                "days": [vars(day) for day in each.days],
            }
            for each in self.features
        ]
        return {
            "ok": self.ok,
            "ranker": self.ranker,
            "source": self.source,
            "rows": sum(day.rows for day in self.days),
            "total": self.total,
            "bounds": vars(self.bounds),
            "reference": vars(self.reference),
            "days": [vars(day) for day in self.days],
            "features": features,
            "outcomes": [each.as_json() for each in self.outcomes],
        }


def monitor(
    repo: Repo,
    *,
    ranker: str | None = None,
    source: Source = "log",
    since_us: int | None = None,
    until_us: int | None = None,
    days: int = 7,
    rows: int = 100_000,
    seed: int = 0,
    bounds: DriftBounds | None = None,
    ignore: tuple[str, ...] = (),
) -> MonitorResult:
    """Compare served rows, day by day, with the rows that the ranker was trained on.

    The reference of features is a sample of the training rows with their point-in-time features, that of scores a sample of
    the validation rows, on which the ranker was not fitted.

    Parameters
    ----------
    repo : Repo
        A repository with labelled rows and a trained ranker.
    ranker : str, optional
        Default: the serving one.
    source : str
        ``log``: the served log. ``rows``: the labelled rows after the ranker's ``fit_end``, for a ranker that no service logs.
    since_us, until_us : int, optional
        Rows at or after the first, and before the second, microseconds UTC; default: the last ``days`` days with rows.
    days : int
        See ``since_us``.
    rows, seed : int
        Number of sampled rows, and random seed of the samples.
    bounds : DriftBounds, optional
        When a feature drifts.
    ignore : tuple of str
        Patterns of features to leave out.

    Raises
    ------
    ArtifactMissingError
        When there are no rows to compare, or no labelled rows.
    ConfigError
        When there is no such source.
    """
    if source not in SOURCES:
        raise ConfigError(f"expected one of the sources {', '.join(SOURCES)}, got {source!r}; correct it")
    catalog = Catalog.open(repo)
    record = catalog.ranker(ranker) if ranker else catalog.serving_ranker()
    window = Window(since_us, until_us, days)
    if source == "log":
        recent = served(repo, record.name, window, rows, seed)  # raises at once if nothing was served
        training = TrainingRows(repo, record)
    else:
        training = TrainingRows(repo, record)
        recent = training.later(window, rows, seed)
    reference, validation = training.reference(seed)
    limits = bounds or DriftBounds()
    features = drift_of(_without_score(reference), _without_score(recent.rows), limits, ignore)
    features += drift_of(_only_score(validation), _only_score(recent.rows), limits, ignore)
    return MonitorResult(
        record.name,
        source,
        recent.total,
        _summary("reference", reference, None, record.fit_end_us, float(_doubles(validation.table, SCORE).mean())),
        tuple(_by_day(recent, record.fit_end_us)),
        worst_first(features),
        limits,
        _outcomes(repo, record.name, recent.rows.at_us) if source == "log" else (),
    )


def _outcomes(repo: Repo, ranker: str, at_us: Ints) -> tuple[RankerOutcome, ...]:
    found = outcomes(repo, ranker=ranker, since_us=int(at_us.min()), until_us=int(at_us.max()) + 1)
    return tuple(each for each in found if each.rows)


def _without_score(rows: MonitoredRows) -> MonitoredRows:
    return MonitoredRows(rows.table.drop_columns([SCORE]), rows.at_us, rows.request)


def _only_score(rows: MonitoredRows) -> MonitoredRows:
    return MonitoredRows(rows.table.select([SCORE]), rows.at_us, rows.request)


def _by_day(recent: Monitored, fit_end_us: int) -> Iterator[DaySummary]:
    rows = recent.rows
    for day in np.unique(rows.day).tolist():
        index = np.flatnonzero(rows.day == day)
        part = MonitoredRows(rows.table.take(pa.array(index)), rows.at_us[index], rows.request[index])
        unknown = None if recent.unknown is None else float(recent.unknown[index].mean())
        score = float(_doubles(part.table, SCORE).mean())
        yield _summary(str(np.datetime64(day, "D")), part, unknown, fit_end_us, score)


def _summary(day: str, rows: MonitoredRows, unknown: float | None, fit_end_us: int, score: float) -> DaySummary:
    table = rows.table
    prior = np.maximum(_doubles(table, "item_exposures_all"), _doubles(table, "item_clicks_all"))
    created_us = rows.at_us - _doubles(table, "item_age_days") * DAY_US
    new = (created_us >= fit_end_us) & (_doubles(table, "item_without_content") == 0)
    return DaySummary(
        day,
        len(rows),
        len(np.unique(rows.request)),
        float((prior < COLD_BELOW).mean()),
        float(new.mean()),
        table.column(CODES).null_count / max(len(rows), 1),
        unknown,
        score,
    )


def _doubles(table: pa.Table, name: str) -> Doubles:
    values: Doubles = one_chunk(table.column(name)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values
