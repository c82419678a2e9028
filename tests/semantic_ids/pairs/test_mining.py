"""Pairs mined from the log, against the definitions written once more in plain Python."""

from __future__ import annotations

import os
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from helpers.builders import START
from helpers.pair_logs import DELAY, ITEMS, KNOWN, VECTORS, mined, random_log, the_same
from oracle.features import Event
from semantic_ids.pairs.mining import ItemPairs, PairSpec, mine_pairs
from sidkit.core.arrays import Floats
from sidkit.core.config import EngineSettings
from sidkit.core.errors import FitError, TimeError

Weights = dict[tuple[str, str], float]


def named(pairs: ItemPairs, ids: list[str] | None = None) -> Weights:
    """``{(trigger, target): weight}``, and a look at the contract on the way."""
    ids = ids or KNOWN
    assert pairs.trigger.dtype == pairs.target.dtype == pairs.clicks.dtype == np.int64
    assert pairs.weight.dtype == np.float32 and (pairs.weight > 0).all() and pairs.clicks.shape == (len(ids),)
    assert (pairs.trigger != pairs.target).all()
    found = {
        (ids[trigger], ids[target]): float(weight)
        for trigger, target, weight in zip(pairs.trigger, pairs.target, pairs.weight, strict=True)
    }
    assert len(found) == len(pairs)
    return found


@dataclass
class Oracle:
    """The definitions, one user and one pair of users at a time."""

    events: list[Event]
    ids: list[str]
    vectors: Floats
    spec: PairSpec
    end: int
    start: int | None

    def clicks(self) -> list[Event]:
        return [
            event
            for event in self.events
            if event.label == 1
            and event.item_id in self.ids
            and event.timestamp + DELAY <= self.end
            and (self.start is None or event.timestamp + DELAY > self.start)
        ]

    def similarity(self, left: str, right: str) -> float:
        a, b = (self.vectors[self.ids.index(name)].astype(float) for name in (left, right))
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        return round(float(a @ b) / norms, 5) if norms else 0.0

    def user_to_item(self) -> Weights:
        clicks = self.clicks()
        by_target: dict[str, list[tuple[int, str, list[Event]]]] = defaultdict(list)
        for click in clicks:
            before = [e for e in clicks if e.user_id == click.user_id and e.timestamp < click.timestamp]
            before.sort(key=lambda e: (-e.timestamp, e.item_id))
            if before:
                by_target[click.item_id].append((-click.timestamp, click.user_id, before[: self.spec.history_length]))
        counts: Counter[tuple[str, str]] = Counter()
        for target, chosen in by_target.items():
            for _, _, history in sorted(chosen, key=lambda entry: entry[:2])[: self.spec.targets_per_item]:
                others = [e.item_id for e in history if e.item_id != target]
                if others:
                    nearest = max(self.similarity(other, target) for other in others)
                    counts[next(o for o in others if self.similarity(o, target) == nearest), target] += 1
        return shares({pair: float(count) for pair, count in counts.items()})

    def swing(self) -> Weights:
        newest: dict[tuple[str, str], int] = {}
        for click in self.clicks():
            key = (click.user_id, click.item_id)
            newest[key] = max(newest.get(key, click.timestamp), click.timestamp)
        had: dict[str, list[str]] = defaultdict(list)
        for user, item in sorted(newest, key=lambda key: (-newest[key], key[1])):
            if len(had[user]) < self.spec.swing_items_per_user:
                had[user].append(item)
        users: dict[str, list[str]] = defaultdict(list)
        for user, item in sorted(newest, key=lambda key: (-newest[key], key[0])):
            if item in had[user] and len(users[item]) < self.spec.swing_users_per_item:
                users[item].append(user)
        kept = {user: {item for item in users if user in users[item]} for user in had}
        score: Counter[tuple[str, str]] = Counter()
        for u, v in combinations(kept, 2):
            common = kept[u] & kept[v]
            for i in common:
                for j in common - {i}:
                    score[i, j] += int(2**32 / (self.spec.swing_alpha + len(common)))
        best: Weights = {}
        for target in self.ids:
            ranked = sorted((-value, i) for (i, j), value in score.items() if j == target)
            best |= {(i, target): -value for value, i in ranked[: self.spec.swing_top]}
        return shares(best)

    def pairs(self) -> Weights:
        total: Counter[tuple[str, str]] = Counter()
        for source in self.spec.sources:
            for pair, weight in (self.user_to_item() if source == "user_to_item" else self.swing()).items():
                total[pair] += weight  # type: ignore[assignment]
        kept: Weights = {}
        for target in self.ids:
            ranked = sorted((-weight, i) for (i, j), weight in total.items() if j == target)
            kept |= {(i, target): -weight for weight, i in ranked[: self.spec.pairs_per_target]}
        return kept


