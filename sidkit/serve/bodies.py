"""Bodies of requests and answers; unknown members and wrong types are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sidkit.serve.candidates import MOST_RETRIEVED

MOST_ITEMS = 5_000
"""The most candidates of one request."""
MOST_ROWS = 10_000
"""The most events or items of one request."""
Id = Annotated[str, Meta(min_length=1, max_length=1_024)]
Where = dict[str, str | float | bool | list[str | float | bool] | dict[str, float]]
"""Attribute -> a value, a list of allowed values, or ``{"min": .., "max": ..}`` of a number."""
Limit = Annotated[int, Meta(ge=1, le=MOST_RETRIEVED)]


class Similar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="similar"):
    """Items whose vectors are similar to those of one item."""

    item_id: Id
    limit: Limit = MOST_RETRIEVED
    where: Where | None = None


class Prefix(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="prefix"):
    """Items whose codes start with a prefix, those with the most clicks first."""

    codes: Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(min_length=1, max_length=64)]
    limit: Limit = MOST_RETRIEVED
    where: Where | None = None


class Popular(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="popular"):
    """Items with the most clicks in a window; with ``where``, among those with given attributes."""

    window: Literal["1d", "7d", "30d", "all"] = "7d"
    limit: Limit = MOST_RETRIEVED
    where: Where | None = None


Retrieve = Similar | Prefix | Popular


class RankRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rank candidates for a user: those of ``item_ids``, or those that ``retrieve`` finds."""

    user_id: Id
    item_ids: Annotated[list[Id], Meta(max_length=MOST_ITEMS)] | None = None
    retrieve: Retrieve | None = None
    k: Annotated[int, Meta(ge=1, le=MOST_ITEMS)] | None = None
    """How many of the best items to return; default: all."""
    at: str | None = None
    """Time of the request, ISO 8601 with a time zone, for replays; default: now."""
    context: dict[str, Any] | None = None
    """Values that the request brings, for features that need them: one for all items, or a list of one per item."""
    explain: bool = False
    """Add the codes of each item, and what moved its score."""


class RankedItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A ranked item; a flag that is absent is false."""

    item_id: str
    score: float
    cold: bool = False
    """It had few interactions before."""
    unknown: bool = False
    """The online store has no row for it, so that its score is uninformative."""
    stale: bool = False
    """Its content is newer than its codes."""
    codes: list[int] | None = None
    title: str | None = None
    explanation: dict[str, float] | None = None
    """Group of features -> change of the logit that is due to it."""


class Version(msgspec.Struct, frozen=True):
    """A ranker or codebook with its content hash."""

    name: str
    content_hash: str


class RankAnswer(msgspec.Struct, frozen=True):
    """Ranked items, the best first; all of them were scored by the same ranker on codes of the same codebook."""

    request_id: str
    user_id: str
    user_known: bool
    ranker: Version
    codebook: Version
    at: str
    features_until: str
    """Events up to this time are in the materialized features."""
    target: str
    calibrated: bool
    candidates: int
    items: list[RankedItem]


class CodesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Look up the codes of items."""

    item_ids: Annotated[list[Id], Meta(min_length=1, max_length=MOST_ITEMS)]


class ItemCodes(msgspec.Struct, frozen=True, omit_defaults=True):
    """Codes of an item, coarse to fine; null if it has none."""

    item_id: str
    codes: list[int] | None
    unknown: bool = False
    stale: bool = False


class CodesAnswer(msgspec.Struct, frozen=True):
    """Codes in the order of the request."""

    codebook: Version
    items: list[ItemCodes]


class SimilarItem(msgspec.Struct, frozen=True):
    """An item, the cosine similarity of its vector, its codes, and how many leading codes it shares."""

    item_id: str
    similarity: float
    codes: list[int] | None
    shared_levels: int


class SimilarAnswer(msgspec.Struct, frozen=True):
    """Similar items, the most similar first."""

    codebook: Version
    item_id: str
    items: list[SimilarItem]


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One interaction."""

    user_id: Id
    item_id: Id
    timestamp: Annotated[str, Meta(max_length=64)]
    """When it happened, ISO 8601 with a time zone; not in the future."""
    label: Annotated[int, Meta(ge=0, le=1)]
    """1 for a click or another positive, 0 for an impression without one."""
    request_id: Annotated[str, Meta(max_length=1_024)] | None = None
    position: Annotated[int, Meta(ge=-(2**31) + 1, le=2**31 - 1)] | None = None
    converted: Annotated[int, Meta(ge=0, le=1)] | None = None
    query: Annotated[str, Meta(max_length=10_000)] | None = None
    rating: float | None = None
    context: dict[str, Any] | None = None
    """Values of the columns of ``[features.context]``."""


class EventsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Add events to the log."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=MOST_ROWS)]


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new item."""

    item_id: Id
    created_at: Annotated[str, Meta(max_length=64)]
    """When it came into being, ISO 8601 with a time zone; not in the future."""
    attributes: dict[str, Any] | None = None
    """Further columns of the source's items, such as ``title`` and ``category``."""
    vectors: dict[str, list[float]] | None = None
    """Modality -> vector."""


class ItemsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Add items to the log."""

    items: Annotated[list[Item], Meta(min_length=1, max_length=MOST_ROWS)]


class RejectedRow(msgspec.Struct, frozen=True):
    """A row that was not added: its position in the request, from 0, and the reason."""

    row: int
    reason: str


class PushAnswer(msgspec.Struct, frozen=True):
    """What became of pushed rows: the accepted ones are durable, and online after the next tick."""

    accepted: int
    duplicates: int
    rejected: list[RejectedRow]


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error (RFC 9457, ``application/problem+json``)."""

    title: str
    status: int
    detail: str
    """What was expected, what was given, and how to fix it."""
    request_id: str
    type: str = "about:blank"
    expected: str | None = None
    got: str | None = None
    remedy: str | None = None
    error: str | None = None
    """The detail, where the Open Inference Protocol expects it."""


class Check(msgspec.Struct, frozen=True):
    """One condition of readiness."""

    name: str
    ok: bool
    detail: str


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """Readiness; the service scores nothing that a failed check makes wrong."""

    ready: bool
    checks: list[Check]
    ranker: str | None = None
    codebook: str | None = None


class ServerMetadata(msgspec.Struct, frozen=True):
    """The server (Open Inference Protocol)."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct, frozen=True):
    """A tensor of a model; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    """A model (Open Inference Protocol)."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InputTensor(msgspec.Struct, frozen=True):
    """An input: ``data`` in row-major order, flat or nested."""

    name: str
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1, max_length=2)]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output to return."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct, frozen=True):
    """A request of the Open Inference Protocol; further inputs are the context."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=256)]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestedOutput] | None = None


class OutputTensor(msgspec.Struct, frozen=True):
    """An output."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of the Open Inference Protocol."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
