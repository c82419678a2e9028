"""A Postgres server of the tests: on the loopback device, in a temporary folder, stopped by its own process id."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.children import ends_with_parent
from helpers.ports import free_port

USER, PASSWORD = "sidkit", "open sesame"


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Yields the URL of its database, with a password; needs the programs of a server, and an account that is not root."""
    programs = _programs()
    if programs is None:
        pytest.skip("postgres absent: neither catalogue nor registry is tried in Postgres")
    account = _account()
    with tempfile.TemporaryDirectory(prefix="sidkit-postgres-") as name:
        folder = Path(name)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if account:
            for path in (folder, secret):
                shutil.chown(path, account)
        run = ["runuser", "-u", account, "--"] if account else []
        data = folder / "data"
        subprocess.run(
            [
                *run, str(programs / "initdb"), "-D", str(data), "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}",
                "--no-sync", "--encoding=UTF8", "--locale=C",
            ],
            check=True, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        port = free_port()
        settings = {
            "port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off",
            "shared_buffers": "16MB", "max_connections": "40", "autovacuum": "off",
        }  # fmt: skip
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [str(programs / "postgres"), "-D", str(data), *(f"--{key}={value}" for key, value in settings.items())],
                stdout=log, stderr=log, cwd="/", **_becoming(account),
                preexec_fn=ends_with_parent(signal.SIGINT),  # noqa: PLW1509  it only calls the system
            )  # fmt: skip
        try:
            url = f"postgresql+psycopg://{USER}:open%20sesame@127.0.0.1:{port}/postgres"
            _wait(url, server, folder / "log")
            yield url
        finally:
            server.terminate()  # waits for no client
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(10)
            if server.poll() is None:
                server.kill()
                server.wait(10)


def _programs() -> Path | None:
    """The folder of initdb and postgres: on the path, or where Debian installs them."""
    found = shutil.which("initdb")
    if found is not None and (Path(found).resolve().parent / "postgres").exists():
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


def _account() -> str:
    """The account to run a server as; empty: the present one. Postgres refuses to run as root."""
    if os.geteuid():
        return ""
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("postgres absent: no account to run it as")


def _becoming(account: str) -> dict[str, Any]:
    if not account:
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import sqlalchemy as sa

    engine, give_up = sa.create_engine(url, poolclass=sa.pool.NullPool), time.monotonic() + 60
    while True:
        assert server.poll() is None and time.monotonic() < give_up, f"postgres does not answer: {log.read_text()}"
        with contextlib.suppress(sa.exc.OperationalError), engine.connect():
            return
        time.sleep(0.1)