def shares(amounts: Weights) -> Weights:
    totals: Counter[str] = Counter()
    for (_, target), amount in amounts.items():
        totals[target] += amount  # type: ignore[assignment]
    return {pair: amount / totals[pair[1]] for pair, amount in amounts.items()}


moments = st.one_of(st.integers(0, 8), st.integers(9_930, 9_950))  # ties, and both sides of the cut-off less the delay
events = st.lists(
    st.builds(
        Event,
        st.sampled_from(["u1", "u2", "u3", "u10"]),
        st.sampled_from(ITEMS),
        moments.map(lambda moment: START + moment),
        st.sampled_from([1, 1, 1, 0]),
        st.none(),
    ),
    max_size=40,
)
specs = st.builds(
    PairSpec,
    sources=st.sampled_from([("user_to_item",), ("swing",), ("user_to_item", "swing")]),
    pairs_per_target=st.sampled_from([1, 2, 20]),
    history_length=st.sampled_from([1, 3, 50]),
    targets_per_item=st.sampled_from([1, 2, 20]),
    swing_alpha=st.sampled_from([0.0, 1.0, 2.5]),
    swing_users_per_item=st.sampled_from([2, 3, 50]),
    swing_items_per_user=st.sampled_from([2, 3, 50]),
    swing_top=st.sampled_from([1, 2, 20]),
)
starts = st.sampled_from([None, START + 64, START + 9_000])


@settings(deadline=None, max_examples=1000 if os.environ.get("SIDKIT_PROOF") else 40)
@given(events, specs, starts, st.integers(1, 3))
def test_pairs_are_those_of_the_definitions(log: list[Event], spec: PairSpec, start: int | None, files: int) -> None:
    oracle = Oracle(log, KNOWN, VECTORS, spec, START + 10_000, start)
    with tempfile.TemporaryDirectory() as folder:
        pairs = mined(Path(folder), log, spec, start=start, files=files)
    expected = oracle.pairs()
    found = named(pairs)
    assert found.keys() == expected.keys()
    assert all(found[pair] == pytest.approx(weight, rel=1e-6) for pair, weight in expected.items())
    counted = Counter(click.item_id for click in oracle.clicks())
    assert pairs.clicks.tolist() == [counted[name] for name in KNOWN]
    assert pairs.end_us == START + 10_000


SMALL_CAPS = PairSpec(
    pairs_per_target=3,
    history_length=4,
    targets_per_item=5,
    swing_users_per_item=6,
    swing_items_per_user=4,
    swing_top=3,
)


def test_neither_the_order_of_rows_nor_parts_nor_threads_change_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = random_log()
    first = mined(tmp_path, log, SMALL_CAPS)
    assert len(first) > 10
    shuffled = [log[place] for place in np.random.default_rng(1).permutation(len(log))]
    the_same(mined(tmp_path, shuffled, SMALL_CAPS, files=3, threads=4), first)
    # Nor does how much is held at once.
    monkeypatch.setattr("semantic_ids.pairs.sources._BATCH_ROWS", 17)
    monkeypatch.setattr("semantic_ids.pairs.sources._TARGETS_AT_ONCE", 2)
    monkeypatch.setattr("semantic_ids.pairs.sources._USER_PAIRS_AT_ONCE", 5)
    the_same(mined(tmp_path, shuffled, SMALL_CAPS), first)


@pytest.mark.parametrize("batch", [100, 900])
def test_users_across_batches_are_all_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr("semantic_ids.pairs.sources._BATCH_ROWS", batch)
    log = random_log(rows=3000, users=230, seed=3)
    spec = PairSpec(sources=("user_to_item",), targets_per_item=100)
    assert named(mined(tmp_path, log, spec, end=START + 460)) == pytest.approx(
        Oracle(log, KNOWN, VECTORS, spec, START + 460, None).pairs(), rel=1e-6
    )


def test_the_rows_of_the_items_may_come_in_any_order(tmp_path: Path) -> None:
    log, order = random_log(), np.random.default_rng(2).permutation(len(KNOWN))
    moved = [KNOWN[place] for place in order]
    first = mined(tmp_path, log, SMALL_CAPS)
    again = mined(tmp_path, log, SMALL_CAPS, ids=moved, vectors=VECTORS[order])
    assert list(named(again, moved).items()) == list(named(first).items())
    np.testing.assert_array_equal(again.clicks, first.clicks[order])


