"""Bodies of the answers that the page for people reads."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sidkit.serve.bodies import Id, Version

MOST_DESCRIBED = 1_000
"""The most items of one request for descriptions."""


class About(msgspec.Struct, frozen=True):
    """What serves, and what is known of the items."""

    ranker: Version
    codebook: Version
    target: str
    calibrated: bool
    """Whether scores are rates."""
    sizes: list[int]
    """Codes per level, coarse to fine."""
    items: int
    users: int
    features_until: str
    """Events up to this time are in the materialized features."""
    titles: bool
    pictures: str | None
    """Column with the address of a picture; null if there is none."""
    context: list[str]
    """Values that each ranking request has to bring."""


class KnownUser(msgspec.Struct, frozen=True):
    """A user of the log with the number of positives."""

    user_id: str
    clicks: int


class UsersAnswer(msgspec.Struct, frozen=True):
    """Users whose ids start with a prefix, those with the most clicks first among the first matches by id."""

    prefix: str
    users: list[KnownUser]


class DescribedItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item as people see it."""

    item_id: str
    title: str | None = None
    picture: str | None = None
    """Address of a picture: https, or an embedded image."""
    category: str | None = None
    codes: list[int] | None = None
    unknown: bool = False
    """The item is not in the materialized features."""
    stale: bool = False
    """Its content is newer than its codes."""


class HistoryItem(msgspec.Struct, frozen=True):
    """One positive of the user's history in the online store."""

    at: str
    """Time of the event, ISO 8601."""
    item: DescribedItem


class HistoryAnswer(msgspec.Struct, frozen=True):
    """The history of a user that ranking reads, newest first."""

    user_id: str
    user_known: bool
    length: int
    """Items in the online store, also beyond the limit of the request."""
    items: list[HistoryItem]


class DescribeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Describe items."""

    item_ids: Annotated[list[Id], Meta(min_length=1, max_length=MOST_DESCRIBED)]


class DescribeAnswer(msgspec.Struct, frozen=True):
    """Descriptions in the order of the request."""

    items: list[DescribedItem]
