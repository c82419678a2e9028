"""The Parquet files of a source: which they are, what they store, and the SQL that reads them as one table.

Names and types of all files are read once, from their footers. A column that every file stores alike keeps its type; one
that files store differently is cast file by file (:mod:`sidkit.stores.offline.part_types`), or the file is refused.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.engine import literal, quoted
from sidkit.core.errors import ArtifactMissingError, ConfigError, ContractError
from sidkit.stores.keys import is_text, is_time
from sidkit.stores.offline.key_sql import key_sql
from sidkit.stores.offline.part_types import cast, common_type, plain, sql_cast, sql_type

_FILES_APART = 2**40
_ROW_NUMBERS = ("file_index", "file_row_number")


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a path (a file, a folder, or a pattern), in the order in which their rows count.

    In a folder, names that begin with a dot or an underscore are no parts of the table, as under Spark and Arrow; the
    suffix may be written in capitals.
    """
    try:
        if path.is_dir():
            return sorted(
                found
                for found in path.rglob("*")
                if found.suffix.lower() == ".parquet"
                and not any(part.startswith((".", "_")) for part in found.relative_to(path).parts)
                and found.is_file()
            )
        if path.is_file():
            return [path]
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return []
        raise
    if "\0" in str(path):
        return []
    pattern = path.relative_to(path.anchor)
    hidden = pattern.name.startswith((".", "_"))
    found = (file for file in Path(path.anchor).glob(str(pattern)) if hidden or not file.name.startswith((".", "_")))
    return sorted(file for file in found if file.is_file())


