"""CSV files, plain or compressed: every column is read as text, so that no type depends on a chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import pyarrow as pa
import pyarrow.csv as pcsv

from sidkit.contract.column_names import check_names
from sidkit.contract.formats.base import Part
from sidkit.core.errors import ContractError, TableSchemaError

_SEPARATORS = ",;\t|"
_BLOCK = 4 << 20
"""Bytes read at a time; a row must fit."""


class CsvPart(Part):
    """One CSV file with a header; the separator (comma, semicolon, tab, bar) is the one that its header has most often.

    An empty field is null; a quoted empty field is an empty text.
    """

    untyped: ClassVar[bool] = True

    def columns(self) -> dict[str, pa.DataType | None]:
        """See :meth:`Part.columns`."""
        return dict.fromkeys(self._header(), pa.string())

    def batches(self, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Part.batches`."""
        header = self._header()
        convert = pcsv.ConvertOptions(
            check_utf8=False,  # rows with other bytes are rejected one by one
            column_types=dict.fromkeys(header, pa.string()),
            include_columns=list(columns),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        try:
            with pa.input_stream(self.path) as stream:
                reader = pcsv.open_csv(
                    stream,
                    read_options=pcsv.ReadOptions(block_size=_BLOCK, use_threads=False),
                    parse_options=self._parsing(),
                    convert_options=convert,
                )
                for batch in reader:
                    for start in range(0, batch.num_rows, chunk_rows):
                        yield batch.slice(start, chunk_rows)
        except (pa.ArrowException, OSError) as error:
            raise ContractError(
                self.table,
                f"{self.path} cannot be read as CSV ({error}); expected a header and as many fields in every row, with double "
                "quotes around text that has separators or line breaks",
            ) from error

    def _parsing(self) -> pcsv.ParseOptions:
        with pa.input_stream(self.path) as stream:
            line = stream.read(1 << 16).split(b"\n", 1)[0].decode("utf-8", "replace")
        separator = max(_SEPARATORS, key=line.count)  # the first of equals: a comma
        return pcsv.ParseOptions(delimiter=separator, newlines_in_values=True)

    def _header(self) -> list[str]:
        try:
            with pa.input_stream(self.path) as stream:
                head = stream.read(1 << 20)
            if not head.strip():
                raise ContractError(
                    self.table, f"expected a header in {self.path}, got an empty file; write the table again"
                )
            line = _first_line(head.removeprefix(b"\xef\xbb\xbf"))
            one_row = pcsv.read_csv(
                pa.BufferReader(line),
                read_options=pcsv.ReadOptions(autogenerate_column_names=True),
                parse_options=self._parsing(),
                convert_options=pcsv.ConvertOptions(strings_can_be_null=False, null_values=[], auto_dict_encode=False),
            )
        except (pa.ArrowException, OSError) as error:
            raise ContractError(
                self.table, f"{self.path} cannot be read as CSV ({error}); write the file again"
            ) from error
        names = ["" if column[0].as_py() is None else str(column[0].as_py()) for column in one_row.columns]
        raw = [column.type for column in one_row.columns]
        if any(pa.types.is_binary(kind) for kind in raw):
            raise TableSchemaError(
                self.table, f"expected column names in UTF-8 in {self.path}, got other bytes; rename them"
            )
        check_names(names, self.table, self.path.name)
        return names


def _first_line(head: bytes) -> bytes:
    """The first line of a CSV file, with the line breaks inside of quotes."""
    quoted = False
    for place, byte in enumerate(head):
        if byte == ord('"'):
            quoted = not quoted
        elif byte in b"\r\n" and not quoted:
            return head[:place] + b"\n"
    return head + b"\n"
