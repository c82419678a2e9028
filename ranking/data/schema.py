"""The features of a dataset besides the built-in ones: attributes, context, own Feast features, and what derives from them.

Features that a model looks up in a table (categories, lists of categories, vectors) are stored as codes
(:mod:`ranking.data.coded`), all others as columns of ``numeric`` (:mod:`ranking.data.extra_numbers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

from sidkit.core.code_stats import SID_PREFIX
from sidkit.core.errors import ConfigError
from sidkit.core.feature_settings import (
    CONTEXT,
    ITEM_ATTRIBUTES,
    ITEM_ID,
    USER_ATTRIBUTES,
    WINDOWS,
    AttributeKind,
    FeatureSettings,
    affinity_view,
)

Kind = Literal["category", "categories", "vector", "number", "date", "count", "share", "gap"]
"""Attribute kinds, and of derived features: a ``count``, a ``share`` in [0, 1], a ``gap`` in days."""
CODED: frozenset[Kind] = frozenset({"category", "categories", "vector"})
IDENTITY = "item"
"""The item itself as an attribute of which affinities are computed."""
AGES = ("history__age_2_days", "history__age_3_days")
"""Days since the second and third newest positive; the newest is the built-in ``history_gap_days``."""
BUILT_IN_VIEWS = frozenset({"item_content", "item_sid", "item_stats", "user_history", "user_stats"})
"""Views whose features every ranker reads."""
_TYPES: dict[str, Kind] = {
    "String": "category",
    "Bool": "category",
    "Int32": "number",
    "Int64": "number",
    "Float32": "number",
    "Float64": "number",
    "UnixTimestamp": "date",
    "Array(String)": "categories",
    "Array(Int32)": "categories",
    "Array(Int64)": "categories",
    "Array(Float32)": "vector",
    "Array(Float64)": "vector",
}
"""Feast type -> kind, of the user's own features."""


@dataclass(frozen=True)
class ExtraFeature:
    """A feature.

    Attributes
    ----------
    name : str
        Feast's full name (``item_attributes__brand``), ``context__<column>``, or the name of a derived feature.
    kind : str
        See :data:`Kind`.
    view : str
        The view that holds it; ``context`` for a column of the rows; empty for a derived feature.
    of_item : bool
        Whether it is read by the item alone, so that the items of a history have it too.
    of : str
        The feature from which an affinity derives, or with whose values of the candidate the view is read; empty otherwise.
        :data:`IDENTITY` is the item itself, :func:`sidkit.core.code_stats.prefix_column` the prefix of its codes.
    of_kind : str
        Its kind, if it is an attribute of items.
    """

    name: str
    kind: Kind
    view: str = ""
    of_item: bool = False
    of: str = ""
    of_kind: Kind | Literal[""] = ""

    @property
    def is_coded(self) -> bool:
        """Whether a model looks it up in a table."""
        return self.kind in CODED

    @property
    def column(self) -> str:
        """Its name within the view."""
        return self.name.removeprefix(f"{self.view}__")

    @property
    def may_be_missing(self) -> bool:
        """Whether a number may be NaN; a model then reads a flag too."""
        return self.kind in {"number", "date", "gap"}


@dataclass(frozen=True)
class FeatureSchema:
    """The extra features of a dataset or a model, in order; without any, those of releases before 0.2."""

    features: tuple[ExtraFeature, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.features)

    @cached_property
    def numbers(self) -> tuple[ExtraFeature, ...]:
        """Features that are columns of ``numeric``, after the built-in ones."""
        return tuple(each for each in self.features if not each.is_coded)

    @cached_property
    def item_coded(self) -> tuple[ExtraFeature, ...]:
        """Coded features of item versions."""
        return tuple(each for each in self.features if each.is_coded and each.of_item)

    @cached_property
    def item_read(self) -> tuple[ExtraFeature, ...]:
        """Coded features that are read of items: :attr:`item_coded`, then those from which only affinities derive."""
        known = {each.name for each in self.item_coded}
        of = {each.of: each.of_kind for each in self.numbers if each.of_kind and each.of not in known}
        views = ((name, kind, name.partition("__")[0]) for name, kind in of.items())
        return (*self.item_coded, *(ExtraFeature(name, kind, view, of_item=True) for name, kind, view in views if kind))

    @cached_property
    def row_coded(self) -> tuple[ExtraFeature, ...]:
        """Coded features of rows: of users, context, and other keys."""
        return tuple(each for each in self.features if each.is_coded and not each.of_item)

    @cached_property
    def coded(self) -> tuple[ExtraFeature, ...]:
        """All coded features: those of the item, then those of the row."""
        return (*self.item_coded, *self.row_coded)

    @cached_property
    def by_value(self) -> dict[str, str]:
        """Views that are read with the values of the candidate, each with its second key: an item attribute or ``item_id``."""
        named = {each.view: each.of for each in self.numbers if each.view and each.of and not is_prefix(each.of)}
        named = {view: ITEM_ID if of == IDENTITY else of for view, of in named.items()}
        return {view: of.removeprefix(f"{ITEM_ATTRIBUTES}__") for view, of in named.items()}

    @cached_property
    def reads_code_stats(self) -> bool:
        """Whether any feature is read with the prefixes of the candidate's codes."""
        return any(each.view and is_prefix(each.of) for each in self.numbers)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all features."""
        return tuple(each.name for each in self.features)

    @property
    def context(self) -> tuple[str, ...]:
        """Columns of the rows that are features."""
        return tuple(each.column for each in self.features if each.view == CONTEXT)

    def select(self, patterns: Iterable[str]) -> FeatureSchema:
        """The features whose name matches any pattern (``item_attributes__*``), and none that starts with ``!``.

        Patterns that start with ``!`` remove (``!*code_*``); without any other pattern they remove from all features.

        Raises
        ------
        ConfigError
            When a pattern that adds matches none, although there are features.
        """
        chosen = Patterns.of(patterns)
        unused = [
            each for each in chosen.added if each != "*" and not any(fnmatchcase(name, each) for name in self.names)
        ]
        if unused and self.features:
            raise ConfigError(
                f"features: expected patterns that match any of {', '.join(self.names)}, got {', '.join(unused)}; correct them"
            )
        return FeatureSchema(tuple(each for each in self.features if chosen.match(each.name)))

    def as_json(self) -> list[dict[str, Any]]:
        """JSON values for :meth:`of_json`."""
        return [asdict(each) for each in self.features]

    @classmethod
    def of_json(cls, values: Sequence[Mapping[str, Any]]) -> FeatureSchema:
        """Read the values of :meth:`as_json`."""
        return cls(tuple(ExtraFeature(**each) for each in values))


@dataclass(frozen=True)
class Patterns:
    """Patterns of features: a name that any of ``added`` matches and none of ``removed`` is chosen."""

    added: tuple[str, ...]
    removed: tuple[str, ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Patterns:
        """Of the patterns of ``features``: those that start with ``!`` remove; alone, they remove from all features."""
        given = tuple(patterns)
        added = ("*",) if only_removes(given) else tuple(each for each in given if not each.startswith("!"))
        return cls(added, tuple(each[1:] for each in given if each.startswith("!")))

    def match(self, name: str) -> bool:
        """Whether a feature is chosen."""
        return any(fnmatchcase(name, each) for each in self.added) and not any(
            fnmatchcase(name, each) for each in self.removed
        )


def only_removes(patterns: Sequence[str]) -> bool:
    """Whether there are patterns and all of them remove features."""
    return bool(patterns) and all(each.startswith("!") for each in patterns)


def is_prefix(of: str) -> bool:
    """Whether the ``of`` of a feature is a prefix of the candidate's codes."""
    return of.startswith(f"{SID_PREFIX}_")


