"""Ranking requests by other means, beside ``sidkit serve`` in the same run.

    python benchmarks/serving_peers.py --repo FOLDER [--candidates 500] [--requests 60] [--out FILE]

- ``feast server``: the client asks ``feast serve`` for the features of user and candidates, then for those of the history's
  items, and then a second service for the scores;
- ``fastapi``: a FastAPI handler calls ``get_online_features`` for the same features and then the model.

Both are favoured: they read from the repository's own packed online store, and do not build the model's batch from the
features; the forward pass is that of a batch of as many candidates that was built before. Keys and values travel as JSON.
Requests are sent one after another over a keep-alive connection, to one process of each service at a time, in blocks that
alternate: every request has another user and other candidates (``first time``), and then all requests are repeated
(``again``). ``cpu_ms`` is the processor time per request of all processes of a service.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
from own_service import call, connected, start
from serving import bodies_of, shown

from sidkit.core.clock import present_us

BLOCKS, WARM = 4, 30
Ask = Callable[[dict[str, Any]], None]


def model_app(repo: str, candidates: int) -> Any:
    """The service of the scores, and of features and scores together."""
    import torch
    from fastapi import Body, FastAPI

    from ranking.serving.scorer import Scorer
    from sidkit.core.repo import Repo

    torch.set_num_threads(1)
    scorer = Scorer(Repo.open(Path(repo)))
    service = scorer.record.service
    (body,) = bodies_of(Path(repo), candidates, 1)
    request = scorer.read(body["user_id"], body["item_ids"], present_us())
    batch = next(iter(scorer.ranker.batches(request.data).batches(candidates)))
    app = FastAPI()

    def forward() -> list[float]:
        with torch.inference_mode():
            return list(torch.sigmoid(scorer.ranker.model(batch)).tolist())

    @app.get("/ready")
    def ready() -> dict[str, str]:
        return {"service": service}

    @app.post("/score")
    def score(features: dict[str, Any] = Body()) -> list[float]:  # noqa: B008
        assert len(features["results"]) > 1
        return forward()

    @app.post("/rank")
    def rank(body: dict[str, Any] = Body()) -> list[float]:  # noqa: B008
        store = scorer.store
        rows = [{"user_id": body["user_id"], "item_id": item, "at_us": present_us()} for item in body["item_ids"]]
        found = store.get_online_features(store.get_feature_service(service), rows, full_feature_names=True).to_dict()
        past = found["user_history__item_ids"][0] or []
        if past:
            items = [{"item_id": item} for item in past]
            content = store.get_feature_service(f"{service}_content")
            store.get_online_features(content, items, full_feature_names=True).to_dict()
        return forward()

    return app


def free_port() -> int:
    """A port of the loopback address that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(command: list[str], url: str, path: str, log: Path, cwd: Path | None = None) -> Iterator[psutil.Process]:
    """A service in a process of its own, once it answers."""
    with log.open("w") as file:
        running = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=cwd)
    try:
        while True:
            try:
                if call(connected(url), "GET", path)[0] == 200:
                    break
            except OSError:
                pass
            assert running.poll() is None, log.read_text()
            time.sleep(0.2)
        yield psutil.Process(running.pid)
    finally:
        for each in [*psutil.Process(running.pid).children(recursive=True), running]:
            each.kill()
        running.wait()


