"""Plain `feast` commands on a repo: nothing of the kit is on the command line, and still nothing is lost.

Commands run from a working directory that holds another ``feature_repo``, under a time zone that is not UTC. Each runs
in a process of its own; as importing Feast takes seconds, most are forked from one that has only done that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from builders import fresh_repo
from pit_oracle import cells, feast_store
from semantic_ids import pipeline
from sidkit.clock import from_us, to_us
from sidkit.datasets.synthetic import Sizes, write_world
from sidkit.repo import Repo
from sidkit.stores.feast_repo import apply_repo, materialize, open_store
from sidkit.tables import build_tables, ingest

TEMPLATE = Path(__file__).parent.parent / "feature_repo"
FEAST = Path(sys.executable).parent / "feast"
TOKYO, LOS_ANGELES = "Asia/Tokyo", "America/Los_Angeles"
# What `bin/feast` does, once per command on standard input. Root reads files whatever their mode: without these two
# capabilities it is told off like anybody else.
FORKING = """
import ctypes, json, os, sys, time
from sidkit.stores.feast_repo import quiet_feast
quiet_feast()  # imports Feast in half the time
from feast.cli.cli import cli

def be_anybody():
    libc, header, data = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert not libc.capget(header, data)
    data[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert not libc.capset(header, data)

codes = []
for command in json.load(sys.stdin):
    child = os.fork()
    if not child:
        for number, path in ((1, command["stdout"]), (2, command["stderr"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        be_anybody()
        os.environ["TZ"] = command["zone"]
        time.tzset()
        sys.argv = ["feast", *command["arguments"]]
        sys.exit(cli())
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
json.dump(codes, sys.stdout)
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
    pipeline.fit(repo, "one", pipeline.CodebookSpec(force=True, sizes=(4, 4)), as_of_us)
    pipeline.publish(repo, "one")
    materialize(repo, as_of_us)
    return repo, as_of_us


def copied(published: Repo, folder: Path) -> Repo:
    """A copy with a registry of its own."""
    shutil.copytree(published.path, folder, ignore=shutil.ignore_patterns("registry.sqlite"))
    for name in ("feature_store.yaml", "sidkit.toml"):
        path = folder / name
        path.write_text(path.read_text().replace(str(published.path), str(folder)))
    repo = Repo.open(folder)
    apply_repo(repo)
    return repo


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    def __post_init__(self) -> None:
        assert self.code >= 0, f"killed by signal {-self.code}"


def feast(commands: Sequence[tuple[str, Path, list[str]]], cwd: Path, log: Path) -> list[Done]:
    """Run ``feast -c REPO ...`` for each (time zone, repo, arguments), each in a process of its own."""
    log.mkdir()
    asked = [
        {
            "zone": zone,
            "arguments": ["-c", str(repo), *arguments],
            "stdout": str(log / f"{number}.out"),
            "stderr": str(log / f"{number}.err"),
        }
        for number, (zone, repo, arguments) in enumerate(commands)
    ]
    done = subprocess.run(
        [sys.executable, "-c", FORKING], cwd=cwd, input=json.dumps(asked), capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    read = [((log / f"{number}.out").read_text(), (log / f"{number}.err").read_text()) for number in range(len(codes))]
    return [Done(code, *texts) for code, texts in zip(codes, read, strict=True)]


def iso(micros: int) -> str:
    """A moment without a zone, as the `feast` command reads it: UTC."""
    return from_us(micros).replace(tzinfo=None).isoformat()


def values(repo: Path, at_us: int | None) -> dict[str, Any]:
    """Every feature of every key of the log's four views: online, or as of a moment."""
    store = open_store(Repo.open(repo))
    told: dict[str, Any] = {}
    for view in store.list_feature_views():
        if "sid" in view.name:
            continue
        key = view.join_keys[0]
        keys = sorted(pq.read_table(repo / "data" / "tables" / f"{view.name}.parquet")[key].unique().to_pylist())
        refs = sorted(f"{view.name}:{feature.name}" for feature in view.features)
        if at_us is None:
            table = store.get_online_features(refs, {key: keys}).to_arrow()
        else:
            frame = pd.DataFrame({key: keys, "event_timestamp": pd.Timestamp(from_us(at_us))})
            table = store.get_historical_features(frame, refs).to_arrow()
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


def _drain(repo: Repo) -> None:
    with contextlib.closing(sqlite3.connect(repo.data / "online.sqlite")) as opened, opened:
        opened.execute("DELETE FROM sidkit_item_sid_one")
        opened.execute("DELETE FROM sidkit_user_history")


def _make_a_folder(repo: Repo) -> None:
    (repo.data / "catalog.sqlite").unlink()
    (repo.data / "catalog.sqlite").mkdir()


DAMAGES: dict[str, Callable[[Repo], object]] = {
    "deleted": lambda repo: (repo.data / "catalog.sqlite").unlink(),
    "emptied": lambda repo: (repo.data / "catalog.sqlite").write_bytes(b""),
    "corrupt": lambda repo: (repo.data / "catalog.sqlite").write_bytes(b"no database at all " * 99),
    "unreadable": lambda repo: (repo.data / "catalog.sqlite").chmod(0),
    "a folder": _make_a_folder,
    "elsewhere": _point_elsewhere,
}


@dataclass(frozen=True)
class Ran:
    """Everything that was run: copies of the template and of a published repo, their state before, how each ended."""

    shop: Path
    shop_to_the_end: Path
    middle_us: int
    end_us: int
    copies: dict[str, Repo]
    before: dict[str, Any]
    done: dict[str, Done]


def copy_of_the_template(folder: Path, tables: Path) -> Path:
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("data", "artifacts", "__pycache__"))
    shutil.copytree(tables, folder / "data" / "tables", ignore=shutil.ignore_patterns("item_sid_*"))
    assert "path: sqlite:///data/registry.sqlite" in (folder / "feature_store.yaml").read_text()
    return folder


@pytest.fixture(scope="module")
def ran(published: tuple[Repo, int], abroad: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    repo, end_us = published
    folder = tmp_path_factory.mktemp("copies")
    at = pq.read_table(repo.tables / "item_stats.parquet")["event_timestamp"].cast("int64").to_pylist()
    middle_us = sorted(at)[len(at) // 2]
    shop, to_the_end = (copy_of_the_template(folder / name, repo.tables) for name in ("shop", "to_the_end"))
    # The real thing once, without a fork.
    real = [FEAST, "-c", shop, "apply"]
    subprocess.run(real, cwd=abroad, env={**os.environ, "TZ": TOKYO}, check=True, capture_output=True)
    copies = {name: copied(repo, folder / name.replace(" ", "_")) for name in ("sound", "drained", *DAMAGES)}
    before = {name: (registered(one), online_rows(one)) for name, one in copies.items()}
    for name, spoil in {**DAMAGES, "drained": _drain}.items():
        spoil(copies[name])
    until_middle = ["materialize", "1970-01-02T00:00:00", iso(middle_us)]
    until_end = ["materialize", "1970-01-02T00:00:00", iso(end_us)]
    commands = {
        "until the middle": (LOS_ANGELES, shop, until_middle),
        "apply": (LOS_ANGELES, to_the_end, ["apply"]),
        "until the middle too": (TOKYO, to_the_end, until_middle),
        "incrementally": (LOS_ANGELES, to_the_end, ["materialize-incremental", iso(end_us)]),
        **{name: (TOKYO, copies[name].path, ["apply"]) for name in ("sound", *DAMAGES)},
        "drained": (LOS_ANGELES, copies["drained"].path, until_end),
    }
    done = dict(zip(commands, feast(list(commands.values()), abroad, folder / "log"), strict=True))
    return Ran(shop, to_the_end, middle_us, end_us, copies, before, done)


def test_the_template_works_by_plain_commands_from_any_directory_and_zone(ran: Ran, abroad: Path) -> None:
    for name in ("until the middle", "apply", "until the middle too", "incrementally"):
        assert ran.done[name].code == 0, ran.done[name]
    middle, end = values(ran.shop, None), values(ran.shop_to_the_end, None)
    assert middle == values(ran.shop, ran.middle_us)
    assert end == values(ran.shop_to_the_end, ran.end_us)
    assert middle["item_stats"] != end["item_stats"]
    for folder in (ran.shop, ran.shop_to_the_end):
        assert {path.name for path in (folder / "data").iterdir()} >= {"registry.sqlite", "online.sqlite", "tables"}
        assert not list(folder.rglob("__pycache__"))
    assert sorted(path.name for path in abroad.rglob("*")) == ["entities.py", "entities.py", "feature_repo"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_plain_apply_without_a_sound_catalogue_fails_and_destroys_nothing(ran: Ran, damage: str) -> None:
    assert ran.done[damage].code != 0
    said = ran.done[damage].stderr
    said = said[said.rindex("sidkit.errors.Catalog") :]
    assert "the catalogue at sqlite:///" in said
    assert "nothing was applied" in said
    assert "correct catalog.url in sidkit.toml" in said
    assert (registered(ran.copies[damage]), online_rows(ran.copies[damage])) == ran.before[damage]


def test_a_plain_apply_on_a_published_repo_keeps_everything(ran: Ran) -> None:
    assert ran.done["sound"].code == 0, ran.done["sound"]
    assert (registered(ran.copies["sound"]), online_rows(ran.copies["sound"])) == ran.before["sound"]
    views, rows = ran.before["sound"]
    assert views["services"] == {"ctr_one", "ctr_one_user", "ctr_one_item", "ctr_one_content"}
    assert views["views"] >= {"item_sid_one", "item_content"}
    assert len(rows["sidkit_item_sid_one"]) > 40


def test_a_plain_materialize_on_a_published_repo_fills_the_online_store(ran: Ran) -> None:
    assert ran.done["drained"].code == 0, ran.done["drained"]
    repo = ran.copies["drained"]
    assert values(repo.path, None) == values(repo.path, ran.end_us)
    rows, rows_before = online_rows(repo), ran.before["drained"][1]
    for name in ("sidkit_item_sid_one", "sidkit_user_history"):
        # Feast keeps the event time in local time and the time of writing; keys and values are what matters.
        assert [row[:3] for row in rows[name]] == [row[:3] for row in rows_before[name]]


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(kind: str, repo: Path, cwd: Path, log: Path) -> Iterator[Callable[..., tuple[int, bytes]]]:
    """A running server and how to ask it; it is stopped by its own process id."""
    port = free_port()
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(FEAST), "-c", str(repo), kind, "--host", "127.0.0.1", "--port", str(port)],
            cwd=cwd,
            env={**os.environ, "TZ": TOKYO},
            stdout=output,
            stderr=subprocess.STDOUT,
        )

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
                if process.poll() is not None or time.monotonic() > give_up:
                    raise AssertionError(f"feast {kind} does not answer:\n{log.read_text()}") from None
                time.sleep(0.2)

    try:
        yield ask
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_the_servers_answer_on_the_template(ran: Ran, abroad: Path, tmp_path: Path) -> None:
    shop = ran.shop_to_the_end
    expected = values(shop, ran.end_us)["item_stats"]
    features = [name for name in expected if name != "item_id"]
    body = {
        "features": [f"item_stats:{name}" for name in features],
        "entities": {"item_id": [*expected["item_id"], "no such item"]},
    }
    with (
        server("serve", shop, abroad, tmp_path / "serve.log") as ask_features,
        server("ui", shop, abroad, tmp_path / "ui.log") as ask_ui,
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
    assert sorted(path.name for path in abroad.rglob("*")) == ["entities.py", "entities.py", "feature_repo"]
