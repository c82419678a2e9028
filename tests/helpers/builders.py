"""What tests build on: sources in the input contract from plain rows, repos from sources, a finished job."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.places import PRESETS, TESTS
from oracle.features import EmbeddingVersion, Event, ItemVersion
from oracle.logs import MODALITIES, World
from sidkit.core.files import sha256
from sidkit.core.integrity import read_sealed, write_sealed
from sidkit.core.repo import Repo, init_repo

if TYPE_CHECKING:
    from ranking.pipeline.results import RunResult

MOMENT = pa.timestamp("us", tz="UTC")
FAST_PRESET = PRESETS / "fast.toml"
DAY = 86_400_000_000
START = 1_577_836_800_000_000  # 2020-01-01


@dataclass(frozen=True)
class FinishedJob:
    """A repo on which the main job has run, with the JSON object that `sidkit run --json` prints."""

    repo: Repo
    result: RunResult
    output: dict[str, Any]


def run_fast_job(
    path: Path, preset: Path, data: str = "synthetic", impressions: int = 24_000, seeds: int = 1
) -> FinishedJob:
    """Run the main job in this process on one thread."""
    from ranking.pipeline.prepare import prepare_repo
    from ranking.pipeline.presets import load_preset
    from ranking.pipeline.run import Job, JobOptions
    from sidkit.cli.run_report import as_json

    repo = prepare_repo(data, path)
    one_thread(repo)
    options = JobOptions(data, str(preset), load_preset(str(preset)), seeds, None, impressions)
    with repo.locked(), few_trees():
        result = Job(repo, options).run()
    return FinishedJob(repo, result, as_json(result))


@contextlib.contextmanager
def few_trees() -> Iterator[None]:
    """Let boosting fit few trees: what tests ask of a boosted arm does not depend on their number."""
    from ranking.training import gbdt
    from ranking.training.boosting_spec import BoostingSpec

    whole = gbdt.boost

    def few(*data: Any, spec: BoostingSpec | None = None, **rest: Any) -> gbdt.Boosted:
        spec = spec or BoostingSpec()
        return whole(*data, spec=spec.model_copy(update={"trees": min(spec.trees, 20)}), **rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gbdt, "boost", few)
        yield


def one_thread(repo: Repo) -> None:
    """Let a fresh repo use one thread, so that results repeat bit by bit."""
    path = repo.path / "sidkit.toml"
    path.write_text(path.read_text().replace("threads = 2", "threads = 1"))
    repo.__dict__.pop("settings", None)


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> Path:
    """Write ``<name>.parquet`` for each table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def moments(values: Sequence[int | None]) -> pa.Array:
    """Microseconds as ``timestamp[us, UTC]``."""
    return pa.array(values, pa.int64()).cast(pa.timestamp("us")).cast(MOMENT)


def interactions_table(events: Sequence[Event], *, conversions: bool = False) -> pa.Table:
    """The contract's ``interactions`` from oracle events."""
    columns = {
        "user_id": pa.array([event.user_id for event in events], pa.string()),
        "item_id": pa.array([event.item_id for event in events], pa.string()),
        "timestamp": moments([event.timestamp for event in events]),
        "label": pa.array([event.label for event in events], pa.int8()),
    }
    if conversions:
        columns["converted"] = pa.array([event.converted for event in events], pa.int8())
    return pa.table(columns)


def items_table(items: Sequence[ItemVersion]) -> pa.Table:
    """The contract's ``items`` from oracle versions; ``updated_at`` only where any version has it."""
    columns = {
        "item_id": pa.array([item.item_id for item in items], pa.string()),
        "created_at": moments([item.created_at for item in items]),
        "removed_at": moments([item.removed_at for item in items]),
        "category": pa.array([item.category for item in items], pa.string()),
        "price": pa.array([item.price for item in items], pa.float32()),
        "title": pa.array([f"title of {item.item_id}" for item in items], pa.string()),
    }
    if any(item.updated_at is not None for item in items):
        columns["updated_at"] = moments([item.updated_at for item in items])
    return pa.table(columns)


