"""The service as its clients see it: scores, codes, similar items, both protocols, errors and limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import FinishedJob
from helpers.http_service import Service, running
from ranking.serving.scorer import Scorer
from semantic_ids.lookup import codes_of
from sidkit.core.clock import iso


@pytest.fixture(scope="module")
def service(finished: FinishedJob) -> Iterator[Service]:
    with running(finished.repo.path, "--max-body", 200_000) as started:
        yield started


def test_ranks_the_candidates_with_the_scores_of_the_command(service: Service, finished: FinishedJob) -> None:
    items, at_us = [f"i{number}" for number in range(30)], finished.result.as_of_us
    answer = service.rank(user_id="u1", item_ids=[*items, "nothing"], at=iso(at_us), k=20).json
    expected = Scorer(finished.repo).answer("u1", [*items, "nothing"], at_us)
    order = np.argsort(-expected.values, kind="stable")[:20]
    assert [each["item_id"] for each in answer["items"]] == [[*items, "nothing"][at] for at in order]
    np.testing.assert_allclose([each["score"] for each in answer["items"]], expected.values[order], atol=1e-7)
    assert answer["candidates"] == 31 and answer["user_known"] == expected.user_known
    assert answer["ranker"]["name"] == finished.output["artifacts"]["serving_ranker"]
    assert answer["features_until"] <= answer["at"] == iso(at_us)


def test_unknown_ids_are_flagged(service: Service) -> None:
    answer = service.rank(user_id="nobody", item_ids=["nothing", "i1"]).json
    flagged = {each["item_id"]: each.get("unknown", False) for each in answer["items"]}
    assert flagged == {"nothing": True, "i1": False} and answer["user_known"] is False


@pytest.mark.parametrize(
    "retrieve",
    [
        {"by": "similar", "item_id": "i1", "limit": 40},
        {"by": "popular", "window": "30d", "limit": 40},
        {"by": "popular", "where": {"price": {"min": 0}}, "limit": 7},
    ],
    ids=["similar", "popular", "filtered"],
)
def test_candidates_can_be_retrieved(service: Service, retrieve: dict[str, Any]) -> None:
    answer = service.rank(user_id="u1", retrieve=retrieve).json
    scores = [each["score"] for each in answer["items"]]
    assert len(scores) == answer["candidates"] == retrieve["limit"] and scores == sorted(scores, reverse=True)


def test_a_prefix_retrieves_the_items_with_these_codes(service: Service, finished: FinishedJob) -> None:
    [codes] = codes_of(finished.repo, ["i1"]).values()
    assert codes is not None
    answer = service.rank(user_id="u1", retrieve={"by": "prefix", "codes": codes[:1]}, explain=True).json
    assert "i1" in {each["item_id"] for each in answer["items"]}
    assert all(each["codes"][0] == codes[0] for each in answer["items"])
    assert all({"content", "codes", "history"} <= set(each["explanation"]) for each in answer["items"])


def test_codes_and_similar_items(service: Service, finished: FinishedJob) -> None:
    answer = service.call("POST", "/v1/codes", {"item_ids": ["i1", "nothing"]}).json
    assert answer["items"][0]["codes"] == codes_of(finished.repo, ["i1"])["i1"]
    assert answer["items"][1] == {"item_id": "nothing", "codes": None, "unknown": True}
    import sidkit

    near = service.call("GET", "/v1/items/i1/similar?k=5").json["items"]
    expected = sidkit.open(finished.repo.path).codebook(answer["codebook"]["name"]).similar("i1", 5)
    assert [each["item_id"] for each in near] == expected["item_id"].tolist()


def test_the_open_inference_protocol(service: Service, finished: FinishedJob) -> None:
    name = finished.output["artifacts"]["serving_ranker"]
    assert service.call("GET", "/v2").json["name"] == "sidkit"
    assert service.call("GET", "/v2/health/live").json == {"live": True}
    for model in ("ranker", name):
        metadata = service.call("GET", f"/v2/models/{model}").json
        version = metadata["versions"][0]
        assert service.call("GET", f"/v2/models/{model}/ready").json == {"name": model, "ready": True}
        assert service.call("GET", f"/v2/models/{model}/versions/{version}").json == metadata
    inputs = [
        {"name": "user_id", "shape": [3, 1], "datatype": "BYTES", "data": ["u1", "u2", "u1"]},
        {"name": "item_id", "shape": [3, 1], "datatype": "BYTES", "data": [["i1"], ["i1"], ["i2"]]},
        {"name": "at_us", "shape": [1], "datatype": "INT64", "data": [finished.result.as_of_us]},
    ]
    body = {"id": "42", "inputs": inputs, "outputs": [{"name": "score"}]}
    answer = service.call("POST", "/v2/models/ranker/infer", body).json
    scorer, at_us = Scorer(finished.repo), finished.result.as_of_us
    expected = [*scorer.score("u1", ["i1", "i2"], at_us), *scorer.score("u2", ["i1"], at_us)]
    assert answer["id"] == "42" and [each["name"] for each in answer["outputs"]] == ["score"]
    np.testing.assert_allclose(answer["outputs"][0]["data"], [expected[0], expected[2], expected[1]], atol=1e-7)
    missing = service.call("POST", "/v2/models/other/infer", body)
    assert missing.status == 404 and missing.json["error"] == missing.json["detail"]


BAD = [
    ({"user_id": "u1"}, 422),
    ({"user_id": "u1", "item_ids": []}, 422),
    ({"user_id": "u1", "item_ids": ["i1"], "retrieve": {"by": "popular"}}, 422),
    ({"user_id": "u1", "item_ids": ["i1"], "k": 0}, 422),
    ({"user_id": "u1", "item_ids": ["i1"], "at": "yesterday"}, 422),
    ({"user_id": "u1", "item_ids": ["i1"], "at": "2024-01-01T00:00:00"}, 422),
    ({"user_id": "u1", "item_ids": ["i1"], "at": "2001-01-01T00:00:00Z"}, 422),
    ({"user_id": 1, "item_ids": ["i1"]}, 422),
    ({"user_id": "u1", "item_ids": ["i1"], "more": 1}, 422),
    ({"user_id": "u1", "item_ids": ["i1"] * 5001}, 422),
    ({"user_id": "u1", "retrieve": {"by": "magic"}}, 422),
    ({"user_id": "u1", "retrieve": {"by": "similar", "item_id": "nothing"}}, 422),
    ({"user_id": "u1", "retrieve": {"by": "prefix", "codes": [0] * 9}}, 422),
    ({"user_id": "u1", "retrieve": {"by": "popular", "where": {"colour": "red"}}}, 422),
    ({"user_id": "u1", "retrieve": {"by": "popular", "where": {"price": "cheap"}}}, 422),
    ({"user_id": "u1", "retrieve": {"by": "popular", "where": {"category": {"min": 1}}}}, 422),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b'{"user_id": "\\ud800", "item_ids": ["i1"]}', 400),
    (b'{"user_id": "u1", "context": {"a": ' + b"[" * 100_000, 400),
    (b'{"user_id": "u1", "item_ids": ["' + b"x" * 300_000 + b'"]}', 413),
]


@pytest.mark.parametrize(("body", "status"), BAD, ids=lambda value: str(value)[:60])
def test_a_refusal_says_what_was_expected(service: Service, body: Any, status: int) -> None:
    answer = service.call("POST", "/v1/rank", body)
    assert answer.status == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert problem["status"] == status and problem["request_id"] == answer.headers["x-request-id"]
    assert re.match(r"expected .+, got .+", problem["detail"], re.DOTALL)
    assert not re.search(r"Traceback|SELECT|/tmp/|\.py\b|\.sqlite", answer.text)


TEXTS = st.text(max_size=8) | st.sampled_from(["u1", "i1", "nothing", "\x00", "../../etc/passwd", "' OR 1=1 --"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
WHERE = st.dictionaries(st.sampled_from(["price", "category", "colour"]), VALUES, max_size=2)
RETRIEVE = st.fixed_dictionaries(
    {"by": st.sampled_from(["similar", "prefix", "popular"])},
    optional={
        "item_id": TEXTS, "codes": st.lists(st.integers(-1, 20), max_size=4), "window": st.sampled_from(["7d", "all", "2d"]),
        "limit": st.integers(-1, 1_001), "where": WHERE,
    },
)  # fmt: skip
BODIES = VALUES | st.fixed_dictionaries(
    {"user_id": TEXTS},
    optional={
        "item_ids": st.lists(TEXTS, max_size=5), "retrieve": RETRIEVE, "k": st.integers(-1, 10), "explain": st.booleans(),
        "at": st.sampled_from(["2030-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+14:00", ""]),
        "context": st.dictionaries(TEXTS, VALUES, max_size=2) | st.none(),
    },
)  # fmt: skip


@settings(max_examples=150)
@given(BODIES)
def test_any_body_gets_an_answer_or_a_problem(service: Service, body: Any) -> None:
    answer = service.call("POST", "/v1/rank", body)
    assert answer.status in {200, 400, 422}, (body, answer.text)
    if answer.status == 200:
        assert answer.json["items"] and all(0 <= each["score"] <= 1 for each in answer.json["items"])
    else:
        assert answer.json["detail"].startswith("expected ")


@settings(max_examples=60)
@given(st.sampled_from(["/v1/codes", "/v2/models/ranker/infer"]), VALUES | st.fixed_dictionaries(
    {"inputs": st.lists(st.fixed_dictionaries({
        "name": st.sampled_from(["user_id", "item_id", "at_us", "device"]),
        "shape": st.lists(st.integers(-1, 3), max_size=3),
        "datatype": st.sampled_from(["BYTES", "INT64", "FP32", "TEXT"]),
        "data": st.lists(VALUES, max_size=3),
    }), max_size=4)}
))  # fmt: skip
def test_any_body_of_the_other_paths_gets_an_answer_or_a_problem(service: Service, path: str, body: Any) -> None:
    answer = service.call("POST", path, body)
    assert answer.status in {200, 400, 422}, (body, answer.text)


def test_limits_of_time_and_concurrency(finished: FinishedJob) -> None:
    with running(finished.repo.path, "--timeout", 0.001, "--max-waiting", 1) as service:
        many = {"user_id": "u1", "item_ids": [f"i{number}" for number in range(5000)]}  # longer than the limit by far
        slow = service.rank(**many)
        assert slow.status == 503 and "within 0.001 seconds" in slow.json["detail"]
        assert slow.headers["retry-after"] == "1"
        with ThreadPoolExecutor(8) as clients:
            statuses = set(clients.map(lambda _: service.rank(**many).status, range(40)))
        assert 429 in statuses and statuses <= {200, 429, 503}
        service.wait_until(lambda one: one.call("POST", "/v1/codes", {"item_ids": ["i1"]}).status == 200)


def test_other_paths_and_methods_are_refused_with_a_problem(service: Service) -> None:
    assert service.call("GET", "/nothing").json["status"] == 404
    other = service.call("DELETE", "/v1/rank")
    assert other.status == 405 and "use POST" in other.json["detail"]
    event = {"user_id": "u1", "item_id": "i1", "timestamp": "2024-01-01T00:00:00Z", "label": 1}
    events = service.call("POST", "/v1/events", {"events": [event]})
    assert events.status == 404 and "--tick" in events.json["detail"]


def test_a_request_id_is_returned_and_logged_without_the_user(service: Service) -> None:
    answer = service.call(
        "POST", "/v1/rank", {"user_id": "someone-private", "item_ids": ["i1"]}, X_Request_ID="trace-7"
    )
    assert answer.headers["x-request-id"] == answer.json["request_id"] == "trace-7"
    made = service.call("GET", "/v2", X_Request_ID="no spaces, please").headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", made)
    service.wait_until(lambda one: "trace-7" in one.log.read_text())
    [line] = [json.loads(line) for line in service.log.read_text().splitlines() if "trace-7" in line]
    assert line["route"] == "/v1/rank" and line["status"] == 200 and line["candidates"] == 1
    assert "someone-private" not in service.log.read_text()


def test_metrics_have_stages_and_the_model(service: Service, finished: FinishedJob) -> None:
    service.rank(user_id="u1", item_ids=["i1", "nothing"])
    text = service.call("GET", "/metrics").text
    stages = re.findall(r'sidkit_request_duration_seconds_count{stage="(\w+)"} [1-9]', text)
    assert stages == ["read", "gather", "score", "encode"]
    assert re.search(r"sidkit_rank_duration_seconds_count [1-9]", text)
    name, codebook = finished.output["artifacts"]["serving_ranker"], Path(finished.output["artifacts"]["codebook"]).name
    assert f'sidkit_model_info{{codebook="{codebook}",ranker="{name}"}} 1.0' in text
    assert re.search(r'sidkit_missing_features_total{view="item"} [1-9]', text)
    views = re.findall(r'sidkit_feature_age_seconds{view="(\w+)"} \d', text)
    assert {"item_content", "item_stats", "user_history", "user_stats", f"item_sid_{codebook}"} <= set(views)


def test_the_examples_of_the_description_work(service: Service) -> None:
    document = service.call("GET", "/openapi.json").json
    served = set(document["paths"])
    assert {"/v1/rank", "/v1/codes", "/v1/items/{item_id}/similar", "/v2/models/{name}/infer"} <= served
    for path in ("/v1/rank", "/v1/codes", "/v2/models/{name}/infer"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        schema = {**content["schema"], "components": document["components"]}
        answer_schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        for example in content["examples"].values():
            body = dict(example["value"])
            jsonschema.validate(body, schema)
            if body.get("retrieve", {}).get("by") == "prefix":
                body["retrieve"] = {"by": "prefix", "codes": [0]}
            if "where" in body.get("retrieve", {}):
                body["retrieve"] = {**body["retrieve"], "where": {"price": {"max": 1e9}}}
            body.pop("at", None)
            answer = service.call("POST", path.replace("{name}", "ranker"), body)
            assert answer.status == 200, answer.text
            jsonschema.validate(answer.json, {**answer_schema, "components": document["components"]})


def test_sigterm_ends_it_quietly(finished: FinishedJob) -> None:
    with running(finished.repo.path) as service:
        assert service.rank(user_id="u1", item_ids=["i1"]).status == 200
        assert service.stop() == 0
        assert "Traceback" not in service.log.read_text()
