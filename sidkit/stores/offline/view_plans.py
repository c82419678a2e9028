"""Translation of Feast's definitions to plans of views for the as-of join."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig
from feast.types import from_feast_to_pyarrow_type

from sidkit.core.integrity import checked
from sidkit.stores.keys import declared_or_found
from sidkit.stores.offline.day_files import ALWAYS, Within, is_by_day, parts_within
from sidkit.stores.offline.parquet import FeatureFiles
from sidkit.stores.offline.plan import ViewPlan
from sidkit.stores.registry_path import relocated


def plan_view(
    view: FeatureView,
    feature_refs: list[str],
    full_feature_names: bool,
    repo_path: Path | None,
    within: Within = ALWAYS,
) -> ViewPlan:
    """Plan the retrieval of some features from a view on local Parquet.

    Of a source that sidkit partitioned by day, the days that rows of times ``within`` can see are read.

    Raises
    ------
    ConfigError
        When the source has columns that differ in case only.
    ContractError
        When a file lacks a column, or the types in several files have no common type.
    ArtifactMissingError
        When the source does not exist.
    """
    source = view.batch_source
    requested = [ref.split(":", 1)[1] for ref in feature_refs if ref.startswith(f"{view.projection.name_to_use()}:")]
    prefix = view.projection.name_alias or view.name
    named = {name: f"{prefix}__{name}" if full_feature_names else name for name in requested}
    declared = [column for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
    join_keys = [column.name for column in declared]
    times = [name for name in (time_of(source), time_of(source, created=True)) if name]
    path, ttl_us = path_of(source, repo_path), view.ttl // timedelta(microseconds=1) if view.ttl else None
    parts = parts_within(source.name, path, source.field_mapping, declared_types(view), within.and_before(ttl_us))
    parts.check(join_keys, times, requested)
    key_types = {
        column.name: declared_or_found(column.dtype.to_value_type().name, parts.kind(column.name))
        for column in declared
    }
    return ViewPlan(
        name=prefix,
        source=lambda: parts.sql(key_types, times, requested),
        keys=tuple((key, view.projection.join_key_map.get(key, key)) for key in join_keys),
        timestamp=times[0],
        created=times[1] if len(times) > 1 else None,
        features=tuple(named.items()),
        ttl_us=ttl_us,
        files=FeatureFiles.of(parts, join_keys, times, requested),
        key_types=tuple(key_types.values()),
        by_day=is_by_day(path),
    )


def declared_types(view: FeatureView) -> dict[str, pa.DataType]:
    """Arrow types that a view declares for its keys and features, where Arrow has them."""
    types = {}
    for field in [*view.entity_columns, *view.features]:
        with suppress(ValueError, KeyError, TypeError):
            types[field.name] = from_feast_to_pyarrow_type(field.dtype)
    return types


def declared_of(config: RepoConfig, source: DataSource) -> dict[str, pa.DataType]:
    """Types that the registry's views declare for the columns of a source's files, since Feast does not pass the view.

    Columns with conflicting declarations are omitted.
    """
    from feast import FeatureStore

    types: dict[str, list[pa.DataType]] = {}
    for view in FeatureStore(config=config).list_all_feature_views():
        own_source = getattr(view, "batch_source", None)
        if own_source is not None and own_source.name == source.name:
            stored = {new: old for old, new in source.field_mapping.items()}
            for name, kind in declared_types(view).items():
                types.setdefault(stored.get(name, name), []).append(kind)
    return {name: kinds[0] for name, kinds in types.items() if all(kind == kinds[0] for kind in kinds)}


def time_of(source: DataSource, *, created: bool = False) -> str | None:
    """Name of the event (or created) time column in the table, after the renames of ``field_mapping``.

    Feast expects the table's name; the file's name is accepted too.
    """
    column: str | None = source.created_timestamp_column if created else source.timestamp_field
    if not column or column in source.field_mapping.values():
        return column or None
    return str(source.field_mapping.get(column, column))


def is_local_parquet(source: DataSource | None) -> bool:
    """Whether sidkit's engines can read a source; others are left to Feast's DuckDB store."""
    if not isinstance(source, FileSource) or "://" in source.path:
        return False
    return source.file_format is None or isinstance(source.file_format, ParquetFormat)


def path_of(source: FileSource, repo_path: Path | None) -> Path:
    """Path of a source in the repository's present folder; a relative one is resolved against the repository.

    Raises
    ------
    ArtifactCorruptError
        When it is a table written by sidkit that does not match its manifest.
    """
    path = Path(source.path)
    if not path.is_absolute():
        path = (Path(repo_path) if repo_path else Path.cwd()) / path
    elif repo_path:
        path = relocated(path, Path(repo_path))
    with suppress(OSError):  # an invalid file name
        return checked(path) if path.is_file() else path
    return path
