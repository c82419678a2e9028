"""Whether codes drifted: PSI against its formula, small samples, residual norms, and the table they are read from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import sidkit.stores.feast_repo as feast_repo
from helpers.builders import DAY
from helpers.codebook_builders import AS_OF, CUT, ITEMS, SPEC, bring, built_repo
from semantic_ids import lifecycle
from semantic_ids.catalog import table_path
from semantic_ids.quality.drift import CodedItems, DriftThresholds, drift, health, read_groups, stability
from sidkit.core.errors import ConfigError, LifeCycleError, UnknownVersionError
from sidkit.core.repo import Repo

relaxed = settings(deadline=None, max_examples=60)
counts = st.lists(st.integers(0, 400), min_size=1, max_size=12)


def coded(rng: np.random.Generator, share: np.ndarray, items: int, norm: float = 1.0) -> CodedItems:
    codes = rng.choice(len(share), (items, 1), p=share / share.sum()).astype(np.int32)
    return CodedItems(codes, (norm * rng.gamma(9, 1 / 9, items)).astype(np.float32))


@relaxed
@given(st.lists(st.tuples(st.integers(50, 400), st.integers(50, 400)), min_size=1, max_size=12))
def test_psi_of_codes_that_fill_their_bins_equals_its_formula(listed: list[tuple[int, int]]) -> None:
    was, now = np.array(listed).T
    found = stability(was, now, items_per_bin=1)
    n, m, bins = was.sum(), now.sum(), len(was)
    expected = 0.0
    for a, b in listed:
        common = 0.5 * bins * (a + b) / (n + m)
        p, q = (a + common) / (n + 0.5 * bins), (b + common) / (m + 0.5 * bins)
        expected += (q - p) * math.log(q / p)
    assert found.bins == bins
    assert found.psi == pytest.approx(expected, abs=1e-12)
    mean = (bins - 1) * (1 / n + 1 / m)
    assert found.drift == (pytest.approx(found.psi - mean) if found.psi > found.noise else 0)


@relaxed
@given(counts.filter(any), st.integers(1, 9), st.integers(1, 50))
def test_psi_of_equal_shares_is_zero_whatever_the_sample(listed: list[int], times: int, per_bin: int) -> None:
    was = np.array(listed)
    found = stability(was, was * times, per_bin)
    assert found.psi == pytest.approx(0, abs=1e-12)
    assert found.drift == 0


@relaxed
@given(counts.filter(any), counts.filter(any))
def test_psi_is_finite_and_does_not_fall_below_zero(was: list[int], now: list[int]) -> None:
    size = max(len(was), len(now))
    padded = [np.pad(side, (0, size - len(side))) for side in (was, now)]
    found = stability(padded[0], padded[1])
    assert 0 <= found.psi + 1e-12 < math.inf
    assert 0 <= found.drift <= found.psi + 1e-12
    assert 1 <= found.bins <= size


def test_psi_of_codes_that_moved_is_large_also_where_new_codes_were_never_used() -> None:
    assert stability(np.array([1000, 0, 0]), np.array([0, 500, 0])).drift > 1
    assert stability(np.array([500, 500, 0, 0]), np.array([0, 0, 300, 0])).drift > 1
    even, tilted = np.full(10, 100), np.array([10, 10, 10, 10, 10, 30, 30, 30, 30, 30])
    assert stability(even, tilted).drift > 0.2


@relaxed
@given(counts.filter(any), counts.filter(any), st.integers(1, 60))
def test_frequent_codes_have_their_bins_and_rare_ones_share_full_ones(
    was: list[int], now: list[int], per_bin: int
) -> None:
    size = max(len(was), len(now))
    reference, recent = (np.pad(np.array(side), (0, size - len(side))) for side in (was, now))
    small = min(reference.sum(), recent.sum()) / reference.sum()
    expected = reference * small
    frequent = expected >= per_bin
    found = stability(reference, recent, per_bin).bins
    assert frequent.sum() <= found <= frequent.sum() + expected[~frequent].sum() / per_bin + 1


def test_without_drift_few_items_over_many_codes_give_none() -> None:
    share = np.random.default_rng(0).gamma(2, 1, 512)
    raw, robust = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        was, now = (np.bincount(coded(rng, share, items).codes[:, 0], minlength=512) for items in (5000, 250))
        p, q = ((side + 0.5) / (side.sum() + 256) for side in (was, now))
        raw.append(float(((q - p) * np.log(q / p)).sum()))
        robust.append(stability(was, now).drift)
    assert min(raw) > 0.25
    assert max(robust) < 0.1
    assert np.mean(np.array(robust) > 0) < 0.2


def test_nothing_to_compare_is_no_drift() -> None:
    assert stability(np.zeros(3, dtype=np.int64), np.array([1, 2, 3])).bins == 0


def test_recent_items_like_those_of_the_fit_are_fresh() -> None:
    rng = np.random.default_rng(0)
    report = drift(coded(rng, np.ones(16), 3000), coded(rng, np.ones(16), 400, norm=1.1))
    assert (report.verdict, report.fit_items, report.recent_items) == ("fresh", 3000, 400)
    assert report.reasons == ("codes and residual norms of recent items match those of the fit",)
    assert report.residual_growth_mean == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(("tilt", "verdict"), [(0.7, "watch"), (1.5, "stale")])
def test_codes_that_shift_are_told_with_their_level(tilt: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    shifted = np.exp(tilt * np.linspace(-1, 1, 16))
    groups = [(np.ones(16), np.ones(16), 4000), (np.ones(16), shifted, 1500)]
    fit, recent = (
        CodedItems(np.hstack([coded(rng, one, n).codes, coded(rng, two, n).codes]), np.ones(n, dtype=np.float32))
        for one, two, n in groups
    )
    report = drift(fit, recent)
    assert report.verdict == verdict
    assert len(report.reasons) == 1
    assert "PSI of level 2" in report.reasons[0]
    assert report.levels[0].drift == 0 < report.levels[1].drift


@pytest.mark.parametrize(("growth", "verdict"), [(0.1, "fresh"), (0.35, "watch"), (0.8, "stale")])
def test_residual_norms_that_grow_are_told(growth: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    report = drift(coded(rng, np.ones(4), 5000), coded(rng, np.ones(4), 3000, 1 + growth))
    assert report.verdict == verdict
    assert verdict == "fresh" or all("residual norm" in reason for reason in report.reasons)
    assert report.residual_growth_median == pytest.approx(growth, abs=0.05)


def test_a_minority_of_strange_items_shows_in_the_mean() -> None:
    fit, recent = (CodedItems(np.zeros((300, 1), dtype=np.int32), np.ones(300, dtype=np.float32)) for _ in range(2))
    recent.residual_norm[:60] = 6
    report = drift(fit, recent)
    assert (report.verdict, report.residual_growth_median) == ("stale", 0)
    assert report.reasons == ("growth of the mean residual norm is 100.0%, at or above 50.0%",)


def test_a_fit_without_residual_grows_without_bound_and_stays_json() -> None:
    fit, recent = (CodedItems(np.zeros((300, 1), dtype=np.int32), np.full(300, norm, "f4")) for norm in (0, 1))
    report = drift(fit, recent)
    assert report.verdict == "stale"
    assert math.inf == report.residual_growth_mean == report.residual_growth_median
    told = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert told["residual_growth_mean"] is None
    assert told["levels"][0].keys() == {"psi", "noise", "drift", "bins"}
    assert drift(fit, fit).verdict == "fresh"


def test_too_few_items_leave_it_unknown_and_say_how_many_are_needed() -> None:
    rng = np.random.default_rng(0)
    many, few = coded(rng, np.ones(4), 500), coded(rng, np.ones(4), 49)
    report = drift(many, few, DriftThresholds(min_recent=50))
    assert (report.verdict, report.needed_items, report.levels) == ("unknown", 50, ())
    assert report.reasons == ("49 items were added or changed since the fit; a verdict needs at least 50",)
    assert drift(few, many).verdict != "unknown"
    assert drift(CodedItems(np.zeros((0, 1), dtype=np.int32), np.zeros(0, "f4")), many).verdict == "unknown"
    json.dumps(report.as_json(), allow_nan=False)


def test_thresholds_are_settings() -> None:
    rng = np.random.default_rng(0)
    groups = coded(rng, np.ones(4), 3000), coded(rng, np.array([2, 2, 5, 5]), 3000)
    assert drift(*groups).verdict == "watch"
    assert drift(*groups, DriftThresholds(stale_psi=0.11)).verdict == "stale"
    assert drift(*groups, DriftThresholds(watch_psi=2, stale_psi=3)).verdict == "fresh"
    with pytest.raises(ValidationError, match="must not exceed"):
        DriftThresholds(watch_psi=0.3)
    with pytest.raises(ValidationError):
        DriftThresholds.model_validate({"watch": 1})


def test_groups_of_different_codebooks_are_refused() -> None:
    groups = [CodedItems(np.zeros((300, levels), dtype=np.int32), np.ones(300, dtype=np.float32)) for levels in (2, 3)]
    with pytest.raises(ConfigError, match="got 2 levels for the items of the fit and 3"):
        drift(*groups)


@relaxed
@given(st.integers(0, 1000))
def test_the_order_of_items_changes_no_figure(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fit, recent = coded(rng, rng.gamma(2, 1, 8), 1000), coded(rng, rng.gamma(2, 1, 8), 1000)
    place = rng.permutation(len(recent))
    shuffled = CodedItems(recent.codes[place], recent.residual_norm[place])
    one, other = drift(fit, recent), drift(fit, shuffled)
    assert (one.verdict, one.levels) == (other.verdict, other.levels)
    assert one.residual_growth_mean == pytest.approx(other.residual_growth_mean)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """One published codebook; three items changed their content after its fit, and i005 lost it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feast_repo, "apply_repo", lambda _: "")
        patch.setattr(feast_repo, "materialize", lambda *_: {})
        repo = built_repo(tmp_path_factory.mktemp("drift"))
        lifecycle.fit(repo, "a", SPEC, CUT)
        lifecycle.publish(repo, "a")
        lifecycle.fit(repo, "unpublished", SPEC.model_copy(update={"sizes": (4, 4)}), CUT)
    bring(repo, ITEMS, AS_OF + DAY, edition={"i003": 1, "i004": 2, "i050": 1}, bare=("i007", "i059", "i005"))
    lifecycle.refresh(repo)
    return repo