def cpu_of(watched: psutil.Process) -> float:
    """Processor seconds of a process and its children."""
    times = [each.cpu_times() for each in (watched, *watched.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> Any:
    """The answer to a body of JSON."""
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    except OSError:  # closed while it was idle
        connection.close()
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    try:
        answer = connection.getresponse()
    except http.client.RemoteDisconnected:
        connection.close()
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    return json.loads(text)


def by_feast(feast_url: str, model_url: str, service: str) -> Ask:
    """Three requests: features, features of the history, scores."""
    feast, model = connected(feast_url), connected(model_url)

    def features(name: str, entities: dict[str, list[Any]]) -> dict[str, Any]:
        body: dict[str, Any] = {"feature_service": name, "entities": entities, "full_feature_names": True}
        found: dict[str, Any] = post(feast, "/get-online-features", body)
        return found

    def ask(body: dict[str, Any]) -> None:
        count = len(body["item_ids"])
        keys = {"user_id": [body["user_id"]] * count, "item_id": body["item_ids"], "at_us": [present_us()] * count}
        found = features(service, keys)
        place = found["metadata"]["feature_names"].index("user_history__item_ids")
        past = found["results"][place]["values"][0] or []
        past = past.get("val", past) if isinstance(past, dict) else past
        if past:
            features(f"{service}_content", {"item_id": past})
        assert len(post(model, "/score", found)) == len(body["item_ids"])

    return ask


def by_post(url: str, path: str) -> Ask:
    """One request."""
    connection = connected(url)

    def ask(body: dict[str, Any]) -> None:
        assert post(connection, path, body)

    return ask


def measured(
    asks: dict[str, tuple[Ask, tuple[psutil.Process, ...]]], bodies: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Latency and processor time of each service, in blocks that alternate."""
    times: dict[str, list[float]] = {name: [] for name in asks}
    used = dict.fromkeys(asks, 0.0)
    count = len(bodies) // BLOCKS
    for block in range(BLOCKS):
        for name, (ask, watched) in asks.items():
            ask(bodies[block * count - 1])  # connects again, if the service closed an idle connection
            before = sum(map(cpu_of, watched))
            for body in bodies[block * count : (block + 1) * count]:
                began = time.perf_counter()
                ask(body)
                times[name].append(time.perf_counter() - began)
            used[name] += sum(map(cpu_of, watched)) - before
    own = shown(times["sidkit"])["p50_ms"]
    return {
        name: {
            **shown(values),
            "cpu_ms": round(1e3 * used[name] / len(values), 3),
            "p50_vs_sidkit": round(shown(values)["p50_ms"] / own, 2),
        }
        for name, values in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, required=True, help="a repository with a serving ranker")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--requests", type=int, default=60, help="requests to each service")
    parser.add_argument("--out", type=Path, help="file for the results (JSON)")
    options = parser.parse_args()
    repo = options.repo.resolve()
    bodies = bodies_of(repo, options.candidates)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as running:
        folder = Path(temporary)
        feast_url, model_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        size = str(len(bodies[0]["item_ids"]))
        command = [sys.executable, __file__, "--app", str(repo), size, model_url.rpartition(":")[2]]
        model = running.enter_context(process(command, model_url, "/ready", folder / "model"))
        port = feast_url.rpartition(":")[2]
        feast_command = [str(Path(sys.executable).with_name("feast")), "serve", "--port", port, "--no-access-log"]
        feast = running.enter_context(process(feast_command, feast_url, "/health", folder / "feast", repo))
        ours, url = start(repo, folder, "--poll", "600")
        running.callback(ours.wait)
        running.callback(ours.terminate)
        service = json.loads(call(connected(model_url), "GET", "/ready")[1])["service"]
        sidkit = psutil.Process(ours.pid)
        asks: dict[str, tuple[Ask, tuple[psutil.Process, ...]]] = {
            "sidkit": (by_post(url, "/v1/rank"), (sidkit,)),
            "fastapi": (by_post(model_url, "/rank"), (model,)),
            "feast server": (by_feast(feast_url, model_url, service), (feast, model)),
        }
        for ask, _ in asks.values():
            for body in bodies[-WARM:]:
                ask(body)
        asked = bodies[: options.requests]
        kinds = {kind: measured(asks, asked) for kind in ("first time", "again")}
    result = {"candidates": len(bodies[0]["item_ids"]), "requests": kinds}
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def run_app(repo: str, candidates: str, port: str) -> None:
    import uvicorn

    uvicorn.run(model_app(repo, int(candidates)), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--app"]:
        run_app(*sys.argv[2:])
    else:
        main()
