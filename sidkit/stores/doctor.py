"""What Feast would silently get wrong in some definitions, found before they are applied.

Each check of definitions stands for a wrong answer or a late crash that was reproduced with Feast 0.67: the definitions and
the heads of the Parquet files tell, no row is read unless a file lacks statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.core.errors import ContractError, DefinitionsError
from sidkit.core.integrity import checked
from sidkit.stores.keys import is_text, is_time
from sidkit.stores.offline.sources import Part, SourceParts, parquet_files

if TYPE_CHECKING:
    from feast import Entity, FeatureView

_STOCK = "duckdb"
_WRONG_STORES = {
    "dask": "drops entity rows that have no feature or come twice",
    "file": "is the dask store, which drops entity rows that have no feature or come twice",
    "ray": "ignores the TTL, so rows see features that had expired",
}
_RESERVED = frozenset({"event_timestamp", "created_timestamp", "entity_row_id", "event_expire_timestamp"})
_EXACT = 2**53


@dataclass(frozen=True)
class Problem:
    """One finding: which rule (``code``), where, what is wrong and how to mend it."""

    code: str
    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}. {self.remedy} [{self.code}]"


def refuse(problems: Sequence[Problem], where: Path) -> None:
    """Refuse what has problems, naming all of them.

    Raises
    ------
    DefinitionsError
        When there are any.
    """
    if problems:
        raise DefinitionsError(str(where), [str(problem) for problem in problems])


def examine(views: Sequence[FeatureView], entities: Sequence[Entity], offline: str, folder: Path) -> list[Problem]:
    """All problems of some definitions.

    Parameters
    ----------
    views, entities : sequences of FeatureView and Entity
        As the repo defines them.
    offline : str
        ``offline_store.type`` of ``feature_store.yaml``.
    folder : Path
        The repo's folder, to which relative paths are taken.
    """
    found = list(_of_store(offline))
    for view in views:
        found += _of_names(view, offline)
        found += _of_source(view, entities, folder, offline)
    return found


def _of_store(offline: str) -> Iterator[Problem]:
    kind = offline.rsplit(".", 1)[-1].lower()
    for name, wrong in _WRONG_STORES.items():
        if kind in {name, f"{name}offlinestore"}:
            yield Problem(
                "offline-store",
                f"offline_store.type {offline}",
                f"this store {wrong}",
                "Use sidkit.stores.offline.AsofDuckDBOfflineStore, or duckdb.",
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
                f"the feature {feature.name!r} has a name that joins need for themselves",
                "Rename the column, for instance through field_mapping of the source.",
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
            "Take whole days, or seconds under a day, or use sidkit.stores.offline.AsofDuckDBOfflineStore.",
        )


def _of_source(view: FeatureView, entities: Sequence[Entity], folder: Path, offline: str) -> Iterator[Problem]:
    from feast.infra.offline_stores.file_source import FileSource

    source = view.batch_source
    if not isinstance(source, FileSource):
        return
    where = f"feature view {view.name}, source {source.name}"
    if not source.created_timestamp_column:
        yield Problem(
            "no-created-column",
            where,
            "without a created timestamp column which of two rows of one moment wins is up to chance, and a backfill "
            "leaks into the past",
            "Write the moment from which the row could be read, and name it as created_timestamp_column.",
        )
    if "://" in source.path:
        return
    path = Path(source.path)
    if not path.is_absolute():
        yield Problem(
            "relative-path",
            where,
            f"the path {source.path!r} names another file from every working directory",
            "Write Path(__file__).resolve().parent / ... in the definitions.",
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
        yield Problem("unreadable", where, error.problem, "Write it again.")
        return
    for number, column in enumerate(filter(None, (source.timestamp_field, source.created_timestamp_column))):
        yield from _of_time(parts, old.get(column, column), where, needed=number == 0)
    for field in fields:
        name = old.get(field.name, field.name)
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
                f"{field.name} is declared {field.dtype} and the file has {kind}: offline would give what the file has, "
                "online what is declared",
                "Declare what the file has, or cast the column when it is written.",
            )
        elif pa.types.is_integer(kind) and kind.bit_width == 64 and _wide_beside_null(files, name):
            yield Problem(
                "nullable-64-bit",
                where,
                f"{field.name} has nulls beside numbers beyond 2^53, which Feast rounds on the way online",
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
                f"the time {column} is {kind}",
                "Write timestamp[us, UTC]: a number has no known unit.",
            )
        elif pa.types.is_timestamp(kind) and kind.unit == "ns":
            yield Problem(
                "nanosecond-times",
                where,
                f"the time {column} has nanoseconds, which DuckDB 2 cannot cast and Feast cuts off",
                "Write timestamp[us, UTC], for instance with .astype('datetime64[us, UTC]').",
            )


def _of_unlike(parts: SourceParts, column: str, where: str, offline: str) -> Iterator[Problem]:
    """A column that files store as different types, or that some of them lack."""
    if offline == _STOCK:
        yield Problem(
            "unlike-files",
            where,
            f"its files store {column} as different types, and Feast's duckdb store reads all of them as the first one",
            "Write all files with one type, or use sidkit.stores.offline.AsofDuckDBOfflineStore.",
        )
        return
    try:
        parts.verify(column)
    except ContractError as error:
        yield Problem("unlike-files", where, error.problem, "Then run `sidkit doctor` again.")


def _keys(view: FeatureView, entities: Sequence[Entity]) -> list[Any]:
    """The join keys as fields; the view itself knows them only once it was applied."""
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
        f"{part.path.name} lacks {column}; it has {', '.join(part.schema.names)}",
        "Write the column, or correct its name in the definitions.",
    )


def _declared(field: Any) -> pa.DataType | None:
    """The Arrow type of a Feast field, None where Feast knows none."""
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


def _wide_beside_null(files: list[Path], column: str) -> bool:
    """Whether a column holds a null in one row and a number beyond 2^53 in another."""
    null, wide = False, False
    for path in files:
        with pq.ParquetFile(checked(path)) as opened:
            place = opened.schema_arrow.get_field_index(column)
            metadata = opened.metadata
            if metadata.num_columns != len(opened.schema_arrow):  # nested columns shift the places
                names = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
                place = names.index(column)
            for group in range(metadata.num_row_groups):
                told = metadata.row_group(group).column(place).statistics
                if told is not None and told.has_min_max and told.has_null_count:
                    null |= told.null_count > 0
                    wide |= max(abs(int(told.min)), abs(int(told.max))) > _EXACT
                    continue
                values = opened.read_row_group(group, columns=[column]).column(0)
                null |= values.null_count > 0
                bounds = pc.min_max(values)
                wide |= max(abs(bounds["min"].as_py() or 0), abs(bounds["max"].as_py() or 0)) > _EXACT
    return null and wide
