"""Promotions, materializations and damaged artefacts while requests arrive; a shadow ranker; several workers."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from uvicorn import Config

import sidkit
from helpers.builders import FinishedJob, copy_of
from helpers.http_service import Answer, Service, running
from ranking.serving.scorer import Scorer
from semantic_ids.catalog import Catalog
from sidkit.core.clock import parse_time
from sidkit.core.repo import Repo
from sidkit.serve.shadow import compared
from sidkit.serve.worker import Worker
from sidkit.stores.feast_repo import materialize

ITEMS = [f"i{number}" for number in range(40)]


@pytest.fixture
def repo(finished: FinishedJob, tmp_path: Path) -> Repo:
    return copy_of(finished.repo, tmp_path / "repo")


class Load:
    """Clients that send requests one after another until they are stopped."""

    def __init__(self, service: Service, clients: int = 2) -> None:
        self.answers: list[Answer] = []
        self.errors: list[BaseException] = []
        self._service = service
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.answers.append(self._service.rank(user_id="u1", item_ids=ITEMS))
            except Exception as error:  # noqa: BLE001
                self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def ranker_of(service: Service) -> str:
    name: str = service.rank(user_id="u1", item_ids=ITEMS[:2]).json["ranker"]["name"]
    return name


def check_answer(answer: dict[str, Any], scorers: dict[str, Scorer]) -> None:
    """Every score is that of the ranker which the answer names."""
    scorer = scorers[answer["ranker"]["name"]]
    assert answer["ranker"]["content_hash"] == scorer.record.content_hash
    ids = [each["item_id"] for each in answer["items"]]
    expected = scorer.score("u1", ids, parse_time(answer["at"]))
    np.testing.assert_allclose([each["score"] for each in answer["items"]], expected, atol=1e-6)


def test_promotions_lose_no_request_and_mix_no_versions(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    names = [record.name for record in catalog.rankers()]
    scorers = {name: Scorer(repo, name) for name in names}
    with running(repo.path, "--poll", 0.1) as service:
        with Load(service) as load:
            for name in itertools.islice(itertools.cycle(names), 2 * len(names)):
                catalog.set_ranker_state(name, "serving")
                service.wait_until(lambda one, name=name: ranker_of(one) == name)
        assert not load.errors and len(load.answers) > 10
        assert {answer.status for answer in load.answers} == {200}
        seen = [answer.json for answer in load.answers]
        assert {each["ranker"]["name"] for each in seen} == set(names)
        for answer in seen[:: max(len(seen) // 60, 1)]:
            check_answer(answer, scorers)
        # Back to the one before, by the command that promotes.
        catalog.set_ranker_state(names[0], "serving")
        service.process.send_signal(signal.SIGHUP)
        service.wait_until(lambda one: ranker_of(one) == names[0])


def test_a_ranker_that_cannot_be_loaded_does_not_replace_the_one_that_serves(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    before = catalog.serving_ranker().name
    other = next(record.name for record in catalog.rankers() if record.name != before)
    tensors = repo.rankers / other / "tensors.safetensors"
    whole = tensors.read_bytes()
    with running(repo.path, "--poll", 0.1) as service:
        tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        catalog.set_ranker_state(other, "serving")
        service.wait_until(lambda one: "cannot load the model" in one.log.read_text())
        assert ranker_of(service) == before
        ready = service.call("GET", "/v2/health/ready")
        assert ready.status == 200 and "cannot be loaded" in ready.json["checks"][-1]["detail"]
        assert str(repo.path) not in ready.text
        tensors.write_bytes(whole)
        service.wait_until(lambda one: ranker_of(one) == other)


def test_a_materialization_is_noticed_and_replays_before_it_are_refused(repo: Repo, finished: FinishedJob) -> None:
    as_of = finished.result.as_of_us
    with running(repo.path, "--poll", 600) as service:
        later = "2024-03-05T00:00:00+00:00"
        assert service.rank(user_id="u1", item_ids=["i1"], at=later).status == 200
        until = service.rank(user_id="u1", item_ids=["i1"]).json["features_until"]
        materialize(repo, as_of + 3_600_000_000)
        # The next look would be in ten minutes; a replay looks at once.
        answer = service.rank(user_id="u1", item_ids=["i1"], at=later).json
        assert answer["features_until"] > until


def test_old_features_are_refused_if_a_bound_is_given(repo: Repo) -> None:
    with running(repo.path, "--max-feature-age", 60, wait=False) as service:
        service.wait_until(lambda one: "serving ranker" in one.log.read_text())
        ready = service.call("GET", "/v2/health/ready")
        assert ready.status == 503 and not ready.json["ready"]
        assert [check["name"] for check in ready.json["checks"] if not check["ok"]] == ["feature_age"]
        refused = service.rank(user_id="u1", item_ids=["i1"])
        assert refused.status == 503 and "sidkit materialize" in refused.json["remedy"]
        assert refused.headers["retry-after"] == "1"
        assert service.call("GET", "/v2/health/live").status == 200


def test_an_online_store_that_disappears_is_not_ready(repo: Repo) -> None:
    with running(repo.path) as service:
        store = next((repo.path / "data").glob("online.sqlite"))
        for path in store.parent.glob("online.sqlite*"):
            path.rename(path.with_name(f"away-{path.name}"))
        store.write_bytes(b"no database" * 1_000)
        service.wait_until(lambda one: one.call("GET", "/v2/health/ready").status in {200, 503})
        answer = service.rank(user_id="u1", item_ids=["i1"])
        assert answer.status in {200, 503}  # an open file goes on answering
        assert str(repo.path) not in answer.text


def test_a_shadow_ranker_scores_the_same_requests(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    serving = catalog.serving_ranker().name
    other = next(record.name for record in catalog.rankers() if record.name != serving)
    with running(repo.path, "--shadow", other) as service:
        answer = service.rank(user_id="u1", item_ids=ITEMS).json
        service.wait_until(lambda one: '"shadow"' in one.log.read_text())
        [line] = [json.loads(line) for line in service.log.read_text().splitlines() if '"shadow"' in line]
        at_us = parse_time(answer["at"])
        mine, theirs = (Scorer(repo, name).score("u1", ITEMS, at_us) for name in (serving, other))
        assert line["request_id"] == answer["request_id"] and line["ranker"] == serving and line["shadow"] == other
        assert line["largest_difference"] == pytest.approx(float(np.abs(mine - theirs).max()), abs=1e-6)
        assert line["rank_correlation"] == compared(mine, theirs)["rank_correlation"]
        assert "sidkit_shadow_difference_count 1.0" in service.call("GET", "/metrics").text


def test_agreement_of_scorings() -> None:
    same = compared(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]))
    assert same == {"rank_correlation": 1.0, "top_overlap": 1.0}
    assert compared(np.array([0.1, 0.2, 0.3]), np.array([3.0, 2.0, 1.0]))["rank_correlation"] == -1.0
    assert compared(np.array([0.1, 0.2]), np.array([1.0, 1.0]))["rank_correlation"] is None
    assert compared(np.arange(4.0), np.array([3.0, 2.0, 0.0, 1.0]), top=2)["top_overlap"] == 0.0


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def two_workers(finished: FinishedJob) -> Iterator[Service]:
    with running(finished.repo.path, "--workers", 2) as service:
        yield service


def test_the_supervisor_does_not_wait_for_an_answer_of_a_dead_worker() -> None:
    worker = Worker(Config("sidkit.serve.app:create"), [])
    worker.start()
    worker.process.kill()
    worker.process.join()
    assert worker.parent_conn.poll(0) and not worker.is_alive(0)


def test_a_killed_worker_is_replaced_while_the_other_answers(two_workers: Service) -> None:
    service = two_workers
    service.wait_until(lambda one: one.log.read_text().count("serving ranker") == 2)
    before = [
        pid for pid in children(service.process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    service.wait_until(lambda one: one.log.read_text().count("serving ranker") == 3)
    answers = [service.rank(user_id="u1", item_ids=["i1"]).status for _ in range(20)]
    assert set(answers) == {200}
    # Counts of all workers together, whichever answers.
    service.wait_until(lambda one: 'route="/v1/rank",status="200"} 20.0' in one.call("GET", "/metrics").text)
    serving = [line for line in service.call("GET", "/metrics").text.splitlines() if "sidkit_model_info{" in line]
    assert [line.rpartition(" ")[2] for line in serving] == ["2.0"]
    assert service.stop() == 0
    time.sleep(0.1)
    assert not [pid for pid in before if Path(f"/proc/{pid}").exists()]


def test_an_adapted_ranker_takes_over_and_gives_way_without_a_restart(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    frozen = catalog.serving_ranker().name
    with running(repo.path, "--poll", 0.1) as service:
        with Load(service) as load:
            facts = sidkit.open(repo.path).adapt_ranker(days=5)
            assert facts.serving and facts.before == frozen
            service.wait_until(lambda one: ranker_of(one) == facts.name)
            sidkit.open(repo.path).promote_ranker(frozen)
            service.wait_until(lambda one: ranker_of(one) == frozen)
        assert not load.errors and {answer.status for answer in load.answers} == {200}
        scorers = {name: Scorer(repo, name) for name in (frozen, facts.name)}
        seen = [answer.json for answer in load.answers]
        assert {each["ranker"]["name"] for each in seen} == set(scorers)
        for answer in seen[:: max(len(seen) // 40, 1)]:
            check_answer(answer, scorers)
