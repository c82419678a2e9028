"""Fast, batch-independent nearest-codeword search, and greedy and beam search over residual codebooks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Codes, Doubles, Floats

_CELLS = 2**19  # scores held at once: 2 MB, which fit in cache
_BEAM_CELLS = 2**18  # distances held at once by a beam: 2 MB, which fit in cache
_FEW = 16  # cells found by as many passes; more are found by a partition
_UNIT = 2.0**-24  # unit roundoff of float32
_TINY = 2.0**-126  # smallest normal float32; products below it lose precision


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
    distance = np.empty(len(row), dtype=np.float32)
    step = max(1, _CELLS // rows.shape[1])
    for start in range(0, len(row), step):
        difference = rows[row[start : start + step]] - codebook[code[start : start + step]]
        distance[start : start + step] = np.einsum("pd,pd->p", difference, difference)
    lowest = np.minimum.reduceat(distance, np.searchsorted(row, np.arange(len(rows))))
    closest = np.flatnonzero(distance == lowest[row])
    return code[closest[np.unique(row[closest], return_index=True)[1]]]


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
    codes = np.empty((len(rows), len(codebooks)), dtype=np.int32)
    step = max(1, _CELLS // largest if beam == 1 else _BEAM_CELLS // (beam * largest))
    searches = [NearestCode(codebook) for codebook in codebooks] if beam == 1 else []
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        codes[start : start + step] = _beam(chunk, codebooks, beam) if beam > 1 else _greedy(chunk, codebooks, searches)
    return codes


def residual_sum(codes: Codes, codebooks: Sequence[Floats]) -> Floats:
    """Sum of the codewords, ``float32 [items, dim]``, over the levels present in ``codes``."""
    total = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
    for level in range(codes.shape[1]):
        total += codebooks[level][codes[:, level]]
    return total


def _greedy(rows: Floats, codebooks: Sequence[Floats], searches: Sequence[NearestCode]) -> Codes:
    codes = np.empty((len(rows), len(codebooks)), dtype=np.int32)
    residual, word = rows, np.empty_like(rows)
    for level, search in enumerate(searches):
        code = search(residual)
        codes[:, level] = code
        if level + 1 < len(searches):
            np.take(codebooks[level], code, axis=0, out=word, mode="clip")  # other modes make another copy
            residual = np.subtract(residual, word, out=None if residual is rows else residual)
    return codes


def _beam(rows: Floats, codebooks: Sequence[Floats], beam: int) -> Codes:
    count, dim = rows.shape
    paths = np.empty((count, 1, 0), dtype=np.int32)
    residuals = rows[:, None, :]  # [n, paths, dim]
    for level, codebook in enumerate(codebooks, start=1):
        distance = squared_distances(residuals.reshape(-1, dim), codebook).reshape(count, -1)
        width = min(beam, distance.shape[1]) if level < len(codebooks) else 1
        best = _lowest(distance, width)
        path, code = np.divmod(best, len(codebook))
        paths = np.concatenate(
            [np.take_along_axis(paths, path[:, :, None], axis=1), code[:, :, None].astype(np.int32)], axis=2
        )
        residuals = np.take_along_axis(residuals, path[:, :, None], axis=1) - codebook[code]
    return paths[:, 0]


def _lowest(distance: Floats, width: int) -> npt.NDArray[np.int64]:
    """The ``width`` lowest cells of each row, ``int64 [rows, width]``, ascending; ties go to the first. Overwrites them.

    A few passes for the minimum, which NumPy vectorises, are several times faster than a partition.
    """
    if width > _FEW:
        best = np.argpartition(distance, width - 1, axis=1)[:, :width]
        order = np.argsort(np.take_along_axis(distance, best, axis=1), axis=1, kind="stable")
        return np.take_along_axis(best, order, axis=1)
    best = np.empty((len(distance), width), dtype=np.int64)
    each = np.arange(len(distance))
    for place in range(width):
        best[:, place] = distance.argmin(axis=1)
        distance[each, best[:, place]] = np.inf
    return best
