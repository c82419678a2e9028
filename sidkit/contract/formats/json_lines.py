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

_SCALARS = (str, int, float, bool, type(None))


class JsonPart(Part):
    """One file of JSON objects. A key that an object lacks is null; an object as a value becomes its JSON text."""

    same_columns: ClassVar[bool] = False

    def columns(self) -> dict[str, pa.DataType | None]:
        """See :meth:`Part.columns`; reads the whole file, since any line may have a further key."""
        names: dict[str, None] = {}
        for row in self._rows():
            names.update(dict.fromkeys(row))
        check_names(list(names), self.table, self.path.name)
        return dict.fromkeys(names)

    def batches(self, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Part.batches`."""
        rows: list[tuple[Any, ...]] = []
        for row in self._rows():
            rows.append(tuple(_plain(row.get(name)) for name in columns))
            if len(rows) == chunk_rows:
                yield self._batch(columns, rows, kinds)
                rows = []
        if rows:
            yield self._batch(columns, rows, kinds)

    def _batch(self, columns: Sequence[str], rows: list[tuple[Any, ...]], kinds: Mapping[str, str]) -> pa.RecordBatch:
        if not columns:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
        read = [
            sql_column(self.table, name, list(values), kinds.get(name))
            for name, values in zip(columns, zip(*rows, strict=True), strict=True)
        ]
        return pa.RecordBatch.from_arrays([array for _, array in read], schema=pa.schema([field for field, _ in read]))

    def _rows(self) -> Iterator[dict[str, Any]]:
        try:
            with pa.input_stream(self.path) as stream:
                for number, line in enumerate(_lines(stream), start=1):
                    text = line.strip()
                    if not text:
                        continue
                    try:
                        row = json.loads(text)
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
                    yield row
        except (pa.ArrowException, OSError) as error:
            raise ContractError(self.table, f"{self.path} cannot be read ({error}); write the file again") from error


def _lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(1 << 20):
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest.removeprefix(b"\xef\xbb\xbf")


def _plain(value: Any) -> Any:
    """A value that a column can hold: objects, and lists of anything but scalars, become JSON text."""
    if isinstance(value, _SCALARS) or (isinstance(value, list) and all(isinstance(each, _SCALARS) for each in value)):
        return value
    return json.dumps(value, ensure_ascii=False)
