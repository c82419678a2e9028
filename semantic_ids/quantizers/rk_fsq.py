"""Residual k-means, with a last level of finite scalar quantization: a grid instead of a codebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.base import Quantizer, check_beam, checked_vectors, int_codes
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans
from sidkit.core.arrays import Codes, Doubles, Floats, Ints
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError

_MOST_VALUES = 8
_EDGE = 1e-3  # reconstruction values stay this share of a cell away from its borders
_FLAT = 1e-5  # standard deviation of an axis without spread, as a share of the vectors' size
_STEP = 2**14  # rows projected at once


class ResidualKMeansFSQ(Quantizer):
    """Residual k-means, then finite scalar quantization of the rest (QARM v2, arXiv 2602.08559; FSQ: arXiv 2309.15505).

    The last residual is projected on its first principal axes, one per factor of the last size: 64 codes are a grid of 8 x 8.
    On an axis of ``L`` values, the value is the one of ``L`` equal parts of -1..1 in which ``tanh(z)`` lies, where ``z`` is the
    projection divided by its standard deviation; the last code numbers the cells of the grid. Nothing else is learned, no code
    is ever dead, and every code can be decoded: to the mean of the fitted residuals with that value on each axis, or the middle
    where there were none. For any codes before it, the last code of a decoded vector is the code itself.

    Parameters
    ----------
    sizes : sequence of int, optional
        Codes per level; the last one is the number of cells. It is split into factors of at most 8, largest first; a prime
        above 8 is one factor, and a vector of few columns has fewer, larger ones. Default: three equal levels, chosen at
        ``fit`` from the number of rows.
    iterations, seed, threads, force
        As for :class:`~semantic_ids.quantizers.residual_kmeans.ResidualKMeans`.

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per level.
    residual_ : ResidualKMeans
        The levels before the last.
    axes_ : ndarray
        Orthonormal, ``float64 [dim, axes]``.
    spread_ : ndarray
        Standard deviation of the residuals along the axes, ``float64 [axes]``.
    values_ : list of ndarray
        Reconstruction values of each axis, ``float64 [values]``, ascending.
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    QARM v2 (arXiv 2602.08559): residual k-means, then FSQ. Finite Scalar Quantization (arXiv 2309.15505), which rounds
    ``tanh(z) (L - 1) / 2`` and so has outer cells of half the width.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids.quantizers.rk_fsq import ResidualKMeansFSQ
    >>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
    >>> quantizer = ResidualKMeansFSQ(sizes=(16, 64)).fit(x)
    >>> quantizer.transform(x).shape, [len(values) for values in quantizer.values_]
    ((1000, 2), [8, 8])
    """

    name = "rk_fsq"

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
    ) -> None:
        self.sizes = sizes
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force

    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Learn the residual levels, then the axes and values of the last residual.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes, or there is only one level.
        """
        rows = checked_vectors(vectors)
        sizes = self.sizes_for(rows)
        if len(sizes) < 2:
            raise FitError(f"expected a level of k-means before the grid, got sizes {sizes}; add one")
        grid = grid_of(sizes[-1], rows.shape[1])
        self.residual_ = ResidualKMeans(sizes[:-1], self.iterations, self.seed, self.threads, True).fit(rows)
        left = (rows - self.residual_.decode(self.residual_.encode(rows))).astype(np.float64)
        left = left[np.lexsort(left.T)]  # sums must not depend on the order of the rows
        variance, axes = np.linalg.eigh(left.T @ left / len(left))
        largest = np.argsort(-variance, kind="stable")[: len(grid)]
        axes = axes[:, largest]
        axes *= np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0) < 0, -1.0, 1.0)
        self.axes_: Doubles = np.ascontiguousarray(axes)
        along = left @ self.axes_
        least = max(_FLAT * float(np.sqrt(np.mean(rows.astype(np.float64) ** 2))), 1e-20)
        self.spread_: Doubles = np.maximum(np.sqrt(np.mean(along**2, axis=0)), least)
        self.values_ = [self._values(along[:, axis], axis, count) for axis, count in enumerate(grid)]
        self.sizes_ = sizes
        return self

    def _values(self, along: Doubles, axis: int, count: int) -> Doubles:
        """Reconstruction values of one axis: the mean of the residuals of each cell, kept away from its borders."""
        scaled = along / self.spread_[axis]
        cell = _cell(scaled, count)
        rows = np.bincount(cell, minlength=count)
        borders = 2 * np.arange(count + 1) / count - 1
        low, high = borders[:-1] + 2 * _EDGE / count, borders[1:] - 2 * _EDGE / count
        mean = np.bincount(cell, weights=scaled, minlength=count) / np.maximum(rows, 1)
        middle = np.arctanh((low + high) / 2)
        inside = np.clip(np.where(rows > 0, mean, middle), np.arctanh(low), np.arctanh(high))
        values: Doubles = inside * self.spread_[axis]
        return values

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]``; ``beam`` is the beam width over the levels of k-means."""
        self._refuse_unfitted()
        check_beam(beam)
        rows = checked_vectors(vectors, len(self.axes_))
        before = self.residual_.encode(rows, beam=beam)
        last = np.empty((len(rows), 1), dtype=np.int32)
        for start in range(0, len(rows), _STEP):
            part = slice(start, start + _STEP)
            last[part, 0] = self.cells(rows[part] - self.residual_.decode(before[part]))
        return np.concatenate([before, last], axis=1)

    def cells(self, residuals: Floats) -> Ints:
        """Last codes ``int64 [rows]`` of residuals ``float32 [rows, dim]``."""
        # Not BLAS: its rounding depends on the number of rows.
        along = np.einsum("nd,da->na", residuals.astype(np.float64), self.axes_) / self.spread_
        code = np.zeros(len(residuals), dtype=np.int64)
        for axis, values in enumerate(self.values_):
            code = code * len(values) + _cell(along[:, axis], len(values))
        return code

    def decode(self, codes: Codes) -> Floats:
        """Sum of the codewords and the values of the grid, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        checked = int_codes(codes, self.sizes_)
        return self.residual_.decode(checked[:, :-1]) + self._on_grid(checked[:, -1].astype(np.int64))

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """Reconstruction from the first ``depth`` levels of the codes, ``float32 [items, dim]``."""
        checked = int_codes(codes, self.sizes_)
        return self.decode(codes) if depth >= len(self.sizes_) else self.residual_.decode_prefix(checked[:, :-1], depth)

    def _on_grid(self, code: Ints) -> Floats:
        along = np.empty((len(code), len(self.values_)))
        for axis in range(len(self.values_) - 1, -1, -1):
            code, cell = np.divmod(code, len(self.values_[axis]))
            along[:, axis] = self.values_[axis][cell]
        decoded: Floats = np.einsum("na,da->nd", along, self.axes_).astype(np.float32)
        return decoded

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        values = {f"values.{axis}": each for axis, each in enumerate(self.values_)}
        state = {f"residual.{key}": value for key, value in self.residual_.tensors().items()}
        return {**state, **values, "axes": self.axes_, "spread": self.spread_}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.residual_ = ResidualKMeans().load_tensors(tensors_under(tensors, "residual."))
        self.axes_, self.spread_ = (tensors[name].astype(np.float64) for name in ("axes", "spread"))
        self.values_ = [tensors[f"values.{axis}"].astype(np.float64) for axis in range(len(self.spread_))]
        self.sizes_ = (*self.residual_.sizes_, int(np.prod([len(each) for each in self.values_])))
        return self


def grid_of(size: int, axes: int) -> tuple[int, ...]:
    """Factors of a number of cells, each at most 8, largest first; a prime above 8 is one factor. Of more factors than axes,
    the smallest are multiplied.
    """
    factors = []
    while size > 1:
        least = next((divisor for divisor in range(2, size + 1) if size % divisor == 0), size)
        fitting = [divisor for divisor in range(2, _MOST_VALUES + 1) if size % divisor == 0]
        factors.append(max(fitting) if fitting else least)
        size //= factors[-1]
    factors.sort(reverse=True)
    while len(factors) > axes:
        factors = sorted([*factors[:-2], factors[-2] * factors[-1]], reverse=True)
    return tuple(factors)


def _cell(scaled: Doubles, count: int) -> Ints:
    """Which of ``count`` equal parts of -1..1 ``tanh(scaled)`` lies in, ``int64 [rows]``."""
    cell: Ints = np.floor((np.tanh(scaled) + 1) / 2 * count).astype(np.int64)
    return np.clip(cell, 0, count - 1)
