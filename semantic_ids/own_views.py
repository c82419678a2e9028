"""Own feature views of a repository: those that ``features.extra`` names, for the definitions of feature services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sidkit.core.errors import ConfigError
from sidkit.stores.on_demand import ROW_TIME


def own_views(extra: Iterable[str], imported: Mapping[str, Any], built_in: Iterable[str]) -> dict[str, list[Any]]:
    """Look up the views of ``features.extra`` and group them by the keys that they need.

    Parameters
    ----------
    extra : iterable of str
        Features as ``view:feature``.
    imported : mapping
        Variables of ``services.py``; feature views and on-demand views among them are found by their names.
    built_in : iterable of str
        Names of views that are in every service.

    Returns
    -------
    dict
        ``user`` (keyed by the user only), ``item`` (by the item only) and ``context`` (anything else: other or several
        entities, request inputs besides ``at_us``) -> views, each with the named features only.

    Raises
    ------
    ConfigError
        When a view is not imported, lacks a feature, or is in every service anyway.
    """
    wanted: dict[str, list[str]] = {}
    for reference in extra:
        view, _, feature = reference.partition(":")
        wanted.setdefault(view, []).append(feature)
    parts: dict[str, list[Any]] = {"user": [], "item": [], "context": []}
    known = {each.name: each for each in imported.values() if hasattr(each, "projection")}
    taken = set(built_in)
    for name, features in wanted.items():
        if name in taken:
            raise ConfigError(
                f"features.extra in sidkit.toml: expected own feature views, got {name}, which every service contains; "
                "remove it"
            )
        if name not in known:
            raise ConfigError(
                f"features.extra in sidkit.toml: expected a feature view {name!r} among the imports of services.py, got "
                f"{', '.join(sorted(known.keys() - taken)) or 'none'}. Add the line `from MODULE import {name}` there, "
                "where MODULE.py in this folder defines it (and the variable has the view's name or another one)"
            )
        parts[_part(known[name], known)].append(_selected(known[name], features))
    return parts


def _selected(view: Any, features: list[str]) -> Any:
    """The view with some of its features; those of a view without a schema are checked by Feast."""
    declared = [feature.name for feature in view.features]
    unknown = [feature for feature in features if declared and feature not in declared]
    if unknown:
        raise ConfigError(
            f"features.extra in sidkit.toml: expected features of {view.name} ({', '.join(declared)}), got "
            f"{', '.join(unknown)}; correct the name, or add a Field to the view's schema"
        )
    return view[features]


def _part(view: Any, known: Mapping[str, Any]) -> str:
    entities = _entities(view, known)
    return next(iter(entities)) if entities in ({"user"}, {"item"}) else "context"


def _entities(view: Any, known: Mapping[str, Any]) -> set[str]:
    """Names of the entities that a view needs; request inputs and other keys count as ``context``."""
    sources = getattr(view, "source_feature_view_projections", None)
    if sources is None:
        return {"context"} if view.projection.join_key_map else set(view.entities)
    needed = {"context"} if view.get_request_data_schema().keys() - {ROW_TIME} else set()
    for name, projection in sources.items():
        source = known.get(projection.name) or known.get(name)
        needed |= {"context"} if source is None or projection.join_key_map else set(source.entities)
    return needed
