"""A real service in a process of its own, on a free port of the loopback address, and a plain client."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from helpers.builders import SIDKIT, Forked


@dataclass(frozen=True)
class Answer:
    """Status, headers (lower case) and body of an answer."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Service:
    """A running service."""

    url: str
    process: subprocess.Popen[str] | Forked
    log: Path
    headers: Mapping[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send one request; a body that is no bytes is sent as JSON."""
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, {**self.headers, **given})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, named, answer.read().decode())
        finally:
            connection.close()

    def rank(self, **body: Any) -> Answer:
        return self.call("POST", "/v1/rank", body)

    def wait_until(self, ready: Any, seconds: float = 240) -> None:
        """Wait until a function of the service is true."""
        end = time.monotonic() + seconds
        while not ready(self):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> int:
        """End it like a supervisor does; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def is_ready(service: Service) -> bool:
    try:
        return service.call("GET", "/v2/health/ready").status == 200
    except OSError:
        return False


def _started(
    arguments: Sequence[object], folder: Path, out: Path, log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[str] | Forked:
    out.touch()
    if "--workers" not in arguments:
        return Forked(SIDKIT, *arguments, cwd=folder, files=[out, log], environment=environment)
    command = [sys.executable, "-u", "-m", "sidkit", *map(str, arguments)]
    with log.open("w") as errors, out.open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=errors, text=True, env=environment, cwd=folder)


@contextmanager
def running(repo: Path, *options: object, wait: bool = True, **environment: str) -> Iterator[Service]:
    """Serve a repository for the duration of the block.

    A service of one process is forked after the imports. One of several starts its workers afresh, so it does too.
    """
    arguments = ["serve", "--repo", repo, "--port", 0, *options]
    with tempfile.TemporaryDirectory() as folder:
        log, out = Path(folder) / "stderr", Path(folder) / "stdout"
        process = _started(arguments, Path(folder), out, log, {**os.environ, **environment})
        try:
            end = time.monotonic() + 120
            while "serving on" not in out.read_text():
                assert process.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            url = out.read_text().partition("serving on ")[2].partition(";")[0]
            service = Service(url, process, log)
            if wait:
                service.wait_until(is_ready)
            yield service
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
