"""Errors of requests as problem bodies (RFC 9457); they contain no path, trace or SQL."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from sidkit.core.errors import ArtifactError, ConfigError, OnlineStoreError, RepoError, ServingError, TimeError
from sidkit.core.pickled_errors import PickledError
from sidkit.serve.bodies import Problem


class RequestError(PickledError, Exception):
    """A request that is refused.

    Parameters
    ----------
    status : int
        HTTP status.
    expected, got, remedy : str
        The parts of the message.
    """

    def __init__(self, status: int, expected: str, got: str, remedy: str) -> None:
        self.status = int(status)
        self.expected, self.got, self.remedy = expected, got, remedy
        super().__init__(f"expected {expected}, got {got}; {remedy}")

    def problem(self, request_id: str) -> Problem:
        """The body of the answer."""
        title = HTTPStatus(self.status).phrase
        return Problem(
            title, self.status, str(self), request_id, expected=self.expected, got=self.got, remedy=self.remedy
        )


def problem_of(error: Exception, request_id: str) -> Problem | None:
    """The problem body of an error; None for an error that the request did not cause."""
    if isinstance(error, RequestError):
        return error.problem(request_id)
    if isinstance(error, ServingError | TimeError):
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), request_id)
    if isinstance(error, OnlineStoreError):
        return RequestError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "an online store that can be read",
            "an error, which the log of the service shows",
            "try again later; if it stays, run `sidkit apply` and `sidkit materialize`",
        ).problem(request_id)
    if isinstance(error, ArtifactError | RepoError):
        return RequestError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "tables and artefacts that can be read",
            "an error, which the log of the service shows with the file and the command that rebuilds it",
            "rebuild it, and try again",
        ).problem(request_id)
    if isinstance(error, ConfigError):
        return RequestError(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "feature definitions that work",
            "an error, which the log of the service shows",
            "correct them",
        ).problem(request_id)
    return None


def internal(request_id: str) -> Problem:
    """The body for an error of the service itself."""
    return RequestError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "an answer",
        "an error of the service, which its log shows with this request id",
        "report it",
    ).problem(request_id)


def decoded(body: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """Decode a JSON body.

    Raises
    ------
    RequestError
        With status 400 when it is no JSON, 422 when it is not of the kind.
    """
    try:
        value: msgspec.Struct = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message = str(error)
        raise RequestError(
            422, f"the members of {kind.__name__}", _shown(message), "correct that member; /openapi.json describes all"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            400, "a body in JSON", _shown(str(error)), "send a JSON object, with Content-Type: application/json"
        ) from error
    _refuse_broken_text(value)
    return value


def _shown(message: str) -> str:
    short = message if len(message) <= 200 else f"{message[:200]} ..."
    return f'an error ("{short}")'


def _refuse_broken_text(value: object) -> None:
    """Lone surrogates, as of ``"\\ud800"``, cannot be looked up or sent back."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise RequestError(
            422, "text in UTF-8", "a lone surrogate", "correct the ids and values of the request"
        ) from error


def _problem(status: HTTPStatus, detail: str, request_id: str) -> Problem:
    return Problem(status.phrase, int(status), detail, request_id)
