"""Fast, batch-independent nearest-codeword search, and greedy and beam search over residual codebooks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Codes, Doubles, Floats, Ints

_CELLS = 2**19  # scores held at once: 2 MB, which fit in cache
_BEAM_CELLS = 2**18  # distances held at once by a beam: 1 MB, which fit in cache
_FEW = 16  # cells found by as many passes; more are found by a partition
_UNIT = 2.0**-24  # unit roundoff of float32
_TINY = 2.0**-126  # smallest normal float32; products below it lose precision
_HUGE = 2.0**126  # below it, squared distances and all sums on the way to them are finite


class NearestCode:
    """Find the nearest codeword of each row, by squared distance rounded to ``float32``; ties go to the lowest code.

    ``float32`` products decide wherever the best two scores differ by more than the rounding error (a dot product of d
    terms errs by at most d u |x| |w| in any order of summation: Higham, Accuracy and Stability of Numerical Algorithms,
    3.1). The other rows, well under one in a hundred on real vectors, are decided by differences in double precision. The
    codes therefore never depend on the batch, at the cost of one ``float32`` product.

    Parameters
    ----------
    codebook : float32 [codes, dim]
    """

    def __init__(self, codebook: Floats) -> None:
        self._codebook = codebook
        self._wide = codebook.astype(np.float64)
        squares = np.einsum("kd,kd->k", self._wide, self._wide)
        with np.errstate(over="ignore"):
            self._half, self._longest = (squares / 2).astype(np.float32), float(np.sqrt(squares.max()))
        self._later_twin = np.ones(len(codebook), dtype=bool)
        self._later_twin[np.unique(codebook, axis=0, return_index=True)[1]] = False
        self._step = max(1, _CELLS // len(codebook))
        self._score = np.empty((0, len(codebook)), dtype=np.float32)

    def __call__(self, rows: Floats) -> npt.NDArray[np.int64]:
        """Codes ``int64 [rows]`` of ``rows`` ``float32 [rows, dim]``; memory is bounded by a chunk."""
        codes = np.empty(len(rows), dtype=np.int64)
        if len(self._score) < min(self._step, len(rows)):
            self._score = np.empty((min(self._step, len(rows)), len(self._codebook)), dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(rows), self._step):
                codes[start : start + self._step] = self._chunk(rows[start : start + self._step])
        return codes

    def _chunk(self, rows: Floats) -> npt.NDArray[np.int64]:
        score = np.matmul(rows, self._codebook.T, out=self._score[: len(rows)])
        score -= self._half
        best: npt.NDArray[np.int64] = score.argmax(axis=1)
        each = np.arange(len(rows))
        top = score[each, best]
        score[each, best] = -np.inf
        margin = _margin(np.sqrt(np.einsum("nd,nd->n", rows, rows)), self._longest, rows.shape[1])
        doubtful = np.flatnonzero(~(top - score.max(axis=1) > margin))
        if doubtful.size:
            near = ~(score[doubtful] < (top - margin)[doubtful, None])
            near[np.arange(len(doubtful)), best[doubtful]] = True
            near[:, self._later_twin] = False
            best[doubtful] = _decided(rows[doubtful], self._wide, near)
        return best


class NearestPaths:
    """Find the nearest (path, codeword) cells of each row, by squared distance rounded to ``float32``; ties go to the first.

    As :class:`NearestCode`: half the distances come from one ``float32`` product, of ``[path, 1, |path|^2 / 2]`` and
    ``[-codeword, |codeword|^2 / 2, 1]``. Where the lowest ones are too close for it to tell their order, the cells that may be
    among them are decided by differences in double precision.

    Parameters
    ----------
    codebook : float32 [codes, dim]
    """

    def __init__(self, codebook: Floats) -> None:
        self._wide = codebook.astype(np.float64)
        squares = np.einsum("kd,kd->k", self._wide, self._wide)
        self._longest = float(np.sqrt(squares.max()))
        with np.errstate(over="ignore"):
            halves = (squares / 2).astype(np.float32)
        self._right = np.vstack([-codebook.T, halves, np.ones_like(halves)])

    def __call__(self, residuals: Floats, width: int) -> npt.NDArray[np.int64]:
        """Cells ``int64 [rows, width]``, the nearest first, of ``residuals`` ``float32 [rows, paths, dim]``.

        Cell ``c`` is codeword ``c % codes`` after path ``c // codes``.
        """
        count, paths, dim = residuals.shape
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.einsum("npd,npd->np", residuals, residuals, dtype=np.float64)
            left = np.empty((count, paths, dim + 2), dtype=np.float32)
            left[..., :dim], left[..., dim], left[..., dim + 1] = residuals, 1, squares / 2
            half = (left.reshape(-1, dim + 2) @ self._right).reshape(count, -1)
            best, value = _lowest(half, min(width + 1, half.shape[1]))
            reach = np.square(np.sqrt(squares.max(axis=1)) + self._longest)
            margin = 1.01 * _UNIT * (dim + 4) * reach + 2 * (dim + 2) * _TINY
            sure = (np.diff(value.astype(np.float64), axis=1) > margin[:, None]).all(axis=1) & (reach < _HUGE)
            doubtful = np.flatnonzero(~sure)
            half[doubtful[:, None], best[doubtful]] = value[doubtful]
            near = ~(half[doubtful] > (value[doubtful, width - 1] + margin[doubtful])[:, None])
            near |= (reach[doubtful] >= _HUGE)[:, None]
        best = best[:, :width]
        if doubtful.size:
            best[doubtful] = self._decided(residuals[doubtful], near, width)
        return best

    def _decided(self, residuals: Floats, near: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.int64]:
        """The nearest of the cells marked ``near`` for each row, in double precision; every row has at least ``width``."""
        row, cell = np.nonzero(near)
        path, code = np.divmod(cell, len(self._wide))
        count, paths, dim = residuals.shape
        distance = _distances(residuals.reshape(-1, dim), row * paths + path, self._wide, code)
        order = np.lexsort((cell, distance, row))
        first = np.searchsorted(row, np.arange(count))
        nearest_cells: npt.NDArray[np.int64] = cell[order[first[:, None] + np.arange(width)]]
        return nearest_cells


def nearest(rows: Floats, codebook: Floats) -> npt.NDArray[np.int64]:
    """The nearest codeword of each row, ``int64 [rows]``; see :class:`NearestCode`."""
    return NearestCode(codebook)(rows)


def _margin(norm: Floats, longest: float, dim: int) -> Floats:
    """Difference above which the order of two scores is certain, including the rounding of the distances."""
    bound = 2 * (dim + 2) * norm * longest + 2 * longest**2 + (norm + longest) ** 2
    return np.asarray(1.01 * _UNIT * bound + dim * _TINY, dtype=np.float32)


def _decided(rows: Floats, codebook: Doubles, near: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The nearest of the codes marked ``near`` for each row, in double precision; every row has at least one."""
    row, code = np.nonzero(near)
    distance = _distances(rows, row, codebook, code)
    lowest = np.minimum.reduceat(distance, np.searchsorted(row, np.arange(len(rows))))
    closest = np.flatnonzero(distance == lowest[row])
    return code[closest[np.unique(row[closest], return_index=True)[1]]]


