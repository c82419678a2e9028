"""Vectors in NumPy files: ``<table>.npy`` or ``<table>_<column>.npy``, with the ids of their rows in ``<table>_ids``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidkit.contract.formats.base import Part
from sidkit.core.errors import ContractError

VECTOR = "vector"
"""Column of ``<table>.npy``."""
_IDS = "ids"


def arrays_of(entries: Sequence[Path], table: str) -> dict[str, Path]:
    """The arrays of a table by column."""
    arrays = {}
    for entry in entries:
        stem, _, suffix = entry.name.rpartition(".")
        if suffix.lower() != "npy" or stem == f"{table}_{_IDS}":
            continue
        if stem == table:
            arrays[VECTOR] = entry
        elif stem.startswith(f"{table}_"):
            arrays[stem.removeprefix(f"{table}_")] = entry
    return arrays


class NpyPart(Part):
    """Arrays ``[rows, width]`` of numbers, and a table or array with the ids of their rows, in the same order.

    The ids are an array ``<table>_ids.npy`` of integers or texts, or a file ``<table>_ids`` of another format with the
    column ``item_id`` or one column of any name; its other columns belong to the table too.
    """

    def __init__(self, arrays: Mapping[str, Path], entries: Sequence[Path], place: Path, table: str) -> None:
        from sidkit.contract.formats import format_of

        super().__init__(next(iter(arrays.values())), table)
        self._arrays = dict(arrays)
        stem = f"{place.name}_{_IDS}"
        own = [entry for entry in entries if entry.stem == stem and entry.suffix.lower() == ".npy"]
        others = [
            (entry, known[1]) for entry in entries if (known := format_of(entry)) is not None and known[0] == stem
        ]
        if len(own) + len(others) != 1:
            got = ", ".join(path.name for path in (*own, *(entry for entry, _ in others))) or "none"
            raise ContractError(
                table,
                f"expected one file {stem}.npy, {stem}.csv or {stem}.parquet with the ids of the rows of {self.path.name}, "
                f"got {got}; write the ids in the order of the rows",
            )
        self._ids_array = own[0] if own else None
        self._ids_file = others[0][1](others[0][0], table) if others else None

    @property
    def files(self) -> list[Path]:
        """See :attr:`Part.files`."""
        ids = self._ids_array if self._ids_file is None else self._ids_file.path
        return [*self._arrays.values(), *([ids] if ids is not None else [])]

    def rows(self) -> int | None:
        """See :meth:`Part.rows`."""
        return len(self._open(self.path))

    def columns(self) -> dict[str, pa.DataType | None]:
        """See :meth:`Part.columns`."""
        return {**self._id_columns(), **dict.fromkeys(self._arrays, pa.list_(pa.float32()))}

    def _id_columns(self) -> dict[str, pa.DataType | None]:
        if self._ids_file is None:
            return {"item_id": None}
        columns = self._ids_file.columns()
        return {"item_id": next(iter(columns.values()))} if len(columns) == 1 else columns

    def batches(self, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Part.batches`."""
        matrices = {name: self._matrix(path) for name, path in self._arrays.items()}
        start = 0
        for ids in self._ids(chunk_rows, kinds):
            end = start + ids.num_rows
            arrays = {name: ids.column(name) for name in columns if name not in matrices}
            for name, matrix in matrices.items():
                if end > len(matrix):
                    self._refuse_lengths(f"more than {len(matrix):,}", len(matrix), name)
                if name in columns:
                    arrays[name] = _lists(matrix[start:end])
            start = end
            yield pa.RecordBatch.from_arrays([arrays[name] for name in columns], names=list(columns))
        for name, matrix in matrices.items():
            if len(matrix) != start:
                self._refuse_lengths(f"{start:,}", len(matrix), name)

    def _refuse_lengths(self, ids: str, rows: int, name: str) -> None:
        raise ContractError(
            self.table,
            f"expected as many ids as rows of {self._arrays[name].name}, got {ids} ids for {rows:,} rows; write both again "
            "from the same items",
        )

    def _ids(self, chunk_rows: int, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        if self._ids_file is not None:
            names = list(self._ids_file.columns())
            shown = list(self._id_columns())
            for batch in self._ids_file.batches(names, chunk_rows, kinds):
                yield batch.rename_columns(shown)
            return
        ids = self._open(self._ids_array or self.path)
        if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
            raise ContractError(
                self.table,
                f"expected ids as a one-dimensional array of integers or texts, got {ids.dtype} of shape {ids.shape} in "
                f"{self._ids_array}; save them with np.save(path, np.asarray(ids, dtype=str))",
            )
        for start in range(0, len(ids), chunk_rows):
            part = np.array(ids[start : start + chunk_rows])
            texts = pa.array(part.tolist(), pa.binary()).cast(pa.string()) if part.dtype.kind == "S" else None
            yield pa.RecordBatch.from_arrays([pa.array(part.tolist()) if texts is None else texts], names=["item_id"])

    def _matrix(self, path: Path) -> npt.NDArray[Any]:
        matrix = self._open(path)
        if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
            raise ContractError(
                self.table,
                f"expected numbers of shape (items, dim) in {path.name}, got {matrix.dtype} of shape {matrix.shape}; save the "
                "vectors as one float32 matrix",
            )
        return matrix

    def _open(self, path: Path) -> npt.NDArray[Any]:
        try:
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ContractError(
                self.table, f"{path} cannot be read as a NumPy array ({error}); save it with np.save, without objects"
            ) from error
        return array


def _lists(matrix: npt.NDArray[Any]) -> pa.Array:
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1)
    ends = np.arange(len(matrix) + 1, dtype=np.int32) * np.int32(matrix.shape[1])
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(flat))
