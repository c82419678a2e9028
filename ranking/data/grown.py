"""An array that rows are appended to, without copying all of it each time."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)


class Grown(Generic[Scalar]):
    """Rows of one shape; the memory doubles when it is full.

    Parameters
    ----------
    rows : numpy.ndarray
        The first rows.
    """

    def __init__(self, rows: npt.NDArray[Scalar]) -> None:
        self._held = rows.copy()
        self._count = len(rows)

    @property
    def array(self) -> npt.NDArray[Scalar]:
        """All rows so far, as a view; it must not be modified."""
        return self._held[: self._count]

    def extend(self, rows: npt.NDArray[Scalar]) -> None:
        """Append rows."""
        wanted = self._count + len(rows)
        if wanted > len(self._held):
            grown = np.empty((max(wanted, 2 * len(self._held)), *self._held.shape[1:]), dtype=self._held.dtype)
            grown[: self._count] = self.array
            self._held = grown
        self._held[self._count : wanted] = rows
        self._count = wanted
