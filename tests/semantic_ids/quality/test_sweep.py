"""Sweeps over small grids: what is fitted on what, the figures of a trial, and the rule of the recommendation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.encoders import ENCODERS, ContentEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quality.code_metrics import (
    collision_rate,
    independent_code_rate,
    largest_bucket,
    perplexity,
    utilisation,
)
from semantic_ids.quality.floors import Floors
from semantic_ids.quality.hit_rate import HitPairs, by_codes, expected_hits
from semantic_ids.quality.sweep import Candidate, SweepGrid, Trial, pairs_within, sweep
from semantic_ids.quantizers import QUANTIZERS, ResidualKMeans
from sidkit.core.errors import ConfigError, FitError

ITEMS = 240
TOPICS = 6


def content(seed: int = 0, items: int = ITEMS, noise: float = 0.3) -> tuple[ItemVectors, np.ndarray]:
    """Items of a few topics; every tenth has no content."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, TOPICS, items)
    text = (3 * np.eye(TOPICS)[topic] + noise * rng.normal(size=(items, TOPICS))).astype(np.float32)
    present = np.arange(items) % 10 != 0
    text[~present] = 0
    return ItemVectors({"text": text}, {"text": present}), topic


def within_topics(topic: np.ndarray, seed: int = 0) -> HitPairs:
    rng = np.random.default_rng(seed)
    trigger = np.flatnonzero(np.arange(len(topic)) % 10 != 0)
    target = np.array([rng.choice(np.flatnonzero((topic == topic[i]) & (np.arange(len(topic)) != i))) for i in trigger])
    return HitPairs(trigger, target, np.ones(len(trigger), dtype=bool), len(topic))


def candidate(*sizes: int, **fields: Any) -> Candidate:
    return Candidate(sizes=sizes, encoder_arguments={"dim": 6}, **fields)


SMALL = [candidate(2), candidate(6), candidate(6, 4), candidate(8, 8)]


@pytest.fixture
def registered() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_a_grid_is_every_combination() -> None:
    grid = SweepGrid(quantizers=("a", "b"), quantizer_arguments={"b": {"seed": 1}}, levels=(1, 3), sizes=(4, 8), beam=2)
    listed = grid.candidates()
    assert [each.label for each in listed] == [
        "content/a/4", "content/a/8", "content/a/4x4x4", "content/a/8x8x8",
        "content/b/4", "content/b/8", "content/b/4x4x4", "content/b/8x8x8",
    ]  # fmt: skip
    assert listed[7].quantizer_arguments == {"seed": 1}
    assert listed[0].quantizer_arguments == {}
    assert {each.beam for each in listed} == {2}


def test_a_trial_has_the_figures_of_a_codebook_fitted_on_the_sample_alone() -> None:
    items, _ = content()
    told: list[Trial] = []
    report = sweep(items, [candidate(6, 4, beam=2)], sample=100, seed=5, force=True, on_trial=told.append)
    (trial,) = report.trials
    assert told == [trial]
    there = np.flatnonzero(items.any_present)
    assert (report.sample, report.held_out) == (100, len(there) - 100)
    drawn = np.random.default_rng(5).permutation(there)
    sampled, rest = np.sort(drawn[:100]), np.sort(drawn[100:])
    encoder = ContentEncoder(dim=6).fit(items.rows(sampled))
    vectors = encoder.encode(items)
    quantizer = ResidualKMeans((6, 4), force=True).fit(vectors[sampled])
    codes = quantizer.encode(vectors, beam=2)
    assert trial.bits == pytest.approx(math.log2(24))
    assert trial.utilisation == tuple(utilisation(codes[sampled], (6, 4)))
    assert trial.perplexity == tuple(perplexity(codes[sampled], (6, 4)))
    assert trial.collision_rate == collision_rate(codes[there])
    assert trial.independent_code_rate == independent_code_rate(codes[there])
    assert trial.largest_bucket == largest_bucket(codes[there])
    missed = ((vectors[rest] - quantizer.decode(codes[rest])).astype(float) ** 2).sum()
    spread = ((vectors[rest].astype(float) - vectors[sampled].mean(axis=0)) ** 2).sum()
    assert trial.held_out_error == pytest.approx(missed / spread, rel=1e-5)
    assert trial.hit_rate is None
    assert trial.fit_seconds > 0


