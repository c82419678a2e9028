"""The page for people at ``/``, and the routes that it reads."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import cache, partial
from importlib.resources import files
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from sidkit.core.clock import iso
from sidkit.core.repo import Repo
from sidkit.serve.model import ServingModel
from sidkit.serve.options import ServeOptions
from sidkit.serve.page_bodies import About, DescribeAnswer, DescribeRequest, HistoryAnswer, HistoryItem, UsersAnswer
from sidkit.serve.people import People, users_path
from sidkit.serve.problems import RequestError, decoded
from sidkit.serve.responses import integer, json_response

Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/page/render.js": ("render.js", "text/javascript; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
}
"""Path -> file and media type. They hold no data, so they need no token."""
WITH_PICTURES = "pictures"
"""Query parameter of the page: with ``on``, the browser may load pictures from other hosts."""
_MOST_USERS = 100
_LONGEST_HISTORY = 1_000
_LONGEST_ID = 1_024


class Apart(Protocol):
    """Runs work in a thread of its own."""

    def __call__(self, work: Callable[[], Result]) -> Awaitable[Result]:
        """Return the result of the work."""


class PageRoutes:
    """Handlers of the page.

    Parameters
    ----------
    options : ServeOptions
    model : callable
        Returns the model that serves, or raises.
    apart : callable
        Runs work beside the thread that scores, within the limits of the service.
    """

    def __init__(
        self,
        options: ServeOptions,
        model: Callable[[], ServingModel],
        apart: Apart,
    ) -> None:
        self._options = options
        self._model = model
        self._apart = apart
        self._people: tuple[ServingModel, int, People] | None = None
        self._making = threading.Lock()

    def handlers(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each route."""
        return [
            *(("GET", path, _file) for path in FILES),
            ("GET", "/v1/about", self._about),
            ("GET", "/v1/users", self._users),
            ("GET", "/v1/users/{user_id:path}/history", self._history),
            ("POST", "/v1/describe", self._describe),
        ]

    def _of(self, model: ServingModel) -> People:
        """What is known of the users and items of a model; made again for another model, or after the tables changed."""
        with self._making:
            repo = Repo.open(self._options.repo)
            written = users_path(repo).stat().st_mtime_ns
            if self._people is None or self._people[0] is not model or self._people[1] != written:
                self._people = (model, written, People(repo, model, self._options.pictures))
            return self._people[2]

    async def _about(self, _: Request) -> Response:
        model = self._model()
        return json_response(await self._apart(partial(self._facts, model)))

    def _facts(self, model: ServingModel) -> About:
        people = self._of(model)
        return About(
            ranker=model.ranker,
            codebook=model.codebook,
            target=model.scorer.target,
            calibrated=model.scorer.calibration.calibrated,
            sizes=[int(size) for size in model.scorer.codebook.sizes],
            items=len(model.index),
            users=len(people.users),
            features_until=iso(model.key.until_us),
            titles=any(title is not None for title in model.index.titles),
            pictures=people.pictures,
            context=list(model.scorer.ranker.config.schema.context),
        )

    async def _users(self, request: Request) -> Response:
        model, most = self._model(), integer(request, "limit", 10, _MOST_USERS)
        prefix = request.query_params.get("prefix", "")
        if len(prefix) > _LONGEST_ID:
            raise RequestError(422, f"a prefix of at most {_LONGEST_ID:,} letters", "a longer one", "shorten it")
        users = await self._apart(lambda: self._of(model).users.starting_with(prefix, most))
        return json_response(UsersAnswer(prefix, users))

    async def _history(self, request: Request) -> Response:
        model, most = self._model(), integer(request, "limit", 50, _LONGEST_HISTORY)
        work = partial(self._history_of, model, request.path_params["user_id"], most)
        return json_response(await self._apart(work))

    def _history_of(self, model: ServingModel, user_id: str, most: int) -> HistoryAnswer:
        people = self._of(model)
        known, items, times = people.history(user_id)
        described = people.described(items[:most])
        moments = [iso(at_us) for at_us in times[:most]]
        return HistoryAnswer(
            user_id, known, len(items), [HistoryItem(*each) for each in zip(moments, described, strict=True)]
        )

    async def _describe(self, request: Request) -> Response:
        body = decoded(await request.body(), DescribeRequest)
        assert isinstance(body, DescribeRequest)
        model = self._model()
        described = await self._apart(lambda: self._of(model).described(body.item_ids))
        return json_response(DescribeAnswer(described))


async def _file(request: Request) -> Response:
    """A file of the page; the browser may load nothing but it, unless the person allows pictures of other hosts."""
    name, media = FILES[request.url.path]
    pictures = " https:" if request.query_params.get(WITH_PICTURES) == "on" else ""
    return Response(
        _content(name),
        headers={
            "content-type": media,
            "content-security-policy": (
                f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:{pictures}; connect-src "
                "'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
            ),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        },
    )


@cache
def _content(name: str) -> bytes:
    return files("sidkit.serve").joinpath("static", name).read_bytes()
