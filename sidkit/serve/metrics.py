"""Metrics in the text format of Prometheus; of all workers together if there are several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
MULTIPROCESS_NAMES = (_MULTIPROCESS, "PROMETHEUS_MULTIPROCESS_DIR")
"""Variables with the folder in which workers collect metrics: that of prometheus_client, and the one that Feast reads."""
STAGES = ("read", "gather", "score", "encode")
_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 1, 5)
_SHARES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_COUNTS = (1, 10, 50, 100, 200, 500, 1_000, 2_000, 5_000)
_SCORES = 5  # observing one takes longer than scoring one
_DIFFERENCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.5, 1.0)


class Metrics:
    """All metrics of one worker."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.duration = Histogram(
            "sidkit_request_duration_seconds",
            "Time per stage of a ranking request: read (candidates and the online store), gather (arrays), score, encode.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = {stage: self.duration.labels(stage) for stage in STAGES}
        self.whole = Histogram(
            "sidkit_rank_duration_seconds",
            "Time of a whole ranking request, from its body to its answer, with the time that it waits.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.requests = Counter("sidkit_requests_total", "Requests.", ["route", "status"], registry=registry)
        self.candidates = Histogram("sidkit_candidates", "Candidates per request.", buckets=_COUNTS, registry=registry)
        self.unknown = Counter(
            "sidkit_missing_features_total", "Keys without a row online.", ["view"], registry=registry
        )
        self.cold = Histogram(
            "sidkit_cold_candidates_ratio", "Share of cold candidates per request.", buckets=_SHARES, registry=registry
        )
        self.score = Histogram(
            "sidkit_score", "Scores of some candidates of each request.", buckets=_SHARES, registry=registry
        )
        self.feature_age = Gauge(
            "sidkit_feature_age_seconds",
            "Time since the end of the materialized features of a view.",
            ["view"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.model_info = Gauge(
            "sidkit_model_info",
            "Workers that serve this ranker and codebook.",
            ["ranker", "codebook"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.swaps = Counter("sidkit_model_loads_total", "Models loaded, by result.", ["result"], registry=registry)
        self.shadow_difference = Histogram(
            "sidkit_shadow_difference",
            "Absolute difference of scores between the ranker and the shadow ranker.",
            buckets=_DIFFERENCES,
            registry=registry,
        )
        self.shadow_dropped = Counter(
            "sidkit_shadow_dropped_total", "Requests that the shadow ranker was too slow for.", registry=registry
        )
        self.served_log_rows = Counter(
            "sidkit_served_log_rows_total", "Rows written to the served log.", registry=registry
        )
        self.served_log_dropped = Counter(
            "sidkit_served_log_dropped_total",
            "Sampled requests that are missing from the served log: the queue was full, the disk refused, or an error.",
            ["reason"],
            registry=registry,
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Observe the time of a stage."""
        began = perf_counter()
        try:
            yield
        finally:
            self.observe_stage(stage, perf_counter() - began)

    @contextmanager
    def timed_whole(self) -> Iterator[None]:
        """Observe the time of a whole ranking request."""
        began = perf_counter()
        try:
            yield
        finally:
            self.whole.observe(perf_counter() - began)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Observe the seconds of a stage of :data:`STAGES`."""
        self._stages[stage].observe(seconds)

    def show_ages(self, ends_us: Mapping[str, int], now_us: int) -> None:
        """Set the age of the features of each view from the ends of the materialized intervals, microseconds UTC."""
        for view, end_us in ends_us.items():
            self.feature_age.labels(view).set(max(now_us - end_us, 0) / 1e6)

    def observe_scores(self, values: npt.NDArray[np.float64]) -> None:
        """Observe some of the scores of a request, evenly spaced over its candidates."""
        for value in values[:: max(len(values) // _SCORES, 1)].tolist():
            self.score.observe(value)

    def show_model(self, ranker: str, codebook: str, before: tuple[str, str] | None) -> None:
        """Set the loaded ranker and codebook."""
        if before is not None and before != (ranker, codebook):
            self.model_info.labels(*before).set(0)
        self.model_info.labels(ranker, codebook).set(1)

    def text(self) -> bytes:
        """The metrics of this worker, or of all workers of the service."""
        folder = os.environ.get(_MULTIPROCESS)
        if not folder:
            return generate_latest(self._registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        _forget_ended_workers(Path(folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _forget_ended_workers(folder: Path) -> None:
    """Remove the gauges of workers that ended; their counters stay."""
    from prometheus_client.multiprocess import mark_process_dead

    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
