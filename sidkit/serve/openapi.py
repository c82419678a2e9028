"""The description of the service (OpenAPI 3.1), from the types of its bodies, with examples."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from sidkit import __version__
from sidkit.serve import bodies, page_openapi

_HASH = "3f1c9a5b7d20e846"
_VERSIONS = {
    "ranker": {"name": "rqkmeans_id_codes_s0", "content_hash": _HASH},
    "codebook": {"name": "rqkmeans", "content_hash": _HASH},
}
_RANK = {
    "given": {"summary": "Given candidates", "value": {"user_id": "u1", "item_ids": ["i1", "i2", "i3"], "k": 2}},
    "similar": {
        "summary": "Items similar to one, of a category",
        "value": {
            "user_id": "u1",
            "retrieve": {"by": "similar", "item_id": "i1", "limit": 200, "where": {"category": ["news", "sport"]}},
            "k": 10,
        },
    },
    "prefix": {
        "summary": "Items whose codes start with 17, 3, with an explanation",
        "value": {"user_id": "u1", "retrieve": {"by": "prefix", "codes": [17, 3]}, "k": 5, "explain": True},
    },
    "popular": {
        "summary": "Popular items below a price, as of a time",
        "value": {
            "user_id": "u1",
            "retrieve": {"by": "popular", "window": "7d", "where": {"price": {"max": 20}}},
            "at": "2024-03-01T12:00:00Z",
        },
    },
}
_RANKED = {
    "request_id": "5d1f6c0b9a7e4c21",
    "user_id": "u1",
    "user_known": True,
    **_VERSIONS,
    "at": "2024-03-01T12:00:00+00:00",
    "features_until": "2024-03-01T11:59:00+00:00",
    "target": "clicked",
    "calibrated": True,
    "candidates": 3,
    "items": [{"item_id": "i2", "score": 0.0712}, {"item_id": "i3", "score": 0.0405, "cold": True}],
}
_INFER = {
    "inputs": [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["u1"]},
        {"name": "item_id", "shape": [2], "datatype": "BYTES", "data": ["i1", "i2"]},
    ]
}
_STATUSES = {
    400: "The body is no JSON.",
    401: "The bearer token is missing or wrong.",
    404: "There is no such path, model or version.",
    405: "The path has another method.",
    413: "The body is too long.",
    421: "The header Host has a name that is not the service's.",
    422: "A member is missing or has a wrong value.",
    429: "Too many requests wait.",
    500: "An error of the service.",
    503: "No ranker is loaded, features are too old, or the answer took too long.",
}
_TEXT = {"type": "string"}
_EVENT = {
    "user_id": "u1",
    "item_id": "i2",
    "timestamp": "2026-11-28T12:00:00Z",
    "label": 1,
    "request_id": "r7",
    "position": 3,
}
_EVENTS = {"click": {"summary": "A click", "value": {"events": [_EVENT]}}}
_ITEMS = {
    "one": {
        "summary": "A new item",
        "value": {
            "items": [
                {
                    "item_id": "i900",
                    "created_at": "2026-11-28T12:00:00Z",
                    "attributes": {"title": "A title", "category": "news"},
                    "vectors": {"text": [0.1, 0.2, 0.3]},
                }
            ]
        },
    }
}
_PUSHED = {"accepted": 1, "duplicates": 0, "rejected": []}
_FUTURE = {"row": 1, "reason": "timestamp is in the future"}


@cache
def openapi() -> dict[str, Any]:
    """The document."""
    kinds = [
        bodies.RankRequest, bodies.RankAnswer, bodies.CodesRequest, bodies.CodesAnswer, bodies.SimilarAnswer, bodies.Problem,
        bodies.Ready, bodies.ServerMetadata, bodies.ModelMetadata, bodies.InferRequest, bodies.InferAnswer,
        *page_openapi.KINDS,
        bodies.EventsRequest, bodies.ItemsRequest, bodies.PushAnswer,
    ]  # fmt: skip
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {
        "/v1/rank": {"post": _operation("Rank candidates for a user.", "RankRequest", "RankAnswer", _RANK, _RANKED)},
        "/v1/codes": {
            "post": _operation(
                "Look up the codes of items.",
                "CodesRequest",
                "CodesAnswer",
                {"two": {"summary": "Two items", "value": {"item_ids": ["i1", "i2"]}}},
                {"codebook": _VERSIONS["codebook"], "items": [{"item_id": "i1", "codes": [17, 3, 8]}]},
            )
        },
        "/v1/events": {
            "post": _operation(
                "Add events to the log.", "EventsRequest", "PushAnswer", _EVENTS, {**_PUSHED, "rejected": [_FUTURE]}
            )
        },
        "/v1/items": {"post": _operation("Add new items to the log.", "ItemsRequest", "PushAnswer", _ITEMS, _PUSHED)},
        "/v1/items/{item_id}/similar": {
            "get": _operation(
                "Items similar to one.",
                None,
                "SimilarAnswer",
                None,
                {
                    "codebook": _VERSIONS["codebook"],
                    "item_id": "i1",
                    "items": [{"item_id": "i9", "similarity": 0.91, "codes": [17, 3, 2], "shared_levels": 2}],
                },
                parameters=[
                    _parameter("item_id", "path", _TEXT),
                    _parameter("k", "query", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10}),
                    _parameter("at", "query", {"type": "string", "format": "date-time"}),
                ],
            )
        },
        "/v2": {"get": _operation("The server.", None, "ServerMetadata")},
        "/v2/health/live": {"get": _plain("Whether the process answers.")},
        "/v2/health/ready": {
            "get": {
                **_operation("Whether requests can be answered, with each condition.", None, "Ready"),
                "security": [],
            }
        },
        "/metrics": {"get": _plain("Metrics in the text format of Prometheus.", "text/plain", private=True)},
        "/openapi.json": {"get": _plain("This document.", private=True)},
        **page_openapi.page_paths(_operation, _parameter, _plain),
    }
    for stem, version in (("/v2/models/{name}", False), ("/v2/models/{name}/versions/{version}", True)):
        names = ["name", "version"] if version else ["name"]
        parameters = [_parameter(name, "path", _TEXT) for name in names]
        paths[stem] = {
            "get": _operation("The model's inputs and outputs.", None, "ModelMetadata", parameters=parameters)
        }
        paths[f"{stem}/ready"] = {
            "get": {**_plain("Whether the model can answer.", private=True), "parameters": parameters}
        }
        paths[f"{stem}/infer"] = {
            "post": _operation(
                "Score pairs of users and items.",
                "InferRequest",
                "InferAnswer",
                {"two": {"summary": "Two items of one user", "value": _INFER}},
                parameters=parameters,
            )
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sidkit",
            "version": __version__,
            "description": "Ranks candidates with features from the online store, and looks up semantic IDs.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(
    summary: str,
    takes: str | None,
    gives: str,
    examples: dict[str, Any] | None = None,
    example: Any = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    answer: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{gives}"}}
    if example is not None:
        answer["example"] = example
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": answer}},
            **_problems(),
        },
    }
    if gives == "Ready":
        operation["responses"]["503"] = {"description": "Not ready.", "content": {"application/json": answer}}
    if parameters:
        operation["parameters"] = parameters
    if takes is not None:
        body = {"schema": {"$ref": f"#/components/schemas/{takes}"}, "examples": examples or {}}
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    return operation


def _plain(summary: str, media: str = "application/json", *, private: bool = False) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "The answer.", "content": {media: {}}}, **_problems()},
    }
    return plain if private else {**plain, "security": []}


def _problems() -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {str(status): {"description": text, "content": content} for status, text in _STATUSES.items()}


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}
