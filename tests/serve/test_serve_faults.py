"""Faults of what the service stands on: each is really made, and an answer of 5xx comes from nothing else and has a remedy."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.asgi_service import InProcess, in_process
from helpers.builders import FinishedJob, copy_of
from helpers.http_service import Answer
from helpers.serve_faults import malformed
from sidkit.core.clock import DAY_US, iso, present_us
from sidkit.core.errors import SidkitWarning
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, materialize
from sidkit.tables import read_build

ITEMS = [f"i{number}" for number in range(20)]


@pytest.fixture(scope="module")
def repo(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    found = copy_of(finished.repo, tmp_path_factory.mktemp("faults") / "repo")
    materialize(found, read_build(found)["as_of_us"])
    return found


@pytest.fixture(scope="module")
def service(repo: Repo) -> Iterator[InProcess]:
    with in_process(repo.path, timeout_seconds=1.0) as started:
        yield started


@pytest.fixture
def whole(repo: Repo, service: InProcess) -> Iterator[Path]:
    """The file of the online store; what a test does to it is undone."""
    path, kept = repo.data / "online.sqlite", repo.data / "kept.sqlite"
    with sqlite3.connect(path) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(path, kept)
    scores = scores_of(service)
    yield path
    for old in path.parent.glob("online.sqlite*"):
        old.unlink()
    kept.rename(path)
    assert scores_of(service) == pytest.approx(scores, abs=1e-6)


def scores_of(service: InProcess) -> dict[str, float]:
    answer = service.rank(user_id="u1", item_ids=ITEMS)
    assert answer.status == 200, answer.text
    return {each["item_id"]: each["score"] for each in answer.json["items"]}


def check_problem(answer: Answer, status: int, remedy: str) -> None:
    assert answer.status == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert problem["detail"].startswith("expected ") and remedy in problem["remedy"]
    assert not any(word in answer.text for word in ("Traceback", "SELECT", "/tmp/", ".sqlite"))


def is_ready(service: InProcess) -> bool:
    answer = service.call("GET", "/v2/health/ready")
    assert answer.status in {200, 503}
    [online] = [check for check in answer.json["checks"] if check["name"] == "online_store"]
    assert online["ok"] or "sidkit materialize" in online["detail"]
    return answer.status == 200


def remove_store(path: Path) -> None:
    for file in path.parent.glob("online.sqlite*"):
        file.unlink()


def drop_histories(path: Path) -> None:
    with sqlite3.connect(path) as opened:
        [name] = [
            row[0] for row in opened.execute("SELECT name FROM sqlite_master WHERE name GLOB 'packed:*user_history'")
        ]
        opened.execute(f'DROP TABLE "{name}"')


def name_codes_after_another_codebook(path: Path) -> None:
    with sqlite3.connect(path) as opened:
        names = [
            row[0] for row in opened.execute("SELECT name FROM sqlite_master WHERE name GLOB 'packed:*item_sid_*'")
        ]
        for name in names:
            opened.execute(f'ALTER TABLE "{name}" RENAME TO "{name}_of_another"')


def write_nonsense(path: Path) -> None:
    remove_store(path)
    path.write_bytes(b"no database" * 1_000)


WARNED = {
    write_nonsense: "could not be read and is rebuilt",
    name_codes_after_another_codebook: "damaged rows .* removed",
}
"""What the remedy says of a fault."""


@pytest.mark.own_store("online", "the faults are made in the packed file")
@pytest.mark.parametrize("fault", [remove_store, drop_histories, name_codes_after_another_codebook, write_nonsense])
def test_an_online_store_that_cannot_be_read_is_a_503_until_it_is_made_again(
    service: InProcess, repo: Repo, whole: Path, fault: Any
) -> None:
    expected = scores_of(service)
    fault(whole)
    check_problem(service.rank(user_id="u1", item_ids=ITEMS), 503, "run `sidkit apply` and `sidkit materialize`")
    given = {"user_id": "u1", "item_id": "i1"}
    tensors = [{"name": name, "shape": [1], "datatype": "BYTES", "data": [value]} for name, value in given.items()]
    check_problem(service.call("POST", "/v2/models/ranker/infer", {"inputs": tensors}), 503, "run `sidkit apply`")
    assert service.call("POST", "/v1/codes", {"item_ids": ["i1"]}).status == 200  # of the tables
    if fault is not drop_histories:
        assert not is_ready(service)
    # The remedy of the answer; a damaged file is repaired by it too.
    import sidkit

    project = sidkit.open(repo.path)
    if fault is not write_nonsense:
        (repo.data / "registry.sqlite").unlink()  # Feast believes that its tables are there
        apply_repo(repo)
    told = WARNED.get(fault)
    with no_warning() if told is None else pytest.warns(SidkitWarning, match=told):
        project.materialize()
    assert scores_of(service) == pytest.approx(expected, abs=1e-6)
    assert is_ready(service)


@contextmanager
def no_warning() -> Iterator[None]:
    yield


@pytest.mark.own_store("online", "the packed file is read beside a writer")
def test_requests_do_not_wait_for_a_process_that_locks_the_online_store(service: InProcess, whole: Path) -> None:
    expected = scores_of(service)
    holder = sqlite3.connect(whole, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert scores_of(service) == pytest.approx(expected, abs=1e-6) and is_ready(service)
    holder.execute("ROLLBACK")
    holder.close()


def test_a_locked_catalogue_delays_replays_only_and_within_the_limit(service: InProcess, repo: Repo) -> None:
    expected, at = scores_of(service), iso(read_build(repo)["as_of_us"])
    holder = sqlite3.connect(repo.data / "catalog.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    replays = [service.rank(user_id="u1", item_ids=ITEMS, at=at) for _ in range(2)]
    assert scores_of(service) == pytest.approx(expected, abs=1e-6)
    holder.execute("ROLLBACK")
    holder.close()
    for answer in replays:
        check_problem(answer, 503, "try again later")
    while service.rank(user_id="u1", item_ids=ITEMS, at=at).status != 200:  # the look of before ends first
        assert scores_of(service) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("days", [-20_000, -1, 1, 50_000], ids=str)
def test_a_clock_that_jumps_fails_no_request(
    service: InProcess, repo: Repo, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    moment = (read_build(repo)["as_of_us"] if days < 0 else present_us()) + days * DAY_US
    for module in ("sidkit.serve.ranking", "sidkit.serve.holder", "sidkit.serve.model"):
        monkeypatch.setattr(f"{module}.present_us", lambda: moment)
    answer = service.rank(user_id="u1", item_ids=ITEMS)
    assert answer.status == 200, answer.text
    assert answer.json["at"] == iso(max(moment, service.application.holder.model.key.until_us))
    assert service.call("GET", "/v1/items/i1/similar").status == 200
    assert is_ready(service) and not service.look()


def test_a_full_disk_fails_no_request(service: InProcess, whole: Path) -> None:
    expected = scores_of(service)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # no file grows
    try:
        found = [scores_of(service) for _ in range(5)]
        ready, looked = is_ready(service), service.look()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(each == pytest.approx(expected, abs=1e-6) for each in found)
    assert ready and not looked


def test_malformed_requests_get_answers_or_problems(service: InProcess) -> None:
    found = malformed(service, 400, each=2)
    assert found["right"], found["wrong"]
    assert {"200", "400", "404", "405", "413", "422"} >= set(found["answers"])


SERVED_WITHOUT_RIGHTS = """
import ctypes, os, sys
if os.geteuid() == 0:  # root writes whatever the permissions say, until it gives that up
    head, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(head, none) == 0
