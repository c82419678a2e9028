"""Hit rates against counting over all orders of ties, closed cases, and intervals over triggers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quality import hit_rate
from semantic_ids.quality.hit_rate import (
    HitPairs,
    by_codes,
    by_popularity,
    by_reconstructions,
    by_vectors,
    expected_hits,
    held_out_pairs,
    hit_rates,
)
from semantic_ids.quantizers import ResidualKMeans
from sidkit.core.arrays import Floats, Ints
from sidkit.core.errors import EvaluationError

relaxed = settings(deadline=None, max_examples=60)


def pairs_of(listed: list[tuple[int, int]], end_us: int = 1) -> ItemPairs:
    trigger, target = np.array(listed, dtype=np.int64).reshape(-1, 2).T
    return ItemPairs(trigger, target, np.ones(len(listed), dtype=np.float32), np.zeros(99, dtype=np.int64), end_us)


def asked_of(listed: list[tuple[int, int]], items: int) -> HitPairs:
    return held_out_pairs(pairs_of(listed), np.ones(items, dtype=bool))


def all_pairs(items: int) -> HitPairs:
    return asked_of([(i, j) for i in range(items) for j in range(items) if i != j], items)


def counted(row: list[float], trigger: int, target: int, k: int) -> float:
    """The chance of a hit when ties are shuffled: places that are left over tied items, one by one."""
    above = sum(score > row[target] for item, score in enumerate(row) if item != trigger)
    tied = sum(score == row[target] for item, score in enumerate(row) if item != trigger)
    return sum(above + place < k for place in range(tied)) / tied


@st.composite
def scored(draw: st.DrawFn) -> Floats:
    items = draw(st.integers(2, 9))
    row = st.lists(st.integers(0, 3), min_size=items, max_size=items)
    return np.array(draw(st.lists(row, min_size=items, max_size=items)), dtype=np.float32)


@relaxed
@given(scored(), st.integers(1, 10), st.integers(1, 40))
def test_hits_equal_the_expectation_over_shuffled_ties(matrix: Floats, k: int, cells: int) -> None:
    asked = all_pairs(len(matrix))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hit_rate, "_CELLS", cells)
        hits = expected_hits(lambda triggers: matrix[triggers].copy(), asked, k)
    for trigger, target, hit in zip(asked.trigger.tolist(), asked.target.tolist(), hits.tolist(), strict=True):
        assert hit == pytest.approx(counted(matrix[trigger].tolist(), trigger, target, k))
    # Asked about every item, each trigger hits exactly k of them.
    totals = np.bincount(asked.trigger, hits)
    assert totals == pytest.approx(np.full(len(matrix), min(k, len(matrix) - 1)))


@relaxed
@given(st.integers(2, 12), st.integers(0, 1000), st.integers(1, 50))
def test_scores_are_cosines_and_common_prefixes(items: int, seed: int, elements: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(items, 3)).astype(np.float32)
    vectors[0] = 0
    codes = rng.integers(0, 2, (items, 3)).astype(np.int32)
    present = rng.random(items) < 0.8
    triggers = np.arange(items)[::-1].copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hit_rate, "_ELEMENTS", elements)
        near, near_present = by_vectors(vectors)(triggers), by_vectors(vectors, present)(triggers)
    shared, with_parts = by_codes(codes)(triggers), by_codes(codes, None, 1)(triggers)
    for row, i in enumerate(triggers):
        for j in range(items):
            length = math.hypot(*vectors[i].tolist()) * math.hypot(*vectors[j].tolist())
            cosine = float(vectors[i].astype(float) @ vectors[j]) / length if length else 0
            assert near[row, j] == pytest.approx(cosine, abs=1e-6)
            assert near_present[row, j] == (near[row, j] if present[i] and present[j] else -2)
            same = (codes[i] == codes[j]).tolist()
            assert shared[row, j] == [*same, False].index(False)
            assert with_parts[row, j] == (sum(same) if same[0] else 0)


def test_items_of_one_bucket_tie_in_every_batch_and_rank_as_their_vectors_do() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 24)).astype(np.float32)
    quantizer = ResidualKMeans((4, 3), force=True).fit(vectors)
    codes = quantizer.encode(vectors)
    asked = HitPairs(rng.integers(0, 150, 400), rng.integers(150, 300, 400), np.ones(400, dtype=bool), 300)
    scores = by_reconstructions(quantizer, codes)
    found = scores(np.arange(300))
    for bucket in np.unique(codes, axis=0):
        members = (codes == bucket).all(axis=1)
        assert len(np.unique(found[:, members], axis=1).T) == 1
    hits = expected_hits(scores, asked)
    assert hits.tolist() == expected_hits(by_vectors(quantizer.decode(codes)), asked).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hit_rate, "_CELLS", 700)
        patch.setattr(hit_rate, "_ELEMENTS", 50)
        assert expected_hits(scores, asked).tolist() == hits.tolist()
        assert expected_hits(by_vectors(vectors), asked).mean() > 0


def test_closed_cases_of_codes_and_popularity() -> None:
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0]], dtype=np.int32)
    asked = asked_of([(0, 1), (0, 2), (0, 3), (3, 4), (3, 0)], 5)
    assert expected_hits(by_codes(codes), asked, 1).tolist() == [1, 0, 0, 0, 1]  # sorted by (trigger, target)
    assert expected_hits(by_codes(codes), asked, 3).tolist() == [1, 1, 0.5, pytest.approx(2 / 3), 1]
    clicks = np.array([9, 1, 5, 5, 10**12])
    assert expected_hits(by_popularity(clicks), asked, 2).tolist() == [0, 0.5, 0.5, 1, 1]
    collapsed = np.zeros((5, 2), dtype=np.int32)
    assert expected_hits(by_codes(collapsed), asked, 2).tolist() == [0.5] * 5
    assert expected_hits(by_codes(collapsed), asked, 4).tolist() == [1] * 5


def test_an_item_without_a_vector_comes_last_and_asks_at_random() -> None:
    codes = np.zeros((4, 1), dtype=np.int32)
    present = np.array([True, True, True, False])
    hits = expected_hits(by_codes(codes, present), asked_of([(0, 1), (0, 3), (3, 1)], 4), 2)
    assert hits.tolist() == [1, 0, pytest.approx(2 / 3)]


@relaxed
@given(st.data(), st.integers(2, 8))
def test_questions_are_distinct_pairs_that_were_not_learned_from(data: st.DataObject, items: int) -> None:
    pair = st.tuples(st.integers(0, items - 1), st.integers(0, items - 1)).filter(lambda pair: pair[0] != pair[1])
    future, training = data.draw(st.lists(pair, max_size=20)), data.draw(st.lists(pair, max_size=6))
    known = np.array(data.draw(st.lists(st.booleans(), min_size=items, max_size=items)))
    learned = {*training, *((j, i) for i, j in training)}
    expected = sorted(set(future) - learned)
    mined = pairs_of(future, 2), known, pairs_of(training, 1)
    if not expected:
        assert len(held_out_pairs(*mined)) == 0
        return
    asked = held_out_pairs(*mined)
    assert list(zip(asked.trigger.tolist(), asked.target.tolist(), strict=True)) == expected
    assert asked.seen.tolist() == [bool(known[target]) for _, target in expected]
    few = held_out_pairs(*mined, most_triggers=2, seed=3)
    kept = set(few.trigger.tolist())
    assert len(kept) == min(2, len({trigger for trigger, _ in expected}))
    assert [pair for pair in expected if pair[0] in kept] == list(zip(few.trigger, few.target, strict=True))
    assert few.trigger.tolist() == held_out_pairs(*mined, most_triggers=2, seed=3).trigger.tolist()


def test_pairs_that_leak_or_are_of_other_items_are_refused() -> None:
    known = np.ones(3, dtype=bool)
    with pytest.raises(EvaluationError, match="the evaluation pairs end at 5 us, not after the training pairs at 5 us"):
        held_out_pairs(pairs_of([(0, 1)], 5), known, pairs_of([(1, 2)], 5))
    with pytest.raises(EvaluationError, match="the future pairs index items beyond the 3 items"):
        held_out_pairs(pairs_of([(0, 3)]), known)
    with pytest.raises(EvaluationError, match="the training pairs index items"):
        held_out_pairs(pairs_of([(0, 1)], 2), known, pairs_of([(5, 1)]))


def test_what_cannot_be_ranked_is_refused() -> None:
    asked = all_pairs(4)
    with pytest.raises(EvaluationError, match="k must be at least 1, got 0"):
        expected_hits(by_popularity(np.arange(4)), asked, 0)
    with pytest.raises(EvaluationError, match="NaN"):
        expected_hits(by_vectors(np.full((4, 2), np.nan, dtype=np.float32)), asked, 1)


def test_rates_are_means_over_pairs_with_seen_and_new_targets_apart() -> None:
    codes = np.array([[0], [0], [0], [1], [1]], dtype=np.int32)
    known = np.array([True, True, False, True, True])
    asked = held_out_pairs(pairs_of([(0, 1), (0, 2), (3, 0), (3, 4)]), known)
    report = hit_rates({"codes": by_codes(codes), "popularity": by_popularity(np.arange(5))}, asked, k=1)
    assert report.hits["codes"].tolist() == [0.5, 0.5, 0, 1]
    assert report.rate("codes").value == 0.5
    assert report.rate("codes", "seen").value == 0.5
    assert report.rate("codes", "new").value == 0.5
    assert report.rate("popularity").value == 0.25
    assert report.difference("codes", "popularity").value == 0.25
    # One trigger has new targets: there is nothing to resample.
    assert math.isnan(report.rate("codes", "new").low)
    told = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert told["pairs"] == {"all": 4, "seen": 3, "new": 1}
    assert told["rates"]["codes"]["new"] == {"value": 0.5, "low": None, "high": None}
    all_known = hit_rates({"codes": by_codes(codes)}, held_out_pairs(pairs_of([(0, 1)]), np.ones(5, dtype=bool)), k=1)
    assert all_known.rate("codes", "new") is None


def clustered(rng: np.random.Generator, triggers: int, of_one: int) -> tuple[HitPairs, Ints]:
    trigger = np.repeat(np.arange(triggers), of_one)
    asked = HitPairs(trigger, (trigger + 1) % triggers, np.ones(len(trigger), dtype=bool), triggers)
    return asked, (rng.random(triggers) < 0.3)[trigger].astype(np.float64)


def test_intervals_are_over_triggers_and_paired() -> None:
    rng = np.random.default_rng(0)
    asked, hits = clustered(rng, 200, 20)
    better = np.minimum(hits + (rng.random(len(hits)) < 0.05), 1.0)
    report = hit_rate.HitReport(asked, 30, {"one": hits, "better": better})
    rate, gap = report.rate("one"), report.difference("better", "one")
    # All pairs of a trigger hit or miss together: the error is that of 200 draws, not of 4,000.
    error = math.sqrt(rate.value * (1 - rate.value) / 200)
    assert rate.high - rate.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert rate.low < rate.value < rate.high
    # The difference within triggers is small and sure, though both rates are unsure.
    assert 0 < gap.low < gap.high < rate.high - rate.low
    assert report.difference("one", "one").low == report.difference("one", "one").high == 0
    again = hit_rate.HitReport(asked, 30, {"one": hits})
    assert again.rate("one") == rate


@relaxed
@given(st.integers(3, 15), st.integers(0, 1000), st.integers(1, 5))
def test_renumbering_the_items_changes_no_rate(items: int, seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (items, 2)).astype(np.int32)
    listed = [(int(i), int(j)) for i, j in rng.integers(0, items, (20, 2)) if i != j] or [(0, 1)]
    place = rng.permutation(items)
    moved = np.empty_like(codes)
    moved[place] = codes
    before = expected_hits(by_codes(codes), asked_of(listed, items), k)
    after = expected_hits(by_codes(moved), asked_of([(int(place[i]), int(place[j])) for i, j in listed], items), k)
    assert before.mean() == pytest.approx(after.mean())
    assert ((before >= 0) & (before <= 1)).all()


def test_where_vectors_follow_behaviour_they_beat_popularity() -> None:
    rng = np.random.default_rng(0)
    topic = rng.integers(0, 10, 200)
    vectors = (np.eye(10)[topic] + 0.1 * rng.normal(size=(200, 10))).astype(np.float32)
    listed = [(i, int(rng.choice(np.flatnonzero((topic == topic[i]) & (np.arange(200) != i))))) for i in range(200)]
    asked = asked_of(listed, 200)
    quantizer = ResidualKMeans((10,)).fit(vectors)
    codes = quantizer.encode(vectors)
    report = hit_rates(
        {
            "content": by_vectors(vectors),
            "decoded": by_reconstructions(quantizer, codes),
            "codes": by_codes(codes),
            "popularity": by_popularity(rng.integers(0, 50, 200)),
        },
        asked,
    )
    for name in ("content", "decoded", "codes"):
        assert report.rate(name).value > 0.9
        assert report.difference(name, "popularity").low > 0.5
