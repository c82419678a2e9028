"""The monitor of a ranker: days beside training rows, from the served log and from labelled rows, and labels that arrive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sidkit
from helpers.builders import FinishedJob
from helpers.commands import ask, ask_well
from helpers.served_builders import log_rows, own_copy
from ranking.data.dataset import LabelledRows, read_rows
from ranking.monitoring import rows as monitored_rows
from ranking.monitoring.monitor import MonitorResult, monitor
from ranking.monitoring.outcomes import outcomes
from ranking.serving.served_log import log_folder
from semantic_ids.catalog import Catalog
from sidkit.core.clock import DAY_US
from sidkit.core.repo import Repo


@pytest.fixture(scope="module")
def repo(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return own_copy(finished.repo, tmp_path_factory.mktemp("monitor") / "repo")


@pytest.fixture(autouse=True, scope="module")
def small_reference() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(monitored_rows, "TRAINING_ROWS", 4_000)
        patched.setattr(monitored_rows, "VALIDATION_ROWS", 1_500)
        yield


@pytest.fixture(autouse=True)
def no_log(repo: Repo) -> Iterator[None]:
    yield
    for path in log_folder(repo).glob("*"):
        path.unlink()


@pytest.fixture(scope="module")
def later(repo: Repo) -> LabelledRows:
    """Every tenth labelled row after the ranker's training."""
    rows = read_rows(repo.labelled_rows)
    return rows.take(np.flatnonzero(rows.at_us >= Catalog.open(repo).serving_ranker().fit_end_us)[::10])


@pytest.fixture(scope="module")
def of_rows(repo: Repo) -> MonitorResult:
    return sidkit.open(repo.path).monitor(source="rows", rows=2_000)


def test_labelled_rows_after_the_training_are_monitored_by_day(of_rows: MonitorResult, repo: Repo) -> None:
    fit_end_us = Catalog.open(repo).serving_ranker().fit_end_us
    assert of_rows.source == "rows" and len(of_rows.days) > 1
    assert all(np.datetime64(day.day, "us").astype(int) + DAY_US > fit_end_us for day in of_rows.days)
    assert of_rows.reference.new == 0.0 < of_rows.days[-1].new, "items created after the training are new"
    assert all(day.unknown is None and 0 < day.cold < 1 and 0 < day.score < 1 for day in of_rows.days)
    names = {each.name for each in of_rows.features}
    assert {"score", "item_clicks_7d", "item_sid__codes[1]", "history_length"} <= names
    steady = {each.name: each.verdict for each in of_rows.features}
    assert steady["score"] == "stable", "the world of the log does not change"


def test_served_rows_of_other_items_drift(repo: Repo, later: LabelledRows) -> None:
    # A service that shows one item to everybody.
    same = replace(later, item_ids=np.full(len(later), later.item_ids[0], dtype=object))
    log_rows(repo, same, until_us=int(later.at_us.max()))
    answer = ask("monitor", "--repo", repo.path, "--min-rows", 20, "--json")
    stated = json.loads(answer.out)
    verdicts = {each["name"]: each["verdict"] for each in stated["features"]}
    assert answer.code == 3 and stated["ok"] is False and verdicts["item_sid__codes[1]"] == "drift"
    assert stated["source"] == "log" and stated["rows"] == len(later) and stated["days"][0]["unknown"] == 0.0
    some = ask("monitor", "--repo", repo.path, "--min-rows", 20, "--ignore", "*")
    assert some.code == 0 and "0 of 0 distributions drift" in some.out


def test_the_page_and_the_table_name_what_drifts(repo: Repo, later: LabelledRows, tmp_path: Path) -> None:
    same = replace(later, item_ids=np.full(len(later), later.item_ids[0], dtype=object))
    log_rows(repo, same, until_us=int(later.at_us.max()))
    page = tmp_path / "page.html"
    shown = ask_well("monitor", "--repo", repo.path, "--min-rows", 20, "--html", page, expect=3).out
    text = page.read_text()
    for name in ("item_sid__codes[1]", "drift"):
        assert name in text and name in shown
    assert 'data-verdict="drift"' in text and "src=" not in text and max(map(len, shown.splitlines()[:4])) <= 80


def test_days_and_times_limit_what_is_monitored(repo: Repo, later: LabelledRows) -> None:
    log_rows(repo, later, until_us=int(later.at_us.max()))
    days = np.unique(later.at_us // DAY_US)
    last = monitor(repo, days=2)
    assert [np.datetime64(day.day, "D").astype(int) for day in last.days] == days[-2:].tolist()
    until = monitor(repo, until_us=int(days[1]) * DAY_US)
    assert len(until.days) == 1 and until.total < last.total
    sampled = monitor(repo, rows=50)
    assert sum(day.rows for day in sampled.days) == 50 < sampled.total


def test_scores_are_evaluated_once_labels_have_arrived(repo: Repo, later: LabelledRows) -> None:
    # Served five seconds before the impression, with scores that know the label of most rows.
    right = later.label * 0.8 + 0.1
    right[::7] = 0.5
    served = replace(later, at_us=later.at_us - 5_000_000)
    log_rows(repo, served, until_us=int(later.at_us.max()), scores=right)
    [found] = outcomes(repo)
    assert found.rows == len(later) <= found.impressions and found.positives == int(later.label.sum())
    assert found.auc is not None and 0.9 < found.auc.value < 1 and found.auc.low < found.auc.value < found.auc.high
    assert found.log_loss is not None and found.log_loss.low < found.log_loss.value
    assert outcomes(repo, within_seconds=4.0)[0].rows < len(later) / 10
    shown = ask("monitor", "--repo", repo.path, "--min-rows", 20).out
    assert f"labels have arrived for {len(later):,} served rows" in shown


def test_request_ids_join_scores_and_labels(repo: Repo, later: LabelledRows) -> None:
    assert later.request_ids is not None, "the log of this world has request ids"
    earlier = replace(later, at_us=later.at_us - 3 * 3_600_000_000)
    log_rows(repo, earlier, until_us=int(later.at_us.max()), requests=later.request_ids.tolist())
    [found] = outcomes(repo, within_seconds=4 * 3_600)
    assert found.rows >= len(later) * 0.95


def test_without_rows_the_message_names_both_sources(repo: Repo) -> None:
    answer = ask("monitor", "--repo", repo.path)
    assert answer.code == 1 and "--log-sample" in answer.err and "--source rows" in answer.err
    assert ask_well("monitor", "--repo", repo.path, "--source", "rows", "--rows", 300, "--ignore", "*").code == 0
    never = ask("monitor", "--repo", repo.path, "--source", "rows", "--since", "2030-01-01T00:00:00Z")
    assert never.code == 1 and "ingest later events" in never.err
