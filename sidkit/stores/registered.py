"""Consistency of the registry and the online store with the definitions and the catalogue."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidkit.core.errors import OnlineStoreError
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from feast import FeatureStore

APPLY, MATERIALIZE = "Run `sidkit apply`.", "Run `sidkit apply`, then `sidkit materialize`."
UNREADABLE = "the online store"
"""The ``where`` of a difference that is an error in reading the online store."""
_KINDS = {
    "DATA_SOURCE": "data source",
    "ENTITY": "entity",
    "FEATURE_VIEW": "feature view",
    "ON_DEMAND_FEATURE_VIEW": "on-demand feature view",
    "FEATURE_SERVICE": "feature service",
}


@dataclass(frozen=True)
class Difference:
    """One inconsistent object: where, the problem, and the command that fixes it."""

    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}. {self.remedy}".rstrip(". ") + "."


def differences(repo: Repo) -> list[Difference]:
    """Differences of the registry and packed online store from the definitions; empty before the first apply.

    Raises
    ------
    RepoError
        When the definitions cannot be imported, or the registry is damaged.
    """
    from feast.repo_operations import parse_repo

    from sidkit.stores.feast_repo import imported_as_feast_does, open_store
    from sidkit.stores.registry_check import registry_file

    registry = registry_file(repo)
    if registry is not None and not registry.exists():  # opening the store would create it
        return [Difference(str(registry), "the registry is missing", MATERIALIZE)] if repo.defined.exists() else []
    store = open_store(repo)
    with imported_as_feast_does(repo.path), contextlib.redirect_stdout(io.StringIO()):
        contents = parse_repo(repo.path)
        if not store.list_feature_views() and not any("codebook" in view.tags for view in contents.feature_views):
            return []
        result = list(_of_registry(store, contents))
    codebooks = {view.name for view in contents.feature_views if view.name.startswith("item_sid_")}
    return result + _of_online_store(store, contents.feature_views, codebooks)


def registered_views(repo: Repo, names: Sequence[str]) -> list[str]:
    """Those of some feature views that are in the registry."""
    from sidkit.stores.feast_repo import open_store

    registered = {view.name for view in open_store(repo).list_feature_views()}
    return [name for name in names if name in registered]


def of_codebook(
    repo: Repo, view: str, service: str, content_hash: str, stats: Sequence[str] = (), further: Sequence[str] = ()
) -> list[Difference]:
    """What is missing from the registry and packed online store for a readable codebook.

    Parameters
    ----------
    repo : Repo
    view : str
        Name of the codebook's feature view.
    service : str
        Name of the feature service for rankers on it.
    content_hash : str
        Content hash of its artefact, stored in the view's tags.
    stats : sequence of str
        Names of the views of statistics of its codes. Definitions of older releases have none of them.
    further : sequence of str
        Names of other views of its tables, all of which must be defined.
    """
    from feast.errors import FeatureViewNotFoundException

    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    where = f"feature view {view}"
    try:
        registered = store.get_feature_view(view)
    except FeatureViewNotFoundException:
        return [Difference(where, "the catalogue defines it, but it is missing from the registry", MATERIALIZE)]
    result = []
    if registered.tags.get("codebook_hash") != content_hash:
        result.append(Difference(where, "the registry has it with the hash of another codebook", APPLY))
    if service not in {registered.name for registered in store.list_feature_services()}:
        result.append(
            Difference(
                f"feature service {service}", "the catalogue defines it, but it is missing from the registry", APPLY
            )
        )
    known = {other.name: other for other in store.list_feature_views() if other.name in stats}
    others = {other.name: other for other in store.list_feature_views() if other.name in further}
    for name in further:
        if name not in others:
            missing = "its codebook has a table of it, but it is missing from the registry"
            remedy = "Run `sidkit upgrade --definitions`, `sidkit apply` and `sidkit materialize`."
            result.append(Difference(f"feature view {name}", missing, remedy))
    for name in stats if known else ():
        if name not in known:
            missing = "its codebook has statistics, but it is missing from the registry"
            result.append(Difference(f"feature view {name}", missing, MATERIALIZE))
    return result + _of_online_store(store, [registered, *known.values(), *others.values()], {view})


def _of_registry(store: FeatureStore, contents: Any) -> Iterator[Difference]:
    from feast.diff.registry_diff import diff_between

    store._make_inferences(
        contents.data_sources,
        contents.entities,
        contents.feature_views,
        contents.on_demand_feature_views,
        contents.stream_feature_views,
        contents.feature_services,
        contents.label_views,
    )
    for diff in diff_between(store.registry, store.project, contents).feast_object_diffs:
        kind, change = diff.feast_object_type.name, diff.transition_type.name
        if kind not in _KINDS or change == "UNCHANGED":
            continue
        where = f"{_KINDS[kind]} {diff.name}"
        if change == "CREATE":
            yield Difference(where, "it is defined, but missing from the registry", APPLY)
        elif change == "DELETE":
            yield Difference(where, "it is in the registry, but not defined", APPLY)
        else:
            changed = [part.property_name for part in diff.feast_object_property_diffs if _differs(part)]
            if changed:
                yield Difference(where, f"the registry differs from the definition in {', '.join(changed)}", APPLY)


def _differs(part: Any) -> bool:
    """Whether a property differs in more than the fields that Feast sets itself (times and project)."""
    serialized = []
    for value in (part.val_existing, part.val_declared):
        if not hasattr(value, "CopyFrom"):
            return True
        plain = type(value)()
        plain.CopyFrom(value)
        _clear(plain)
        serialized.append(plain.SerializeToString(deterministic=True))
    return bool(serialized[0] != serialized[1])


def _clear(message: Any) -> None:
    """Clear the fields that Feast sets itself, also in a push source's batch source."""
    for field in ("meta", "project"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    if "batch_source" in message.DESCRIPTOR.fields_by_name and message.HasField("batch_source"):
        _clear(message.batch_source)


def _of_online_store(store: FeatureStore, views: Sequence[Any], codebooks: set[str]) -> list[Difference]:
    """Missing online tables, and empty ones of codebooks."""
    from sidkit.stores.online.store import PackedOnlineStore, view_id

    online = store._get_provider().online_store
    if not isinstance(online, PackedOnlineStore):
        return []
    database, result = online.database(store.config), []
    names = {view_id(store.config, view): view.name for view in views if view.online}
    try:
        if not database.exists():
            return [Difference(database.place, "the online store is missing", MATERIALIZE)]
        with database.reading() as reading:
            existing = set(reading.views())
            for stored, name in names.items():
                if stored not in existing:
                    result.append(Difference(f"feature view {name}", "it has no online table", MATERIALIZE))
                elif name in codebooks and reading.is_empty(stored):
                    result.append(Difference(f"feature view {name}", "its online table is empty", MATERIALIZE))
    except OnlineStoreError as error:
        return [Difference(UNREADABLE, str(error), "")]
    return result
