"""Answers to pushed events and items: they are checked and queued; the process that ticks does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from sidkit.core.errors import ArtifactMissingError, ContractError, StorageError
from sidkit.core.repo import Repo
from sidkit.serve.bodies import EventsRequest, ItemsRequest, PushAnswer, RejectedRow
from sidkit.serve.options import ServeOptions
from sidkit.serve.problems import RequestError
from sidkit.tables.push import PushReport, push_events, push_items

_EVENT_TYPES = {
    "user_id": pa.string(),
    "item_id": pa.string(),
    "timestamp": pa.string(),
    "label": pa.int8(),
    "request_id": pa.string(),
    "position": pa.int32(),
    "converted": pa.int8(),
    "query": pa.string(),
    "rating": pa.float64(),
}


def pushed_events(options: ServeOptions, body: EventsRequest) -> PushAnswer:
    """Check and queue events.

    Raises
    ------
    RequestError
        With status 404 when the service takes none, 422 when a column cannot be converted.
    """
    repo = _repo_of(options)
    columns = {
        name: pa.array([getattr(event, name) for event in body.events], kind) for name, kind in _EVENT_TYPES.items()
    }
    further = [event.context or {} for event in body.events]
    known = set(repo.settings.features.context)
    columns |= _further(further, [name for name in _names(further) if name not in columns], known)
    return _answer(_checked(lambda: push_events(repo, pa.table(columns))))


def pushed_items(options: ServeOptions, body: ItemsRequest) -> PushAnswer:
    """Check and queue items.

    Raises
    ------
    RequestError
        With status 404 when the service takes none, 422 when a column is unknown or cannot be converted.
    """
    repo = _repo_of(options)
    columns = {
        "item_id": pa.array([item.item_id for item in body.items], pa.string()),
        "created_at": pa.array([item.created_at for item in body.items], pa.string()),
    }
    attributes = [item.attributes or {} for item in body.items]
    vectors = [item.vectors or {} for item in body.items]
    modalities = set(repo.settings.source.modalities)
    if taken := sorted({*columns, *modalities} & {*_names(attributes)}):
        raise RequestError(
            422, "attributes besides the item's own members and vectors", taken[0], "remove it from attributes"
        )
    columns |= _further(attributes, _names(attributes), None)
    columns |= _further(vectors, _names(vectors), modalities)
    return _answer(_checked(lambda: push_items(repo, pa.table(columns))))


def _repo_of(options: ServeOptions) -> Repo:
    if options.tick_seconds is None:
        raise RequestError(
            404,
            "a service that takes events and items",
            "one that does not",
            "start it with `sidkit serve --tick 0.25`",
        )
    return Repo.open(options.repo)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _further(rows: Sequence[Mapping[str, Any]], names: Sequence[str], known: set[str] | None) -> dict[str, pa.Array]:
    columns = {}
    for name in names:
        if known is not None and name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise RequestError(422, f"values of known columns ({listed})", repr(name[:100]), "remove it")
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise RequestError(
                422, f"values of one type in {name[:100]!r}", "several types", "give every row a value of the same type"
            ) from error
    return columns


def _checked(push: Callable[[], PushReport]) -> PushReport:
    try:
        return push()
    except ContractError as error:
        raise RequestError(422, "rows of the input contract", f"an error ({error})", "correct them") from error
    except (StorageError, ArtifactMissingError) as error:
        raise RequestError(
            503,
            "a log and a disk that take rows",
            "an error, which the log of the service shows",
            "send them again later",
        ) from error


def _answer(report: PushReport) -> PushAnswer:
    rejected = [RejectedRow(each.row, each.reason) for each in report.rejected]
    return PushAnswer(report.accepted, report.duplicates, rejected)
