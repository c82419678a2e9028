"""Results as frozen dataclasses, and JSON at the edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json

Record = TypeVar("Record")

_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def record_json(record: Any) -> Any:
    """A dataclass, and what it holds, as JSON values: its fields by name, tuples as lists."""
    return _adapter(type(record)).dump_python(record, mode="json")


def record_of(kind: type[Record], told: Any, path: Path) -> Record:
    """A dataclass from the JSON values of :func:`record_json`; fields that the dataclass does not have are left out.

    Parameters
    ----------
    kind : type
        A dataclass.
    told : JSON value
        Its fields by name.
    path : Path
        Where they were read, for the error.

    Raises
    ------
    ArtifactCorruptError
        When a field is missing or of another type.
    """
    try:
        record: Record = _adapter(kind).validate_python(told)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ArtifactCorruptError(path, f"it holds no {kind.__name__}: {place}: {first['msg']}") from error
    return record


def read_record(kind: type[Record], path: Path) -> Record:
    """A dataclass from a JSON file; errors are those of :func:`record_of`."""
    return record_of(kind, read_json(path), path)


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]
