"""From Feast's definitions to what the as-of join reads: plans of views, SQL and files of their sources."""

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
from sidkit.stores.offline.parquet import FeatureFiles
from sidkit.stores.offline.plan import ViewPlan
from sidkit.stores.offline.sources import SourceParts


def plan_view(view: FeatureView, feature_refs: list[str], full_feature_names: bool, repo_path: Path | None) -> ViewPlan:
    """What a view on local Parquet contributes to a retrieval of some features.

    Raises
    ------
    ConfigError
        When the source has columns that differ in case only.
    ContractError
        When a file lacks a column, or files store types that have nothing in common.
    ArtifactMissingError
        When the source does not exist.
    """
    source = view.batch_source
    asked = [ref.split(":", 1)[1] for ref in feature_refs if ref.startswith(f"{view.projection.name_to_use()}:")]
    prefix = view.projection.name_alias or view.name
    named = {name: f"{prefix}__{name}" if full_feature_names else name for name in asked}
    declared = [column for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
    join_keys = [column.name for column in declared]
    times = [name for name in (time_of(source), time_of(source, created=True)) if name]
    parts = SourceParts.find(source.name, path_of(source, repo_path), source.field_mapping, declared_types(view))
    parts.check(join_keys, times, asked)
    key_types = {
        column.name: declared_or_found(column.dtype.to_value_type().name, parts.kind(column.name))
        for column in declared
    }
    return ViewPlan(
        name=prefix,
        source=lambda: parts.sql(key_types, times, asked),
        keys=tuple((key, view.projection.join_key_map.get(key, key)) for key in join_keys),
        timestamp=times[0],
        created=times[1] if len(times) > 1 else None,
        features=tuple(named.items()),
        ttl_us=view.ttl // timedelta(microseconds=1) if view.ttl else None,
        files=FeatureFiles.of(parts, join_keys, times, asked),
        key_types=tuple(key_types.values()),
    )


def declared_types(view: FeatureView) -> dict[str, pa.DataType]:
    """The Arrow types that a view declares for its keys and features, without those that Arrow does not have."""
    found = {}
    for field in [*view.entity_columns, *view.features]:
        with suppress(ValueError, KeyError, TypeError):
            found[field.name] = from_feast_to_pyarrow_type(field.dtype)
    return found


def declared_of(config: RepoConfig, source: DataSource) -> dict[str, pa.DataType]:
    """What the views of the registry declare for the columns of a source's files; Feast pulls rows without saying for which.

    A column for which two views declare different types is left out.
    """
    from feast import FeatureStore

    found: dict[str, list[pa.DataType]] = {}
    for view in FeatureStore(config=config).list_all_feature_views():
        own = getattr(view, "batch_source", None)
        if own is not None and own.name == source.name:
            stored = {new: old for old, new in source.field_mapping.items()}
            for name, kind in declared_types(view).items():
                found.setdefault(stored.get(name, name), []).append(kind)
    return {name: kinds[0] for name, kinds in found.items() if all(kind == kinds[0] for kind in kinds)}


def time_of(source: DataSource, *, created: bool = False) -> str | None:
    """The name of the event (or created) time in the table, that is after the renames of ``field_mapping``.

    Feast takes the table's name; the file's name is taken too.
    """
    column: str | None = source.created_timestamp_column if created else source.timestamp_field
    if not column or column in source.field_mapping.values():
        return column or None
    return str(source.field_mapping.get(column, column))


def is_local_parquet(source: DataSource | None) -> bool:
    """Whether the kit's own engines read a source; others are left to Feast's DuckDB store."""
    if not isinstance(source, FileSource) or "://" in source.path:
        return False
    return source.file_format is None or isinstance(source.file_format, ParquetFormat)


def path_of(source: FileSource, repo_path: Path | None) -> Path:
    """Where a source lies: a relative path is relative to the repo.

    Raises
    ------
    ArtifactCorruptError
        When it is a table of the kit's and differs from its manifest; users' own files are in none.
    """
    path = Path(source.path)
    path = path if path.is_absolute() else (Path(repo_path) if repo_path else Path.cwd()) / path
    with suppress(OSError):  # a name that no disk takes is no file
        return checked(path) if path.is_file() else path
    return path
