"""The application: routes, limits of concurrency and time, and the life of the model that serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from sidkit.core.redact import scrubbed
from sidkit.serve import inference_v2
from sidkit.serve.bodies import CodesRequest, EventsRequest, InferRequest, ItemsRequest, RankRequest
from sidkit.serve.gate import Gate
from sidkit.serve.holder import ModelHolder
from sidkit.serve.logs import log_to_stderr
from sidkit.serve.metrics import Metrics
from sidkit.serve.model import ModelLoader, ServingModel, WarmUp
from sidkit.serve.new_items import online_codes, unknown_of, with_codes
from sidkit.serve.openapi import openapi
from sidkit.serve.options import ServeOptions
from sidkit.serve.page import PageRoutes
from sidkit.serve.problems import RequestError, decoded
from sidkit.serve.pushes import pushed_events, pushed_items
from sidkit.serve.ranking import Answers, codes_of, moment, similar_to
from sidkit.serve.responses import integer as _integer
from sidkit.serve.responses import json_response as _json
from sidkit.serve.served_log import ServedLog, open_log
from sidkit.serve.shadow import Shadow, ShadowRequest

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]
_LOG = logging.getLogger("sidkit.serve")
_MOST_SIMILAR = 1_000


class Application:
    """One worker: an ASGI application and the threads behind it. One thread scores, one loads models, one
    answers probes.

    Parameters
    ----------
    options : ServeOptions
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.metrics = Metrics()
        self.holder = ModelHolder(options, self.metrics)
        self._answers = Answers(self.metrics)
        self._shadow: Shadow | None = None
        self._served_log: ServedLog | None = None
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="sidkit-score", initializer=_one_thread)
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="sidkit-load", initializer=_one_thread)
        self._probing = ThreadPoolExecutor(1, thread_name_prefix="sidkit-probe")  # probes do not wait for a model
        self._paging = ThreadPoolExecutor(1, thread_name_prefix="sidkit-page")  # scores do not wait for people
        self._page = PageRoutes(options, lambda: self.holder.model, partial(self._scored, thread=self._paging))
        self._pushing = ThreadPoolExecutor(1, thread_name_prefix="sidkit-push")
        self._waiting = 0
        self._look_now = asyncio.Event()
        self._next_look: asyncio.Future[bool] | None = None
        inner = Router(self._routes(), redirect_slashes=False, default=_not_found, lifespan=self._lifespan)
        self.asgi = Gate(inner, self.metrics, options.token(), options.max_body_bytes, options.hosts())

    def _routes(self) -> list[Route]:
        model = "/v2/models/{name}"
        handlers: list[tuple[str, str, Handler]] = [
            ("POST", "/v1/rank", self._rank),
            ("POST", "/v1/codes", self._codes),
            ("POST", "/v1/events", self._events),
            ("POST", "/v1/items", self._items),
            ("GET", "/v1/items/{item_id:path}/similar", self._similar),
            ("GET", "/v2", self._server),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
            *(
                (method, f"{stem}{end}", handler)
                for stem in (model, f"{model}/versions/{{version}}")
                for method, end, handler in (
                    ("GET", "", self._model),
                    ("GET", "/ready", self._model_ready),
                    ("POST", "/infer", self._infer),
                )
            ),
            ("GET", "/metrics", self._metrics),
            *self._page.handlers(),
            ("GET", "/openapi.json", self._openapi),
        ]
        routes = [Route(path, _named(path, handler), methods=[method]) for method, path, handler in handlers]
        return [*routes, *(Route(path, _OtherMethod(method)) for method, path, _ in handlers)]

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        if self.options.shadow is not None:
            self._shadow = Shadow(
                ModelLoader(self.options.repo, self.options.shadow, self.options.static_bytes), self.metrics
            )
        self._served_log = open_log(self.options, self.metrics)
        if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._look_now.set)
        if self.options.workers > 1:
            # Others answer meanwhile. A worker that took requests before it has a model would refuse them.
            await loop.run_in_executor(self._loading, self.holder.refresh)
        following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            self._loading.shutdown(wait=False, cancel_futures=True)
            self._probing.shutdown(wait=False, cancel_futures=True)
            self._paging.shutdown(wait=False, cancel_futures=True)
            self._pushing.shutdown(wait=True)
            self._scoring.shutdown(wait=True)
            if self._shadow is not None:
                self._shadow.close()
            if self._served_log is not None:
                self._served_log.close()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await loop.run_in_executor(self._loading, self.holder.refresh)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), self.options.poll_seconds)
            self._look_now.clear()

    async def _scored(self, work: Callable[[], Result], thread: ThreadPoolExecutor | None = None) -> Result:
        """Run work in the scoring thread or another one, within the limits of concurrency and time."""
        if self._waiting >= self.options.max_waiting:
            raise RequestError(
                429, f"at most {self.options.max_waiting} requests at a time", "more", "try again later, or add workers"
            )
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(thread or self._scoring, work)
        future.add_done_callback(self._done)
        try:
            return await asyncio.wait_for(asyncio.shield(future), self.options.timeout_seconds)
        except TimeoutError as error:
            raise RequestError(
                503,
                f"an answer within {self.options.timeout_seconds:g} seconds",
                "none yet",
                "send fewer candidates, or try again later",
            ) from error

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # of a request that timed out, nobody else asks for it

    async def _before_replay(self) -> None:
        """Notice a materialization since the last look: what it wrote may be later than the time of the replay.

        Replays that wait for the loading thread share one look, which begins after all of them.
        """
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().run_in_executor(self._loading, self._look)
        look = self._next_look
        try:
            await asyncio.wait_for(asyncio.shield(look), self.options.timeout_seconds)
        except TimeoutError as error:
            raise RequestError(
                503,
                f"the state of the catalogue within {self.options.timeout_seconds:g} seconds, for a replay",
                "none yet",
                "try again later, or send the request without its time",
            ) from error

    def _look(self) -> bool:
        self._next_look = None
        return self.holder.refresh()

    async def _rank(self, request: Request) -> Response:
        with self.metrics.timed_whole():
            body = decoded(await request.body(), RankRequest)
            assert isinstance(body, RankRequest)
            if body.at is not None:
                await self._before_replay()
            model, request_id = self.holder.model, request.state.request_id
            answer, scored = await self._scored(partial(self._answers.rank, model, body, request_id))
            with self.metrics.timed("encode"):
                response = _json(answer)
            request.state.log |= {"candidates": answer.candidates, "ranker": answer.ranker.name}
            self.holder.remember(WarmUp(body.user_id, tuple(scored.item_ids), body.context))
            if self._shadow is not None:
                self._shadow.offer(ShadowRequest(request_id, model.key.ranker, scored, body.context))
            if self._served_log is not None:
                self._served_log.offer(model, request_id, scored, body.k, body.context)
            return response

    async def _codes(self, request: Request) -> Response:
        body = decoded(await request.body(), CodesRequest)
        assert isinstance(body, CodesRequest)
        model = self.holder.model
        answer = codes_of(model, body.item_ids)
        unknown = unknown_of(answer) if self.options.tick_seconds is not None else []
        if unknown:
            answer = with_codes(answer, await self._scored(partial(online_codes, model, unknown)))
        return _json(answer)

    async def _events(self, request: Request) -> Response:
        return _json(await self._pushed(pushed_events, decoded(await request.body(), EventsRequest)))

    async def _items(self, request: Request) -> Response:
        return _json(await self._pushed(pushed_items, decoded(await request.body(), ItemsRequest)))

    async def _pushed(self, push: Callable[[ServeOptions, Any], Result], body: Any) -> Result:
        return await self._scored(partial(push, self.options, body), self._pushing)

    async def _similar(self, request: Request) -> Response:
        most = _integer(request, "k", 10, _MOST_SIMILAR)
        model = self.holder.model
        at_us = moment(request.query_params.get("at"), model)
        work = partial(similar_to, model, request.path_params["item_id"], most, at_us)
        return _json(await self._scored(work))

    async def _server(self, _: Request) -> Response:
        return _json(inference_v2.server_metadata())

    async def _live(self, _: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, _: Request) -> Response:
        loop = asyncio.get_running_loop()
        ready = await loop.run_in_executor(self._probing, self.holder.readiness, _online_problem)
        return _json(ready, 200 if ready.ready else 503)

    async def _model(self, request: Request) -> Response:
        model, name = self._named_model(request)
        return _json(inference_v2.model_metadata(model, name))

    async def _model_ready(self, request: Request) -> Response:
        _, name = self._named_model(request)
        loop = asyncio.get_running_loop()
        ready = await loop.run_in_executor(self._probing, self.holder.readiness, _online_problem)
        return _json({"name": name, "ready": ready.ready}, 200 if ready.ready else 503)

    async def _infer(self, request: Request) -> Response:
        body = decoded(await request.body(), InferRequest)
        assert isinstance(body, InferRequest)
        if any(tensor.name == "at_us" for tensor in body.inputs):
            await self._before_replay()
        model, name = self._named_model(request)
        batches: list[inference_v2.Batch] = []
        answer = await self._scored(partial(inference_v2.infer, self._answers, model, name, body, batches))
        if self._served_log is not None:
            for scored, context in batches:
                self._served_log.offer(model, request.state.request_id, scored, context=context)
        request.state.log |= {"ranker": model.key.ranker}
        return _json(answer)

    def _named_model(self, request: Request) -> tuple[ServingModel, str]:
        model, name = self.holder.model, request.path_params["name"]
        inference_v2.check_model(model, name, request.path_params.get("version"))
        return model, name

    async def _metrics(self, _: Request) -> Response:
        text = await asyncio.get_running_loop().run_in_executor(self._probing, self.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, _: Request) -> Response:
        return _json(openapi())


