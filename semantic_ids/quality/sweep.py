"""A small grid of codebooks fitted on a sample of items, so that sizes are chosen before a ranker is trained.

The rule of the recommendation: among candidates that pass the floors, the one with the fewest bits that is not shown to be
worse than the best. With judged pairs, best is the highest hit rate by codes, and a candidate is worse when the 95 %
interval of the paired difference leaves out 0. Without them, best is the lowest reconstruction error on items that no
candidate was fitted on, and a candidate is worse when it leaves more than ``slack`` more of the spread unexplained. Errors
of different encoders are shares of different spreads and are not compared: then only candidates of the grid's first
encoder are recommended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from semantic_ids.codebook import make_encoder, make_quantizer
from semantic_ids.encoders import Encoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import ItemPairs, Rehearsal
from semantic_ids.quality.code_metrics import (
    collision_rate,
    independent_code_rate,
    largest_bucket,
    perplexity,
    utilisation,
)
from semantic_ids.quality.floors import Floors, below_floors
from semantic_ids.quality.hit_rate import HitQuestions, HitReport, by_codes, expected_hits
from semantic_ids.quantizers.base import Quantizer
from sidkit.core.arrays import Bools, Doubles, Floats, Ints
from sidkit.core.config import Section
from sidkit.core.errors import ConfigError, FitError


class Candidate(Section):
    """One codebook to be tried."""

    encoder: str = "content"
    encoder_arguments: dict[str, Any] = Field(default_factory=dict)
    quantizer: str = "residual_kmeans"
    quantizer_arguments: dict[str, Any] = Field(default_factory=dict)
    sizes: tuple[int, ...] = Field(min_length=1)
    """Codes per level, coarse to fine."""
    beam: int = Field(default=1, ge=1)

    @property
    def label(self) -> str:
        """Such as ``content/residual_kmeans/64x64x64``."""
        return f"{self.encoder}/{self.quantizer}/{'x'.join(map(str, self.sizes))}"


class SweepGrid(Section):
    """Every combination of these is a candidate (``[sweep]``)."""

    encoders: tuple[str, ...] = ("content",)
    encoder_arguments: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By the encoder's name."""
    quantizers: tuple[str, ...] = ("residual_kmeans",)
    quantizer_arguments: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By the quantizer's name."""
    levels: tuple[int, ...] = (2, 3)
    sizes: tuple[int, ...] = (16, 64, 256)
    """Codes per level, the same on every level."""
    beam: int = Field(default=1, ge=1)

    def candidates(self) -> list[Candidate]:
        """The grid, encoder by encoder."""
        return [
            Candidate(
                encoder=encoder, encoder_arguments=self.encoder_arguments.get(encoder, {}),
                quantizer=quantizer, quantizer_arguments=self.quantizer_arguments.get(quantizer, {}),
                sizes=(size,) * levels, beam=self.beam,
            )
            for encoder in self.encoders
            for quantizer in self.quantizers
            for levels in self.levels
            for size in self.sizes
        ]  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """What one candidate came to.

    ``refused`` says why it could not be fitted (all figures are then None), ``failed`` which floors it fell below.
    ``utilisation`` and ``perplexity`` are per level, on the sample that was fitted on; ``collision_rate``,
    ``independent_code_rate`` and ``largest_bucket`` are of all items of the sweep; ``held_out_error`` is the relative
    reconstruction error on items that were not fitted on, in the space of the candidate's own encoder.
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
        """Whether it was fitted and fell below no floor."""
        return self.refused is None and not self.failed

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"label": self.candidate.label, **fields, "candidate": self.candidate.model_dump(mode="json")}


@dataclass(frozen=True)
class SweepReport:
    """All trials, in the order of the grid, and which is recommended; None, with the reason, when none passes."""

    trials: tuple[Trial, ...]
    recommended: Candidate | None
    reason: str
    sample: int
    held_out: int

    def table(self) -> pa.Table:
        """One row per trial, figures as columns; ``recommended`` marks the row that is."""
        rows = []
        for trial in self.trials:
            row = trial.as_json()
            del row["candidate"]
            rows.append({**row, "recommended": self.recommended == trial.candidate})
        texts, floats = pa.string(), pa.list_(pa.float64())
        schema = pa.schema(
            {
                "label": texts, "recommended": pa.bool_(), "bits": pa.float64(), "utilisation": floats,
                "perplexity": floats, "collision_rate": pa.float64(), "independent_code_rate": pa.float64(),
                "largest_bucket": pa.int64(), "held_out_error": pa.float64(), "hit_rate": pa.float64(),
                "fit_seconds": pa.float64(), "failed": pa.list_(texts), "refused": texts,
            }
        )  # fmt: skip
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
    judged: HitQuestions | None = None,
    k: int = 30,
    slack: float = 0.05,
    force: bool = False,
    told: Callable[[Trial], None] | None = None,
) -> SweepReport:
    """Fit every candidate on the same sample of items and recommend one.

    Parameters
    ----------
    items : ItemVectors
        Content of the items known at the cut-off. Those without any content are left out of all figures but hits.
    grid : SweepGrid or sequence of Candidate
        What is tried.
    sample : int
        Items to fit on; at most four fifths of those with content, so that some are held out.
    seed : int
        Decides which items are drawn.
    floors : Floors, optional
        By default those of :class:`~semantic_ids.quality.floors.Floors`.
    pairs : ItemPairs, optional
        Pairs of these items before the cut-off, for encoders and quantizers that learn from them.
    judged : HitQuestions, optional
        Pairs of these items after the cut-off (:func:`semantic_ids.quality.hit_rate.questions`).
    k : int
        The hit rate's k.
    slack : float
        Share of the spread within which two errors count as equal, where no pairs are judged.
    force : bool
        Fit candidates that have under 20 sampled items per code, too.
    told : callable, optional
        Is given each trial as it ends.

    Raises
    ------
    FitError
        When under two items have content, or ``sample`` is below 1.
    ConfigError
        When the grid is empty or names what does not exist, or judged pairs are of other items.
    """
    candidates = grid.candidates() if isinstance(grid, SweepGrid) else list(grid)
    if not candidates:
        raise ConfigError("the grid has no candidates; give at least one encoder, quantizer, size and number of levels")
    if judged is not None and judged.items != len(items):
        raise ConfigError(
            f"the judged pairs are of {judged.items} items, the sweep of {len(items)}; use the same items"
        )
    there = np.flatnonzero(items.any_present)
    if len(there) < 2 or sample < 1:
        raise FitError(
            f"{len(there)} items have content and a sample of {sample} was asked for; at least 2 items and a sample of 1 "
            "are needed"
        )
    drawn = np.random.default_rng(seed).permutation(there)
    count = min(sample, max(1, len(there) * 4 // 5))
    bench = _Bench(items, np.sort(drawn[:count]), np.sort(drawn[count:]), pairs, judged, k, floors or Floors(), force)
    trials, hits = [], []
    for candidate in candidates:
        trial, its_hits = bench.tried(candidate)
        trials.append(trial)
        hits.append(its_hits)
        if told is not None:
            told(trial)
    recommended, reason = _recommended(trials, hits, bench, slack)
    return SweepReport(tuple(trials), recommended, reason, count, len(there) - count)


class _Bench:
    """The sample all candidates share; an encoder is fitted once for all quantizers on it."""

    def __init__(
        self, items: ItemVectors, sampled: Ints, held_out: Ints, pairs: ItemPairs | None,
        judged: HitQuestions | None, k: int, floors: Floors, force: bool,
    ) -> None:  # fmt: skip
        self.items, self.sampled, self.held_out = items, sampled, held_out
        self.pairs = pairs_within(pairs, sampled, len(items)) if pairs is not None else None
        self.judged, self.k, self.floors, self.force = judged, k, floors, force
        self.present: Bools = items.any_present
        self._encoded: tuple[tuple[str, dict[str, Any]], Floats, float] | None = None

    def tried(self, candidate: Candidate) -> tuple[Trial, Doubles]:
        bits = sum(math.log2(size) for size in candidate.sizes)
        try:
            vectors, seconds = self._vectors(candidate)
            began = time.perf_counter()
            arguments = {"sizes": candidate.sizes, "force": self.force, **candidate.quantizer_arguments}
            quantizer = make_quantizer(candidate.quantizer, arguments)
            self._need_pairs(quantizer)
            quantizer.fit(vectors[self.sampled], self.pairs)
            seconds += time.perf_counter() - began
        except FitError as error:
            return Trial(candidate, bits, refused=str(error)), np.zeros(0)
        bits = sum(math.log2(size) for size in quantizer.sizes)
        codes = quantizer.encode(vectors, beam=candidate.beam)
        fitted, known = codes[self.sampled], codes[self.present]
        used, evenness = utilisation(fitted, quantizer.sizes), perplexity(fitted, quantizer.sizes)
        trial = Trial(
            candidate, bits,
            failed=tuple(below_floors({"utilisation": used, "perplexity": evenness}, self.floors)),
            utilisation=tuple(used), perplexity=tuple(evenness), collision_rate=collision_rate(known),
            independent_code_rate=independent_code_rate(known), largest_bucket=largest_bucket(known),
            held_out_error=self._held_out_error(vectors, quantizer.decode(codes[self.held_out])), fit_seconds=seconds,
        )  # fmt: skip
        if self.judged is None:
            return trial, np.zeros(0)
        hits = expected_hits(by_codes(codes, self.present, quantizer.residual_levels), self.judged, self.k)
        return replace(trial, hit_rate=float(hits.mean())), hits

    def _vectors(self, candidate: Candidate) -> tuple[Floats, float]:
        key = (candidate.encoder, candidate.encoder_arguments)
        if self._encoded is None or self._encoded[0] != key:
            began = time.perf_counter()
            encoder = make_encoder(*key)
            self._need_pairs(encoder)
            encoder.fit(self.items.rows(self.sampled), self.pairs)
            seconds = time.perf_counter() - began
            self._encoded = (key, encoder.encode(self.items), seconds)
        return self._encoded[1:]

    def _need_pairs(self, learner: Encoder | Quantizer) -> None:
        if learner.needs_pairs and self.pairs is None:
            raise FitError(f"{learner.name} learns from pairs of items, and the sweep was given none")

    def _held_out_error(self, vectors: Floats, decoded: Floats) -> float:
        """Relative to the spread around the sample's mean: 1 is what knowing nothing of an item gives."""
        actual = vectors[self.held_out].astype(np.float64)
        spread = ((actual - vectors[self.sampled].mean(axis=0, dtype=np.float64)) ** 2).sum()
        return float(((actual - decoded) ** 2).sum() / max(spread, 1e-30))


