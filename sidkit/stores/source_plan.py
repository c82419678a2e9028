"""From Feast's definitions to what the as-of join reads: plans of views, SQL and files of their sources."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.file_source import FileSource

from sidkit.engine import literal, quoted
from sidkit.errors import ArtifactMissingError, ConfigError
from sidkit.integrity import checked
from sidkit.stores.asof import ViewPlan
from sidkit.stores.feature_files import FeatureFiles


def plan_view(view: FeatureView, feature_refs: list[str], full_feature_names: bool, repo_path: Path | None) -> ViewPlan:
    """What a view on local Parquet contributes to a retrieval of some features.

    Raises
    ------
    ConfigError
        When the source has columns that differ in case only.
    ArtifactMissingError
        When the source does not exist.
    """
    source = view.batch_source
    asked = [ref.split(":", 1)[1] for ref in feature_refs if ref.startswith(f"{view.projection.name_to_use()}:")]
    prefix = view.projection.name_alias or view.name
    named = {name: f"{prefix}__{name}" if full_feature_names else name for name in asked}
    join_keys = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
    _refuse_look_alikes(source, repo_path, view)
    ttl_us = view.ttl // timedelta(microseconds=1) if view.ttl else None
    timestamp = source.field_mapping.get(source.timestamp_field, source.timestamp_field)
    created = _mapped(source, source.created_timestamp_column)
    times = [timestamp, *([created] if created else [])]
    return ViewPlan(
        name=prefix,
        source=source_sql(source, repo_path, mapped=True),
        keys=tuple((key, view.projection.join_key_map.get(key, key)) for key in join_keys),
        timestamp=timestamp,
        created=created,
        features=tuple(named.items()),
        ttl_us=ttl_us,
        files=FeatureFiles.find(path_of(source, repo_path), source.field_mapping, join_keys, times, asked),
    )


def _refuse_look_alikes(source: FileSource, repo_path: Path | None, view: FeatureView) -> None:
    """DuckDB's names do not tell case, so of two columns that differ in case only it would read the wrong one."""
    names = _file_columns(path_of(source, repo_path))
    alike = [name for name in names if sum(name.lower() == other.lower() for other in names) > 1]
    if alike:
        raise ConfigError(
            f"{source.path}, the source of view {view.name}, has columns that differ in case only: {', '.join(alike)}. "
            "DuckDB cannot tell them apart; rename them"
        )


def _file_columns(path: Path) -> list[str]:
    """The column names of the first Parquet file of a source."""
    first = next(iter(sorted(path.rglob("*.parquet"))), None) if path.is_dir() else path
    return list(pq.read_schema(first).names) if first is not None and first.is_file() else []


def _mapped(source: DataSource, column: str | None) -> str | None:
    return source.field_mapping.get(column, column) if column else None


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
    return checked(path) if path.is_file() else path


def source_sql(source: FileSource, repo_path: Path | None, *, mapped: bool = False) -> str:
    """SQL over the files of a source with the column ``__id``, which grows in file order."""
    path = path_of(source, repo_path)
    pattern = path / "**" / "*.parquet" if path.is_dir() else path
    if not path.exists() and "*" not in str(path):
        raise ArtifactMissingError(
            f"{path}, the source {source.name!r}, does not exist yet. Feature tables come from `sidkit tables build`, "
            "those of codebooks from `sidkit codebooks publish`."
        )
    renames = ""
    if mapped and source.field_mapping:
        listed = ", ".join(f"{quoted(old)} AS {quoted(new)}" for old, new in source.field_mapping.items())
        renames = f" RENAME ({listed})"
    return (
        f"SELECT * EXCLUDE (file_row_number, file_index){renames}, "
        f"file_index::BIGINT * 1099511627776 + file_row_number AS __id "
        f"FROM (SELECT *, file_row_number, file_index FROM read_parquet({literal(pattern)}))"
    )
