"""Steps on what a service served: skew from training features, drift, and served metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.api.base import ProjectBase
from sidkit.core.clock import Moment, moment_us

if TYPE_CHECKING:
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
