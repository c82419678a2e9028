"""Plain `feast` commands on a repo: nothing of the kit is on the command line, and still nothing is lost.

Commands run from a working directory that holds another ``feature_repo``, under a time zone that is not UTC. Each runs
in a process of its own; as importing Feast takes seconds, all but one `apply` are forked from one that imported it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from helpers.builders import copy_of, fresh_repo
from helpers.pit_oracle import cells, feast_store
from helpers.places import ROOT
from helpers.ports import free_port
from semantic_ids import lifecycle
from sidkit.core.clock import from_us, to_us
from sidkit.core.repo import Repo
from sidkit.datasets.synthetic import Sizes, write_world
from sidkit.stores.feast_repo import materialize, open_store
from sidkit.tables import build_tables, ingest

TEMPLATE = ROOT / "feature_repo"
FEAST = Path(sys.executable).parent / "feast"
TOKYO, LOS_ANGELES = "Asia/Tokyo", "America/Los_Angeles"
# One `feast` command per line of standard input. Root reads files whatever their mode: without two capabilities it is
# told off like anybody else.
FORKING = """
import ctypes, json, os, sys, time, traceback
from sidkit.stores.quiet_import import quiet_feast
quiet_feast()  # imports Feast in half the time
import feast.infra.registry.sql, ibis
from feast.cli.cli import cli

def be_anybody():
    libc, header, data = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert not libc.capget(header, data)
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert not libc.capset(header, data)