def embeddings_table(embeddings: Sequence[EmbeddingVersion], modalities: Sequence[str]) -> pa.Table:
    """The contract's ``item_embeddings`` from oracle versions."""
    columns = {"item_id": pa.array([row.item_id for row in embeddings], pa.string())}
    for name in modalities:
        columns[name] = pa.array([row.vectors.get(name) for row in embeddings], pa.list_(pa.float32()))
    if any(row.updated_at is not None for row in embeddings):
        columns["updated_at"] = moments([row.updated_at for row in embeddings])
    return pa.table(columns)


def fresh_repo(path: Path, source: Path | str, **settings: Any) -> Repo:
    """A repo on a source; ``settings`` are ``init_repo``'s, and ``toml`` replaces text in ``sidkit.toml``."""
    replaced: Mapping[str, str] = settings.pop("toml", {})
    repo = init_repo(path, source_url=str(source), **settings)
    text = (path / "sidkit.toml").read_text()
    for old, new in replaced.items():
        assert old in text, old
        text = text.replace(old, new)
    (path / "sidkit.toml").write_text(text)
    one_thread(repo)
    return repo


def sidkit(*arguments: object, cwd: Path, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with a fresh interpreter. Most of its time goes into imports."""
    command = [sys.executable, "-m", "sidkit", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def forked_sidkit(
    *arguments: object, cwd: Path, expect: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line like :func:`sidkit`, in a process that is forked after the imports."""
    return forked_script(SIDKIT, *arguments, cwd=cwd, expect=expect, **environment)


def forked_script(
    script: str, *arguments: object, cwd: Path, expect: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script like ``python -c``, in a process that is forked after the imports."""
    done = forked_exit(script, *arguments, cwd=cwd, **environment)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def forked_exit(script: str, *arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same, whatever its exit status is: -9 of a script that was killed."""
    command = ["sidkit", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        code = _apart(_scripted, script, command, cwd, {**os.environ, **environment}, files, seconds=600)
        out, err = (file.read_text() if file.exists() else "" for file in files)
    assert code is not None, "it did not end in time"
    return subprocess.CompletedProcess(command, code, out, err)


class Forked:
    """A script that goes on beside the test, in a process that is forked after the imports: what tests use of ``Popen``."""

    def __init__(
        self, script: str, *arguments: object, cwd: Path, files: Sequence[Path], environment: Mapping[str, str]
    ) -> None:
        command = ["sidkit", *map(str, arguments)]
        self._child = forking().Process(target=_scripted, args=(script, command, cwd, environment, files))
        self._child.start()
        assert self._child.pid is not None
        self.pid = self._child.pid

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._child.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, when it has ended."""
        self._child.join(timeout)
        if (code := self._child.exitcode) is None:
            raise subprocess.TimeoutExpired("sidkit", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


SIDKIT = "from sidkit.cli import main; main()"
"""A script that is the command line."""


def _scripted(
    script: str, command: list[str], cwd: Path, environment: Mapping[str, str], files: Sequence[Path]
) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.path.insert(0, str(cwd))  # as Python does for -c and -m
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = command
    exec(script, {"__name__": "__main__"})


SENTINEL_US = START - 400 * DAY
"""Long before any drawn time: a world's source always holds both labels, a conversion and both modalities."""


def complete(world: World) -> World:
    """The world with the few rows that the contract asks of every log (both labels, a vector per modality, ...)."""
    settings = world.settings
    converted = 1 if settings.has_conversions else None
    events = [Event("u90", "i90", SENTINEL_US, 1, converted)]
    if not settings.positives_only:
        events.append(Event("u90", "i90", SENTINEL_US - 1, 0, None))
    versioned = any(item.updated_at is not None for item in world.items)
    item = ItemVersion("i90", SENTINEL_US - DAY, SENTINEL_US - DAY if versioned else None, None, "sentinel", 1.5)
    vectors = {name: tuple(0.5 * place for place in range(MODALITIES[name])) for name in world.modalities}
    stamped = any(row.updated_at is not None for row in world.embeddings)
    embedding = EmbeddingVersion("i90", SENTINEL_US - DAY if stamped else None, vectors)
    return replace(
        world,
        events=[*world.events, *events],
        items=[*world.items, item],
        embeddings=[*world.embeddings, embedding],
    )


def write_world_source(folder: Path, world: World) -> Path:
    """A completed world as a source folder."""
    return write_tables(
        folder,
        {
            "interactions": interactions_table(world.events, conversions=world.settings.has_conversions),
            "items": items_table(world.items),
            "item_embeddings": embeddings_table(world.embeddings, world.modalities),
        },
    )


def world_toml(source: Path, world: World) -> str:
    """The ``sidkit.toml`` of a world: its settings, and no row of it is too many to reject."""
    settings = world.settings
    listed = ", ".join(f'"{name}"' for name in world.modalities)
    return (
        f'[source]\nurl = "{source}"\nmodalities = [{listed}]\n'
        f'feedback = "{"positives_only" if settings.positives_only else "impressions"}"\n'
        f"conversions = {str(settings.has_conversions).lower()}\n"
        'unknown_items = "keep"\nmax_reject_share = 1.0\n'
        f"[time]\navailability_delay_seconds = {settings.delay / 1e6}\n"
        f"stats_cadence_seconds = {settings.cadence // 1_000_000}\nhistory_length = {settings.history_length}\n"
        "[engine]\nthreads = 1\n"
    )


def set_world(repo_path: Path, source: Path, world: World) -> Repo:
    """Point a repo at a world: settings and source are written, log and tables of an earlier one are forgotten."""
    for stale in ("log", "tables", "tmp", "rejects"):
        shutil.rmtree(repo_path / "data" / stale, ignore_errors=True)
    shutil.rmtree(source, ignore_errors=True)
    write_world_source(source, world)
    (repo_path / "sidkit.toml").write_text(world_toml(source, world))
    return Repo.open(repo_path)


def reseal(path: Path) -> None:
    """Let the manifest that lists a file hold the hash of what a test wrote there."""
    manifest = next(
        at for at in (path.with_suffix(".json"), path.parent / "manifest.json", path.parent.parent / "manifest.json")
        if at.exists()
    )  # fmt: skip
    stated = read_sealed(manifest)
    name = path.relative_to(manifest.parent).as_posix()
    assert name in stated["files"]
    write_sealed(manifest, {**stated, "files": {**stated["files"], name: sha256(path)}})


def copy_of(original: Repo, path: Path) -> Repo:
    """A copy of a repo, for tests that change it: its paths are its own, and it is applied to a registry of its own."""
    from sidkit.stores.feast_repo import apply_repo

    # Feast's registry remembers the original's online tables; a fresh one finds those of the copy.
    shutil.copytree(original.path, path, ignore=shutil.ignore_patterns("registry.sqlite"))
    for name in ("feature_store.yaml", "sidkit.toml"):
        text = (path / name).read_text()
        (path / name).write_text(text.replace(str(original.path), str(path)))
    repo = Repo.open(path)
    apply_repo(repo)
    return repo


def dies(work: Callable[..., None], *arguments: object) -> None:
    """Do something in a process that is expected to be killed."""
    assert (code := _apart(work, *arguments)) == -signal.SIGKILL, code


def run_apart(work: Callable[..., object], folder: Path, *arguments: object) -> str:
    """Do something with a folder, as a script that is run in it; returns what was printed."""
    said = folder / "said.txt"
    _apart(_saying, said, work, folder, *arguments)
    return said.read_text()


def _saying(said: Path, work: Callable[..., object], folder: Path, *arguments: object) -> None:
    os.chdir(folder)
    for number in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    work(folder, *arguments)


def _apart(work: Callable[..., object], *arguments: object, seconds: float = 1800) -> int | None:
    """The exit status of a process that does something.

    Processes are forked from a server that has imported the heavy libraries and used none of them: a fork of this
    process would inherit the locks of their thread pools.
    """
    child = forking().Process(target=work, args=arguments)
    child.start()
    child.join(seconds)
    return child.exitcode


def forking() -> ForkServerContext:
    """The context of processes that are forked from the server, which runs from now on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.fork_server"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        forkserver.ensure_running()
    return context
