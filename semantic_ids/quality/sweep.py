"""Sweep: fit a small grid of codebooks on a sample of items and recommend one, without training a ranker.

The recommendation is the candidate with the fewest bits, among those that pass the floors, that is not significantly worse
than the best. With evaluation pairs, the best has the highest hit rate by codes, and a candidate is worse if the 95 %
interval of the paired difference lies below 0. Without them, the best has the lowest reconstruction error on held-out
items, and a candidate is worse if its error is more than ``slack`` higher. Errors of different encoders are relative to
different variances and not comparable, so only candidates of the grid's first encoder are then recommended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationInfo, field_validator

from semantic_ids.codebook_parts import CodebookParts, make_encoder, make_quantizer
from semantic_ids.encoders import ENCODER_NAMES, Encoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import BacktestSplit, ItemPairs
from semantic_ids.quality.code_metrics import (
    collision_rate,
    independent_code_rate,
    largest_bucket,
    perplexity,
    utilisation,
)
from semantic_ids.quality.floors import Floors, below_floors
from semantic_ids.quality.hit_rate import HitPairs, HitReport, by_codes, expected_hits
from semantic_ids.quantizers import QUANTIZER_NAMES
from semantic_ids.quantizers.base import Quantizer
from sidkit.core.arrays import Bools, Doubles, Floats, Ints
from sidkit.core.errors import ConfigError, FitError
from sidkit.core.section import Section


class Candidate(CodebookParts):
    """One codebook to be tried: the parts that ``[codebook]`` of a preset names, and the sizes of its levels."""

    sizes: tuple[int, ...] = Field(min_length=1)
    """Codes per level, coarse to fine."""

    @property
    def label(self) -> str:
        """Such as ``content/residual_kmeans/64x64x64``."""
        return f"{self.encoder}/{self.quantizer}/{'x'.join(map(str, self.sizes))}"


class SweepGrid(Section):
    """Grid of a sweep (``[sweep]``): every combination is a candidate."""

    encoders: tuple[str, ...] = ("content",)
    """Encoders to try."""
    encoder_arguments: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Arguments by encoder name."""
    quantizers: tuple[str, ...] = ("residual_kmeans",)
    """Quantizers to try."""
    quantizer_arguments: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Arguments by quantizer name."""
    levels: tuple[int, ...] = (2, 3)
    """Numbers of levels to try."""
    sizes: tuple[int, ...] = (16, 64, 256)
    """Codes per level, the same on every level."""
    beam: int = Field(default=1, ge=1)
    """Beam width of the search."""

    @field_validator("encoders")
    @classmethod
    def _encoders_are_resolved(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(ENCODER_NAMES.resolved_field(name, info) for name in names)

    @field_validator("encoder_arguments")
    @classmethod
    def _arguments_of_encoders(cls, arguments: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return {ENCODER_NAMES.resolved_field(name, info): given for name, given in arguments.items()}

    @field_validator("quantizers")
    @classmethod
    def _quantizers_are_resolved(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(QUANTIZER_NAMES.resolved_field(name, info) for name in names)

    @field_validator("quantizer_arguments")
    @classmethod
    def _arguments_of_quantizers(cls, arguments: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return {QUANTIZER_NAMES.resolved_field(name, info): given for name, given in arguments.items()}

    def candidates(self) -> list[Candidate]:
        """All candidates, grouped by encoder."""
        return [
            Candidate(
                encoder=encoder,
                encoder_arguments=self.encoder_arguments.get(encoder, {}),
                quantizer=quantizer,
                quantizer_arguments=self.quantizer_arguments.get(quantizer, {}),
                sizes=(size,) * levels,
                beam=self.beam,
            )
            for encoder in self.encoders
            for quantizer in self.quantizers
            for levels in self.levels
            for size in self.sizes
        ]


@dataclass(frozen=True)
class Trial:
    """Result of one candidate.

    ``refused`` is the reason why it could not be fitted (all metrics are then None), ``failed`` lists the floors it is
    below. ``utilisation`` and ``perplexity`` are per level, on the fitted sample; ``collision_rate``,
    ``independent_code_rate`` and ``largest_bucket`` are over all items; ``held_out_error`` is the relative reconstruction
    error on held-out items, in the space of the candidate's encoder.
    """

    candidate: Candidate
    bits: float
    refused: str | None = None
    failed: tuple[str, ...] = ()
    utilisation: tuple[float, ...] | None = None
    perplexity: tuple[float, ...] | None = None
    collision_rate: float | None = None
    independent_code_rate: float | None = None
    largest_bucket: int | None = None
    held_out_error: float | None = None
    hit_rate: float | None = None
    fit_seconds: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it was fitted and is not below any floor."""
        return self.refused is None and not self.failed

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"label": self.candidate.label, **fields, "candidate": self.candidate.model_dump(mode="json")}


