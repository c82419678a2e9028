"""The features by the prefixes of a candidate's codes: statistics of prefixes, and affinities of the history to them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ranking.data.schema import ExtraFeature, FeatureSchema, Kind, Patterns, is_prefix
from sidkit.core.code_stats import (
    CODE_WINDOWS,
    USER_CODE_WINDOWS,
    code_stats_alias,
    prefix_column,
    user_code_stats_alias,
)

_STATS = "code_stats"
_DEEPEST = 16
ITEM_RATE = f"{_STATS}__item_rate"
"""The item's click rate, smoothed towards that of its deepest prefix; a window follows."""
_PREFIXES = ("code_stats_", "user_code_stats_", "code_affinity_")
_COUNTED: tuple[tuple[str, Kind], ...] = (("exposures", "count"), ("clicks", "count"), ("rate", "share"))
_WITH_CONVERSIONS: tuple[tuple[str, Kind], ...] = (*_COUNTED, ("conversions", "count"))
_AFFINITIES: tuple[tuple[str, Kind], ...] = (("count", "count"), ("share", "share"), ("gap_days", "gap"))


def codebook_of(service_name: str) -> str:
    """Codebook of a rankers' feature service ``ctr_<codebook>``."""
    return service_name.removeprefix("ctr_")


def stats_depths(views: Iterable[str]) -> tuple[int, ...]:
    """Depths of the counts per prefix, ascending, from the names of the views of their service."""
    found = (re.fullmatch(r"code_stats_d(\d+)", view) for view in views)
    return tuple(sorted({int(match[1]) for match in found if match}))


def affinity_depths(schema: FeatureSchema) -> tuple[int, ...]:
    """Depths of the prefixes to which a schema has affinities, ascending."""
    return tuple(
        sorted({int(each.of.rpartition("_")[2]) for each in schema.numbers if is_prefix(each.of) and not each.view})
    )


def names_code_stats(names: Iterable[str]) -> bool:
    """Whether any feature is of the prefixes of codes."""
    return any(name.startswith(_PREFIXES) for name in names)


def family_of(name: str) -> str:
    """The pattern of all features of the same prefixes (``code_stats_d1__*``); the name itself of any other feature."""
    return f"{name.partition('__')[0]}__*" if names_code_stats([name]) else name


def is_code_pattern(pattern: str) -> bool:
    """Whether a pattern of features adds only features of the prefixes of codes."""
    return pattern.lstrip("*").startswith(("code_", "user_code_"))


def may_read_code_stats(patterns: Iterable[str] | None) -> bool:
    """Whether patterns of features (None: all features) can select any feature of the prefixes of codes."""
    chosen = Patterns.of(("*",) if patterns is None else patterns)
    return any(map(chosen.match, code_features(range(1, _DEEPEST + 1), conversions=True).names))


def code_features(depths: Iterable[int], *, conversions: bool) -> FeatureSchema:
    """The features of prefixes of some depths.

    Parameters
    ----------
    depths : iterable of int
        Depths with counts, ascending.
    conversions : bool
        Whether the log has conversions.
    """
    depths = tuple(depths)
    if not depths:
        return FeatureSchema()
    features = []
    for depth in depths:
        view, of = code_stats_alias(depth), prefix_column(depth)
        kinds = _WITH_CONVERSIONS if conversions else _COUNTED
        features += [
            ExtraFeature(f"{view}__{stem}_{window}", kind, view, of=of)
            for window in CODE_WINDOWS
            for stem, kind in kinds
        ]
    deepest = prefix_column(depths[-1])
    features += [ExtraFeature(f"{ITEM_RATE}_{window}", "share", _STATS, of=deepest) for window in CODE_WINDOWS]
    for depth in depths:
        view, of = user_code_stats_alias(depth), prefix_column(depth)
        features += [
            ExtraFeature(f"{view}__{stem}_{window}", kind, view, of=of)
            for window in USER_CODE_WINDOWS
            for stem, kind in _COUNTED
        ]
    for depth in depths:
        stem = f"code_affinity_d{depth}"
        features += [ExtraFeature(f"{stem}__{suffix}", kind, of=prefix_column(depth)) for suffix, kind in _AFFINITIES]
    return FeatureSchema(tuple(features))