assert not os.access(sys.argv[1], os.W_OK)
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from helpers.asgi_service import in_process
with in_process(Path(sys.argv[1])) as service:
    answer = service.rank(user_id="u1", item_ids=["i1", "i2"])
    print(answer.status, answer.text)
"""


def test_a_repository_on_a_read_only_mount_is_served(repo: Repo, service: InProcess, tmp_path: Path) -> None:
    expected = service.rank(user_id="u1", item_ids=["i1", "i2"]).json
    copied = copy_of(repo, tmp_path / "repo")
    materialize(copied, read_build(copied)["as_of_us"])
    shutil.rmtree(copied.data / "serving", ignore_errors=True)
    with sqlite3.connect(copied.data / "online.sqlite") as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    opened.close()
    places = [copied.path, *copied.path.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        tests = Path(__file__).parent.parent
        command = [sys.executable, "-c", SERVED_WITHOUT_RIGHTS, str(copied.path), str(tests)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path, env=os.environ
        )
    finally:
        for place in places:
            place.chmod(0o755 if place.is_dir() else 0o644)
    status, _, text = done.stdout.strip().partition(" ")
    assert status == "200", done.stderr
    # Requests are as of now, so ages differ by the time between the two.
    served, before = (
        {each["item_id"]: each["score"] for each in body["items"]} for body in (json.loads(text), expected)
    )
    assert served == pytest.approx(before, abs=1e-6)