@dataclass(frozen=True)
class Part:
    """One file: its path and its footer."""

    path: Path
    metadata: pq.FileMetaData

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types."""
        return self.metadata.schema.to_arrow_schema()

    @cached_property
    def kinds(self) -> dict[str, pa.DataType]:
        """Column -> type."""
        return dict(zip(self.schema.names, self.schema.types, strict=True))


@dataclass(frozen=True)
class SourceParts:
    """The files of a source, under the names of the table that it stands for.

    Parameters
    ----------
    source : str
        What errors name.
    parts : tuple of Part
        At least one.
    names : mapping
        Column of the table -> column of the files, where they differ.
    declared : mapping
        Column of the table -> the Arrow type that its feature view declares, where that is known.
    """

    source: str
    parts: tuple[Part, ...]
    names: Mapping[str, str]
    declared: Mapping[str, pa.DataType]

    @classmethod
    def find(
        cls, source: str, path: Path, mapping: Mapping[str, str], declared: Mapping[str, pa.DataType] | None = None
    ) -> SourceParts:
        """Read the footers of a path.

        Parameters
        ----------
        source : str
            What errors name.
        path : Path
            A file, a folder, or a pattern; absolute.
        mapping : mapping
            Column of the files -> column of the table.
        declared : mapping, optional
            Column of the table -> declared type.

        Raises
        ------
        ArtifactMissingError
            When there is no file.
        ContractError
            When a file is no Parquet.
        """
        paths = parquet_files(path)
        if not paths:
            raise ArtifactMissingError(
                f"{path}, the source {source!r}, holds no Parquet file yet or does not exist yet. Feature tables come "
                "from `sidkit tables build`, those of codebooks from `sidkit codebooks publish`."
            )
        return cls.of(source, paths, mapping, declared or {})

    @classmethod
    def of(
        cls, source: str, paths: Sequence[Path], mapping: Mapping[str, str], declared: Mapping[str, pa.DataType]
    ) -> SourceParts:
        """As :meth:`find`, of files that are known."""
        parts = []
        for file in paths:
            try:
                parts.append(Part(file, pq.read_metadata(file)))
            except (OSError, pa.ArrowInvalid) as error:
                raise ContractError(
                    source,
                    f"{file} is no readable Parquet file ({error}). Write it again, or take it out of the folder",
                ) from error
        return cls(source, tuple(parts), {new: old for old, new in mapping.items()}, declared)

    @property
    def partitioned(self) -> bool:
        """Whether a folder's name, such as ``day=3``, is a column to DuckDB."""
        return any("=" in name for part in self.parts for name in part.path.parts)

    def stored(self, column: str) -> str:
        """The name of a column in the files."""
        return self.names.get(column, column)

    def check(self, keys: Iterable[str], times: Sequence[str], features: Iterable[str]) -> None:
        """Refuse what no engine could read rightly.

        Raises
        ------
        ContractError
            When a file lacks a key or the event time, a time is no time, or files store types of one column that have
            nothing in common.
        ConfigError
            When a column is there twice, or differs from another one in case only.
        """
        keys = list(keys)
        for column in dict.fromkeys([*keys, *times, *features]):
            name = self.stored(column)
            for part in self.parts:
                self._refuse_look_alikes(part, name)
                if name not in part.kinds and (column in keys or column in times[:1]):
                    self._lacks(part, name)
            if not any(name in part.kinds for part in self.parts):
                self._lacks(self.parts[0], name)
            if column in times:
                self._refuse_numbers_as_times(column)
            elif self.target(column) is None and not self.alike(column):
                raise ContractError(
                    self.source,
                    f"its files store {name} as {self._told(name)}, which no one type holds. Write all files with one type",
                )

    def _refuse_look_alikes(self, part: Part, name: str) -> None:
        found = [other for other in part.schema.names if other.lower() == name.lower()]
        if len(found) > 1 and found.count(name) == 1:
            raise ConfigError(
                f"{part.path}, of the source {self.source}, has columns that differ in case only: {', '.join(found)}. "
                "DuckDB cannot tell them apart; rename them"
            )
        if len(found) > 1:
            raise ConfigError(f"{part.path}, of the source {self.source}, has the column {name} twice; rename one")

    def _lacks(self, part: Part, name: str) -> None:
        if self._in_folder_names(part, name):
            return
        raise ContractError(
            self.source,
            f"{part.path} lacks the column {name}; it has {', '.join(part.schema.names)}. Write the column, or correct "
            "its name in the definitions",
        )

    def _in_folder_names(self, part: Part, name: str) -> bool:
        return any(folder.startswith(f"{name}=") for folder in part.path.parts)

    def _refuse_numbers_as_times(self, column: str) -> None:
        for part in self.parts:
            kind = part.kinds.get(self.stored(column))
            if kind is None or is_time(kind) or is_text(plain(kind)) or pa.types.is_null(kind):
                continue
            raise ContractError(
                self.source,
                f"{part.path} has the time {self.stored(column)} as {kind}, which has no known unit. Write "
                "timestamp[us, UTC]",
            )

    def _told(self, name: str) -> str:
        told: dict[str, str] = {}
        for part in self.parts:
            told.setdefault(str(part.kinds.get(name, "nothing")), part.path.name)
        return ", ".join(f"{kind} ({path})" for kind, path in told.items())

    def alike(self, column: str) -> bool:
        """Whether every file has a column, with one type that only differs in what changes no value."""
        name = self.stored(column)
        found = {str(plain(part.kinds[name])) if name in part.kinds else None for part in self.parts}
        return len(found) == 1

    def kind(self, column: str) -> pa.DataType:
        """The type of a column: what its files store alike, or the one to which they are cast."""
        name = self.stored(column)
        if self.alike(column):
            return self.parts[0].kinds.get(name, pa.string())  # a name of a folder is a text
        return self.target(column) or pa.null()

    def target(self, column: str) -> pa.DataType | None:
        """The type to which files of different types are cast, None where there is none."""
        name = self.stored(column)
        kinds = [part.kinds[name] for part in self.parts if name in part.kinds]
        found = common_type(kinds, self.declared.get(column))
        return found if found is not None and sql_type(found) else None

    def cast(self, part: Part, column: str, values: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
        """Values of one file in the type of all.

        Raises
        ------
        ContractError
            When a value would change.
        """
        try:
            return cast(values, target)
        except pa.ArrowInvalid as error:
            raise ContractError(self.source, self._changes(part, column, target, f" ({error})")) from error

    def verify(self, column: str) -> None:
        """Read a column of the files that store it differently from the others, and refuse what would change.

        Raises
        ------
        ContractError
            When a value would change, or no one type holds all.
        """
        self.check([], [], [column])
        target, name = self.target(column), self.stored(column)
        for part in self.parts:
            kind = part.kinds.get(name)
            if target is not None and kind is not None and plain(kind) != target:
                self.cast(part, column, pq.read_table(part.path, columns=[name]).column(0), target)

    def _changes(self, part: Part, column: str, target: pa.DataType, why: str) -> str:
        name = self.stored(column)
        return (
            f"{part.path} stores {name} as {part.kinds.get(name)} and not all of its values are {target}{why}. Write all "
            "files with one type, or declare the type that holds all values"
        )

    def sql(self, keys: Mapping[str, str], times: Sequence[str], features: Sequence[str]) -> str:
        """SQL over all files with ``__id``, a unique integer that grows in file order.

        Parameters
        ----------
        keys : mapping
            Key -> the name of the value type in which it is compared, empty to hand it out as it is stored.
        times, features : sequence of str
            Further columns; a time that is no timestamp becomes one.
        """
        columns = list(dict.fromkeys([*keys, *times, *features]))
        for name in map(self.stored, columns):
            if "\0" in name:
                raise ConfigError(f"the source {self.source} has the column {name!r}, which SQL cannot name; rename it")
        taken = [name for name in _ROW_NUMBERS if any(name in part.kinds for part in self.parts)]
        if taken:
            raise ConfigError(
                f"the source {self.source} has the column {taken[0]}, a name that DuckDB needs; rename it"
            )
        queries, first = [], 0
        for _, group in itertools.groupby(self.parts, lambda part: [self._read(part, column) for column in columns]):
            run = list(group)
            listed = ", ".join(
                f"{self._typed(run[0], column, keys.get(column, ''), column in times)} AS {quoted(column)}"
                for column in columns
            )
            files = ", ".join(literal(part.path) for part in run)
            queries.append(
                f"SELECT {listed}{', ' if listed else ''}"
                f"(file_index::BIGINT + {first}) * {_FILES_APART} + file_row_number AS __id FROM read_parquet([{files}])"
            )
            first += len(run)
        return " UNION ALL ".join(queries)

    def _read(self, part: Part, column: str) -> str:
        """SQL of a column of one file, in the type of all files."""
        name = self.stored(column)
        target = None if self.alike(column) else self.target(column)
        if name not in part.kinds and not self._in_folder_names(part, name):
            return f"NULL::{sql_type(target or pa.null())}"
        if target is None:
            return quoted(name)
        kind = part.kinds[name]
        if pa.types.is_null(kind):
            return f"NULL::{sql_type(target)}"
        if plain(kind) == target:
            return quoted(name)
        failed = f"error({literal(self._changes(part, column, target, ''))})"
        return sql_cast(quoted(name), kind, target, failed)

    def _typed(self, part: Part, column: str, key: str, time: bool) -> str:
        name = self.stored(column)
        if time:
            kind = part.kinds.get(name, pa.null())
            alike = self.alike(column) and pa.types.is_timestamp(kind)
            return quoted(name) if alike else f"{quoted(name) if name in part.kinds else 'NULL'}::TIMESTAMPTZ"
        read = self._read(part, column)
        return self._key(read, column, key) if key else read

    def _key(self, read: str, column: str, key: str) -> str:
        kind, name = self.kind(column), self.stored(column)
        wrong = f"{self.source}: {name} holds a value that is no {key} key; correct it"
        found = key_sql(read, kind, key, f"error({literal(wrong)})")
        if found is None:
            raise ContractError(
                self.source,
                f"{name} is stored as {kind}, its entity declares {key}. Write keys of that type, or declare the entity "
                "with the value_type of the keys",
            )
        return found
