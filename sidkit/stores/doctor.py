"""Checks of Feast definitions for mistakes that Feast would silently mishandle, before they are applied.

Each check corresponds to a wrong result or a late crash reproduced with Feast 0.67. The checks read the definitions and the
footers of the Parquet files, and rows only if a file lacks statistics.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.core.errors import ContractError, DefinitionsError
from sidkit.core.integrity import checked_files
from sidkit.stores.keys import is_text, is_time
from sidkit.stores.offline.sources import Part, SourceParts, parquet_files

if TYPE_CHECKING:
    from feast import Entity, FeatureView

_STOCK = "duckdb"
_WRONG_STORES = {
    "dask": "drops entity rows that have no feature or are duplicated",
    "file": "is the dask store, which drops entity rows that have no feature or are duplicated",
    "ray": "ignores the TTL, so rows get expired features",
    "spark": "joins two keys as one text, so user 1 with item 11 gets the features of user 11 with item 1",
}
_RESERVED = frozenset({"event_timestamp", "created_timestamp", "entity_row_id", "event_expire_timestamp"})
_EXACT = 2**53
TAG, WAIVED = "sidkit", "waived"
"""Tag of a view whose findings are known and accepted."""


@dataclass(frozen=True)
class Problem:
    """One finding: the rule (``code``), the object, the problem and the remedy.

    A ``warning`` concerns something that sidkit does not own, and does not prevent an apply.
    """

    code: str
    where: str
    problem: str
    remedy: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{'warning: ' if self.warning else ''}{self.where}: {self.problem}. {self.remedy} [{self.code}]"


def refuse(problems: Sequence[Problem], where: Path) -> None:
    """Raise if there are problems besides warnings, naming all of them.

    Raises
    ------
    DefinitionsError
        When there are any.
    """
    if refused := [str(problem) for problem in problems if not problem.warning]:
        raise DefinitionsError(str(where), refused)


def examine(views: Sequence[FeatureView], entities: Sequence[Entity], offline: str, folder: Path) -> list[Problem]:
    """Check definitions and return all problems.

    A finding in a view that is not sidkit's own (:func:`is_own`) is a warning, or nothing if the view has the tag
    ``sidkit: waived``.

    Parameters
    ----------
    views, entities : sequences of FeatureView and Entity
        The repository's definitions.
    offline : str
        ``offline_store.type`` of ``feature_store.yaml``.
    folder : Path
        Path of the repository, against which relative paths are resolved.
    """
    problems = list(_of_store(offline))
    for view in views:
        if (view.tags or {}).get(TAG) == WAIVED:
            continue
        found = [*_of_names(view, offline), *_of_source(view, entities, folder, offline)]
        problems += found if is_own(view) else [_warning(problem) for problem in found]
    return problems


def is_own(view: FeatureView) -> bool:
    """Whether a view is one of the template's, by the tags that the definitions of a repository give it."""
    return "settings_hash" in (view.tags or {})


def unread_features(service: str, features: Iterable[str], read: Iterable[str]) -> list[Problem]:
    """Warn of features of a service that no ranker reads.

    Parameters
    ----------
    service : str
        Name of the feature service.
    features : iterable of str
        Its features by their full names.
    read : iterable of str
        Full names of the features that its rankers read.
    """
    unread = sorted(set(features) - set(read))
    if not unread:
        return []
    remedy = "Train a ranker on them with `sidkit run`, or remove them from features.extra in sidkit.toml."
    return [Problem("unread", f"feature service {service}", f"no ranker reads {', '.join(unread)}", remedy, True)]


def _warning(problem: Problem) -> Problem:
    remedy = f'{problem.remedy} Or set tags={{"{TAG}": "{WAIVED}"}} on the view.'
    return replace(problem, remedy=remedy, warning=True)


def _of_store(offline: str) -> Iterator[Problem]:
    kind = offline.rsplit(".", 1)[-1].lower()
    for name, wrong in _WRONG_STORES.items():
        if kind in {name, f"{name}offlinestore"}:
            yield Problem(
                "offline-store",
                f"offline_store.type {offline}",
                f"this store {wrong}",
                "Use sidkit.stores.spark_offline.ArrowSparkOfflineStore."
                if name == "spark"
                else "Use sidkit.stores.offline.AsofDuckDBOfflineStore, or duckdb.",
            )
            return


