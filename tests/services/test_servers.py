"""The servers that tests and ``benchmarks/parity.py`` start end when their process is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from helpers.places import ROOT

SCRIPTS = {
    "redis": """
import sys
import time
from pathlib import Path
from helpers.online_builders import redis_server
with redis_server(Path(sys.argv[1])):
    Path(sys.argv[2]).touch()
    time.sleep(600)
""",
    "postgres": """
import sys
import time
from pathlib import Path
from helpers.postgres import postgres_server
with postgres_server():
    Path(sys.argv[2]).touch()
    time.sleep(600)
""",
}


def children_of(process: int) -> list[int]:
    import psutil

    return [each.pid for each in psutil.Process(process).children(recursive=True)]


@pytest.mark.skipif(sys.platform != "linux", reason="a child is told of its parent's end on Linux only")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_server_ends_when_the_process_that_started_it_is_killed(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another user
        _killed(name, Path(folder))


def _killed(name: str, folder: Path) -> None:
    started, problem = folder / "started", folder / "problem"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(folder)}
    with problem.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPTS[name], str(folder / "data"), str(started)],
            env=environment, stdin=subprocess.DEVNULL, stderr=written,
        )  # fmt: skip
    give_up = time.monotonic() + 120
    while not started.exists():
        if process.poll() is not None:
            if f"{name} absent" in problem.read_text():
                pytest.skip(f"{name} absent: it is not stopped either")
            pytest.fail(problem.read_text())
        assert time.monotonic() < give_up
        time.sleep(0.1)
    servers = children_of(process.pid)
    process.kill()
    process.wait()
    assert servers
    give_up = time.monotonic() + 60
    while any(map(_lives, servers)):
        assert time.monotonic() < give_up, f"{servers} still run"
        time.sleep(0.1)


def _lives(process: int) -> bool:
    import psutil

    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE
