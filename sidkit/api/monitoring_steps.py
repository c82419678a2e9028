"""Steps on what a service served: skew from training features, drift, and served metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sidkit.api.base import ProjectBase
from sidkit.core.clock import Moment, moment_us

if TYPE_CHECKING:
    from ranking.monitoring.monitor import MonitorResult
    from ranking.monitoring.skew import SkewAudit


class MonitoringSteps(ProjectBase):
    """Methods of a project on the served log."""

    def audit_skew(
        self,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        ranker: str | None = None,
        rows: int = 10_000,
        seed: int = 0,
        tolerance: float = 1e-5,
        most_unexplained: float = 0.01,
        most_stale: float | None = None,
    ) -> SkewAudit:
        """Compare the features of the served log with a point-in-time retrieval of the same rows.

        Parameters
        ----------
        since, until : str or datetime, optional
            Rows whose request was at or after the first, and before the second.
        ranker : str, optional
            Rows that this ranker served; default: of all.
        rows, seed : int
            Number of sampled rows, and random seed of the sample.
        tolerance : float
            Numbers agree if they differ by at most this share of the larger one of 1 and the retrieved number.
        most_unexplained : float
            Largest share of the cells of a feature that may differ without an explanation.
        most_stale : float, optional
            Largest share of the cells of a feature that may be stale, because they were materialized before the request;
            default: any.

        Returns
        -------
        SkewAudit
            ``features`` (counts of cells that differ, by kind), ``problems`` (sentences) and ``ok``.

        Raises
        ------
        ArtifactMissingError
            When the served log has no such rows (``sidkit serve --log-sample`` writes it).
        """
        from ranking.monitoring.skew import SkewBounds, audit_skew

        return audit_skew(
            self.repo,
            since_us=None if since is None else moment_us(since),
            until_us=None if until is None else moment_us(until),
            ranker=ranker,
            rows=rows,
            seed=seed,
            bounds=SkewBounds(tolerance, most_unexplained, most_stale),
        )

    def monitor(
        self,
        *,
        ranker: str | None = None,
        source: Literal["log", "rows"] = "log",
        since: Moment | None = None,
        until: Moment | None = None,
        days: int = 7,
        rows: int = 100_000,
        seed: int = 0,
        watch: float = 0.1,
        drift: float = 0.25,
        min_rows: int = 200,
        ignore: Sequence[str] = (),
        html: str | Path | None = None,
    ) -> MonitorResult:
        """Measure the drift of features, codes and scores by day, against the rows that the ranker was trained on.

        Parameters
        ----------
        ranker : str, optional
            Default: the serving one.
        source : str
            ``log``: what a service logged. ``rows``: the labelled rows after the ranker's training, with point-in-time
            features.
        since, until : str or datetime, optional
            Rows at or after the first, and before the second; default: the last ``days`` days with rows.
        days : int
            See ``since``.
        rows, seed : int
            Number of sampled rows, and random seed of the samples.
        watch, drift : float
            Population stability index from which a day is to be watched, and drifts.
        min_rows : int
            A day with fewer rows has no verdict.
        ignore : sequence of str
            Patterns (``item_*_all``) of features to leave out.
        html : str or Path, optional
            Write a page with all distributions to this file.

        Returns
        -------
        MonitorResult
            ``features`` (drift by day, worst first), ``days`` (rows, shares of cold and new items, mean score), ``outcomes``
            (AUC and log loss of served scores whose labels have arrived) and ``ok``.

        Raises
        ------
        ArtifactMissingError
            When there are no rows to compare.
        ConfigError
            When there is no such source, or ``watch`` exceeds ``drift``.
        """
        from ranking.monitoring.drift import DriftBounds
        from ranking.monitoring.monitor import monitor
        from ranking.monitoring.report.page import write_monitor_page

        result = monitor(
            self.repo,
            ranker=ranker,
            source=source,
            since_us=None if since is None else moment_us(since),
            until_us=None if until is None else moment_us(until),
            days=days,
            rows=rows,
            seed=seed,
            bounds=DriftBounds(watch, drift, min_rows),
            ignore=tuple(ignore),
        )
        if html is not None:
            write_monitor_page(Path(html), result)
        return result
