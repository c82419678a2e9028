"""The examples of ``examples/deploy`` inside BentoML and KServe themselves: started, asked, and compared with the scorer.

``python -m helpers.model_servers bentoml PYTHON REPO`` (``make deploy``), with a Python that has sidkit and the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from helpers.places import EXAMPLES
from helpers.ports import free_port

DEPLOY = EXAMPLES / "deploy"
ITEMS = [f"i{number}" for number in range(1, 9)]


def command(kind: str, python: str, port: int) -> list[str]:
    """The command that a user types."""
    if kind == "bentoml":
        return [python, "-m", "bentoml", "serve", "bento_service:Ranking", "--port", str(port), "--host", "127.0.0.1"]
    return [python, "kserve_model.py", "--http_port", str(port), "--enable_grpc", "false"]


def ask(kind: str, port: int, at_us: int) -> dict[str, float]:
    """Item -> score, of one request."""
    from sidkit.core.clock import iso

    body: dict[str, Any] = {"user_id": "u1", "item_ids": ITEMS, "at": iso(at_us)}
    path = "/rank"
    if kind == "kserve":
        path = "/v2/models/ranker/infer"
        inputs = [
            {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u1"]},
            {"name": "item_id", "shape": [len(ITEMS)], "datatype": "BYTES", "data": ITEMS},
            {"name": "at_us", "shape": [1], "datatype": "INT64", "data": [at_us]},
        ]
        body = {"inputs": inputs}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        value = json.load(answer)
    if kind == "kserve":
        return dict(zip(ITEMS, value["outputs"][0]["data"], strict=True))
    return {each["item_id"]: each["score"] for each in value["items"]}


def main(kind: str, python: str, repo: Path) -> None:
    """Start the example, and compare its scores with the scorer's."""
    import sidkit
    from sidkit.core.clock import iso
    from sidkit.tables import read_build

    at_us = read_build(sidkit.open(repo).repo)["as_of_us"]
    scores = sidkit.open(repo).scorer().score("u1", ITEMS, iso(at_us))
    expected = dict(zip(ITEMS, scores["score"].tolist(), strict=True))
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "SIDKIT_REPO": str(repo.resolve()),
            "BENTOML_HOME": home,
            "BENTOML_DO_NOT_TRACK": "1",
        }
        process = subprocess.Popen(command(kind, python, port), cwd=DEPLOY, env=environment)
        try:
            end = time.monotonic() + 300
            while True:
                try:
                    got = ask(kind, port, at_us)
                    break
                except urllib.error.HTTPError as error:
                    raise AssertionError(error.read().decode()) from error
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None and time.monotonic() < end, "no answer"
                    time.sleep(1)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
    worst = max(abs(got[item] - score) for item, score in expected.items())
    sys.stdout.write(f"{kind}: {len(got)} scores, largest difference {worst:.1g}\n")
    assert worst < 1e-6


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
