"""``sidkit serve`` in a process of its own, for the benchmarks of the service, and a plain client."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit


def start(repo: Path, folder: Path, *options: str, code: Path | None = None) -> tuple[subprocess.Popen[str], str]:
    """The service, of another version of the code if given, once it is ready, and its URL."""
    log = (folder / "stderr").open("w")
    command = [sys.executable, "-u", "-m", "sidkit", "serve", "--repo", str(repo), "--port", "0", *options]
    environment = dict(os.environ) if code is None else {**os.environ, "PYTHONPATH": str(code.absolute())}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    assert process.stdout is not None
    url = process.stdout.readline().split()[2].rstrip(";")
    while True:
        try:
            if call(connected(url), "GET", "/v2/health/ready")[0] == 200:
                return process, url
        except OSError:
            pass
        assert process.poll() is None, (folder / "stderr").read_text()
        time.sleep(0.1)


def connected(url: str) -> http.client.HTTPConnection:
    place = urlsplit(url)
    return http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)


def call(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()