@dataclass(frozen=True)
class SweepReport:
    """All trials, in grid order, and the recommended candidate with the reason; None if no candidate passes."""

    trials: tuple[Trial, ...]
    recommended: Candidate | None
    reason: str
    sample: int
    held_out: int

    def table(self) -> pa.Table:
        """One row per trial with its metrics; ``recommended`` marks the recommended one."""
        rows = []
        for trial in self.trials:
            row = trial.as_json()
            del row["candidate"]
            rows.append({**row, "recommended": self.recommended == trial.candidate})
        texts, floats = pa.string(), pa.list_(pa.float64())
        schema = pa.schema(
            {
                **{"label": texts, "recommended": pa.bool_(), "bits": pa.float64()},
                **{"utilisation": floats, "perplexity": floats, "collision_rate": pa.float64()},
                **{"independent_code_rate": pa.float64(), "largest_bucket": pa.int64(), "held_out_error": pa.float64()},
                **{"hit_rate": pa.float64(), "fit_seconds": pa.float64(), "failed": pa.list_(texts), "refused": texts},
            }
        )
        return pa.Table.from_pylist(rows, schema)

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "trials": [trial.as_json() for trial in self.trials],
            "recommended": self.recommended.model_dump(mode="json") if self.recommended else None,
            "reason": self.reason,
            "sample": self.sample,
            "held_out": self.held_out,
        }


