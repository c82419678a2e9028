"""Settings models as tables: one row per key with its type, default and meaning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from site_text import cell, field_docs, summary, table

_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false"}
_BOUNDS = {Ge: ("at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}


@dataclass(frozen=True)
class Key:
    """A key of a TOML table: its name, type, default and meaning as text."""

    name: str
    kind: str
    default: str
    meaning: str


def sections(model: type[BaseModel], prefix: str = "") -> dict[str, type[BaseModel]]:
    """The TOML tables of a model by name, in order; a table of named models is ``prefix.NAME``."""
    found: dict[str, type[BaseModel]] = {}
    for name, info in model.model_fields.items():
        inner, named = _section_of(info.annotation)
        if inner is not None:
            path = f"{prefix}{name}.NAME" if named else f"{prefix}{name}"
            found[path] = inner
            found |= sections(inner, f"{path}.")
    return found


def keys(model: type[BaseModel]) -> list[Key]:
    """The keys of a model that are not tables of their own."""
    docs = field_docs(model)
    return [
        Key(name, _kind_of(info), _default_of(info), docs.get(name) or _refuse_undocumented(model, name))
        for name, info in model.model_fields.items()
        if _section_of(info.annotation)[0] is None
    ]


def section_text(path: str, model: type[BaseModel], level: int = 2) -> str:
    """A heading, the docstring and a table of keys."""
    rows = [(f"`{key.name}`", cell(key.kind), key.default, cell(key.meaning)) for key in keys(model)]
    listed = table(("key", "value", "default", "meaning"), rows) if rows else ""
    return f"{'#' * level} `[{path}]` {{#{path.lower().replace('.', '-')}}}\n\n{summary(model)}\n\n{listed}\n"


def _refuse_undocumented(model: type[BaseModel], name: str) -> str:
    raise ValueError(f"{model.__name__}.{name} has no docstring; add one below the field")


def _section_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is dict:
        value = get_args(annotation)[1]
        if isinstance(value, type) and issubclass(value, BaseModel):
            return value, True
    return None, False


def _kind_of(info: FieldInfo) -> str:
    text = _words(info.annotation)
    bounds = [
        f"{word} {_number(getattr(each, name))}"
        for each in info.metadata
        for kind, (word, name) in _BOUNDS.items()
        if isinstance(each, kind)
    ]
    return f"{text}, {', '.join(bounds)}" if bounds else text


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def _words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(part)}`" for part in parts)
    if origin in {Union, UnionType}:
        return " or ".join(dict.fromkeys(_words(part) for part in parts if part is not NoneType))
    if origin is tuple:
        return f"list of {_words(parts[0])}"
    if origin is dict or annotation is dict:
        return "table"
    return _WORDS.get(annotation, str(annotation))


def _default_of(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, Enum):
        value = value.value
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"
