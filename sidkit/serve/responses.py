"""JSON answers, and whole numbers of queries."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sidkit.serve.problems import RequestError


def json_response(value: Any, status: int = 200) -> Response:
    """An answer with a JSON body."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def integer(request: Request, name: str, default: int, most: int) -> int:
    """A query parameter from 1 to ``most``.

    Raises
    ------
    RequestError
        When the text is another one.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise RequestError(422, f"{name} from 1 to {most:,}", repr(text[:50]), "correct the query")
    return int(text)
