"""The served log: what a service writes, what it leaves when it is killed, and its bounds."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.builders import FinishedJob
from helpers.http_service import running
from helpers.served_builders import own_copy
from ranking.serving.served_log import log_files, log_folder, read_log, remove_oldest
from sidkit.core.clock import iso
from sidkit.core.repo import Repo
from sidkit.serve import served_log
from sidkit.serve.metrics import Metrics
from sidkit.serve.model import ModelLoader, ServingModel
from sidkit.serve.ranking import Answers, Scored
from sidkit.serve.served_log import LogOptions, ServedLog

ITEMS = [f"i{number}" for number in range(30)]


@pytest.fixture(scope="module")
def repo(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return own_copy(finished.repo, tmp_path_factory.mktemp("served") / "repo")


def test_a_killed_service_leaves_whole_files_that_agree_with_training(repo: Repo, finished: FinishedJob) -> None:
    at = iso(finished.result.as_of_us)
    with running(repo.path, "--log-sample", 1, "--log-rows", 10, "--log-seconds", 0.2) as service:
        answer = service.rank(user_id="u1", item_ids=[*ITEMS, "nothing"], at=at, k=5).json
        inputs = [
            {"name": "user_id", "shape": [3], "datatype": "BYTES", "data": ["u2", "u3", "u2"]},
            {"name": "item_id", "shape": [3], "datatype": "BYTES", "data": ["i1", "i1", "i2"]},
            {"name": "at_us", "shape": [1], "datatype": "INT64", "data": [finished.result.as_of_us]},
        ]
        assert service.call("POST", "/v2/models/ranker/infer", {"inputs": inputs}).status == 200
        service.wait_until(lambda each: "served_log_rows_total 8.0" in each.call("GET", "/metrics").text)
        service.rank(user_id="u4", item_ids=ITEMS, at=at)
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
    parts, total = read_log(log_folder(repo))
    assert total >= 8 and not list(log_folder(repo).glob(".*"))
    [part] = parts
    rows = part.table.to_pandas()
    first = rows[rows["request_id"] == answer["request_id"]]
    assert first["item_id"].tolist() == [each["item_id"] for each in answer["items"]]
    np.testing.assert_allclose(first["score"], [each["score"] for each in answer["items"]], atol=1e-12)
    assert first["position"].tolist() == [1, 2, 3, 4, 5] and set(first["candidates"]) == {31}
    assert sorted(rows["user_id"].unique()[:3]) == ["u1", "u2", "u3"]
    assert part.header.ranker == answer["ranker"]["name"] and part.header.codebook == answer["codebook"]["name"]
    result = sidkit.open(repo.path).audit_skew()
    assert result.rows == total and all(each.differ == 0 for each in result.features), "as trained, so served"


@pytest.fixture(scope="module")
def model(repo: Repo) -> ServingModel:
    loader = ModelLoader(repo.path)
    return loader.load(loader.wanted())


@pytest.fixture(scope="module")
def scored(model: ServingModel, finished: FinishedJob) -> Scored:
    return Answers(Metrics()).scored(model, "u1", ITEMS, finished.result.as_of_us, None)


def counted(metrics: Metrics, line: str) -> float:
    found = [each.split()[-1] for each in metrics.text().decode().splitlines() if each.startswith(line)]
    return float(found[0]) if found else 0.0


def test_the_share_of_requests_is_that_of_the_option(model: ServingModel, scored: Scored, tmp_path: Path) -> None:
    metrics = Metrics()
    log = ServedLog(tmp_path, LogOptions(share=0.25, rows=3, seconds=600), metrics)
    for number in range(400):
        log.offer(model, f"r{number}", scored, 2)
        while log._waiting.qsize() > 32:
            time.sleep(0.001)
    log.close()
    [part], total = read_log(tmp_path)
    assert 140 <= total <= 260 and total == counted(metrics, "sidkit_served_log_rows_total")
    assert part.table.column("position").to_pylist()[:2] == [1, 2] and len(log_files(tmp_path)) == 1


def test_files_are_rotated_by_size_and_bounded_in_total(
    model: ServingModel, scored: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_log, "_FILE_BYTES", 1)
    log = ServedLog(tmp_path, LogOptions(share=1, seconds=600, megabytes=0.1), Metrics())
    for number in range(20):
        log.offer(model, f"r{number}", scored)
    log.close()
    sizes = [path.stat().st_size for path in log_files(tmp_path)]
    assert 2 <= len(sizes) < 20 and sum(sizes) <= 100_000
    kept = {each for part in read_log(tmp_path)[0] for each in part.table.column("request_id").to_pylist()}
    assert kept == {f"r{number}" for number in range(20 - len(sizes), 20)}, "the oldest are removed"
    remove_oldest(tmp_path, 0)
    assert len(log_files(tmp_path)) == 1, "the newest stays"


def test_a_disk_that_refuses_costs_rows_not_answers(model: ServingModel, scored: Scored, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    metrics = Metrics()
    log = ServedLog(tmp_path / "log", LogOptions(share=1, seconds=0), metrics)
    for number in range(3):
        log.offer(model, f"r{number}", scored)
    log.close()
    assert counted(metrics, 'sidkit_served_log_dropped_total{reason="disk"}') == 3


def test_a_full_queue_drops_and_counts(
    model: ServingModel, scored: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_log, "_WAITING", 2)
    monkeypatch.setattr(ServedLog, "_run", lambda self: None)  # a writer that never comes
    metrics = Metrics()
    log = ServedLog(tmp_path, LogOptions(share=1), metrics)
    for number in range(5):
        log.offer(model, f"r{number}", scored)
    assert counted(metrics, 'sidkit_served_log_dropped_total{reason="queue"}') == 3


@pytest.fixture
def broken(scored: Scored) -> Any:
    return SimpleNamespace(item_ids=scored.item_ids, scores=scored.scores, request=SimpleNamespace(data=None))


def test_an_error_of_one_request_does_not_end_the_log(
    model: ServingModel, scored: Scored, broken: Any, tmp_path: Path
) -> None:
    metrics = Metrics()
    log = ServedLog(tmp_path, LogOptions(share=1), metrics)
    log.offer(model, "wrong", broken)
    log.offer(model, "right", scored)
    log.close()
    assert counted(metrics, 'sidkit_served_log_dropped_total{reason="error"}') == 1
    assert set(read_log(tmp_path)[0][0].table.column("request_id").to_pylist()) == {"right"}


def test_a_sample_of_the_log_has_rows_of_all_files(model: ServingModel, scored: Scored, tmp_path: Path) -> None:
    for name in ("a", "b"):
        log = ServedLog(tmp_path, LogOptions(share=1), Metrics())
        log.offer(model, name, scored)
        log.close()
    parts, total = read_log(tmp_path, most=20, seed=1)
    assert total == 60 and sum(map(len, parts)) == 20
    assert set(parts[0].table.column("request_id").to_pylist()) == {"a", "b"}
    assert read_log(tmp_path, ranker="none") == ([], 0)
    one = pq.read_table(log_files(tmp_path)[0])
    assert {"user_id", "item_id", "score", "item_clicks_7d"} <= set(one.column_names), "plain Parquet"
