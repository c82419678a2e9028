"""The raw content vectors of a set of items: one matrix per modality and which rows have it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidkit.core.arrays import Bools, Floats, one_chunk
from sidkit.core.errors import FitError

MOST_CODES = 1024
"""The largest default size of a level: more different vectors change no default."""
_CHUNK = 4096


@dataclass(frozen=True)
class ItemVectors:
    """Content vectors as they came.

    ``matrices[m]`` is ``float32 [items, width of m]`` with zeros where an item lacks modality ``m``; ``present[m]`` is
    ``bool [items]``.
    """

    matrices: Mapping[str, Floats]
    present: Mapping[str, Bools]

    def __len__(self) -> int:
        return len(next(iter(self.matrices.values())))

    @property
    def any_present(self) -> Bools:
        """``bool [items]``: items with at least one modality; the others have no codes."""
        there: Bools = np.logical_or.reduce(list(self.present.values()))
        return there

    def mark(self) -> str:
        """SHA-256 of all vectors and gaps in their order, in hex: other content has another mark."""
        digest = hashlib.sha256()
        for name in sorted(self.matrices):
            matrix = self.matrices[name]
            digest.update(f"{name} {matrix.shape}".encode())
            digest.update(np.ascontiguousarray(matrix).data)
            digest.update(np.ascontiguousarray(self.present[name]).data)
        return digest.hexdigest()

    def distinct(self, most: int = MOST_CODES) -> int:
        """How many items have different vectors, counted up to ``most``."""
        seen: set[bytes] = set()
        for start in range(0, len(self), _CHUNK):
            part = [np.ascontiguousarray(matrix[start : start + _CHUNK]) for matrix in self.matrices.values()]
            together = np.hstack(part)
            seen.update(row.tobytes() for row in together)
            if len(seen) >= most:
                return most
        return len(seen)

    def rows(self, index: npt.NDArray[np.int64] | Bools) -> ItemVectors:
        """A selection of items."""
        return ItemVectors(
            {name: matrix[index] for name, matrix in self.matrices.items()},
            {name: mask[index] for name, mask in self.present.items()},
        )

    @classmethod
    def from_arrow(cls, table: pa.Table, modalities: Sequence[str], prefix: str = "") -> ItemVectors:
        """Read list columns (``list<float32>``, null where an item lacks the modality).

        Raises
        ------
        FitError
            When rows of one column have different widths.
        """
        matrices, present = {}, {}
        for name in modalities:
            matrices[name], present[name] = matrix_of(table.column(prefix + name), name)
        return cls(matrices, present)


def matrix_of(column: pa.ChunkedArray, name: str) -> tuple[Floats, Bools]:
    """A list column as ``float32 [rows, width]`` (zeros where null) and the mask of rows that are not null."""
    array = one_chunk(column)
    if pa.types.is_null(array.type):
        array = array.cast(pa.list_(pa.float32()))
    mask = array.is_valid().to_numpy(zero_copy_only=False)
    flat = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    count = int(mask.sum())
    if count == 0:
        return np.zeros((len(array), 0), dtype=np.float32), mask
    widths = array.value_lengths().drop_null().to_numpy()
    if widths.min() != widths.max():
        raise FitError(f"vectors of {name!r} have {widths.min()} to {widths.max()} elements; one width is needed")
    matrix = np.zeros((len(array), int(widths[0])), dtype=np.float32)
    matrix[mask] = flat.reshape(count, -1)
    return matrix, mask