def _distances(rows: Floats, row: Ints, codebook: Doubles, code: Ints) -> Floats:
    """Squared distances of pairs of a row and a codeword, of differences in double precision, ``float32 [pairs]``."""
    distance = np.empty(len(row), dtype=np.float32)
    step = max(1, _CELLS // rows.shape[1])
    with np.errstate(over="ignore"):
        for start in range(0, len(row), step):
            part = slice(start, start + step)
            difference = rows[row[part]] - codebook[code[part]]
            distance[part] = np.einsum("pd,pd->p", difference, difference)
    return distance


def squared_distances(rows: Floats, codebook: Floats) -> Floats:
    """Squared Euclidean distances, ``float32 [rows, codes]``.

    Computed in double precision and rounded once, because the rounding of a float32 product depends on the batch shape. A
    row equally far from two codewords therefore gets the same (the lowest) code in every batch.
    """
    wide, words = rows.astype(np.float64), codebook.astype(np.float64)
    cross: Doubles = wide @ words.T
    cross *= -2
    cross += np.einsum("kd,kd->k", words, words)
    cross += np.einsum("nd,nd->n", wide, wide)[:, None]
    return cross.astype(np.float32)


def residual_codes(rows: Floats, codebooks: Sequence[Floats], beam: int = 1) -> Codes:
    """Codes ``int32 [rows, levels]`` by greedy search level by level, or by beam search of width ``beam``.

    Rows are processed in chunks, which bounds memory.
    """
    largest = max(map(len, codebooks))
    step = max(1, _CELLS // largest if beam == 1 else _BEAM_CELLS // (beam * largest))
    search = _Greedy(codebooks) if beam == 1 else _Beam(codebooks, beam)
    codes = np.empty((len(rows), len(codebooks)), dtype=np.int32)
    for start in range(0, len(rows), step):
        codes[start : start + step] = search(rows[start : start + step])
    return codes


def residual_sum(codes: Codes, codebooks: Sequence[Floats]) -> Floats:
    """Sum of the codewords, ``float32 [items, dim]``, over the levels present in ``codes``."""
    total = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
    for level in range(codes.shape[1]):
        total += codebooks[level][codes[:, level]]
    return total


class _Greedy:
    """The nearest codeword level by level."""

    def __init__(self, codebooks: Sequence[Floats]) -> None:
        self._codebooks = codebooks
        self._levels = [NearestCode(codebook) for codebook in codebooks]

    def __call__(self, rows: Floats) -> Codes:
        codes = np.empty((len(rows), len(self._levels)), dtype=np.int32)
        residual, word = rows, np.empty_like(rows)
        for level, nearest_code in enumerate(self._levels):
            code = nearest_code(residual)
            codes[:, level] = code
            if level + 1 < len(self._levels):
                np.take(self._codebooks[level], code, axis=0, out=word, mode="clip")  # other modes make another copy
                residual = np.subtract(residual, word, out=None if residual is rows else residual)
        return codes


class _Beam:
    """The nearest sum of codewords among ``width`` paths kept at every level."""

    def __init__(self, codebooks: Sequence[Floats], width: int) -> None:
        self._codebooks, self._width = codebooks, width
        self._levels = [NearestPaths(codebook) for codebook in codebooks]

    def __call__(self, rows: Floats) -> Codes:
        paths = np.empty((len(rows), 1, 0), dtype=np.int32)
        residuals = rows[:, None, :]  # [n, paths, dim]
        for level, codebook in enumerate(self._codebooks):
            cells = residuals.shape[1] * len(codebook)
            best = self._levels[level](residuals, min(self._width, cells) if level + 1 < len(self._levels) else 1)
            path, code = np.divmod(best, len(codebook))
            paths = np.concatenate(
                [np.take_along_axis(paths, path[:, :, None], axis=1), code[:, :, None].astype(np.int32)], axis=2
            )
            if level + 1 < len(self._levels):
                residuals = np.take_along_axis(residuals, path[:, :, None], axis=1) - codebook[code]
        return paths[:, 0]


def _lowest(distance: Floats, width: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """The ``width`` lowest cells of each row, ``int64 [rows, width]``, ascending, and their values; ties go to the first cell.

    Cells are overwritten. A few passes for the minimum, which NumPy vectorises, are several times faster than a partition.
    """
    if width > _FEW:
        best = np.argpartition(distance, width - 1, axis=1)[:, :width]
        order = np.argsort(np.take_along_axis(distance, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        return best, np.take_along_axis(distance, best, axis=1)
    best = np.empty((len(distance), width), dtype=np.int64)
    value = np.empty((len(distance), width), dtype=np.float32)
    each = np.arange(len(distance))
    for place in range(width):
        best[:, place] = distance.argmin(axis=1)
        value[:, place] = distance[each, best[:, place]]
        distance[each, best[:, place]] = np.inf
    return best, value