def _of_names(view: FeatureView, offline: str) -> Iterator[Problem]:
    where = f"feature view {view.name}"
    source = view.batch_source
    taken = {source.timestamp_field, source.created_timestamp_column or "", *_RESERVED} if source else _RESERVED
    for feature in view.features:
        if feature.name in taken or feature.name.startswith("__"):
            yield Problem(
                "reserved-name",
                where,
                f"the feature name {feature.name!r} is reserved for joins",
                "Rename it, for instance with field_mapping in the source.",
            )
        if offline == _STOCK and feature.name.endswith("_y"):
            yield Problem(
                "ends-in-y",
                where,
                f"Feast's duckdb store loses features whose names end in '_y', such as {feature.name!r}",
                "Rename it, or use sidkit.stores.offline.AsofDuckDBOfflineStore.",
            )
    ttl = view.ttl
    if offline == _STOCK and ttl and sum(map(bool, (ttl.days, ttl.seconds, ttl.microseconds))) > 1:
        yield Problem(
            "mixed-ttl",
            where,
            f"Feast's duckdb store fails on a TTL of days and seconds together, such as {ttl}",
            "Use whole days or less than a day, or use sidkit.stores.offline.AsofDuckDBOfflineStore.",
        )


def _of_source(view: FeatureView, entities: Sequence[Entity], folder: Path, offline: str) -> Iterator[Problem]:
    from feast.infra.offline_stores.file_source import FileSource

    source = view.batch_source
    if not isinstance(source, FileSource):
        return
    where = f"feature view {view.name}, source {source.name}"
    if "spark" in offline.lower():
        yield Problem(
            "not-a-spark-source",
            where,
            "Feast's Spark store reads no FileSource",
            "Run `sidkit upgrade --definitions`, or write it as a SparkSource with the same name.",
        )
    if not source.created_timestamp_column:
        yield Problem(
            "no-created-column",
            where,
            "without a created timestamp column the winner among rows with the same timestamp is arbitrary, and a backfill "
            "leaks into the past",
            "Write the time from which the row was available, and set it as created_timestamp_column.",
        )
    if "://" in source.path:
        return
    path = Path(source.path)
    if not path.is_absolute():
        yield Problem(
            "relative-path",
            where,
            f"the path {source.path!r} depends on the working directory",
            "Use Path(__file__).resolve().parent / ... in the definitions.",
        )
        path = folder / path
    files = parquet_files(path)
    if files:
        yield from _of_files(view, entities, where, files, offline)


def _of_files(
    view: FeatureView, entities: Sequence[Entity], where: str, files: list[Path], offline: str
) -> Iterator[Problem]:
    source: Any = view.batch_source
    old = {new: name for name, new in source.field_mapping.items()}
    keys = _keys(view, entities)
    fields = [*keys, *view.features]
    declared = {field.name: kind for field in fields if (kind := _declared(field)) is not None}
    try:
        parts = SourceParts.of(source.name, files, source.field_mapping, declared)
    except ContractError as error:
        yield Problem("unreadable", where, error.problem, "Write the file again.")
        return
    for number, column in enumerate(filter(None, (source.timestamp_field, source.created_timestamp_column))):
        yield from _of_time(parts, old.get(column, column), where, needed=number == 0)
    stored = {field.name: old.get(field.name, field.name) for field in fields}
    rounded = _wide_beside_null(files, {name for field, name in stored.items() if _is_wide(parts, field, name)})
    for field in fields:
        name = stored[field.name]
        lacking = [part for part in parts.parts if name not in part.kinds]
        if lacking and (field in keys or len(lacking) == len(parts.parts)):
            yield _missing(where, name, lacking[0])
            continue
        if not parts.alike(field.name):
            yield from _of_unlike(parts, field.name, where, offline)
            continue
        kind = parts.kind(field.name)
        if field.name in declared and not _holds(declared[field.name], kind):
            yield Problem(
                "declared-type",
                where,
                f"{field.name} is declared as {field.dtype}, but the file has {kind}: offline reads would return the file's "
                "type, online reads the declared one",
                "Declare the file's type, or cast the column when writing it.",
            )
        elif name in rounded:
            yield Problem(
                "nullable-64-bit",
                where,
                f"{field.name} has nulls and numbers beyond 2^53, which Feast rounds on materialization",
                "Fill the nulls, or write the column as text and declare String.",
            )


