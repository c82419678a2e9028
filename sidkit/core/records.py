"""Conversion between frozen dataclasses and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json

Record = TypeVar("Record")

_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def record_json(record: Any) -> Any:
    """Convert a dataclass to JSON values: fields by name, tuples as lists, recursively."""
    return _adapter(type(record)).dump_python(record, mode="json")


def record_of(kind: type[Record], values: Any, path: Path) -> Record:
    """Build a dataclass from the JSON values of :func:`record_json`; unknown fields are ignored.

    Parameters
    ----------
    kind : type
        The dataclass.
    values : JSON value
        Fields by name.
    path : Path
        File of the values, for the error message.

    Raises
    ------
    ArtifactCorruptError
        When a field is missing or has the wrong type.
    """
    try:
        record: Record = _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ArtifactCorruptError(path, f"it is not a valid {kind.__name__}: {place}: {first['msg']}") from error
    return record


def read_record(kind: type[Record], path: Path) -> Record:
    """Read a dataclass from a JSON file; raises the errors of :func:`record_of`."""
    return record_of(kind, read_json(path), path)


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]
