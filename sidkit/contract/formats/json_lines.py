"""JSON lines, plain or compressed: one object per line, lists of numbers are vectors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from sidkit.contract.column_names import check_names
from sidkit.contract.formats.base import Part
from sidkit.contract.sql_columns import sql_column
from sidkit.core.errors import ContractError

_SCALARS = {str, int, float, bool, type(None)}
_BLOCK_ROWS = 20_000


class JsonPart(Part):
    """One file of JSON objects. A key that an object lacks is null; an object as a value becomes its JSON text."""

    same_columns: ClassVar[bool] = False

    def columns(self) -> dict[str, pa.DataType | None]:
        """See :meth:`Part.columns`; reads the whole file, since any line may have a further key."""
        names: dict[str, None] = {}
        for rows in self._blocks(_BLOCK_ROWS):
            for keys in dict.fromkeys(map(tuple, rows)):  # the rows of a file have few sets of keys
                names.update(dict.fromkeys(keys))
        check_names(list(names), self.table, self.path.name)
        return dict.fromkeys(names)

    def batches(self, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Part.batches`."""
        for rows in self._blocks(chunk_rows):
            if not columns:
                yield pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
                continue
            read = [
                sql_column(self.table, name, _plain([row.get(name) for row in rows]), kinds.get(name))
                for name in columns
            ]
            fields = pa.schema([field for field, _ in read])
            yield pa.RecordBatch.from_arrays([array for _, array in read], schema=fields)

    def _blocks(self, rows: int) -> Iterator[list[dict[str, Any]]]:
        """The objects of the file, at most ``rows`` at a time."""
        try:
            with pa.input_stream(self.path) as stream:
                lines, first = [], 1
                for number, line in enumerate(_lines(stream), start=1):
                    lines.append(line)
                    if len(lines) == rows:
                        yield self._parsed(lines, first)
                        lines, first = [], number + 1
                if lines:
                    yield self._parsed(lines, first)
        except (pa.ArrowException, OSError) as error:
            raise ContractError(self.table, f"{self.path} cannot be read ({error}); write the file again") from error

    def _parsed(self, lines: list[bytes], first: int) -> list[dict[str, Any]]:
        given = [line for line in lines if not line.isspace() and line]
        try:
            parsed: list[Any] = json.loads(b"[" + b",".join(given) + b"]")
            if len(parsed) == len(given) and set(map(type, parsed)) <= {dict}:
                return parsed
        except (ValueError, RecursionError):
            pass
        return [self._object(line, number) for number, line in enumerate(lines, start=first) if line.strip()]

    def _object(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ContractError(
                self.table,
                f"expected one JSON object per line, got another text in line {number:,} of {self.path} ({error}); "
                "correct or remove the line",
            ) from error
        if not isinstance(row, dict):
            raise ContractError(
                self.table,
                f"expected one JSON object per line, got a {type(row).__name__} in line {number:,} of {self.path}; "
                'write objects such as {"item_id": "i1"}, one per line',
            )
        return row


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    if (start := stream.read(3)) != b"\xef\xbb\xbf":
        rest = start
    while block := stream.read(1 << 20):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _plain(values: list[Any]) -> list[Any]:
    """Values that a column can hold: objects, and lists of anything but scalars, become JSON text."""
    if set(map(type, values)) <= _SCALARS:
        return values
    return [json.dumps(value, ensure_ascii=False) if _is_nested(value) else value for value in values]


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and not set(map(type, value)) <= _SCALARS)
