"""Types of columns of text, as in CSV files: decided once over all rows, so that no value depends on its chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.outputs import Converted, Output

_MISSING = pa.array(["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", r"\N"])
"""Texts that stand for a missing number, time or flag."""
_INTEGER = r"^-?(?:0|[1-9]\d{0,17})$"
_PLAIN_NUMBER = r"^-?(?:(?:0|[1-9]\d{0,14})(?:\.\d+)?|\.\d+|(?:0|[1-9]\d*)\.\d+)(?:[eE][-+]?\d{1,3})?$"
"""Numbers that a float holds and that no code is written as: no zeros in front, no long digits."""
NUMBER = r"^\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?\s*$|^[-+]?[iI]nf(?:inity)?$"
_FLAG = r"^(?i:true|false)$"


@dataclass
class TextFacts:
    """Counts over all values of a column that are not missing."""

    values: int = 0
    integers: int = 0
    plain: int = 0
    flags: int = 0
    numbers: int = 0

    def add(self, texts: pa.Array) -> None:
        """Count a chunk."""
        given = without_missing(texts).drop_null()
        self.values += len(given)
        self.integers += _count(given, _INTEGER)
        self.plain += _count(given, _PLAIN_NUMBER)
        self.flags += _count(given, _FLAG)
        self.numbers += _count(given, NUMBER)

    @property
    def kind(self) -> pa.DataType:
        """The narrowest type that holds every value: integer, float, boolean, or else text."""
        if not self.values:
            return pa.string()
        for count, kind in ((self.integers, pa.int64()), (self.plain, pa.float64()), (self.flags, pa.bool_())):
            if count == self.values:
                return kind
        return pa.string()


def _count(texts: pa.Array, pattern: str) -> int:
    return pc.sum(pc.match_substring_regex(texts, pattern)).as_py() or 0


def survey(batches: Iterator[pa.RecordBatch], columns: Sequence[str]) -> dict[str, TextFacts]:
    """Count over all rows what the values of columns of text look like."""
    facts = {name: TextFacts() for name in columns}
    for batch in batches:
        for name in columns:
            facts[name].add(valid_utf8(batch.column(name)))
    return facts


def valid_utf8(texts: pa.Array) -> pa.Array:
    """The texts; those in other bytes are null."""
    texts = texts.cast(pa.string()) if not pa.types.is_string(texts.type) else texts
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([_decoded(value) for value in texts.cast(pa.binary()).to_pylist()], pa.string())
    return texts


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def without_missing(texts: pa.Array) -> pa.Array:
    """The texts; those that stand for a missing value are null."""
    return pc.if_else(pc.is_in(texts, _MISSING), pa.scalar(None, pa.string()), texts)


def numbers_of(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The texts as ``float64``, and a mask of those that are neither a number nor missing."""
    given = without_missing(valid_utf8(texts))
    is_number = pc.fill_null(pc.match_substring_regex(given, NUMBER), False)
    wrong = pc.and_(pc.is_valid(texts), pc.and_(pc.is_valid(given), pc.invert(is_number)))
    trimmed = pc.utf8_ltrim(pc.utf8_trim_whitespace(given), "+")
    return pc.cast(pc.if_else(is_number, trimmed, pa.scalar(None, pa.string())), pa.float64()), wrong


def numeric_output(name: str, column: str, facts: TextFacts) -> Output:
    """A number or flag of the contract from text; a text that is none rejects its row.

    If no value at all is a number, the texts stay, and the column is refused as one of another type.
    """
    if facts.values and not facts.numbers and not facts.flags:
        return Output((name,), pa.string(), lambda arrays: Converted(arrays[name]))

    def read(arrays: pa.Array) -> Converted:
        texts = arrays[name]
        if facts.flags:
            lowered = pc.utf8_lower(valid_utf8(texts))
            texts = pc.case_when(
                pc.make_struct(pc.equal(lowered, "true"), pc.equal(lowered, "false")), "1", "0", valid_utf8(texts)
            )
        values, wrong = numbers_of(texts)
        return Converted(values).reject(wrong, f"{column} is not a number")

    return Output((name,), pa.float64(), read)


def attribute_output(name: str, facts: TextFacts) -> Output:
    """A further column as the narrowest type that holds all its values."""
    kind = facts.kind
    if pa.types.is_string(kind):
        return Output((name,), kind, lambda arrays: Converted(arrays[name]))
    return Output((name,), kind, lambda arrays: Converted(pc.cast(without_missing(arrays[name]), kind)))


def text_output(name: str) -> Output:
    """An id or a text as it is written: 001 stays 001."""
    return Output((name,), pa.string(), lambda arrays: Converted(arrays[name]))
