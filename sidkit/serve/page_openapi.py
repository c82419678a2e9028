"""The part of the description (OpenAPI) about the page for people and the routes that it reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidkit.serve import page_bodies
from sidkit.serve.page import FILES

KINDS = [
    page_bodies.About, page_bodies.UsersAnswer, page_bodies.HistoryAnswer, page_bodies.DescribeRequest,
    page_bodies.DescribeAnswer,
]  # fmt: skip
_TEXT = {"type": "string"}
_ITEM = {"item_id": "i1", "title": "Toy Story", "category": "film", "codes": [17, 3, 8]}


def page_paths(
    operation: Callable[..., dict[str, Any]],
    parameter: Callable[[str, str, dict[str, Any]], dict[str, Any]],
    plain: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
    """The paths, built with the given makers of operations, parameters and operations without a schema."""
    names = {"/": "The page for people."}
    paths: dict[str, Any] = {
        path: {"get": plain(names.get(path, f"{name}, a file of the page."), media.partition(";")[0])}
        for path, (name, media) in FILES.items()
    }
    paths["/"]["get"]["parameters"] = [
        parameter("pictures", "query", {"type": "string", "enum": ["on"]}),
    ]
    return paths | {
        "/v1/about": {"get": operation("What serves, and what is known of the items.", None, "About")},
        "/v1/users": {
            "get": operation(
                "Users whose ids start with a prefix.",
                None,
                "UsersAnswer",
                None,
                {"prefix": "u1", "users": [{"user_id": "u1", "clicks": 12}, {"user_id": "u17", "clicks": 40}]},
                parameters=[
                    parameter("prefix", "query", {"type": "string", "maxLength": 1024, "default": ""}),
                    parameter("limit", "query", _whole(100, 10)),
                ],
            )
        },
        "/v1/users/{user_id}/history": {
            "get": operation(
                "The history of a user that ranking reads, newest first.",
                None,
                "HistoryAnswer",
                None,
                {
                    "user_id": "u1",
                    "user_known": True,
                    "length": 1,
                    "items": [{"at": "2024-03-01T11:58:00+00:00", "item": _ITEM}],
                },
                parameters=[
                    parameter("user_id", "path", _TEXT),
                    parameter("limit", "query", _whole(1_000, 50)),
                ],
            )
        },
        "/v1/describe": {
            "post": operation(
                "Titles, pictures, categories and codes of items.",
                "DescribeRequest",
                "DescribeAnswer",
                {"two": {"summary": "Two items", "value": {"item_ids": ["i1", "i2"]}}},
                {"items": [_ITEM, {"item_id": "i2", "unknown": True}]},
            )
        },
    }


def _whole(most: int, default: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": most, "default": default}