def test_the_hit_rate_is_that_of_the_codes_of_all_items() -> None:
    items, topic = content()
    judged = within_topics(topic)
    (trial,) = sweep(items, [candidate(6, 4)], sample=100, force=True, evaluation=judged, k=7).trials
    sampled = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(items.any_present))[:100])
    vectors = ContentEncoder(dim=6).fit(items.rows(sampled)).encode(items)
    codes = ResidualKMeans((6, 4), force=True).fit(vectors[sampled]).encode(vectors)
    assert trial.hit_rate == pytest.approx(expected_hits(by_codes(codes, items.any_present), judged, 7).mean())


def figures(trial: Trial) -> dict[str, Any]:
    return {key: value for key, value in trial.as_json().items() if key != "fit_seconds"}


def test_the_same_seed_gives_the_same_report_and_each_encoder_is_fitted_once(registered: pytest.MonkeyPatch) -> None:
    fits = []

    class Counting(ContentEncoder):
        def fit(self, items: ItemVectors, pairs: ItemPairs | None = None) -> ContentEncoder:
            fits.append(len(items))
            return super().fit(items, pairs)

    registered.setitem(ENCODERS, "content", Counting)
    items, _ = content()
    first, second = (sweep(items, SMALL, sample=120, force=True) for _ in range(2))
    assert fits == [120, 120]
    assert [figures(trial) for trial in first.trials] == [figures(trial) for trial in second.trials]
    assert (first.recommended, first.reason) == (second.recommended, second.reason)


def test_the_fewest_bits_within_the_slack_of_the_lowest_error_are_recommended() -> None:
    items, _ = content()
    report = sweep(items, SMALL, sample=160, force=True)
    errors = {trial.candidate.sizes: trial.held_out_error for trial in report.trials}
    assert errors[2,] > errors[6,] + 0.05
    assert report.recommended == SMALL[1]
    assert "has the fewest bits of those that match it" in report.reason
    assert "content/residual_kmeans/6 (2.6 bits)" in report.reason
    best = min(errors, key=errors.get)
    strict = sweep(items, SMALL, sample=160, force=True, slack=0.0)
    assert strict.recommended.sizes == best
    assert "no candidate with fewer bits matches it" in strict.reason


def test_with_judged_pairs_the_fewest_bits_that_are_not_shown_to_hit_less_are_recommended() -> None:
    items, topic = content()
    report = sweep(items, SMALL, sample=160, force=True, evaluation=within_topics(topic), k=50)
    rates = {trial.candidate.sizes: trial.hit_rate for trial in report.trials}
    assert rates[2,] < rates[6,] - 0.1
    assert report.recommended == SMALL[1]
    assert "hit rate at 50" in report.reason


def test_candidates_below_a_floor_or_that_cannot_be_fitted_are_told_and_not_recommended() -> None:
    items, _ = content()
    grid = [candidate(6), candidate(16), candidate(500)]
    report = sweep(items, grid, sample=160, force=True, floors=Floors(perplexity=0.93, utilisation=0.9))
    few, many, too_many = report.trials
    assert few.passed
    assert not many.passed
    assert "perplexity of level 1" in many.failed[0]
    assert many.held_out_error is not None
    assert "larger than the data" in (too_many.refused or "")
    assert too_many.utilisation is None
    assert report.recommended == grid[0]
    none = sweep(items, grid[1:], sample=160, force=True, floors=Floors(perplexity=0.93))
    assert none.recommended is None
    assert none.reason.startswith("none of 2 candidates passes: 1 could not be fitted and 1 are below a floor")


def test_under_twenty_items_per_code_are_refused_unless_forced() -> None:
    items, _ = content()
    (trial,) = sweep(items, [candidate(16)], sample=160).trials
    assert "at most 8 codes per level" in (trial.refused or "")
    assert sweep(items, [candidate(8)], sample=160).trials[0].refused is None


def test_errors_of_different_encoders_are_not_compared(registered: pytest.MonkeyPatch) -> None:
    registered.setitem(ENCODERS, "other", type("Other", (ContentEncoder,), {"name": "other"}))
    items, topic = content()
    grid = [candidate(2), candidate(6, encoder="other")]
    report = sweep(items, grid, sample=160)
    assert report.recommended == grid[0]
    assert "1 of them with the first encoder" in report.reason
    judged = sweep(items, grid, sample=160, evaluation=within_topics(topic), k=50)
    assert judged.recommended == grid[1]
    lost = sweep(items, [candidate(500), grid[1]], sample=160)
    assert lost.recommended is None
    assert "none uses the first encoder" in lost.reason


def test_learners_from_pairs_get_those_of_the_sample_or_are_refused(registered: pytest.MonkeyPatch) -> None:
    given_to: list[Any] = []

    class Learner(ResidualKMeans):
        needs_pairs = True

        def fit(self, vectors: np.ndarray, pairs: ItemPairs | None = None) -> ResidualKMeans:
            given_to.append((len(vectors), pairs))
            return super().fit(vectors, pairs)

    registered.setitem(QUANTIZERS, "learner", Learner)
    items, topic = content()
    grid = [candidate(6, quantizer="learner")]
    assert "the sweep got none" in (sweep(items, grid, sample=160).trials[0].refused or "")
    asked = within_topics(topic)
    weight = np.ones(len(asked), dtype=np.float32)
    pairs = ItemPairs(asked.trigger, asked.target, weight, np.arange(ITEMS), 7)
    assert sweep(items, grid, sample=160, pairs=pairs).trials[0].passed
    count, got = given_to[-1]
    sampled = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(items.any_present))[:160])
    assert count == 160
    assert got.clicks.tolist() == sampled.tolist()
    assert got.end_us == 7
    inside = np.isin(asked.trigger, sampled) & np.isin(asked.target, sampled)
    assert sampled[got.trigger].tolist() == asked.trigger[inside].tolist()
    assert sampled[got.target].tolist() == asked.target[inside].tolist()


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 12), st.integers(0, 1000), st.data())
def test_pairs_of_a_selection_are_those_with_both_ends_in_it(items: int, seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    trigger = rng.integers(0, items, 15)
    target = (trigger + rng.integers(1, items, 15)) % items
    pairs = ItemPairs(trigger, target, rng.uniform(1, 2, 15).astype(np.float32), rng.integers(0, 9, items), 3)
    rows = np.array(data.draw(st.lists(st.sampled_from(range(items)), unique=True)), dtype=np.int64)
    found = pairs_within(pairs, rows, items)
    kept = [
        (rows.tolist().index(i), rows.tolist().index(j), w)
        for i, j, w in zip(trigger, target, pairs.weight.tolist(), strict=True)
        if i in rows and j in rows
    ]
    assert list(zip(found.trigger.tolist(), found.target.tolist(), found.weight.tolist(), strict=True)) == kept
    assert found.clicks.tolist() == pairs.clicks[rows].tolist()


def test_a_report_is_a_table_and_json() -> None:
    items, topic = content()
    report = sweep(items, [*SMALL, candidate(500)], sample=160, force=True, evaluation=within_topics(topic))
    rows = report.table().to_pylist()
    assert [row["label"] for row in rows] == [trial.candidate.label for trial in report.trials]
    assert [row["recommended"] for row in rows].count(True) == 1
    assert rows[2]["utilisation"] == list(report.trials[2].utilisation or ())
    assert rows[4]["utilisation"] is None
    assert "larger than the data" in rows[4]["refused"]
    told = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert Candidate.model_validate(told["recommended"]) == report.recommended
    assert told["trials"][0]["candidate"]["sizes"] == [2]


def test_what_cannot_be_swept_is_refused() -> None:
    items, topic = content()
    with pytest.raises(ConfigError, match="the grid has no candidates"):
        sweep(items, [])
    with pytest.raises(ConfigError, match="expected evaluation pairs that index 100 items, got pairs that index 240"):
        sweep(items.rows(np.arange(100)), SMALL, evaluation=within_topics(topic))
    with pytest.raises(FitError, match="got 216 items and a sample of 0"):
        sweep(items, SMALL, sample=0)
    with pytest.raises(FitError, match="got 1 items and"):
        sweep(items.rows(np.array([0, 1])), SMALL)
    with pytest.raises(ConfigError, match="no quantizer named 'nope'; available:"):
        sweep(items, [candidate(4, quantizer="nope")])
    with pytest.raises(ConfigError, match="dimm"):
        sweep(items, [Candidate(sizes=(4,), encoder_arguments={"dimm": 3})])