def pairs_within(pairs: ItemPairs, rows: Ints, items: int) -> ItemPairs:
    """The pairs that lie within a selection of rows, renumbered to it; the selection's order is kept."""
    place = np.full(items, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    trigger, target = place[pairs.trigger], place[pairs.target]
    kept = (trigger >= 0) & (target >= 0)
    rehearsal = None
    if pairs.rehearsal is not None:
        earlier, later = (pairs_within(half, rows, items) for half in (pairs.rehearsal.earlier, pairs.rehearsal.later))
        rehearsal = Rehearsal.of(earlier, later)
    return ItemPairs(trigger[kept], target[kept], pairs.weight[kept], pairs.clicks[rows], pairs.end_us, rehearsal)


def _recommended(
    trials: Sequence[Trial], hits: Sequence[Doubles], bench: _Bench, slack: float
) -> tuple[Candidate | None, str]:
    passed = [place for place, trial in enumerate(trials) if trial.passed]
    if not passed:
        refused = sum(trial.refused is not None for trial in trials)
        return None, (
            f"none of {len(trials)} candidates passes: {refused} could not be fitted and {len(trials) - refused} fell "
            "below a floor. Try fewer codes per level, a larger sample, or lower floors"
        )
    among = f"of {len(passed)} candidates that pass the floors ({len(trials)} were tried)"
    judged = bench.judged
    if judged is not None:
        gain = {place: trials[place].hit_rate or 0.0 for place in passed}
        best = max(passed, key=lambda place: (gain[place], -trials[place].bits))

        def keeps_up(place: int) -> bool:
            both = HitReport(judged, bench.k, {"it": hits[place], "best": hits[best]})
            gap = both.difference("it", "best")
            return gap is None or not gap.high < 0

        equal = [place for place in passed if place == best or keeps_up(place)]
        told = f"hit rate at {bench.k}"
        close = "is not shown to be lower"
    else:
        first = _encoder_of(trials[0])
        comparable = [place for place in passed if _encoder_of(trials[place]) == first]
        if not comparable:
            return None, (
                f"{among}, none is on the first encoder ({first[0]}); errors of different encoders are not compared. "
                "Judge them by pairs, or sweep one encoder at a time"
            )
        if len(comparable) < len(passed):
            among += f", {len(comparable)} of them on the first encoder (errors of different encoders are not compared)"
        gain = {place: -(trials[place].held_out_error or 0.0) for place in comparable}
        best = max(comparable, key=lambda place: (gain[place], -trials[place].bits))
        equal = [place for place in comparable if gain[place] >= gain[best] - slack]
        told = "error on held-out items"
        close = f"is within {slack:g} of it"
    chosen = min(equal, key=lambda place: (trials[place].bits, -gain[place]))
    top = f"the best {told} is {abs(gain[best]):.4f} ({trials[best].candidate.label})"
    label = f"{trials[chosen].candidate.label} ({trials[chosen].bits:.1f} bits)"
    if chosen == best:
        return trials[chosen].candidate, f"{among}, {top}, and none of fewer bits keeps up with it: {label}"
    return trials[chosen].candidate, (
        f"{among}, {top}; {label} has the fewest bits of those that keep up: its {told} of {abs(gain[chosen]):.4f} {close}"
    )


def _encoder_of(trial: Trial) -> tuple[str, dict[str, Any]]:
    return trial.candidate.encoder, trial.candidate.encoder_arguments