for line in sys.stdin:
    asked = json.loads(line)
    child = asked.get("ended") or os.fork()
    if not child:
        code = 1
        try:
            for number in (1, 2):
                os.dup2(os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            os.environ["TZ"] = asked["zone"]
            time.tzset()
            be_anybody()
            sys.argv = ["feast", *asked["arguments"]]
            cli()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    waited = asked.get("waited", True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if waited else child, flush=True)
"""


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with definitions that must not be imported."""
    folder = tmp_path_factory.mktemp("abroad")
    for path in (folder / "entities.py", folder / "feature_repo" / "entities.py"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise RuntimeError('the wrong entities were imported')\n")
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repo, int]:
    """A repo of `init_repo` with a published codebook and a full online store, and the moment of its tables."""
    feast_store(tmp_path_factory.mktemp("import"), "duckdb")
    folder = tmp_path_factory.mktemp("published")
    write_world(folder / "source", "strong", Sizes(2500, users=30, items=40))
    repo = fresh_repo(folder / "repo", folder / "source")
    ingest(repo)
    end = pq.read_table(folder / "source" / "interactions.parquet")["timestamp"].to_pandas().max()
    as_of_us = to_us(end.to_pydatetime()) + 120_000_000
    build_tables(repo, as_of_us)
    lifecycle.fit(repo, "one", lifecycle.CodebookSpec(force=True, sizes=(4, 4)), as_of_us)
    lifecycle.publish(repo, "one")
    materialize(repo, as_of_us)
    return repo, as_of_us


class Forked:
    """``feast -c REPO ...`` forked from a process that has imported Feast and lives in the given working directory."""

    def __init__(self, cwd: Path, said: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKING], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._said, self._numbers = said, itertools.count()

    def _asked(self, **question: Any) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def run(self, repo: Path, *arguments: str, zone: str) -> tuple[int, str]:
        """Exit status of one command, and what was said."""
        said = self._said / str(next(self._numbers))
        code = self._asked(zone=zone, said=str(said), arguments=["-c", str(repo), *arguments], waited=True)
        return code, said.read_text()

    def start(self, repo: Path, *arguments: str, zone: str, log: Path) -> int:
        """The process id of a command that goes on; :meth:`stop` ends it."""
        return self._asked(zone=zone, said=str(log), arguments=["-c", str(repo), *arguments], waited=False)

    @staticmethod
    def runs(pid: int) -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        give_up = time.monotonic() + 30
        while self.runs(pid) and time.monotonic() < give_up:
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)  # nothing, to one that has ended
        self._asked(ended=pid)

    def close(self) -> None:
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def forked(abroad: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    forked = Forked(abroad, tmp_path_factory.mktemp("said"))
    yield forked
    forked.close()


def feast(forked: Forked, repo: Path, *arguments: str, zone: str) -> None:
    """Run one plain command; it has to succeed."""
    code, said = forked.run(repo, *arguments, zone=zone)
    assert code == 0, f"{arguments}\n{said}"


def iso(micros: int) -> str:
    """A moment without a zone, as the `feast` command reads it: UTC."""
    return from_us(micros).replace(tzinfo=None).isoformat()


def values(repo: Path, at_us: int | None) -> dict[str, Any]:
    """Every feature of every key of the log's four views: online, or as of a moment."""
    store = open_store(Repo.open(repo))
    told: dict[str, Any] = {}
    for view in store.list_feature_views():
        if "sid" in view.name or "code_stats" in view.name:
            continue
        key = view.join_keys[0]
        keys = sorted(pq.read_table(repo / "data" / "tables" / f"{view.name}.parquet")[key].unique().to_pylist())
        refs = sorted(f"{view.name}:{feature.name}" for feature in view.features)
        if at_us is None:
            table = store.get_online_features(refs, {key: keys}).to_arrow()
        else:
            frame = pd.DataFrame({key: keys, "event_timestamp": pd.Timestamp(from_us(at_us))})
            table = (
                store.get_historical_features(frame, refs).to_arrow().sort_by(key)
            )  # Feast's own store loses the order
        told[view.name] = cells(table, [key, *(ref.split(":")[1] for ref in refs)])
    assert len(told) == 4
    return told


def online_rows(repo: Repo) -> dict[str, list[Any]]:
    """Everything in the online store."""
    with contextlib.closing(sqlite3.connect(repo.data / "online.sqlite")) as opened:
        names = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(opened.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in names}


def registered(repo: Repo) -> dict[str, set[str]]:
    store = open_store(repo)
    return {
        "views": {view.name for view in store.list_feature_views()},
        "services": {service.name for service in store.list_feature_services()},
    }


def _point_elsewhere(repo: Repo) -> None:
    path = repo.path / "sidkit.toml"
    path.write_text(path.read_text().replace("data/catalog.sqlite", "data/elsewhere.sqlite"))


DAMAGES: dict[str, Callable[[Repo], object]] = {
    "deleted": lambda repo: (repo.data / "catalog.sqlite").unlink(),
    "emptied": lambda repo: (repo.data / "catalog.sqlite").write_bytes(b""),
    "corrupt": lambda repo: (repo.data / "catalog.sqlite").write_bytes(b"no database at all " * 99),
    "unreadable": lambda repo: (repo.data / "catalog.sqlite").chmod(0),
    "elsewhere": _point_elsewhere,
}


@dataclass(frozen=True)
class Applied:
    """A copy of the published repo, what it held before `feast apply`, and how that ended."""

    repo: Repo
    before: tuple[dict[str, set[str]], dict[str, list[Any]]]
    code: int
    said: str

    def now(self) -> tuple[dict[str, set[str]], dict[str, list[Any]]]:
        return registered(self.repo), online_rows(self.repo)


@pytest.fixture(scope="module")
def applied(
    published: tuple[Repo, int], forked: Forked, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Applied]:
    """Copies whose catalogues were damaged, and one that is sound, all applied."""
    folder = tmp_path_factory.mktemp("copies")
    repos = {name: copy_of(published[0], folder / name) for name in ("sound", *DAMAGES)}
    before = {name: (registered(repo), online_rows(repo)) for name, repo in repos.items()}
    for name, spoil in DAMAGES.items():
        spoil(repos[name])
    return {
        name: Applied(repo, before[name], *forked.run(repo.path, "apply", zone=TOKYO)) for name, repo in repos.items()
    }


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_plain_apply_without_a_sound_catalogue_fails_and_destroys_nothing(
    applied: dict[str, Applied], damage: str
) -> None:
    done = applied[damage]
    assert done.code == 1, done.said
    message = done.said[done.said.rindex("sidkit.core.errors.Catalog") :]
    assert "the catalogue at sqlite:///" in message
    assert "nothing was applied" in message
    assert "correct catalog.url in sidkit.toml" in message
    assert done.now() == done.before


def test_a_plain_apply_on_a_published_repo_keeps_everything(applied: dict[str, Applied], abroad: Path) -> None:
    done = applied["sound"]
    assert done.code == 0, done.said
    assert done.now() == done.before
    objects, rows = done.before
    assert objects["services"] == {"ctr_one", "ctr_one_user", "ctr_one_item", "ctr_one_content", "codes_one"}
    assert objects["views"] >= {"item_sid_one", "item_content"}
    [codes] = [found for name, found in rows.items() if name.removeprefix("packed:") == "sidkit_item_sid_one"]
    assert len({key for key, *_ in codes}) == 40
    assert untouched(abroad)


def test_a_plain_incremental_materialization_brings_a_published_repo_up_to_date(
    applied: dict[str, Applied], published: tuple[Repo, int], forked: Forked, abroad: Path
) -> None:
    repo, end_us = applied["sound"].repo, published[1]
    at = pq.read_table(repo.tables / "item_stats.parquet")["event_timestamp"].cast("int64").to_pylist()
    middle_us = sorted(at)[len(at) // 2]  # a row lies exactly there
    for name in online_rows(repo):
        with contextlib.closing(sqlite3.connect(repo.data / "online.sqlite")) as opened, opened:
            opened.execute(f'DELETE FROM "{name}"')
    materialize(repo, middle_us)
    before = values(repo.path, None)
    assert before == values(repo.path, middle_us)
    feast(forked, repo.path, "materialize-incremental", iso(end_us), zone=LOS_ANGELES)
    after = values(repo.path, None)
    assert after == values(repo.path, end_us)
    assert after["item_stats"] != before["item_stats"]
    assert untouched(abroad)


@pytest.fixture(scope="module")
def shop(
    published: tuple[Repo, int], forked: Forked, abroad: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """A copy of the shipped template, made by hand, applied and materialized by plain commands; and the moment."""
    repo, end_us = published
    folder = tmp_path_factory.mktemp("shop") / "repo"
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("data", "artifacts", "__pycache__"))
    shutil.copytree(repo.tables, folder / "data" / "tables", ignore=shutil.ignore_patterns("item_sid_*"))
    assert "path: sqlite:///data/registry.sqlite" in (folder / "feature_store.yaml").read_text()
    at_us = end_us - 20 * 86_400_000_000
    done = subprocess.run(
        [FEAST, "-c", folder, "apply"],
        cwd=abroad,
        env={**os.environ, "TZ": TOKYO},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    feast(forked, folder, "materialize", "1970-01-02T00:00:00", iso(at_us), zone=LOS_ANGELES)
    return folder, at_us


def test_the_template_works_by_plain_commands_from_any_directory_and_zone(shop: tuple[Path, int], abroad: Path) -> None:
    folder, at_us = shop
    assert values(folder, None) == values(folder, at_us)
    assert {path.name for path in (folder / "data").iterdir()} >= {"registry.sqlite", "online.sqlite", "tables"}
    assert not list(folder.rglob("__pycache__"))
    assert untouched(abroad)


def untouched(abroad: Path) -> bool:
    return sorted(path.name for path in abroad.rglob("*")) == ["entities.py", "entities.py", "feature_repo"]


@contextlib.contextmanager
def server(kind: str, repo: Path, forked: Forked, log: Path) -> Iterator[Callable[..., tuple[int, bytes]]]:
    """A running server and how to ask it; it is stopped by its own process id."""
    port = free_port()
    pid = forked.start(repo, kind, "--host", "127.0.0.1", "--port", str(port), zone=TOKYO, log=log)

    def ask(path: str, body: Any = None) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        give_up = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()
            except OSError:
                if not forked.runs(pid) or time.monotonic() > give_up:
                    raise AssertionError(f"feast {kind} does not answer:\n{log.read_text()}") from None
                time.sleep(0.2)

    try:
        yield ask
    finally:
        forked.stop(pid)


def test_the_servers_answer_on_the_template(
    shop: tuple[Path, int], forked: Forked, abroad: Path, tmp_path: Path
) -> None:
    folder, at_us = shop
    expected = values(folder, at_us)["item_stats"]
    features = [name for name in expected if name != "item_id"]
    body = {
        "features": [f"item_stats:{name}" for name in features],
        "entities": {"item_id": [*expected["item_id"], "no such item"]},
    }
    with (
        server("serve", folder, forked, tmp_path / "serve.log") as ask_features,
        server("ui", folder, forked, tmp_path / "ui.log") as ask_ui,
    ):
        status, text = ask_features("/get-online-features", body)
        assert status == 200, text
        answer = json.loads(text)
        found = {
            name: column["values"]
            for name, column in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
        }
        # JSON has no 64-bit integers: Feast writes them as text or as numbers.
        for name in features:
            numbers = [None if value is None else int(value) for value in found[name]]
            assert numbers == [*expected[name], None], name
        assert any(value for value in expected["clicks_all"])
        status, page = ask_ui("/")
        assert status == 200
        assert b"<html" in page.lower()
    assert untouched(abroad)