def sweep(
    items: ItemVectors,
    grid: SweepGrid | Sequence[Candidate],
    sample: int = 20_000,
    seed: int = 0,
    *,
    floors: Floors | None = None,
    pairs: ItemPairs | None = None,
    evaluation: HitPairs | None = None,
    k: int = 30,
    slack: float = 0.05,
    force: bool = False,
    on_trial: Callable[[Trial], None] | None = None,
) -> SweepReport:
    """Fit every candidate on the same sample of items and recommend one.

    Parameters
    ----------
    items : ItemVectors
        Content of the items known at the cut-off. Items without content are excluded from all metrics except hit rates.
    grid : SweepGrid or sequence of Candidate
        The candidates.
    sample : int
        Items to fit on; at most 80 % of those with content, so that some are held out.
    seed : int
        Seed of the sample.
    floors : Floors, optional
        By default those of :class:`~semantic_ids.quality.floors.Floors`.
    pairs : ItemPairs, optional
        Pairs of these items before the cut-off, for encoders and quantizers that learn from them.
    evaluation : HitPairs, optional
        Pairs of these items after the cut-off (:func:`semantic_ids.quality.hit_rate.held_out_pairs`).
    k : int
        The hit rate's k.
    slack : float
        Difference up to which two errors count as equal; used without evaluation pairs.
    force : bool
        Also fit candidates with fewer than 20 sampled items per code.
    on_trial : callable, optional
        Called with each finished trial.

    Raises
    ------
    FitError
        When fewer than two items have content, or ``sample`` is below 1.
    ConfigError
        When the grid is empty or contains unknown names, or the evaluation pairs index other items.
    """
    candidates = grid.candidates() if isinstance(grid, SweepGrid) else list(grid)
    if not candidates:
        raise ConfigError("the grid has no candidates; give at least one encoder, quantizer, size and number of levels")
    if evaluation is not None and evaluation.items != len(items):
        raise ConfigError(
            f"expected evaluation pairs that index {len(items)} items, got pairs that index {evaluation.items}; use the "
            "same items"
        )
    with_content = np.flatnonzero(items.any_present)
    if len(with_content) < 2 or sample < 1:
        raise FitError(
            "a sweep needs at least 2 items with content and a sample of at least 1, got "
            f"{len(with_content)} items and a sample of {sample}"
        )
    shuffled = np.random.default_rng(seed).permutation(with_content)
    count = min(sample, max(1, len(with_content) * 4 // 5))
    sampled, held_out = np.sort(shuffled[:count]), np.sort(shuffled[count:])
    bench = _Bench(items, sampled, held_out, pairs, evaluation, k, floors or Floors(), force)
    trials, hits = [], []
    for candidate in candidates:
        trial, hits_of_trial = bench.run(candidate)
        trials.append(trial)
        hits.append(hits_of_trial)
        if on_trial is not None:
            on_trial(trial)
    recommended, reason = _recommended(trials, hits, bench, slack)
    return SweepReport(tuple(trials), recommended, reason, count, len(with_content) - count)


class _Bench:
    """Runs candidates on a shared sample; each encoder is fitted once for all its quantizers."""

    def __init__(
        self,
        items: ItemVectors,
        sampled: Ints,
        held_out: Ints,
        pairs: ItemPairs | None,
        evaluation: HitPairs | None,
        k: int,
        floors: Floors,
        force: bool,
    ) -> None:
        self.items, self.sampled, self.held_out = items, sampled, held_out
        self.pairs = pairs_within(pairs, sampled, len(items)) if pairs is not None else None
        self.evaluation, self.k, self.floors, self.force = evaluation, k, floors, force
        self.present: Bools = items.any_present
        self._encoded: tuple[tuple[str, dict[str, Any]], Floats, float, Encoder] | None = None

    def run(self, candidate: Candidate) -> tuple[Trial, Doubles]:
        """The trial of a candidate and its hits ``float64 [pairs]`` (empty without evaluation pairs)."""
        bits = sum(math.log2(size) for size in candidate.sizes)
        try:
            vectors, seconds, encoder = self._vectors(candidate)
            began = time.perf_counter()
            arguments = {"sizes": candidate.sizes, "force": self.force, **candidate.quantizer_arguments}
            quantizer = make_quantizer(candidate.quantizer, arguments)
            self._need_pairs(quantizer)
            quantizer.name_views(encoder.views)
            quantizer.fit(vectors[self.sampled], self.pairs)
            seconds += time.perf_counter() - began
        except FitError as error:
            return Trial(candidate, bits, refused=str(error)), np.zeros(0)
        bits = sum(math.log2(size) for size in quantizer.sizes_)
        codes = quantizer.encode(vectors, beam=candidate.beam)
        fitted, known = codes[self.sampled], codes[self.present]
        used, evenness = utilisation(fitted, quantizer.sizes_), perplexity(fitted, quantizer.sizes_)
        trial = Trial(
            candidate,
            bits,
            failed=tuple(below_floors({"utilisation": used, "perplexity": evenness}, self.floors)),
            utilisation=tuple(used),
            perplexity=tuple(evenness),
            collision_rate=collision_rate(known),
            independent_code_rate=independent_code_rate(known),
            largest_bucket=largest_bucket(known),
            held_out_error=self._held_out_error(vectors, quantizer.decode(codes[self.held_out])),
            fit_seconds=seconds,
        )
        if self.evaluation is None:
            return trial, np.zeros(0)
        hits = expected_hits(by_codes(codes, self.present, quantizer.residual_levels), self.evaluation, self.k)
        return replace(trial, hit_rate=float(hits.mean())), hits

    def _vectors(self, candidate: Candidate) -> tuple[Floats, float, Encoder]:
        key = (candidate.encoder, candidate.encoder_arguments)
        if self._encoded is None or self._encoded[0] != key:
            began = time.perf_counter()
            encoder = make_encoder(*key)
            self._need_pairs(encoder)
            encoder.fit(self.items.rows(self.sampled), self.pairs)
            seconds = time.perf_counter() - began
            self._encoded = (key, encoder.encode(self.items), seconds, encoder)
        return self._encoded[1:]

    def _need_pairs(self, learner: Encoder | Quantizer) -> None:
        if learner.needs_pairs and self.pairs is None:
            raise FitError(f"{learner.name} learns from pairs of items, but the sweep got none; pass pairs")

    def _held_out_error(self, vectors: Floats, decoded: Floats) -> float:
        """Squared error relative to that of predicting the sample's mean."""
        actual = vectors[self.held_out].astype(np.float64)
        spread = ((actual - vectors[self.sampled].mean(axis=0, dtype=np.float64)) ** 2).sum()
        return float(((actual - decoded) ** 2).sum() / max(spread, 1e-30))


def pairs_within(pairs: ItemPairs, rows: Ints, items: int) -> ItemPairs:
    """The pairs whose items are both in ``rows``, re-indexed to ``rows``."""
    place = np.full(items, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    trigger, target = place[pairs.trigger], place[pairs.target]
    inside = (trigger >= 0) & (target >= 0)
    backtest = None
    if pairs.backtest is not None:
        earlier, later = (pairs_within(half, rows, items) for half in (pairs.backtest.earlier, pairs.backtest.later))
        backtest = BacktestSplit.of(earlier, later)
    return ItemPairs(trigger[inside], target[inside], pairs.weight[inside], pairs.clicks[rows], pairs.end_us, backtest)


def _recommended(
    trials: Sequence[Trial], hits: Sequence[Doubles], bench: _Bench, slack: float
) -> tuple[Candidate | None, str]:
    passed = [place for place, trial in enumerate(trials) if trial.passed]
    if not passed:
        refused = sum(trial.refused is not None for trial in trials)
        return None, (
            f"none of {len(trials)} candidates passes: {refused} could not be fitted and {len(trials) - refused} are "
            "below a floor. Try fewer codes per level, a larger sample, or lower floors"
        )
    among = f"of {len(passed)} candidates that pass the floors ({len(trials)} were tried)"
    evaluation = bench.evaluation
    if evaluation is not None:
        gain = {place: trials[place].hit_rate or 0.0 for place in passed}
        best = max(passed, key=lambda place: (gain[place], -trials[place].bits))

        def not_worse(place: int) -> bool:
            both = HitReport(evaluation, bench.k, {"candidate": hits[place], "best": hits[best]})
            gap = both.difference("candidate", "best")
            return gap is None or not gap.high < 0

        equal = [place for place in passed if place == best or not_worse(place)]
        metric = f"hit rate at {bench.k}"
        close = "is not significantly lower"
    else:
        first = _encoder_of(trials[0])
        comparable = [place for place in passed if _encoder_of(trials[place]) == first]
        if not comparable:
            return None, (
                f"{among}, none uses the first encoder ({first[0]}); errors of different encoders are not comparable. "
                "Pass evaluation pairs, or sweep one encoder at a time"
            )
        if len(comparable) < len(passed):
            among += f", {len(comparable)} of them with the first encoder (errors of other encoders are not comparable)"
        gain = {place: -(trials[place].held_out_error or 0.0) for place in comparable}
        best = max(comparable, key=lambda place: (gain[place], -trials[place].bits))
        equal = [place for place in comparable if gain[place] >= gain[best] - slack]
        metric = "error on held-out items"
        close = f"is within {slack:g} of it"
    chosen = min(equal, key=lambda place: (trials[place].bits, -gain[place]))
    top = f"the best {metric} is {abs(gain[best]):.4f} ({trials[best].candidate.label})"
    label = f"{trials[chosen].candidate.label} ({trials[chosen].bits:.1f} bits)"
    if chosen == best:
        return trials[chosen].candidate, f"{among}, {top}, and no candidate with fewer bits matches it: {label}"
    return trials[chosen].candidate, (
        f"{among}, {top}; {label} has the fewest bits of those that match it: its {metric} of {abs(gain[chosen]):.4f} {close}"
    )


def _encoder_of(trial: Trial) -> tuple[str, dict[str, Any]]:
    return trial.candidate.encoder, trial.candidate.encoder_arguments
