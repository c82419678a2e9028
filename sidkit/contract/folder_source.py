"""Tables in a folder: files, or folders of files, of one format each; partitions named ``column=value`` become columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from sidkit.contract.column_names import check_names
from sidkit.contract.formats import ACCEPTED, Part, format_of
from sidkit.contract.formats.npy import NpyPart, arrays_of
from sidkit.contract.rows import PART, is_list
from sidkit.contract.source import Relations
from sidkit.core.errors import ContractError, TableSchemaError

_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class FolderRelations(Relations):
    """A folder with tables as files ``<name>.parquet``, ``.csv``, ``.jsonl``, or as folders of such files.

    Files and folders whose names begin with ``.`` or ``_`` are left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)
        self._columns: dict[str, tuple[object, dict[str, pa.DataType | None]]] = {}

    def has(self, name: str) -> bool:
        """See :meth:`Relations.has`.

        Raises
        ------
        ContractError
            When several files or folders have this name, or a folder of this name has no files.
        """
        return bool(self._parts(name))

    def missing(self, name: str) -> str:
        """See :meth:`Relations.missing`."""
        listed = ", ".join(entry.name for entry in sorted(self.folder.iterdir())[:8]) or "nothing"
        return (
            f"expected {self.folder / name}.parquet or Parquet files under {self.folder / name}/ (or {ACCEPTED}), got a "
            f"folder with {listed}"
        )

    def untyped(self, name: str) -> frozenset[str]:
        """See :meth:`Relations.untyped`: all columns of CSV files, and partitions."""
        parts = self._parts(name)
        partitions = {key for part in parts for key in self._partition(name, part)}
        if any(part.untyped for part in parts):
            return frozenset(self.columns(name))
        own = {column for part in parts for column in part.columns()} if partitions else set()
        return frozenset(partitions - own)

    def columns(self, name: str) -> dict[str, pa.DataType | None]:
        """See :meth:`Relations.columns`."""
        marks = self.marks(name)
        if name not in self._columns or self._columns[name][0] != marks:
            self._columns[name] = (marks, self._read_columns(name))
        return self._columns[name][1]

    def _read_columns(self, name: str) -> dict[str, pa.DataType | None]:
        parts = self._parts(name)
        schemas = [part.columns() for part in parts]
        columns: dict[str, pa.DataType | None] = {}
        for schema, part in zip(schemas, parts, strict=True):
            if part.same_columns and set(schema) != set(schemas[0]):
                odd = sorted(set(schema) ^ set(schemas[0]))
                raise TableSchemaError(
                    name,
                    f"expected the same columns in every file, got different ones in {part.path.name} and "
                    f"{parts[0].path.name}: {', '.join(odd)}; write missing columns as nulls",
                )
            for column, kind in schema.items():
                known = columns.setdefault(column, kind)
                if kind is None or known is None or pa.types.is_null(kind):
                    continue
                if pa.types.is_null(known):  # an all-null part has no type information
                    columns[column] = kind
                elif is_list(known) != is_list(kind):
                    raise TableSchemaError(
                        name,
                        f"expected one type for column {column!r}, got {kind} in {part.path.name} and {known} in an "
                        "earlier file; write the files with the same types",
                    )
        for part in parts:
            columns = {**dict.fromkeys(self._partition(name, part), pa.string()), **columns}
        check_names(list(columns), name)
        return columns

    def batches(
        self, name: str, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]
    ) -> Iterator[pa.RecordBatch]:
        """See :meth:`Relations.batches`."""
        parts = self._parts(name)
        partitions = [self._partition(name, part) for part in parts]
        for part, partition in zip(parts, partitions, strict=True):
            own = {*columns} - {*partition}  # a part of JSON lines fills missing columns itself
            if part.same_columns and any(partitions):
                own = {*part.columns()}
            for batch in part.batches([column for column in columns if column in own], chunk_rows, kinds):
                filled = _filled(batch, columns, partition)
                yield filled.replace_schema_metadata({PART: part.path.name}) if len(parts) > 1 else filled

    def marks(self, name: str) -> list[list[object]]:
        """See :meth:`Relations.marks`: names, sizes and modification times of the files."""
        files = [file for part in self._parts(name) for file in part.files]
        facts = [(file, file.stat()) for file in files]
        return [[_relative(file, self.folder), stat.st_size, stat.st_mtime_ns] for file, stat in facts]

    def rows(self, name: str) -> int | None:
        """Number of rows, if the files say so without being read."""
        counts = [part.rows() for part in self._parts(name)]
        return None if None in counts else sum(count or 0 for count in counts)

    def _parts(self, name: str) -> list[Part]:
        place = self.folder / name
        above = place.parent
        entries = sorted(above.iterdir()) if above.is_dir() else []
        visible = [entry for entry in entries if not entry.name.startswith((".", "_"))]
        # Some tools write a table as a folder named like a file.
        places = [entry for entry in visible if entry.name == place.name or _stem(entry) == place.name]
        files = {entry: _files_of(entry, name) for entry in places}
        filled = [entry for entry in places if files[entry]]
        arrays = arrays_of(visible, place.name)
        if arrays and not filled:
            return [NpyPart(arrays, visible, place, name)]
        if len(filled) + bool(arrays) > 1:
            names = [entry.name for entry in filled] + [path.name for path in arrays.values()][:1]
            raise ContractError(
                name,
                f"expected one file or one folder of files, got {' and '.join(names)} in {above}; move the others away",
            )
        for entry in [] if filled else places:
            # A folder that an export left empty is no table that is missing on purpose.
            if entry.is_dir() and (format_of(entry) is not None or not any(entry.iterdir())):
                raise ContractError(
                    name,
                    f"expected a file or a folder of files, got {entry} without any; write the table again, or remove it",
                )
        return files[filled[0]] if filled else []

    def _partition(self, name: str, part: Part) -> dict[str, str | None]:
        """Columns from folders named ``column=value`` between the table's folder and a file."""
        above = part.path.relative_to((self.folder / name).parent).parts[1:-1]
        pairs = [folder.partition("=") for folder in above if "=" in folder]
        return {unquote(key): None if value == _NULL_PARTITION else unquote(value) for key, _, value in pairs if key}


