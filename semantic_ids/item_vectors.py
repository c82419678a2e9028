"""Raw content vectors of a set of items: one matrix and one presence mask per modality."""

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
"""The largest default size of a level; ``distinct`` need not count further."""
_CHUNK = 4096


@dataclass(frozen=True)
class ItemVectors:
    """Unprocessed content vectors.

    ``matrices[m]`` is ``float32 [items, width of m]``, zero where an item lacks modality ``m``; ``present[m]`` is
    ``bool [items]``.
    """

    matrices: Mapping[str, Floats]
    present: Mapping[str, Bools]

    def __len__(self) -> int:
        return len(next(iter(self.matrices.values())))

    @property
    def any_present(self) -> Bools:
        """``bool [items]``: items with at least one modality; the others have no codes."""
        any_modality: Bools = np.logical_or.reduce(list(self.present.values()))
        return any_modality

    def mark(self) -> str:
        """Hex SHA-256 fingerprint of all vectors and masks, in order."""
        digest = hashlib.sha256()
        for name in sorted(self.matrices):
            matrix = self.matrices[name]
            digest.update(f"{name} {matrix.shape}".encode())
            digest.update(np.ascontiguousarray(matrix).data)
            digest.update(np.ascontiguousarray(self.present[name]).data)
        return digest.hexdigest()

    def distinct(self, most: int = MOST_CODES) -> int:
        """Number of distinct content vectors, counted up to ``most``."""
        seen: set[bytes] = set()
        for start in range(0, len(self), _CHUNK):
            part = [np.ascontiguousarray(matrix[start : start + _CHUNK]) for matrix in self.matrices.values()]
            seen.update(row.tobytes() for row in np.hstack(part))
            if len(seen) >= most:
                return most
        return len(seen)

    def rows(self, index: npt.NDArray[np.int64] | Bools) -> ItemVectors:
        """Select items by index or mask."""
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
            When the vectors of one column have different widths.
        """
        matrices, present = {}, {}
        for name in modalities:
            matrices[name], present[name] = matrix_of(table.column(prefix + name), name)
        return cls(matrices, present)


def matrix_of(column: pa.ChunkedArray, name: str) -> tuple[Floats, Bools]:
    """Convert a list column to ``float32 [rows, width]`` (zero where null) and a mask of the non-null rows."""
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
        raise FitError(
            f"vectors of {name!r} must all have the same width, got {widths.min()} to {widths.max()} elements; "
            "embed all items with the same model"
        )
    matrix = np.zeros((len(array), int(widths[0])), dtype=np.float32)
    matrix[mask] = flat.reshape(count, -1)
    return matrix, mask
