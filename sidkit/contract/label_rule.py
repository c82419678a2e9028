"""The rule of ``[source.label]``: labels from a comparison of one column, or from a list of its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.outputs import Converted, Output
from sidkit.contract.text_types import numbers_of, valid_utf8
from sidkit.contract.times import is_number, is_text
from sidkit.core.errors import ConfigError, TableSchemaError
from sidkit.core.source_inputs import LabelSettings

_RULE = re.compile(
    r"""\s*(?:(?P<plain>[^\W\d]\w*)|"(?P<quoted>[^"]+)"|`(?P<ticked>[^`]+)`)"""
    r"""\s*(?P<sign>==|=|!=|<>|>=|<=|>|<)"""
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|'(?P<one>[^']*)'|"(?P<two>[^"]*)"|(?P<flag>true|false))\s*"""
)
_SIGNS: dict[str, Callable[[Any, Any], pa.Array]] = {
    "==": pc.equal, "=": pc.equal, "!=": pc.not_equal, "<>": pc.not_equal,
    ">=": pc.greater_equal, "<=": pc.less_equal, ">": pc.greater, "<": pc.less,
}  # fmt: skip
_EVERY_ROW = "true"


@dataclass(frozen=True)
class LabelRule:
    """A parsed rule: ``column`` (empty: every row is positive), and the test of its values.

    Attributes
    ----------
    text : str
        The rule as it is written in the settings.
    texts : bool
        Whether the values are compared as texts; otherwise as numbers.
    positive : callable
        From an array of texts or of ``float64`` to a mask, null where the value is.
    """

    column: str
    text: str
    texts: bool
    positive: Callable[[pa.Array], pa.Array]

    @classmethod
    def of(cls, settings: LabelSettings) -> LabelRule | None:
        """Parse the settings; None if they state no rule.

        Raises
        ------
        ConfigError
            When the expression is not a comparison of one column with one value.
        """
        if settings.column:
            return _one_of(settings.column, settings.values)
        if not settings.positive:
            return None
        if settings.positive.strip() == _EVERY_ROW:
            return cls("", f'positive = "{_EVERY_ROW}"', False, pc.is_valid)
        match = _RULE.fullmatch(settings.positive)
        if match is None:
            raise ConfigError(
                "source.label.positive: expected a comparison of one column with a number or a quoted text, got "
                f'{settings.positive[:200]!r}; write for example positive = "rating >= 4" or positive = "event == \'purchase\'"'
            )
        column = match["plain"] or match["quoted"] or match["ticked"]
        text = match["one"] if match["one"] is not None else match["two"]
        compare = _SIGNS[match["sign"]]
        if text is not None:
            if match["sign"] not in {"==", "=", "!=", "<>"}:
                raise ConfigError(
                    f"source.label.positive: expected == or != with a text, got {settings.positive[:200]!r}; compare with a "
                    "number without quotes, or list texts with column and values"
                )
            literal: float | str = text
        else:
            literal = float(match["number"]) if match["number"] else float(match["flag"] == "true")
        return cls(
            column, f"positive = {settings.positive!r}", text is not None, lambda values: compare(values, literal)
        )


def _one_of(column: str, values: tuple[Any, ...]) -> LabelRule:
    texts = any(isinstance(value, str) for value in values)
    listed = pa.array([str(value) for value in values]) if texts else pa.array([float(value) for value in values])

    def positive(array: pa.Array) -> pa.Array:
        return pc.if_else(pc.is_null(array), pa.scalar(None, pa.bool_()), pc.is_in(array, listed))

    return LabelRule(column, f"values of {column!r}: {', '.join(map(repr, values))}", texts, positive)


def label_output(rule: LabelRule, table: str, source: str) -> Output:
    """The labels of a rule over the column ``source``; a row whose value is missing is rejected.

    Raises (when it is read)
    ------------------------
    TableSchemaError
        When texts are compared with a number, or numbers with a text.
    """

    def read(arrays: Mapping[str, pa.Array]) -> Converted:
        values = arrays[source]
        if not rule.column:
            return Converted(pa.repeat(pa.scalar(1.0), len(values)))
        compared, wrong = _comparable(values, rule, table)
        labels = pc.cast(pc.cast(rule.positive(compared), pa.int8()), pa.float64())
        done = Converted(labels).reject(wrong, f"{source} is not a number, so label is unknown")
        return done.reject(pc.and_(pc.is_null(labels), pc.invert(wrong)), f"{source} is missing, so label is unknown")

    note = rule.text if rule.column else "every row is positive"
    return Output((source,), pa.float64(), read, note, constant=not rule.column)


def _comparable(values: pa.Array, rule: LabelRule, table: str) -> tuple[pa.Array, pa.Array]:
    """The values as texts or as ``float64`` without NaN, as the rule compares them, and a mask of texts that are no numbers."""
    nothing = pa.repeat(pa.scalar(False), len(values))
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.string() if rule.texts else pa.float64()), nothing
    if rule.texts:
        if pa.types.is_integer(values.type) or is_text(values.type):
            return valid_utf8(values.cast(pa.string())), nothing
        raise _unlike(values, rule, table, "a text", f'compare with a number, such as positive = "{rule.column} >= 1"')
    if pa.types.is_boolean(values.type):
        return values.cast(pa.int8()).cast(pa.float64()), nothing
    if is_number(values.type) or pa.types.is_decimal(values.type):
        numbers = pc.cast(values, pa.float64(), safe=False)
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers), nothing
    if is_text(values.type):
        lowered = pc.utf8_lower(valid_utf8(values))
        flags = pc.case_when(pc.make_struct(pc.equal(lowered, "true"), pc.equal(lowered, "false")), "1", "0", lowered)
        numbers, wrong = numbers_of(flags)
        if numbers.null_count < len(numbers) or not pc.any(wrong).as_py():
            return numbers, wrong
    raise _unlike(
        values, rule, table, "a number", f"compare with a text, such as positive = \"{rule.column} == 'purchase'\""
    )


def _unlike(values: pa.Array, rule: LabelRule, table: str, compared: str, remedy: str) -> TableSchemaError:
    example = next((value for value in values.to_pylist() if value is not None), None)
    return TableSchemaError(
        table,
        f"expected values that can be compared with {compared} in column {rule.column!r} ({rule.text} in [source.label]), got "
        f"{values.type}, such as {example!r}; {remedy}",
    )
