"""Times without a unit (numbers since 1970) or without a zone, as columns of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.outputs import Converted, Output
from sidkit.contract.text_types import NUMBER, numbers_of, valid_utf8, without_missing
from sidkit.contract.units import UNIT_NAMES, unit_ranges
from sidkit.core.errors import TableSchemaError

_MOMENT = pa.timestamp("us", tz="UTC")
_NAIVE = pa.timestamp("us")
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_ZONED = r"(?:[zZ]|[+-]\d{2}:?\d{2})$"
_FURTHEST = 2**62
_YEARS = (-62_135_596_800_000_000, 253_402_300_799_999_999)
"""Years 1 to 9999 in microseconds: what time zones are defined for."""


@dataclass
class NumberFacts:
    """How many times of a column are plausible in each unit, how many in none, and an example of each."""

    units: dict[str, int] = field(default_factory=dict)
    examples: dict[str, float] = field(default_factory=dict)
    other: int = 0
    texts: int = 0
    """Texts that are no numbers."""

    def add(self, values: pa.Array) -> None:
        """Count a chunk of numbers, or of texts; another part of the file may have values of another type."""
        if not _may_be_numbers(values.type):
            return
        if is_text(values.type):
            numbers, wrong = numbers_of(values)
            self.texts += pc.sum(wrong).as_py() or 0
            values = numbers
        seen = np.abs(pc.cast(values, pa.float64(), safe=False).drop_null().to_numpy(zero_copy_only=False))
        seen = seen[~np.isnan(seen)]
        left = len(seen)
        for unit, (oldest, newest) in unit_ranges().items():
            inside = seen[(seen >= oldest) & (seen < newest)]
            if len(inside):
                self.units[unit] = self.units.get(unit, 0) + len(inside)
                self.examples.setdefault(unit, float(inside[0]))
                left -= len(inside)
        self.other += left

    def unit(self, table: str, column: str) -> str | None:
        """The unit, or None if no number is a time in any unit.

        Raises
        ------
        TableSchemaError
            When the numbers have several units, or most of them have none.
        """
        if len(self.units) > 1:
            counted = sorted(self.units.items(), key=lambda pair: -pair[1])
            listed = " and ".join(
                f"{count:,} like {self.examples[unit]:.0f} ({UNIT_NAMES[unit]})" for unit, count in counted
            )
            most = counted[0][0]
            raise TableSchemaError(
                table,
                f"expected times of one unit in column {column!r}, got {listed}; correct the source, or reject the others "
                f'with\n[source.times]\nunit = "{most}"\nin sidkit.toml',
            )
        unit = next(iter(self.units), None)
        return unit if unit is not None and self.units[unit] >= self.other else None


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether a type is an integer or a float."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _may_be_numbers(kind: pa.DataType) -> bool:
    return is_number(kind) or is_text(kind) or bool(pa.types.is_null(kind))


def all_numbers(texts: pa.Array) -> bool:
    """Whether all given texts are numbers, and some are."""
    given = without_missing(valid_utf8(texts)).drop_null()
    return len(given) > 0 and bool(pc.all(pc.match_substring_regex(given, NUMBER)).as_py())


def number_output(name: str, column: str, unit: str) -> Output:
    """Times that are numbers since 1970."""

    def read(arrays: Mapping[str, pa.Array]) -> Converted:
        values = plain(arrays[name])
        if pa.types.is_timestamp(values.type) and values.type.tz is not None:  # another file has moments
            return Converted(_micros(values.cast(pa.int64()), values.type.unit).cast(_MOMENT))
        if not _may_be_numbers(values.type):
            given = pc.is_valid(values)
            return Converted(pa.nulls(len(values), _MOMENT)).reject(
                given, f"{column} has another type than in the other rows"
            )
        if is_text(values.type):
            whole = pc.fill_null(pc.match_substring_regex(valid_utf8(values), r"^[-+]?\d{1,18}$"), False)
            numbers, wrong = numbers_of(values)
            exact = pc.cast(pc.if_else(whole, pc.utf8_ltrim(values, "+"), pa.scalar(None, pa.string())), pa.int64())
            micros = pc.coalesce(_micros(exact, unit), _micros(numbers, unit))
            return Converted(micros.cast(_MOMENT)).reject(wrong, f"{column} is not a number")
        return Converted(_micros(values, unit).cast(_MOMENT))

    return Output((name,), _MOMENT, read, f"read as {UNIT_NAMES[unit]} since 1970")


def _micros(values: pa.Array, unit: str) -> pa.Array:
    """Numbers as microseconds; those beyond 64 bits become a time outside of the valid range."""
    per = _PER_SECOND[unit]
    if pa.types.is_floating(values.type):
        micros = pc.multiply(pc.cast(values, pa.float64()), 10**6 / per)
        micros = pc.if_else(pc.is_nan(micros), pa.scalar(None, pa.float64()), micros)
        return pc.cast(pc.round(_between(micros, -float(_FURTHEST), float(_FURTHEST))), pa.int64(), safe=False)
    if pa.types.is_uint64(values.type):
        values = pc.min_element_wise(values, pa.scalar(_FURTHEST, pa.uint64()), skip_nulls=False)
    whole = pc.cast(values, pa.int64())
    if per > 10**6:
        step = per // 10**6
        return pc.divide(pc.subtract(whole, pc.if_else(pc.less(whole, 0), step - 1, 0)), step)  # rounded down
    factor = 10**6 // per
    return pc.multiply(_between(whole, -(_FURTHEST // factor), _FURTHEST // factor), factor)


def _between(values: pa.Array, low: float, high: float) -> pa.Array:
    return pc.min_element_wise(pc.max_element_wise(values, low, skip_nulls=False), high, skip_nulls=False)


def local_output(name: str, column: str, zone: str) -> Output:
    """Times and dates of which some have no zone; those are times of ``zone``."""

    def read(arrays: Mapping[str, pa.Array]) -> Converted:
        return _localised(arrays[name], column, zone)

    return Output((name,), None, read, f"times without a zone are read in {zone}")


def _localised(values: pa.Array, column: str, zone: str) -> Converted:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if is_text(values.type):
        return _localised_text(valid_utf8(values), column, zone)
    if pa.types.is_date(values.type):
        days = values.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
        values = _bounded(pc.multiply(days, 86_400_000_000)).cast(_NAIVE)
    if not pa.types.is_timestamp(values.type) or values.type.tz is not None:
        return Converted(values)
    return _in_zone(_bounded(_micros(values.cast(pa.int64()), values.type.unit)).cast(_NAIVE), column, zone)


def _localised_text(texts: pa.Array, column: str, zone: str) -> Converted:
    texts = without_missing(texts)
    zoned = pc.fill_null(pc.match_substring_regex(texts, _ZONED), False)
    naive = pc.if_else(zoned, pa.scalar(None, pa.string()), texts)
    try:
        local = pc.cast(naive, _NAIVE)
    except pa.ArrowInvalid:
        from datetime import datetime

        def moment(text: str | None) -> datetime | None:
            try:
                return None if text is None else datetime.fromisoformat(text)
            except ValueError:
                return None

        local = pa.array([moment(text) for text in naive.to_pylist()], _NAIVE)
    if local.null_count == len(local):  # nothing to localise: the texts are judged as they are
        return Converted(texts)
    done = _in_zone(local, column, zone)
    with_zone = pc.strftime(done.array, format="%Y-%m-%dT%H:%M:%S+0000")
    # A text that is no time stays as it is and rejects its row.
    done.array = pc.coalesce(with_zone, texts)
    return done


def _bounded(micros: pa.Array) -> pa.Array:
    return _between(micros, *_YEARS)


def _in_zone(local: pa.Array, column: str, zone: str) -> Converted:
    """Local times as moments; those that the zone skips or repeats keep their clock time and are rejected."""
    first = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="earliest")
    skipped = pc.not_equal(first, pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="latest"))
    repeated = pc.not_equal(first, pc.assume_timezone(local, zone, ambiguous="latest", nonexistent="earliest"))
    odd = pc.or_(skipped, repeated)
    done = Converted(pc.if_else(odd, local.cast(pa.int64()), first.cast(pa.int64())).cast(_MOMENT))
    done.reject(skipped, f"{column} does not exist in {zone} (clocks go forward)")
    return done.reject(repeated, f"{column} occurs twice in {zone} (clocks go back)")


def first_values(batches: Iterable[pa.RecordBatch], name: str) -> pa.Array | None:
    """The first chunk of a column that has a value, or None."""
    for batch in batches:
        column = batch.column(name)
        if column.null_count < len(column):
            return column
    return None


def reads_numbers(head: pa.Array | None) -> bool:
    """Whether a column's values, of which these are the first, are numbers since 1970."""
    if head is None:
        return False
    head = plain(head)
    return is_number(head.type) or (is_text(head.type) and all_numbers(head))


def has_no_zone(kind: pa.DataType) -> bool:
    """Whether values of a type may be times without a zone."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool((pa.types.is_timestamp(kind) and kind.tz is None) or pa.types.is_date(kind) or is_text(kind))


def plain(values: pa.Array) -> pa.Array:
    """Values without a dictionary."""
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
