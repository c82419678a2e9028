"""Base class of the tables of a TOML file: frozen, without unknown keys, and without conversion of types."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


def _plain_types(annotation: Any) -> set[Any]:
    """Types allowed by an annotation such as ``int | None``, or of a tuple's elements; a Literal counts as str."""
    parts = get_args(annotation)
    if not parts:
        return {annotation}
    if get_origin(annotation) is Literal:
        return {type(part) for part in parts}
    if get_origin(annotation) is Annotated:
        return _plain_types(parts[0])
    if get_origin(annotation) in {Union, UnionType, tuple}:
        return set().union(*map(_plain_types, parts))
    return {get_origin(annotation)}


class Section(BaseModel):
    """A frozen table of a TOML file that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_converted(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject quoted numbers and flags, and flags for numbers: pydantic would read "1500" as 1500 and true as 1."""
        kinds = _plain_types(cls.model_fields[info.field_name or ""].annotation)
        wanted = kinds & {bool, int, float}
        if not wanted or kinds & {str, Any}:
            return value
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, str) or (
                isinstance(each, bool | int | float) and isinstance(each, bool) is not (bool in wanted)
            ):
                raise ValueError(f"expected {'true or false' if bool in wanted else 'a number without quotes'}")
        return value
