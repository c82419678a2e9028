"""What every request passes: its id, the bearer token, the limit of its body, and the access log."""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import msgspec

from sidkit.serve.options import is_loopback, name_in
from sidkit.serve.page import FILES
from sidkit.serve.problems import RequestError, internal, problem_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from sidkit.serve.bodies import Problem
    from sidkit.serve.metrics import Metrics

_ACCESS = logging.getLogger("sidkit.serve.access")
_LOG = logging.getLogger("sidkit.serve")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready", *FILES})
"""Paths that need no token: probes, and the files of the page, which asks for the token itself."""


class Gate:
    """The outermost part of the application.

    Parameters
    ----------
    inner : ASGI application
    metrics : Metrics
    token : str, optional
        Bearer token of all requests besides :data:`OPEN_PATHS`.
    max_body_bytes : int
        Larger bodies get status 413.
    hosts : set of str, optional
        Names that ``Host`` may have besides loopback addresses, others get status 421; None: any.
    """

    def __init__(
        self,
        inner: ASGIApp,
        metrics: Metrics,
        token: str | None,
        max_body_bytes: int,
        hosts: frozenset[str] | None = None,
    ) -> None:
        self._inner = inner
        self._metrics = metrics
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._most = max_body_bytes
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"], state["log"] = request_id, {}
        began = time.perf_counter()
        status = 0

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._check_host(headers)
            self._check_token(scope["path"], headers)
            await self._inner(scope, self._limited(headers, receive), answered)
        except Exception as error:  # noqa: BLE001  every error becomes a problem body
            problem = problem_of(error, request_id)
            if problem is None or problem.status >= 500:
                _LOG.error("request %s failed", request_id, exc_info=error)
            if status == 0:
                problem = problem or internal(request_id)
                if scope["path"].startswith("/v2/"):
                    problem = msgspec.structs.replace(problem, error=problem.detail)
                await _send_problem(answered, problem)
        finally:
            seconds = time.perf_counter() - began
            self._log(scope, status, seconds, request_id)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        given = headers.get(b"host")
        if self._hosts is None or given is None:  # browsers always send it
            return
        name = name_in(given.decode("latin-1"))
        if name not in self._hosts and not is_loopback(name):
            raise RequestError(
                421,
                "a name of this service in the header Host, such as localhost",
                repr(name[:100]),
                "use the address that the service printed, or start it with --allowed-host NAME",
            )

    def _check_token(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self._expected is None or path in OPEN_PATHS:
            return
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            raise RequestError(
                401, "the bearer token of the service", "another one or none", "send it as Authorization: Bearer TOKEN"
            )

    def _limited(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """The body, refused once it is longer than the limit, whatever its headers say."""
        stated = headers.get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > self._most:
            raise self._too_large()
        seen = 0

        async def limited() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> RequestError:
        return RequestError(413, f"a body of at most {self._most:,} bytes", "a longer one", "send fewer candidates")

    def _log(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = scope["state"].get("route", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 3),
            **scope["state"]["log"],
        }
        _ACCESS.info(json.dumps(line))


async def _send_problem(send: Send, problem: Problem) -> None:
    body = msgspec.json.encode(problem)
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if problem.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if problem.status in {429, 503}:
        headers.append((b"retry-after", b"1"))
    if problem.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
