"""The backtest of a fit: halves of the window without common clicks, and early stopping of the encoder by the later half."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_behaviour_encoder import ROWS, hit_rate, world

from helpers.builders import START, interactions_table
from helpers.pair_logs import DELAY, random_log, the_same
from helpers.pair_logs import mined as mined_of
from oracle.features import Event
from semantic_ids.encoders import BehaviourEncoder, ContentEncoder
from semantic_ids.pairs.backtest import backtest_split, cut_before_newest
from semantic_ids.pairs.mining import BacktestSplit, PairSpec
from sidkit.core.config import EngineSettings

SPEC = PairSpec(swing_top=4, pairs_per_target=4, rehearsal=0.25)


def halves(folder: Path, log: list[Event], cut: int, end: int) -> BacktestSplit | None:
    return backtest_split(
        lambda spec, until, since: mined_of(folder, log, spec, end=until, start=since), SPEC, cut, end
    )


def test_earlier_pairs_know_nothing_after_the_cut_and_later_ones_nothing_before(tmp_path: Path) -> None:
    log, cut, end = random_log(), START + 250 + DELAY, START + 380 + DELAY
    found = halves(tmp_path, log, cut, end)
    assert found is not None
    before = [event for event in log if event.timestamp <= START + 250]
    after = [event for event in log if START + 250 < event.timestamp <= START + 380]
    the_same(found.earlier, mined_of(tmp_path, before, SPEC))
    alone = mined_of(tmp_path, after, PairSpec(sources=("swing",)))
    learned = set(zip(found.earlier.trigger.tolist(), found.earlier.target.tolist(), strict=True))
    asked = set(zip(alone.trigger.tolist(), alone.target.tolist(), strict=True))
    told = list(zip(found.later.trigger.tolist(), found.later.target.tolist(), strict=True))
    assert told and set(told) == {(one, two) for one, two in asked if not {(one, two), (two, one)} & learned}


@pytest.mark.parametrize("cut", [START - 5, START + 380 + DELAY, START + 400 + DELAY])
def test_a_cut_that_leaves_one_side_empty_gives_no_split(tmp_path: Path, cut: int) -> None:
    assert halves(tmp_path, random_log(), cut, START + 380 + DELAY) is None


def test_the_cut_leaves_the_newest_share_of_the_known_clicks_behind_it(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    log = [*random_log(), *(Event("u1", "i1", START + second, 0, None) for second in range(300, 400))]
    pq.write_table(interactions_table(log), tmp_path / "log.parquet")
    end = START + 300 + DELAY

    def cut(share: float, until: int = end) -> int:
        return cut_before_newest(
            [tmp_path / "log.parquet"], share, until, delay_us=DELAY, engine=EngineSettings(threads=1), spill=tmp_path
        )

    known = sorted(event.timestamp + DELAY for event in log if event.label == 1 and event.timestamp + DELAY <= end)
    for share in (0.1, 0.25, 0.5):
        found = cut(share)
        behind = np.mean([moment > found for moment in known])
        assert abs(behind - share) < 0.01
    assert cut(0.2, START - 50) == START - 50, "nothing was clicked by then"


def test_a_backtest_changes_the_mark_of_the_pairs(tmp_path: Path) -> None:
    log, end = random_log(), START + 380 + DELAY
    pairs = mined_of(tmp_path, log, SPEC, end=end)
    marks = {replace(pairs, backtest=halves(tmp_path, log, START + cut + DELAY, end)).mark() for cut in (200, 250, 250)}
    assert len(marks | {pairs.mark()}) == 3


def test_the_end_of_the_window_decides_whether_there_is_something_to_learn() -> None:
    items, known, later = world()
    trigger = np.random.default_rng(0).integers(0, ROWS, len(later))
    other = replace(later, trigger=trigger, target=(trigger + 7) % ROWS)
    arguments = {"dim": 8, "hidden": 32, "steps": 300, "batch": 128}
    content = ContentEncoder(dim=8).fit(items).encode(items).astype(float)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    kept = BehaviourEncoder(**arguments).fit(items, replace(known, backtest=BacktestSplit(known, other))).encode(items)
    np.testing.assert_allclose(kept, content, atol=1e-5)
    learned = (
        BehaviourEncoder(**arguments).fit(items, replace(known, backtest=BacktestSplit(known, later))).encode(items)
    )
    assert hit_rate(learned, later) > 2 * hit_rate(kept, later)


def test_all_pairs_teach_the_encoder_that_is_kept() -> None:
    """The backtest sets the number of steps; the final encoder trains on the pairs of the whole window."""
    items, known, later = world()
    early = np.arange(len(known)) % 4 > 0
    pairs = replace(known, backtest=BacktestSplit(known.where(early), later))
    arguments = {"dim": 8, "hidden": 32, "steps": 100, "batch": 128}
    kept = BehaviourEncoder(**arguments).fit(items, pairs)
    less = replace(known.where(early), backtest=pairs.backtest)
    other = BehaviourEncoder(**arguments).fit(items, less)
    assert kept.curve_ == other.curve_
    assert not np.array_equal(kept.encode(items), other.encode(items))
