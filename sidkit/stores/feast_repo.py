"""Opening, applying and materializing a Feast repository in process, from any working directory."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sidkit.core.clock import from_us
from sidkit.core.engine import quoted
from sidkit.core.errors import CatalogError, ConfigError, RepoError, SidkitError, SidkitWarning, UnknownVersionError
from sidkit.core.redact import scrubbed
from sidkit.core.repo import Repo
from sidkit.stores.quiet_import import quiet_feast

if TYPE_CHECKING:
    from feast import Entity, FeatureService, FeatureStore, FeatureView

_BEGINNING = datetime(1970, 1, 2, tzinfo=UTC)


def open_store(repo: Repo) -> FeatureStore:
    """Open the repository's feature store.

    Raises
    ------
    RepoError
        When the repository is a copy that would read the original's registry or feature tables, or the registry is damaged or
        cannot be reached.
    ConfigError
        When ``feature_store.yaml`` uses an environment variable that is not set.
    """
    quiet_feast()
    from feast import FeatureStore

    from sidkit.stores.offline.retrieve import streams_from
    from sidkit.stores.registry_cache import hold_cached_registries
    from sidkit.stores.registry_check import refuse_damaged_registry
    from sidkit.stores.registry_path import (
        make_registry_private,
        refuse_registry_elsewhere,
        resolve_registry_against_repo,
    )
    from sidkit.stores.services import refuse_unset_variables, registry_errors

    refuse_registry_elsewhere(repo, reads_recorded_paths=False)
    refuse_unset_variables(repo)
    make_registry_private(repo)
    resolve_registry_against_repo()
    hold_cached_registries()
    refuse_damaged_registry(repo)
    with registry_errors(repo):
        store = FeatureStore(repo_path=str(repo.path))
        _ = store.registry  # opens its database
    refuse_registry_elsewhere(repo, reads_recorded_paths=not streams_from(store))
    return store


def feature_service(store: FeatureStore, name: str, *, allow_cache: bool = False) -> FeatureService:
    """Get a feature service from the registry; with ``allow_cache``, as it was when the store was opened or refreshed.

    Raises
    ------
    UnknownVersionError
        When the registry has no service of this name.
    """
    from feast.errors import FeatureServiceNotFoundException

    try:
        return store.get_feature_service(name, allow_cache)
    except FeatureServiceNotFoundException as error:
        known = sorted(service.name for service in store.list_feature_services())
        remedy = "If the repository was moved or its registry was emptied, run `sidkit apply` and `sidkit materialize`"
        raise UnknownVersionError("feature service", name, known, remedy) from error


def apply_repo(repo: Repo) -> str:
    """Apply the definitions like ``feast apply`` and return the printed output.

    The definitions are imported by their bare names, as Feast does, and removed from ``sys.modules`` afterwards, so that
    several repositories can be applied in one process.

    Raises
    ------
    CatalogError
        When the definitions cannot read the list of codebooks; nothing was applied then.
    DefinitionsError
        When Feast would silently mishandle the definitions (:mod:`sidkit.stores.doctor`); nothing was applied then.
    RepoError
        When Feast rejects the definitions.
    ArtifactCorruptError
        When a table whose source is partitioned by day is damaged; nothing was applied then.
    """
    quiet_feast()
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total, parse_repo

    from sidkit.stores.doctor import examine, refuse
    from sidkit.stores.registry_cache import hold_cached_registries
    from sidkit.stores.registry_check import set_damaged_registry_aside
    from sidkit.stores.registry_path import make_registry_private, own_registry, resolve_registry_against_repo
    from sidkit.stores.services import refuse_unset_variables, registry_errors
    from sidkit.stores.source_kinds import forget_other_kinds
    from sidkit.tables.day_partitions import write_days

    refuse_unset_variables(repo)
    with repo.locked_or_held():
        own_registry(repo)
        write_days(repo)  # Feast's Spark store looks for the sources
    resolve_registry_against_repo()
    hold_cached_registries()
    with (
        repo.locked_or_held(),
        imported_as_feast_does(repo.path),
        contextlib.redirect_stdout(printed := io.StringIO()),
        warnings.catch_warnings(),
    ):
        try:
            config = load_repo_config(repo.path, repo.path / "feature_store.yaml")
            # After loading the config: importing Feast's Spark store sets filters.
            warnings.filterwarnings("ignore", ".* is an experimental feature", RuntimeWarning)
            offline = str(getattr(config.offline_store, "type", ""))
            contents = parse_repo(repo.path)
            refuse(problems := examine(contents.feature_views, contents.entities, offline, repo.path), repo.path)
            make_registry_private(repo)
            set_damaged_registry_aside(repo)
            forget_other_kinds(repo, config, contents.data_sources)
            with registry_errors(repo):
                apply_total(config, repo.path, skip_source_validation=True)
        except SidkitError:
            raise
        except SystemExit as error:
            raise RepoError(
                f"feast rejected the definitions of {repo.path}: {scrubbed(printed.getvalue().strip())}"
            ) from error
        except Exception as error:
            raise RepoError(f"feast could not apply {repo.path} ({type(error).__name__}: {scrubbed(error)})") from error
    for problem in (problem for problem in problems if problem.warning):
        warnings.warn(str(problem), SidkitWarning, stacklevel=2)
    return printed.getvalue()


def apply_changed_features(repo: Repo) -> bool:
    """Apply the definitions if ``[features]`` changed since the last apply; return whether it did.

    Raises
    ------
    RepoError
        When the definitions lack views of ``[features]``, because an older release wrote them.
    """
    wanted = repo.settings.features.views
    registered = {view.name: view for view in open_store(repo).list_feature_views()}
    if "item_content" not in registered:
        return False  # publishing a codebook applies the definitions
    known = registered["item_content"].tags.get("features_hash", "")
    if known == repo.settings.features_hash() and registered.keys() >= set(wanted):
        return False
    apply_repo(repo)
    defined = {view.name for view in open_store(repo).list_feature_views()}
    missing = [name for name in wanted if name not in defined]
    if missing:
        raise RepoError(
            f"expected the feature views {', '.join(missing)} of [features] in the definitions of {repo.path}, got none; copy "
            "sources.py, item_views.py, user_views.py and services.py from a new repository (`sidkit init`)"
        )
    return True


def read_definitions(repo: Repo) -> tuple[list[FeatureView], list[Entity], str]:
    """Read the feature views, entities and offline store type of a repository without applying it.

    Raises
    ------
    RepoError
        When the definitions cannot be imported.
    """
    quiet_feast()
    from feast.repo_config import load_repo_config
    from feast.repo_operations import parse_repo

    with imported_as_feast_does(repo.path), contextlib.redirect_stdout(io.StringIO()):
        try:
            config = load_repo_config(repo.path, repo.path / "feature_store.yaml")
            contents = parse_repo(repo.path)
            offline = str(getattr(config.offline_store, "type", ""))
            return list(contents.feature_views), list(contents.entities), offline
        except (CatalogError, ConfigError, RepoError):
            raise
        except Exception as error:
            raise RepoError(f"feast could not read {repo.path} ({type(error).__name__}: {scrubbed(error)})") from error


def materialize(repo: Repo, as_of_us: int, views: list[str] | None = None) -> dict[str, int]:
    """Write the newest row of every key, as of a point in time, to the online store.

    Feast's incremental materialization starts at the previous end, so it misses rows that a late event rebuilt before it, and
    its first run misses logs older than 52 weeks. This function always reads the whole table, and deletes withdrawn rows from
    the packed online store (:mod:`sidkit.tables.withdrawn`), which gets columns as rows (:mod:`sidkit.stores.online.bulk`).

    Parameters
    ----------
    repo : Repo
        An applied repository.
    as_of_us : int
        End time, microseconds UTC, inclusive.
    views : list of str, optional
        Feature views; default: all whose table exists, and own views that ``features.extra`` names.

    Returns
    -------
    dict
        Number of rows (keys) per view; own views are left out if Feast wrote them, which does not count.

    Raises
    ------
    RepoError
        When the registry has no feature view with a table, so that nothing would be written.
    """
    from sidkit.stores.on_demand import own_stored_views
    from sidkit.stores.online.bulk import in_bulk
    from sidkit.stores.online.withdrawn import drop_withdrawn, outdate_withdrawn
    from sidkit.stores.registry_cache import refreshed_once
    from sidkit.tables.online_state import rows_of_build
    from sidkit.tables.withdrawn import forget_withdrawn

    store = open_store(repo)
    names = views if views is not None else [view.name for view in store.list_feature_views()]
    own = own_stored_views(store, repo.settings.features.extra) if views is None else []
    names = [name for name in names if (repo.tables / f"{name}.parquet").exists()]
    if views is None and not names:
        raise RepoError(
            f"nothing to materialize: expected feature views of the tables in {repo.tables} in the registry, got none; run "
            f"`sidkit apply --repo {shlex.quote(str(repo.path))}` first"
        )
    with rows_of_build(repo, as_of_us, views):
        outdated = outdate_withdrawn(store, repo.tables, names)
        all_names, quiet = [*names, *(view.name for view in own if view.name not in names)], io.StringIO()
        with (
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
            refreshed_once(store.registry),
            in_bulk(store) as written,
        ):
            store.materialize(_BEGINNING, from_us(as_of_us), all_names)
        drop_withdrawn(store, outdated)
        forget_withdrawn(repo.tables, names)
    counts = {name: written[name] if name in written else _keys(store, repo, name, as_of_us) for name in names}
    return counts | {view.name: written[view.name] for view in own if view.name in written}


def _keys(store: FeatureStore, repo: Repo, view: str, as_of_us: int) -> int:
    import duckdb

    keys = ", ".join(quoted(column.name) for column in store.get_feature_view(view).entity_columns)
    with duckdb.connect() as opened:
        rows = f"SELECT DISTINCT {keys} FROM read_parquet($path) WHERE epoch_us(event_timestamp) <= $end"
        given = {"path": str(repo.tables / f"{view}.parquet"), "end": as_of_us}
        row = opened.execute(f"SELECT count(*) FROM ({rows})", given).fetchone()
    return int(row[0]) if row else 0


@contextlib.contextmanager
def imported_as_feast_does(folder: Path) -> Iterator[None]:
    """Change into the repository and make its files importable by their bare names; undo both on exit."""
    names = {path.stem for path in folder.glob("*.py")}
    saved = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    working, path, bytecode = Path.cwd(), list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.path_importer_cache.pop(str(folder), None)
    try:
        os.chdir(folder)
        yield
    finally:
        os.chdir(working)
        sys.path[:] = path
        sys.dont_write_bytecode = bytecode
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(saved)


def service_features(store: FeatureStore, service_name: str, *, allow_cache: bool = False) -> dict[str, str]:
    """Map full feature names of a feature service to their Feast types; see :func:`feature_service`."""
    service = feature_service(store, service_name, allow_cache=allow_cache)
    return {
        f"{projection.name_to_use()}__{feature.name}": str(feature.dtype)
        for projection in service.feature_view_projections
        for feature in projection.features
    }