def newest(rows: list[dict[str, object]]) -> list[tuple[tuple[int, ...], float]]:
    of_item = {row["item_id"]: row for row in sorted(rows, key=lambda row: row["event_timestamp"])}
    return sorted((tuple(row["codes"]), row["residual_norm"]) for row in of_item.values() if row["codes"] is not None)


def as_listed(items: CodedItems) -> list[tuple[tuple[int, ...], float]]:
    return sorted(zip(map(tuple, items.codes.tolist()), items.residual_norm.tolist(), strict=True))


def test_groups_are_the_newest_rows_of_items_before_and_after_the_fit(repo: Repo) -> None:
    rows = pq.read_table(table_path(repo, "a")).to_pylist()
    before = [row for row in rows if row["event_timestamp"].timestamp() * 1e6 <= CUT]
    after = [row for row in rows if row["event_timestamp"].timestamp() * 1e6 > CUT]
    fit, recent = read_groups(table_path(repo, "a"), CUT, repo.settings.engine, repo.data / "tmp" / "duckdb")
    assert as_listed(fit) == newest(before)
    assert as_listed(recent) == newest(after)
    assert len(fit) == 39
    assert len(recent) > 20
    assert (fit.codes.dtype, fit.residual_norm.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("cut", [0, 2**60])
def test_a_group_may_be_empty(repo: Repo, cut: int) -> None:
    fit, recent = read_groups(table_path(repo, "a"), cut, repo.settings.engine, repo.data / "tmp" / "duckdb")
    empty, full = (fit, recent) if cut == 0 else (recent, fit)
    assert empty.codes.shape == (0, 3)
    assert len(full) > 0
    assert drift(fit, recent, DriftThresholds(min_recent=2)).verdict == "unknown"


def test_the_health_of_a_codebook_is_that_of_its_table(repo: Repo) -> None:
    groups = read_groups(table_path(repo, "a"), CUT, repo.settings.engine, repo.data / "tmp" / "duckdb")
    limits = DriftThresholds(min_recent=10)
    assert health(repo, "a", limits) == health(repo, None, limits) == drift(*groups, limits)
    assert health(repo).verdict == "unknown"
    with pytest.raises(LifeCycleError, match="publish it before checking its health"):
        health(repo, "unpublished")
    with pytest.raises(UnknownVersionError):
        health(repo, "nope")


def test_a_table_may_lie_under_any_name(tmp_path: Path, repo: Repo) -> None:
    odd = tmp_path / "it's a table.parquet"
    pq.write_table(pq.read_table(table_path(repo, "a")), odd)
    assert len(read_groups(odd, CUT, repo.settings.engine, tmp_path / "spill")[0]) == 39
