"""The Parquet files of a source: finding them, reading their schemas, and the SQL that reads them as one table.

Names and types are read once, from the footers. A column with the same type in every file keeps it; one with different
types is cast file by file (:mod:`sidkit.stores.offline.part_types`), or the file is rejected.
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
    """The Parquet files of a path (a file, a folder, or a glob pattern), in the order of their rows.

    In a folder, names that begin with a dot or an underscore are ignored, as in Spark and Arrow; the suffix is
    case-insensitive.
    """
    try:
        if path.is_dir():
            return sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() == ".parquet"
                and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
                and file.is_file()
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
    files = (file for file in Path(path.anchor).glob(str(pattern)) if hidden or not file.name.startswith((".", "_")))
    return sorted(file for file in files if file.is_file())


@dataclass(frozen=True)
class Part:
    """One file: its path and its footer."""

    path: Path
    metadata: pq.FileMetaData

    @cached_property
    def schema(self) -> pa.Schema:
        """The file's Arrow schema."""
        return self.metadata.schema.to_arrow_schema()

    @cached_property
    def kinds(self) -> dict[str, pa.DataType]:
        """Column -> type."""
        return dict(zip(self.schema.names, self.schema.types, strict=True))


@dataclass(frozen=True)
class SourceParts:
    """The files of a source, with the column names of its table.

    Parameters
    ----------
    source : str
        Name of the source, for error messages.
    parts : tuple of Part
        At least one part.
    names : mapping
        Column of the table -> column of the files, if they differ.
    declared : mapping
        Column of the table -> Arrow type declared by its feature view, if known.
    by_day : bool
        Whether sidkit partitioned the table: the column of the folder names is none of the table.
    """

    source: str
    parts: tuple[Part, ...]
    names: Mapping[str, str]
    declared: Mapping[str, pa.DataType]
    by_day: bool = False

    @classmethod
    def find(
        cls, source: str, path: Path, mapping: Mapping[str, str], declared: Mapping[str, pa.DataType] | None = None
    ) -> SourceParts:
        """Read the footers of a path.

        Parameters
        ----------
        source : str
            Name of the source, for error messages.
        path : Path
            Absolute path of a file or folder, or a glob pattern.
        mapping : mapping
            Column of the files -> column of the table.
        declared : mapping, optional
            Column of the table -> declared type.

        Raises
        ------
        ArtifactMissingError
            When there are no files.
        ContractError
            When a file is not Parquet.
        """
        paths = parquet_files(path)
        if not paths:
            raise ArtifactMissingError(
                f"expected Parquet files in {path}, the source {source!r}, got none. Create feature tables with "
                "`sidkit tables build`, those of codebooks with `sidkit codebooks publish`."
            )
        return cls.of(source, paths, mapping, declared or {})

    @classmethod
    def of(
        cls, source: str, paths: Sequence[Path], mapping: Mapping[str, str], declared: Mapping[str, pa.DataType]
    ) -> SourceParts:
        """Like :meth:`find`, for known files."""
        parts = []
        for file in paths:
            try:
                parts.append(Part(file, pq.read_metadata(file)))
            except (OSError, pa.ArrowInvalid) as error:
                raise ContractError(
                    source,
                    f"{file} cannot be read as Parquet ({error}). Write it again, or remove it from the folder",
                ) from error
        return cls(source, tuple(parts), {new: old for old, new in mapping.items()}, declared)

    @property
    def partitioned(self) -> bool:
        """Whether a folder name such as ``day=3`` makes DuckDB add a column, which may be one of the table."""
        return not self.by_day and any("=" in name for part in self.parts for name in part.path.parts)

    def stored(self, column: str) -> str:
        """Name of a column in the files."""
        return self.names.get(column, column)

    def check(self, keys: Iterable[str], times: Sequence[str], features: Iterable[str]) -> None:
        """Validate columns, so that every engine reads them correctly.

        Raises
        ------
        ContractError
            When a file lacks a key or the event time, a time has another type, or the types of a column in several files
            have no common type.
        ConfigError
            When a column is duplicated, or differs from another one in case only.
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
                    f"expected one type of {name} in all files, got {self._kinds_of(name)}. Write all files with one type",
                )

    def _refuse_look_alikes(self, part: Part, name: str) -> None:
        similar = [other for other in part.schema.names if other.lower() == name.lower()]
        if len(similar) > 1 and similar.count(name) == 1:
            raise ConfigError(
                f"expected column names that differ in more than case, got {', '.join(similar)} in {part.path} of the source "
                f"{self.source}. DuckDB cannot distinguish them; rename them"
            )
        if len(similar) > 1:
            raise ConfigError(
                f"expected unique column names, got {name} twice in {part.path} of the source {self.source}; rename one"
            )

    def _lacks(self, part: Part, name: str) -> None:
        if self._in_folder_names(part, name):
            return
        raise ContractError(
            self.source,
            f"expected the column {name} in {part.path}, got {', '.join(part.schema.names)}. Write the column, or correct "
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
                f"expected timestamps in {self.stored(column)} of {part.path}, got {kind}, which has no known unit. Write "
                "timestamp[us, UTC]",
            )

    def _kinds_of(self, name: str) -> str:
        files: dict[str, str] = {}
        for part in self.parts:
            files.setdefault(str(part.kinds.get(name, "nothing")), part.path.name)
        return ", ".join(f"{kind} ({path})" for kind, path in files.items())

    def alike(self, column: str) -> bool:
        """Whether every file has a column, with types that differ at most where values do not change."""
        name = self.stored(column)
        kinds = {str(plain(part.kinds[name])) if name in part.kinds else None for part in self.parts}
        return len(kinds) == 1

    def kind(self, column: str) -> pa.DataType:
        """The type of a column: the common one of its files, or the one to which they are cast."""
        name = self.stored(column)
        if self.alike(column):
            return self.parts[0].kinds.get(name, pa.string())  # a folder name is a text
        return self.target(column) or pa.null()

    def target(self, column: str) -> pa.DataType | None:
        """The type to which files of different types are cast, or None."""
        name = self.stored(column)
        kinds = [part.kinds[name] for part in self.parts if name in part.kinds]
        common = common_type(kinds, self.declared.get(column))
        return common if common is not None and sql_type(common) else None

    def cast(self, part: Part, column: str, values: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
        """Cast values of one file to the common type.

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
        """Read a column from the files with another type, and check that no value would change.

        Raises
        ------
        ContractError
            When a value would change, or there is no common type.
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
            f"expected {name} as {target}, got {part.kinds.get(name)} in {part.path}, not all of whose values convert{why}. "
            "Write all files with one type, or declare the type that holds all values"
        )

    def sql(self, keys: Mapping[str, str], times: Sequence[str], features: Sequence[str]) -> str:
        """SQL over all files with ``__id``, a unique integer that increases in file order.

        Parameters
        ----------
        keys : mapping
            Key -> name of the value type for comparison; empty to return it as stored.
        times, features : sequence of str
            Other columns; times of other types are cast to timestamps.
        """
        columns = list(dict.fromkeys([*keys, *times, *features]))
        for name in map(self.stored, columns):
            if "\0" in name:
                raise ConfigError(
                    f"expected column names without NUL characters, got {name!r} in the source {self.source}; rename it"
                )
        taken = [name for name in _ROW_NUMBERS if any(name in part.kinds for part in self.parts)]
        if taken:
            raise ConfigError(
                f"the column name {taken[0]} in the source {self.source} is reserved by DuckDB; rename it"
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
        """SQL of a column of one file, in the common type of all files."""
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
        wrong = f"{self.source}: expected {key} keys in {name}, got a value that cannot be one; correct it"
        sql = key_sql(read, kind, key, f"error({literal(wrong)})")
        if sql is None:
            raise ContractError(
                self.source,
                f"expected {name} as {key}, its entity's type, got {kind}. Write keys of that type, or declare the entity "
                "with the value_type of the keys",
            )
        return sql
