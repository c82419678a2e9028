"""Row lookup with a gradient that is fast on a CPU."""

from __future__ import annotations

from torch import Tensor

from ranking.data.plain import is_plain


def gather_rows(matrix: Tensor, index: Tensor) -> Tensor:
    """``matrix[index]``: ``float32 [*index.shape, dim]`` of ``matrix`` ``[rows, dim]`` and ``index`` int64.

    The gradient of ``index_select`` adds rows directly; that of ``embedding`` sorts the index first, which takes four times
    as long for a batch of some ten thousand rows.
    """
    return matrix.index_select(0, index.flatten()).view(*index.shape, matrix.shape[1])


def is_shared(history: Tensor) -> bool:
    """Whether all rows of an index ``[rows, length]`` are one row in memory: the history of a request's user.

    Never among plain operations: an exported graph is for histories of any number of rows.
    """
    return not is_plain() and len(history) > 1 and history.stride(0) == 0