BUILT_IN = FeatureSchema()
"""The schema without extra features."""


@dataclass(frozen=True)
class ServiceFeatures:
    """Full feature name -> Feast type, of a feature service and of its part that is read by the item alone."""

    all: Mapping[str, str]
    of_item: Mapping[str, str] = field(default_factory=dict)
    view_of: Mapping[str, str] = field(default_factory=dict)
    """Full feature name -> view."""


def schema_of(settings: FeatureSettings, service: ServiceFeatures) -> FeatureSchema:
    """The extra features of a service, with the kinds of ``[features]`` or else of the Feast types.

    Raises
    ------
    ConfigError
        When a feature of the service has a type that no model reads, or an attribute of ``features.affinity`` is missing.
    """
    stated: dict[str, AttributeKind] = {
        **{f"{ITEM_ATTRIBUTES}__{name}": kind for name, kind in settings.items.items()},
        **{f"{USER_ATTRIBUTES}__{name}": kind for name, kind in settings.users.items()},
    }
    features = []
    for name, feast_type in service.all.items():
        view = service.view_of.get(name, name.partition("__")[0])
        if view in BUILT_IN_VIEWS:
            continue
        if name in stated:
            kind = _kind(stated[name])
        elif feast_type in _TYPES:
            kind = _TYPES[feast_type]
        else:
            raise ConfigError(
                f"feature {name} has type {feast_type}, which no ranker reads; expected one of {', '.join(_TYPES)}. Remove it "
                "from features.extra, or change its type"
            )
        features.append(ExtraFeature(name, kind, view, name in service.of_item))
    features += [ExtraFeature(f"{CONTEXT}__{name}", _kind(kind), CONTEXT) for name, kind in settings.context.items()]
    counts = [each for attribute in settings.affinity for each in _counts(attribute, service)]
    return FeatureSchema((*features, *_derived(features), *counts))


def _kind(kind: AttributeKind) -> Kind:
    return "category" if kind == "flag" else kind


def _derived(features: Sequence[ExtraFeature]) -> list[ExtraFeature]:
    """Affinities to the item and its categories, and ages of the last events."""
    kind_of: dict[str, Kind | Literal[""]] = {IDENTITY: ""}
    kind_of |= {each.name: each.kind for each in features if each.of_item and each.kind in {"category", "categories"}}
    derived = []
    for name, of_kind in kind_of.items():
        stem = f"affinity__{name.removeprefix(f'{ITEM_ATTRIBUTES}__')}"
        kinds: tuple[tuple[str, Kind], ...] = (("count", "count"), ("share", "share"), ("gap_days", "gap"))
        derived += [ExtraFeature(f"{stem}_{suffix}", kind, of=name, of_kind=of_kind) for suffix, kind in kinds]
    return [*derived, *(ExtraFeature(name, "gap") for name in AGES)]


def _counts(attribute: str, service: ServiceFeatures) -> list[ExtraFeature]:
    """Trailing counts and rates per user and value of an attribute."""
    view = affinity_view(attribute)
    of = IDENTITY if attribute == ITEM_ID else f"{ITEM_ATTRIBUTES}__{attribute}"
    if of != IDENTITY and of not in service.all:
        raise ConfigError(
            f"features.affinity: expected {of} in the feature service, got none; run `sidkit tables build`, `sidkit apply` and "
            "`sidkit materialize`"
        )
    kinds: tuple[tuple[str, Kind], ...] = (("exposures", "count"), ("clicks", "count"), ("rate", "share"))
    return [ExtraFeature(f"{view}__{stem}_{window}", kind, view, of=of) for window in WINDOWS for stem, kind in kinds]