def create() -> Gate:
    """The application of a worker process, with the options of its parent."""
    log_to_stderr()
    return Application(ServeOptions.from_environment()).asgi


class _OtherMethod:
    """Refuses the methods that a path does not have."""

    def __init__(self, method: str) -> None:
        self._method = method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request."""
        raise RequestError(405, f"the method {self._method} for this path", scope["method"], f"use {self._method}")


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        raise RequestError(404, "a path of /openapi.json", "another one", "correct the path")


def _named(path: str, handler: Handler) -> Handler:
    """The handler, with the path's template as the route of logs and metrics."""

    async def handled(request: Request) -> Response:
        request.state.route = path
        return await handler(request)

    return handled


def _one_thread() -> None:
    """Use one thread of torch: more of them spin on cores that other workers need."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)


def _online_problem(model: ServingModel) -> str:
    """What is wrong with the online store; empty if it answers."""
    some = model.index.ids[:1].tolist()
    try:
        if some and not model.scorer.known(some).any():
            return "has no row of an item of the tables; run `sidkit materialize`"
    except Exception as error:  # noqa: BLE001  whatever a store raises
        _LOG.warning("the online store cannot be read: %s", scrubbed(error))
        return f"cannot be read ({type(error).__name__}), and the log shows why; run `sidkit apply` and `sidkit materialize`"
    return ""
