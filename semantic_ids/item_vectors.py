"""Raw content vectors of a set of items: one matrix and one presence mask per modality."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.arrays import Bools, Floats, one_chunk
from sidkit.core.errors import FitError

MOST_CODES = 1024
"""The largest default size of a level; ``distinct`` need not count further."""
CONTENT = "content"
"""The modality of a plain matrix."""
_CHUNK = 4096
_READ_ROWS = 16_384
"""Rows of a file that are read at a time."""
_READ_BYTES = 1 << 20
"""Bytes of a column that are read at a time."""


@dataclass(frozen=True)
class ItemVectors:
    """Unprocessed content vectors of items, with one or several modalities that an item may lack.

    :meth:`of` makes them from one plain matrix, :meth:`from_arrow` from list columns of a table, :meth:`from_parquet` from
    those of a file.

    Parameters
    ----------
    matrices : mapping of str to ndarray
        ``float32 [items, width of m]`` for each modality ``m``, zero where an item lacks it; may be read-only.
    present : mapping of str to ndarray
        ``bool [items]`` for each modality: whether an item has it.

    Attributes
    ----------
    any_present : ndarray
        ``bool [items]``: items with at least one modality; the others have no codes.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import ItemVectors
    >>> items = ItemVectors.of(np.ones((3, 4)))
    >>> len(items), list(items.matrices)
    (3, ['content'])
    >>> text, image = np.ones((3, 4), "float32"), np.ones((3, 2), "float32")
    >>> has_image = np.array([True, False, True])
    >>> image[~has_image] = 0
    >>> items = ItemVectors({"text": text, "image": image}, {"text": np.ones(3, bool), "image": has_image})
    >>> items.width
    6
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

    @property
    def width(self) -> int:
        """Number of columns of all modalities together."""
        return sum(matrix.shape[1] for matrix in self.matrices.values())

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

    def rows(self, index: npt.NDArray[np.int64] | Bools | slice) -> ItemVectors:
        """Select items by index, mask or slice; a slice gives views."""
        return ItemVectors(
            {name: matrix[index] for name, matrix in self.matrices.items()},
            {name: mask[index] for name, mask in self.present.items()},
        )

    @classmethod
    def of(cls, vectors: ItemVectors | npt.ArrayLike, modality: str = CONTENT) -> ItemVectors:
        """A matrix ``[items, dim]`` as one modality that every item has; item vectors are returned unchanged.

        Raises
        ------
        FitError
            When the vectors are not a numeric matrix.
        """
        if isinstance(vectors, ItemVectors):
            return vectors
        matrix = float_matrix(vectors)
        return cls({modality: matrix}, {modality: np.ones(len(matrix), dtype=bool)})

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

    @classmethod
    def from_parquet(cls, path: Path, rows: npt.NDArray[np.int64], modalities: Sequence[str]) -> ItemVectors:
        """Read the list columns of some rows of a file, with no second copy of the vectors in memory.

        Parameters
        ----------
        path : Path
            A Parquet file with a column ``list<float32>`` per modality.
        rows : int64 [items]
            Their numbers in the file, from 0 on, each once; items have their order.
        modalities : sequence of str
            The columns.

        Raises
        ------
        FitError
            When the vectors of one column have different widths.
        """
        order = np.argsort(rows)
        wanted = rows[order]
        matrices: dict[str, Floats] = {}
        present = {name: np.zeros(len(rows), dtype=bool) for name in modalities}
        start = 0
        for batch in _batches(path, modalities):
            first, last = np.searchsorted(wanted, [start, start + batch.num_rows])
            place, taken = order[first:last], pa.array(wanted[first:last] - start)
            start += batch.num_rows
            if first == last:
                continue
            for name in modalities:
                part, present[name][place] = matrix_of(pa.chunked_array([batch.column(name).take(taken)]), name)
                if part.shape[1] == 0:
                    continue
                if name not in matrices:
                    matrices[name] = np.zeros((len(rows), part.shape[1]), dtype=np.float32)
                held = matrices[name]
                if held.shape[1] != part.shape[1]:
                    raise _unlike_widths(name, *sorted((held.shape[1], part.shape[1])))
                held[place] = part
        empty = np.zeros((len(rows), 0), dtype=np.float32)
        return cls({name: matrices.get(name, empty) for name in modalities}, present)


def float_matrix(vectors: npt.ArrayLike) -> Floats:
    """The vectors as a contiguous ``float32`` matrix ``[items, dim]``; elements may be NaN or infinite.

    Raises
    ------
    FitError
        When they are not numbers, or not a matrix.
    """
    try:
        array = np.asarray(vectors)
    except ValueError as error:
        raise FitError("expected vectors of shape (items, dim), got rows of different lengths") from error
    numeric = array.dtype.kind in "fiub"
    if array.dtype.kind == "O":  # such as a frame with columns of several types
        with contextlib.suppress(TypeError, ValueError):
            array, numeric = array.astype(np.float64), True
    if not numeric:
        raise FitError(f"expected vectors of numbers, got {array.dtype}; convert them to float32 first")
    if array.ndim != 2:
        raise FitError(f"expected vectors of shape (items, dim), got {array.shape}")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which callers refuse
        return np.ascontiguousarray(array, dtype=np.float32)


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
        raise _unlike_widths(name, widths.min(), widths.max())
    if count == len(array):
        return flat.reshape(count, -1), mask  # a view of Arrow's memory
    matrix = np.zeros((len(array), int(widths[0])), dtype=np.float32)
    matrix[mask] = flat.reshape(count, -1)
    return matrix, mask


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns of a file in small batches; row groups are read one by one, since Arrow holds all that it read for one call."""
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(_READ_ROWS, row_groups=[group], columns=list(columns), use_threads=False)


def _unlike_widths(name: str, least: int, most: int) -> FitError:
    return FitError(
        f"vectors of {name!r} must all have the same width, got {least} to {most} elements; "
        "embed all items with the same model"
    )
