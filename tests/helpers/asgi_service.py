"""The service in this process: the same application as under uvicorn, called without a socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.http_service import Answer
from sidkit.serve.app import Application
from sidkit.serve.options import ServeOptions


class InProcess:
    """A running application; calls may come from any thread."""

    def __init__(self, options: ServeOptions) -> None:
        self.application = Application(options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._ended = asyncio.Event()
        self._life: Any = None

    def start(self) -> None:
        self._thread.start()
        started = threading.Event()
        self._life = asyncio.run_coroutine_threadsafe(self._live(started), self._loop)
        assert started.wait(120)

    async def _live(self, started: threading.Event) -> None:
        async with self.application._lifespan(None):
            started.set()
            await self._ended.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._life.result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, query: bytes = b""
    ) -> Answer:
        """Send one request; a body that is no bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return asyncio.run_coroutine_threadsafe(
            self._call(method, path, data, headers or {}, query), self._loop
        ).result(120)

    def rank(self, **body: Any) -> Answer:
        return self.call("POST", "/v1/rank", body)

    def look(self) -> bool:
        """Look for another model now; whether one was loaded."""
        return self.application.holder.refresh()

    def wait_until_ready(self) -> None:
        end = time.monotonic() + 120
        while self.call("GET", "/v2/health/ready").status != 200:
            assert time.monotonic() < end
            time.sleep(0.02)

    async def _call(self, method: str, path: str, body: bytes, headers: Mapping[str, str], query: bytes) -> Answer:
        sent: list[Any] = []
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            return next(messages, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode("utf-8", "replace"), "query_string": query, "root_path": "",
            "headers": [(name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
                        for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip
        await self.application.asgi(scope, receive, send)
        named = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
        return Answer(sent[0]["status"], named, text)


@contextmanager
def in_process(repo: Path, **options: Any) -> Iterator[InProcess]:
    """Serve a repository for the duration of the block."""
    service = InProcess(ServeOptions(repo=str(repo), **{"poll_seconds": 3600.0, **options}))
    service.start()
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()
