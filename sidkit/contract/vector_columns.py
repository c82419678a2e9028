"""Vectors in other forms than lists: one column per dimension, and bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.outputs import Converted, Output
from sidkit.contract.remedies import looks_like_a_vector
from sidkit.contract.text_types import numbers_of
from sidkit.contract.times import is_number, is_text

_NUMBERED = re.compile(r"(.*?)[_. -]?(\d+)")
_LEAST = 2
_UNNAMED = "vector"
"""Name of a vector whose columns are numbers alone."""
_NPY = b"\x93NUMPY"


def numbered_groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Columns that differ in a number at their end, by what precedes it, in the order of their numbers."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match:
            groups.setdefault(match[1] or _UNNAMED, []).append((int(match[2]), name))
    return {prefix: [name for _, name in sorted(group)] for prefix, group in groups.items() if len(group) >= _LEAST}


def gap_in(group: Sequence[str]) -> str:
    """Why a group is no vector: its numbers do not run from 0 or 1 without gaps. Empty if they do."""
    numbers = [int(match[2]) for name in group if (match := _NUMBERED.fullmatch(name))]
    if numbers[0] not in {0, 1}:
        return f"the numbers of {group[0]} ... {group[-1]} begin with {numbers[0]}, not with 0 or 1"
    missing = sorted({*range(numbers[0], numbers[-1] + 1)} - {*numbers})
    if missing:
        return f"the numbers of {group[0]} ... {group[-1]} have gaps: {', '.join(map(str, missing[:5]))}"
    return f"the numbers of {group[0]} ... {group[-1]} repeat" if len({*numbers}) < len(numbers) else ""


def holds_numbers(head: pa.Array | None) -> bool:
    """Whether the first values of a column are numbers, or texts of numbers."""
    if head is None:
        return False
    if is_text(head.type):
        numbers, wrong = numbers_of(head)
        return numbers.null_count < len(numbers) and not pc.any(wrong).as_py()
    return is_number(head.type)


def packed_output(columns: Sequence[str], name: str) -> Output:
    """One vector of a column per dimension; a row without any number has no vector."""

    def read(arrays: Mapping[str, pa.Array]) -> Converted:
        matrix = np.empty((len(arrays[columns[0]]), len(columns)), dtype=np.float64)
        bad = np.zeros(len(matrix), dtype=bool)
        for place, column in enumerate(columns):
            values = arrays[column]
            if is_text(values.type):
                values, wrong = numbers_of(values)
                bad |= np.asarray(wrong)
            numbers = pc.cast(values, pa.float64(), safe=False)
            matrix[:, place] = pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False)
        missing = np.isnan(matrix).all(axis=1) & ~bad
        with np.errstate(over="ignore"):
            flat = pa.array(matrix.astype(np.float32).reshape(-1))
        ends = np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(len(columns))
        vectors = pa.ListArray.from_arrays(pa.array(ends), flat)
        vectors = pc.if_else(pa.array(missing), pa.scalar(None, vectors.type), vectors)
        return Converted(vectors).reject(pa.array(bad), f"{name} has elements that are not numbers")

    note = f"{len(columns)} columns {columns[0]} ... {columns[-1]} as one vector"
    return Output(tuple(columns), pa.list_(pa.float32()), read, note)


def is_bytes(kind: pa.DataType | None) -> bool:
    """Whether a type is one of bytes."""
    return kind is not None and bool(
        pa.types.is_binary_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def bytes_format(head: pa.Array, stated: str | None) -> str | None:
    """The form of vectors in bytes: ``npy`` for whole files, or a dtype; None if they cannot be told.

    Without a stated dtype they are float32 if all of them have one length and plausible numbers.
    """
    blobs = [value for value in head.slice(0, 1000).to_pylist() if value is not None]
    if not blobs:
        return stated
    if all(blob.startswith(_NPY) for blob in blobs):
        return "npy"
    if stated is not None:
        return stated
    if len({len(blob) for blob in blobs}) > 1 or not blobs[0] or len(blobs[0]) % 4:
        return None
    return "float32" if all(looks_like_a_vector(np.frombuffer(blob, "<f4")) for blob in blobs) else None


def bytes_output(name: str, column: str, form: str) -> Output:
    """Vectors in bytes; a value that is none rejects its row."""

    def read(arrays: Mapping[str, pa.Array]) -> Converted:
        vectors: list[npt.NDArray[np.float32] | None] = []
        wrong = np.zeros(len(arrays[name]), dtype=bool)
        for row, value in enumerate(arrays[name].to_pylist()):
            vector = None if value is None else _vector_of(value, form)
            wrong[row] = value is not None and vector is None
            vectors.append(vector)
        expected = "a NumPy file" if form == "npy" else f"a sequence of {form}"
        return Converted(pa.array(vectors, pa.list_(pa.float32()))).reject(
            pa.array(wrong), f"{column} is not {expected} in bytes"
        )

    shown = "NumPy files" if form == "npy" else form
    return Output((name,), pa.list_(pa.float32()), read, f"vectors of {shown} in bytes")


def _vector_of(blob: bytes, form: str) -> npt.NDArray[np.float32] | None:
    try:
        values: npt.NDArray[Any] = (
            np.load(io.BytesIO(blob), allow_pickle=False)
            if form == "npy"
            else np.frombuffer(blob, np.dtype(form).newbyteorder("<"))
        )
        if values.ndim != 1 or values.dtype.kind not in "fiu":
            return None
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    except (ValueError, OSError, EOFError):
        return None
