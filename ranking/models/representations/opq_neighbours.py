"""Nearest neighbours among the OPQ codes of the training rows, and the time each code first appeared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ranking.data.batch import Seen
from sidkit.core.arrays import Ints
from sidkit.core.errors import ConfigError

_CHUNK = 2**22  # cosines held at once


def opq_neighbours(seen: Seen, residual_levels: int, sizes: tuple[int, ...], count: int) -> dict[str, Tensor]:
    """The ``count`` nearest OPQ codes of each OPQ code in the training rows, by cosine of their reconstructions (SMILE,
    arXiv 2510.12604, step 2, uses the top 10).

    An item's OPQ vector depends on its OPQ codes only, so neighbours are stored per distinct combination ("cell"); items
    of one cell have the same vector. A cell exists from the first training row whose candidate has its codes. A cell has
    at most half of all cells as neighbours, so that a small codebook leaves negatives.

    Returns
    -------
    dict
        ``cells`` int64 [cells], sorted keys (:func:`cell_keys`); ``neighbours`` int64 [cells, count] indices into
        ``cells``, nearest first, padded with -1; ``born_us`` int64 [cells], time of the first row, microseconds UTC;
        ``cell_codes`` int64 [cells, opq levels], the codes of each cell.

    Raises
    ------
    ConfigError
        When no codebook is available to decode the codes.
    """
    if seen.flat_vectors is None:
        raise ConfigError(
            "rq_opq_gate needs the codebook's OPQ codewords to find neighbours, but the training context has no quantizer; "
            'pass one, or disable the OPQ part (gate_parts = "rq")'
        )
    keys = cell_keys(torch.from_numpy(seen.codes), residual_levels, sizes).numpy()
    shown = np.flatnonzero((keys >= 0) & (seen.shown > 0))
    cells, first, back = np.unique(keys[shown], return_index=True, return_inverse=True)
    born = np.full(len(cells), np.iinfo(np.int64).max)
    np.minimum.at(born, back.ravel(), seen.first_us[shown])
    codes = seen.codes[shown[first]]
    return {
        "cells": torch.from_numpy(cells),
        "cell_codes": torch.from_numpy(np.ascontiguousarray(codes[:, residual_levels:])),
        "neighbours": torch.from_numpy(_nearest(codes, seen.flat_vectors, count)),
        "born_us": torch.from_numpy(born),
    }


def cell_keys(codes: Tensor, residual_levels: int, sizes: tuple[int, ...]) -> Tensor:
    """Mixed-radix number ``int64 [items]`` of the codes after the residual levels; -1 for an item without codes."""
    key = torch.zeros_like(codes[:, 0])
    for level in range(residual_levels, len(sizes)):
        key = key * sizes[level] + codes[:, level]
    return torch.where((codes >= 0).all(dim=1), key, -1)


def _nearest(codes: Ints, flat_vectors: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.float32]], count: int) -> Ints:
    """Indices ``int64 [cells, count]`` of the nearest other cells by cosine, nearest first, padded with -1."""
    neighbours = np.full((len(codes), count), -1, dtype=np.int64)
    if not len(codes):
        return neighbours
    vectors = flat_vectors(codes.astype(np.int32)).astype(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    most = min(count, len(codes) // 2)
    if most < 1:
        return neighbours
    step = max(1, _CHUNK // len(codes))
    for start in range(0, len(codes), step):
        cosine = unit[start : start + step] @ unit.T
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = -np.inf
        near = np.sort(np.argpartition(-cosine, most - 1, axis=1)[:, :most], axis=1)
        order = np.argsort(-np.take_along_axis(cosine, near, axis=1), axis=1, kind="stable")
        neighbours[start : start + step, :most] = np.take_along_axis(near, order, axis=1)
    return neighbours
