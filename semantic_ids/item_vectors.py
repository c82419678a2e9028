"""Raw content vectors of a set of items: one matrix and one presence mask per modality."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semantic_ids.vector_file import IN_MEMORY_BYTES, MappedVectors, VectorFile, can_hold
from sidkit.core.arrays import Bools, Floats, one_chunk
from sidkit.core.errors import FitError
from sidkit.core.row_groups import rows_of

MOST_CODES = 1024
"""The largest default size of a level; ``distinct`` need not count further."""
CONTENT = "content"
"""The modality of a plain matrix."""
_CHUNK = 4096
_BLOCK_ROWS = 65_536


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
    mapped : sequence of MappedVectors
        Where the matrices lie, if :meth:`from_parquet` did not hold them in memory; :meth:`blocks` reads them in little memory.

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
    mapped: Sequence[MappedVectors] = field(default=(), repr=False)

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
            for _, part in self.blocks():
                digest.update(np.ascontiguousarray(part.matrices[name]).data)
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

    def only(self, modalities: Sequence[str]) -> ItemVectors:
        """The same items with some of their modalities."""
        return ItemVectors(
            {name: self.matrices[name] for name in modalities},
            {name: self.present[name] for name in modalities},
            self.mapped,
        )

    def rows(self, index: npt.NDArray[np.int64] | Bools | slice) -> ItemVectors:
        """Select items by index, mask or slice; a slice gives views."""
        return ItemVectors(
            {name: self._selected(matrix, index) for name, matrix in self.matrices.items()},
            {name: mask[index] for name, mask in self.present.items()},
        )

    def blocks(self, rows: int | None = None) -> Iterator[tuple[slice, ItemVectors]]:
        """The items in blocks of ``rows`` (default: 65,536), as views, with the place of each block; at least one block.

        Vectors that are not held in memory take up no more of it than a block, if no block is kept.
        """
        step = rows or _BLOCK_ROWS
        for start in range(0, max(len(self), 1), step):
            place = slice(start, start + step)
            yield place, self.rows(place)
            self._release()

    def _selected(self, matrix: Floats, index: npt.NDArray[np.int64] | Bools | slice) -> Floats:
        if isinstance(index, slice) or not self.mapped:
            return matrix[index]
        numbers = np.flatnonzero(index) if index.dtype == bool else index
        selected = np.empty((len(numbers), matrix.shape[1]), dtype=matrix.dtype)
        for start in range(0, len(numbers), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            selected[part] = matrix[numbers[part]]
            self._release()
        return selected

    def _release(self) -> None:
        for each in self.mapped:
            each.release()

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
    def from_parquet(
        cls, path: Path, rows: npt.NDArray[np.int64], modalities: Sequence[str], spill: Path | None = None
    ) -> ItemVectors:
        """Read the list columns of some rows of a file, with no second copy of the vectors in memory.

        Parameters
        ----------
        path : Path
            A Parquet file with a column ``list<float32>`` per modality.
        rows : int64 [items]
            Their numbers in the file, from 0 on, each once; items have their order.
        modalities : sequence of str
            The columns.
        spill : Path, optional
            Folder for matrices of more than 256 MiB, which are then read-only views of a file that is gone when the process
            ends. They are held in memory without a folder, or where it cannot be written.

        Raises
        ------
        FitError
            When the vectors of one column have different widths.
        """
        if can_hold(spill):
            try:
                return cls._read(path, rows, modalities, spill)
            except OSError:  # such as a full disk
                pass
        return cls._read(path, rows, modalities, None)

    @classmethod
    def _read(
        cls, path: Path, rows: npt.NDArray[np.int64], modalities: Sequence[str], spill: Path | None
    ) -> ItemVectors:
        order = np.argsort(rows)
        held: dict[str, Floats | VectorFile] = {}
        present = {name: np.zeros(len(rows), dtype=bool) for name in modalities}
        with contextlib.ExitStack() as opened:
            for place_in_order, batch in rows_of(path, rows[order], modalities):
                place = order[place_in_order]
                for name in modalities:
                    part, present[name][place] = matrix_of(pa.chunked_array([batch.column(name)]), name)
                    width = part.shape[1]
                    if width == 0:
                        continue
                    if name not in held:
                        held[name] = _room(len(rows), width, spill, opened)
                    matrix = held[name]
                    if matrix.shape[1] != width:
                        raise _unlike_widths(name, *sorted((matrix.shape[1], width)))
                    if isinstance(matrix, VectorFile):
                        matrix.write(place, part)
                    else:
                        matrix[place] = part
            files = {name: matrix.mapped() for name, matrix in held.items() if isinstance(matrix, VectorFile)}
        matrices = {name: np.zeros((len(rows), 0), dtype=np.float32) for name in modalities}
        matrices |= {name: matrix for name, matrix in held.items() if not isinstance(matrix, VectorFile)}
        matrices |= {name: file.matrix for name, file in files.items()}
        return cls(matrices, present, tuple(files.values()))


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


def _room(rows: int, width: int, spill: Path | None, opened: contextlib.ExitStack) -> Floats | VectorFile:
    if spill is None or rows * width * 4 <= IN_MEMORY_BYTES:
        return np.zeros((rows, width), dtype=np.float32)
    return opened.enter_context(contextlib.closing(VectorFile(spill, rows, width)))


def _unlike_widths(name: str, least: int, most: int) -> FitError:
    return FitError(
        f"vectors of {name!r} must all have the same width, got {least} to {most} elements; "
        "embed all items with the same model"
    )