def _filled(batch: pa.RecordBatch, columns: Sequence[str], partition: Mapping[str, str | None]) -> pa.RecordBatch:
    """A batch with the columns in order; those that its file lacks are the partition's value, or null."""
    if batch.schema.names == list(columns):
        return batch
    arrays, fields = [], []
    for name in columns:
        if name in batch.schema.names:
            arrays.append(batch.column(name))
            fields.append(batch.schema.field(name))
            continue
        value = partition.get(name)
        nulls = pa.nulls(batch.num_rows, pa.string() if partition else pa.null())
        arrays.append(nulls if value is None else pa.repeat(pa.scalar(value, pa.string()), batch.num_rows))
        fields.append(pa.field(name, arrays[-1].type))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _stem(entry: Path) -> str | None:
    known = format_of(entry)
    return known[0] if known else None


def _files_of(place: Path, table: str) -> list[Part]:
    """The parts of a file or of a folder of files."""
    if not place.is_dir():
        known = format_of(place)
        return [known[1](place, table)] if known else []
    named = [
        (path, known[1])
        for path in sorted(place.rglob("*"))
        if not _is_hidden(path.relative_to(place)) and (known := format_of(path)) is not None
    ]
    files = [(path, kind) for path, kind in named if path.is_file()]
    for folder, _ in named:
        if not folder.is_file() and not any(folder in file.parents for file, _ in files):
            raise ContractError(
                table,
                f"expected a file or a folder of files, got {folder} without any; write the part again, or remove it",
            )
    formats = {kind for _, kind in files}
    if len(formats) > 1:
        examples = [next(path.name for path, kind in files if kind is each) for each in formats]
        raise ContractError(
            table,
            f"expected files of one format in {place}, got {' and '.join(sorted(examples))}; move the others away",
        )
    return [kind(path, table) for path, kind in files]


def _is_hidden(path: Path) -> bool:
    """Whether a file or one of its folders is hidden by convention: ``._part.parquet``, ``_temporary/...``."""
    return any(part.startswith((".", "_")) for part in path.parts)


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
