"""``[features]`` of ``sidkit.toml``: attributes, context columns and own Feast features that rankers read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from sidkit.core.section import Section

AttributeKind = Literal["category", "categories", "number", "flag", "date", "vector"]
"""How a column becomes a feature.

``category``: one of several values (text or integer). ``categories``: a list of them. ``number``. ``flag``: true or false.
``date``: a point in time, whose age at the row's time is the feature. ``vector``: a list of numbers of fixed length.
"""
ITEM_ATTRIBUTES, USER_ATTRIBUTES = "item_attributes", "user_attributes"
"""Names of the feature views of attributes."""
ITEM_ID = "item_id"
"""The item itself in ``features.affinity``."""
CONTEXT = "context"
"""Prefix of context columns in feature names: ``context__device``."""

WINDOWS = ("1d", "7d", "30d", "all")
"""Windows of trailing counts."""
COUNTS = tuple(f"{event}_{window}" for window in WINDOWS for event in ("exposures", "clicks"))
"""Columns of trailing counts per user."""
OUTCOMES = frozenset({"label", "converted", "rating", "quantity", "dwell_time", "watch_time", "play_time"})
"""Columns of interactions that are known only after the user's reaction, and so are never features."""
_ROW_COLUMNS = frozenset({"sampled", "had_before", "cause"})
_KEYS = frozenset({"user_id", "item_id", "timestamp", "event_timestamp", "created_timestamp", "request_id"})


class FeatureSettings(Section):
    """Features of rankers besides the built-in ones (``[features]``)."""

    items: dict[str, AttributeKind] = Field(default_factory=dict)
    """Columns of ``items`` in the view ``item_attributes``, each with its kind. Remove a line to ignore the column."""
    users: dict[str, AttributeKind] = Field(default_factory=dict)
    """Columns of ``users`` in the view ``user_attributes``, each with its kind."""
    context: dict[str, AttributeKind] = Field(default_factory=dict)
    """Columns of ``interactions`` that are known when a request arrives, such as ``device = "category"``; none by default.
    Scoring then expects them as ``context``."""
    context_waived: tuple[str, ...] = ()
    """Context columns that may predict the label nearly alone; others stop the run above an AUC of 0.9."""
    affinity: tuple[str, ...] = ()
    """Item attributes of kind ``category`` or ``categories`` with trailing counts per user and value, such as the clicks of a
    user on each category (view ``user_<attribute>_stats``). ``item_id`` counts per user and item."""
    extra: tuple[str, ...] = ()
    """Features of your own feature views and on-demand views in this repository, as ``view:feature``."""

    @field_validator("items", "users", "context")
    @classmethod
    def _names_are_usable(cls, columns: dict[str, AttributeKind]) -> dict[str, AttributeKind]:
        for name in columns:
            if not is_attribute_name(name):
                raise ValueError(
                    f"{name[:200]!r} cannot be a feature name: use letters, digits and underscores, starting with a letter, at "
                    "most 100 bytes, not ending in '_y' (Feast drops it), and no key or time of the table; rename the column "
                    "with [source.columns]"
                )
        if len({name.lower() for name in columns}) != len(columns):
            raise ValueError(f"expected distinct columns (ignoring case), got {', '.join(columns)}")
        return columns

    @field_validator("items")
    @classmethod
    def _no_removal(cls, columns: dict[str, AttributeKind]) -> dict[str, AttributeKind]:
        if "removed_at" in columns:
            raise ValueError("removed_at is no feature: it is known only once the item is gone; remove it")
        return columns

    @field_validator("context")
    @classmethod
    def _no_outcomes(cls, columns: dict[str, AttributeKind]) -> dict[str, AttributeKind]:
        known_later = [name for name in columns if name.lower() in OUTCOMES]
        if known_later:
            raise ValueError(
                f"expected columns that are known before the user reacts, got {', '.join(known_later)}; remove it"
            )
        taken = [name for name in columns if name.lower() in _ROW_COLUMNS]
        if taken:
            raise ValueError(
                f"{', '.join(taken)} is a column of the labelled rows or of the log; rename it with [source.columns]"
            )
        if "position" in columns:
            raise ValueError(
                "position is not a feature: it is unknown when items are scored, and it explains clicks that the item did not "
                "earn; remove it"
            )
        return columns

    @field_validator("extra")
    @classmethod
    def _references(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            view, colon, feature = name.partition(":")
            if not (colon and view and feature) or ":" in feature:
                raise ValueError(f'expected "view:feature", got {name!r}')
        if len(set(names)) != len(names):
            raise ValueError("expected each feature once")
        return names

    @model_validator(mode="after")
    def _affinity_is_categorical(self) -> FeatureSettings:
        known = {ITEM_ID} | {name for name, kind in self.items.items() if kind in {"category", "categories"}}
        unknown = [name for name in self.affinity if name not in known]
        if unknown:
            listed = ", ".join(sorted(known - {ITEM_ID})) or "none"
            raise ValueError(
                f"affinity: expected {ITEM_ID} or item attributes of kind category or categories ({listed}), got "
                f"{', '.join(unknown)}"
            )
        if len(set(self.affinity)) != len(self.affinity):
            raise ValueError("affinity: expected each attribute once")
        of_codes = [name for name in self.affinity if name.lower().startswith("code_stats_")]
        if of_codes:
            raise ValueError(
                f"affinity: expected attributes not named like statistics of codes, got {', '.join(of_codes)}; rename the "
                "column with [source.columns]"
            )
        counts = [name for name in self.affinity if name.lower() in COUNTS]
        if counts:
            raise ValueError(
                f"affinity: expected attributes not named like a count, got {', '.join(counts)}; rename the column with "
                "[source.columns]"
            )
        return self

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the feature views, and tables, of attributes and of counts per value."""
        attributes = [name for name, used in ((ITEM_ATTRIBUTES, self.items), (USER_ATTRIBUTES, self.users)) if used]
        return (*attributes, *map(affinity_view, self.affinity))

    @property
    def table_settings(self) -> dict[str, object]:
        """What determines the contents of the attribute tables, as JSON values."""
        return {"items": dict(self.items), "users": dict(self.users), "affinity": list(self.affinity)}


def affinity_view(attribute: str) -> str:
    """Name of the feature view and table of trailing counts per user and value of an item attribute."""
    return f"user_{attribute}_stats"


def is_attribute_name(name: str) -> bool:
    """Whether a column of this name can become a feature."""
    fits = name.isidentifier() and len(name.encode()) <= 100 and not name.startswith("_")
    return fits and not name.lower().endswith("_y") and name.lower() not in _KEYS