def _of_time(parts: SourceParts, column: str, where: str, *, needed: bool) -> Iterator[Problem]:
    lacking = [part for part in parts.parts if column not in part.kinds]
    if lacking and (needed or len(lacking) == len(parts.parts)):
        yield _missing(where, column, lacking[0])
        return
    for kind in dict.fromkeys(part.kinds[column] for part in parts.parts if column in part.kinds):
        if not (is_time(kind) or is_text(kind) or pa.types.is_null(kind)):
            yield Problem(
                "no-time",
                where,
                f"the timestamp column {column} has type {kind}",
                "Write it as timestamp[us, UTC]: the unit of a number is unknown.",
            )
        elif pa.types.is_timestamp(kind) and kind.unit == "ns":
            yield Problem(
                "nanosecond-times",
                where,
                f"the timestamp column {column} has nanoseconds, which DuckDB 2 cannot cast and Feast truncates",
                "Write it as timestamp[us, UTC], for instance with .astype('datetime64[us, UTC]').",
            )


def _of_unlike(parts: SourceParts, column: str, where: str, offline: str) -> Iterator[Problem]:
    """Check a column that has different types in several files, or is missing from some."""
    if offline == _STOCK:
        yield Problem(
            "unlike-files",
            where,
            f"{column} has different types in several files, and Feast's duckdb store reads all of them as the first one",
            "Write all files with one type, or use sidkit.stores.offline.AsofDuckDBOfflineStore.",
        )
        return
    try:
        parts.verify(column)
    except ContractError as error:
        yield Problem("unlike-files", where, error.problem, "Then run `sidkit doctor` again.")


def _keys(view: FeatureView, entities: Sequence[Entity]) -> list[Any]:
    """Join keys as fields; a view knows its own only after it was applied."""
    from feast import Field, ValueType
    from feast.types import from_value_type

    return [
        Field(name=entity.join_key, dtype=from_value_type(entity.value_type))
        for entity in entities
        if entity.name in view.entities and entity.value_type != ValueType.UNKNOWN
    ]


def _missing(where: str, column: str, part: Part) -> Problem:
    return Problem(
        "missing-column",
        where,
        f"expected the column {column} in {part.path.name}, got {', '.join(part.schema.names)}",
        "Write the column, or correct its name in the definitions.",
    )


def _declared(field: Any) -> pa.DataType | None:
    """Arrow type of a Feast field, or None if Feast has none."""
    from feast.types import from_feast_to_pyarrow_type

    try:
        return from_feast_to_pyarrow_type(field.dtype)
    except (ValueError, KeyError, TypeError):
        return None


def _holds(declared: pa.DataType, kind: pa.DataType) -> bool:
    """Whether every value of a file's type is a value of the declared type."""
    if pa.types.is_dictionary(kind):
        return _holds(declared, kind.value_type)
    if pa.types.is_null(kind):
        return True
    if pa.types.is_list(declared):
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return bool(listed and _holds(declared.value_type, kind.value_type))
    for family in (pa.types.is_integer, pa.types.is_floating):
        if family(declared):
            signed = pa.types.is_unsigned_integer(kind) and pa.types.is_signed_integer(declared)
            return bool(family(kind) and kind.bit_width + signed <= declared.bit_width)
    for same in (
        (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary),
        (pa.types.is_timestamp,),
        (pa.types.is_boolean,),
    ):
        if any(test(declared) for test in same):
            return any(test(kind) for test in same)
    return True


def _is_wide(parts: SourceParts, field: str, name: str) -> bool:
    """Whether a field, stored in a column of this name, has integers of 64 bits in all files that have it."""
    if not any(name in part.kinds for part in parts.parts) or not parts.alike(field):
        return False
    kind = parts.kind(field)
    return bool(pa.types.is_integer(kind) and kind.bit_width == 64)


def _wide_beside_null(files: Sequence[Path], columns: Collection[str]) -> set[str]:
    """The columns, of integers, that have both nulls and numbers beyond 2^53."""
    null, wide = set[str](), set[str]()
    for path in checked_files(files) if columns else ():
        with pq.ParquetFile(path) as opened:
            metadata = opened.metadata
            names = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
            for group, column in itertools.product(range(metadata.num_row_groups), set(columns) & set(names)):
                statistics = metadata.row_group(group).column(names.index(column)).statistics
                if statistics is not None and statistics.has_min_max and statistics.has_null_count:
                    nulls, ends = statistics.null_count, (statistics.min, statistics.max)
                else:
                    values = opened.read_row_group(group, columns=[column]).column(0)
                    nulls, ends = values.null_count, tuple(pc.min_max(values).as_py().values())
                if nulls:
                    null.add(column)
                if max(abs(int(end or 0)) for end in ends) > _EXACT:
                    wide.add(column)
    return null & wide
