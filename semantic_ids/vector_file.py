"""Vectors in a file that is filled in any order and then mapped, so that they need no memory of the process."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from sidkit.core.arrays import Floats, Ints

IN_MEMORY_BYTES = 2**28
"""Matrices up to this size are held in memory."""


class VectorFile:
    """A matrix ``float32 [rows, width]`` in a file without a name, which the system removes when its process ends.

    Parameters
    ----------
    folder : Path
        Where the file lies.
    rows, width : int
        Shape of the matrix, at least 1 each; rows that are never written are zeros.

    Raises
    ------
    OSError
        When the folder cannot be written.
    """

    def __init__(self, folder: Path, rows: int, width: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.shape = (rows, width)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._file.truncate(rows * width * 4)

    def write(self, places: Ints, rows: Floats) -> None:
        """Write ``rows`` ``float32 [count, width]`` to ``places`` ``int64 [count]``.

        Raises
        ------
        OSError
            When the disk is full.
        """
        order = np.argsort(places)
        ordered, sorted_rows = places[order], np.ascontiguousarray(rows[order], dtype=np.float32)
        ends = np.flatnonzero(np.diff(ordered) != 1) + 1
        for first, last in zip([0, *ends.tolist()], [*ends.tolist(), len(ordered)], strict=True):
            self._file.seek(int(ordered[first]) * self.shape[1] * 4)
            left = sorted_rows[first:last].data.cast("B")
            while left:
                left = left[self._file.write(left) :]

    def mapped(self) -> MappedVectors:
        """The matrix, read-only; it stays when the file is closed."""
        return MappedVectors(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), self.shape)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MappedVectors:
    """A read-only matrix in a mapped file: ``matrix`` is ``float32 [rows, width]``."""

    def __init__(self, mapping: mmap.mmap, shape: tuple[int, int]) -> None:
        self._mapping = mapping
        self.matrix: Floats = np.frombuffer(mapping, dtype=np.float32).reshape(shape)

    def release(self) -> None:
        """Give the pages that were read back to the system; they are read again when they are needed."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self._mapping.madvise(mmap.MADV_DONTNEED)


def can_hold(folder: Path | None) -> bool:
    """Whether files can be made in a folder, which may not exist yet."""
    if folder is None:
        return False
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return there.is_dir() and os.access(there, os.W_OK)
