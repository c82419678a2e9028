"""Events and items over HTTP: checked, durable, and a moment later in the features that scores read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import pytest

from helpers.builders import FinishedJob, copy_of
from helpers.http_service import Service, running
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import open_store
from sidkit.tables import ingest, read_log

AGO = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()


@pytest.fixture(scope="module")
def live(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return copy_of(finished.repo, tmp_path_factory.mktemp("live") / "repo")


@pytest.fixture(scope="module")
def service(live: Repo) -> Iterator[Service]:
    with running(live.path, "--tick", 0.1) as started:
        yield started


def history(repo: Repo, user: str) -> list[str]:
    read = open_store(repo).get_online_features(["user_history:item_ids"], [{"user_id": user}]).to_dict()
    return read["item_ids"][0] or []


def event(**changes: Any) -> dict[str, Any]:
    return {"user_id": "u1", "item_id": "i3", "timestamp": AGO, "label": 1, **changes}


def test_a_click_changes_the_history_and_the_score(service: Service, live: Repo) -> None:
    candidates = {"user_id": "u1", "item_ids": ["i1", "i2", "i3"]}
    before = {each["item_id"]: each["score"] for each in service.rank(**candidates).json["items"]}
    rows = [event(), event(timestamp="2150-01-01T00:00:00Z"), event(item_id="nothing")]
    answer = service.call("POST", "/v1/events", {"events": rows}).json
    assert answer["accepted"] == 1
    assert answer["rejected"] == [
        {"row": 1, "reason": "timestamp is in the future"},
        {"row": 2, "reason": "the item is not in the catalogue"},
    ]
    service.wait_until(lambda _: history(live, "u1")[:1] == ["i3"])
    after = {each["item_id"]: each["score"] for each in service.rank(**candidates).json["items"]}
    assert after != before
    rows_before = read_log(live).rows
    assert service.call("POST", "/v1/events", {"events": [event(), event()]}).json["duplicates"] == 1
    service.wait_until(lambda _: not list((live.data / "events" / "queue").glob("*.parquet")))
    assert read_log(live).rows == rows_before


def test_a_new_item_gets_a_code_and_stays(service: Service, live: Repo) -> None:
    import pyarrow.parquet as pq

    text = pq.read_table(live.tables / "item_content.parquet", columns=["text"]).column(0)[0].as_py()
    item = {"item_id": "brand-new", "created_at": AGO, "attributes": {"title": "A title"}, "vectors": {"text": text}}
    assert service.call("POST", "/v1/codes", {"item_ids": ["brand-new"]}).json["items"][0]["unknown"]
    assert service.call("POST", "/v1/items", {"items": [item]}).json == {"accepted": 1, "duplicates": 0, "rejected": []}
    service.wait_until(lambda one: one.call("POST", "/v1/codes", {"item_ids": ["brand-new"]}).json["items"][0]["codes"])
    [ranked] = service.rank(user_id="u1", item_ids=["brand-new"]).json["items"]
    assert "unknown" not in ranked
    wrong = service.call(
        "POST", "/v1/items", {"items": [{**item, "vectors": {"text": text[1:]}, "item_id": "short"}]}
    ).json
    assert wrong["rejected"][0]["reason"].startswith(f"text has {len(text) - 1} elements")
    with live.locked():  # waits for the end of a tick
        ingest(live)
    assert "brand-new" in pq.read_table(read_log(live).items, columns=["item_id"]).column(0).to_pylist()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/events", {"events": []}, 422),
        ("/v1/events", {"events": [event(label=2)]}, 422),
        ("/v1/events", {"events": [event(colour="red")]}, 422),
        ("/v1/events", {"events": [event(timestamp="2024-01-01T00:00:00")]}, 422),
        ("/v1/events", {"events": [event(context={"device": "x"})]}, 422),
        ("/v1/events", {"events": [event(user_id=1)]}, 422),
        ("/v1/events", b"{", 400),
        ("/v1/items", {"items": [{"item_id": "a"}]}, 422),
        ("/v1/items", {"items": [{"item_id": "a", "created_at": AGO, "attributes": {"colour": "red"}}]}, 422),
        ("/v1/items", {"items": [{"item_id": "a", "created_at": AGO, "vectors": {"smell": [1.0]}}]}, 422),
        ("/v1/items", {"items": [{"item_id": "a", "created_at": AGO, "attributes": {"created_at": AGO}}]}, 422),
    ],
)  # fmt: skip
def test_malformed_bodies_are_refused(service: Service, path: str, body: Any, status: int) -> None:
    answer = service.call("POST", path, body)
    assert answer.status == status, answer.text
    assert answer.json["detail"].startswith("expected ") and "/tmp/" not in answer.text


def test_the_examples_of_the_description_work(service: Service) -> None:
    document = service.call("GET", "/openapi.json").json
    for path in ("/v1/events", "/v1/items"):
        operation = document["paths"][path]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        answers = operation["responses"]["200"]["content"]["application/json"]
        for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
            jsonschema.validate(example["value"], {**schema, "components": document["components"]})
        jsonschema.validate(answers["example"], {**answers["schema"], "components": document["components"]})


def test_a_ticker_that_dies_is_started_again(service: Service, live: Repo) -> None:
    import psutil

    [ticker] = [each for each in psutil.Process(service.process.pid).children() if "tick" in each.cmdline()]
    ticker.kill()
    service.wait_until(lambda one: "it is started again" in one.log.read_text())
    assert service.call("POST", "/v1/events", {"events": [event(item_id="i4")]}).json["accepted"] == 1
    service.wait_until(lambda _: "i4" in history(live, "u1")[:2])