def test_nothing_after_the_cut_off_has_any_effect(tmp_path: Path) -> None:
    log, end = random_log(), START + 200 + DELAY
    first = mined(tmp_path, [event for event in log if event.timestamp <= START + 200], end=end)
    the_same(mined(tmp_path, log, end=end), first)
    assert len(mined(tmp_path, log, end=end + 100)) > 0


def test_a_click_counts_from_the_very_moment_it_is_known(tmp_path: Path) -> None:
    log = [Event("u1", "i0", START, 1, None), Event("u1", "i1", START + 5, 1, None)]
    assert len(mined(tmp_path, log, end=START + 5 + DELAY - 1)) == 0
    assert named(mined(tmp_path, log, end=START + 5 + DELAY)) == {("i0", "i1"): 1.0}
    assert len(mined(tmp_path, log, end=START + 100, start=START + DELAY)) == 0
    assert named(mined(tmp_path, log, end=START + 100, start=START + DELAY - 1)) == {("i0", "i1"): 1.0}


def test_past_and_future_share_no_click(tmp_path: Path) -> None:
    log, cut = random_log(), START + 200 + DELAY
    past, future = mined(tmp_path, log, end=cut), mined(tmp_path, log, start=cut)
    np.testing.assert_array_equal(past.clicks + future.clicks, mined(tmp_path, log).clicks)


def test_no_item_has_more_pairs_than_the_cap_and_the_heaviest_stay(tmp_path: Path) -> None:
    log = random_log()
    wide = named(mined(tmp_path, log, PairSpec(pairs_per_target=6)))
    narrow = mined(tmp_path, log, PairSpec(pairs_per_target=2))
    assert np.bincount(narrow.target).max() == 2
    for target in KNOWN:
        weights = sorted((weight for (_, j), weight in wide.items() if j == target), reverse=True)
        kept = [weight for (_, j), weight in named(narrow).items() if j == target]
        assert kept == weights[:2]


def test_every_target_weighs_one_per_source_whatever_its_popularity(tmp_path: Path) -> None:
    pairs = mined(tmp_path, random_log(), PairSpec(sources=("swing",)))
    sums = np.bincount(pairs.target, pairs.weight)
    np.testing.assert_allclose(sums[sums > 0], 1, rtol=1e-6)
    assert pairs.clicks.max() > 3 * pairs.clicks.min()


def test_items_of_users_who_share_one_item_only_are_no_swing_pair(tmp_path: Path) -> None:
    log = [Event(user, item, START, 1, None) for user, item in [("u1", "i0"), ("u2", "i0"), ("u1", "i1"), ("u2", "i2")]]
    assert len(mined(tmp_path, log, PairSpec(sources=("swing",)))) == 0


def test_a_log_without_usable_clicks_gives_no_pairs_and_no_error(tmp_path: Path) -> None:
    for log in ([], [Event("u1", "i8", START, 1, None)], [Event("u1", "i0", START, 0, None)]):
        pairs = mined(tmp_path, log)
        assert len(pairs) == 0
        assert pairs.clicks.tolist() == [0] * len(KNOWN)
        assert named(pairs) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ["a", "b", "a", "c", "d", "e", "f"]}, "1 repeated"),
        ({"ids": ["a", "b"]}, r"shape \(2, dim\) for 2 items, got \(7, 3\)"),
        ({"vectors": np.full_like(VECTORS, np.nan)}, "7 of 7 vectors contain NaN"),
        ({"vectors": VECTORS[0]}, r"got \(3,\)"),
    ],
)
def test_items_and_vectors_that_cannot_be_used_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(FitError, match=message):
        mined(tmp_path, random_log(20), **change)


def test_a_log_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="ingest"):
        mine_pairs([], KNOWN, VECTORS, START, delay_us=1, engine=EngineSettings(threads=1), spill=tmp_path)


def test_an_empty_window_is_refused_with_both_ends(tmp_path: Path) -> None:
    with pytest.raises(TimeError, match=r"2020-01-01T00:00:00\.010000.*end later"):
        mined(tmp_path, [], end=START + 10_000, start=START + 10_000)


@pytest.mark.parametrize(
    "change", [{"sources": ()}, {"sources": ("clicks",)}, {"pairs_per_target": 0}, {"swing_alpha": -1}, {"caps": 3}]
)
def test_a_spec_that_means_nothing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PairSpec(**change)
