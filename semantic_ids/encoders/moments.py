"""Means, covariances and regressions of vectors that are read in parts, so that memory holds one part of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from semantic_ids.item_vectors import ItemVectors
from sidkit.core.arrays import Doubles, Floats

_PART_ROWS = 2**17

Part = TypeVar("Part")
Parts = Callable[[], Iterable[tuple[ItemVectors, Part]]]
"""Items in parts, each with what was made of it; every call begins again."""


def in_parts(items: ItemVectors, make: Callable[[ItemVectors], Part]) -> Parts[Part]:
    """Items in parts of 131,072, and what ``make`` makes of each; that of a single part is made once, and kept."""
    if len(items) <= _PART_ROWS:
        whole = [(items, make(items))]
        return lambda: whole

    def parts() -> Iterator[tuple[ItemVectors, Part]]:
        for _, part in items.blocks(_PART_ROWS):
            yield part, make(part)

    return parts


def moments(parts: Callable[[], Iterable[Floats]]) -> tuple[Doubles, Doubles]:
    """Mean ``float64 [dim]`` and covariance ``float64 [dim, dim]`` of vectors ``float32 [rows, dim]`` in parts."""
    count, total = 0, np.zeros(0)
    for rows in parts():
        count, total = count + len(rows), _sum(total, rows)
    mean = total / count
    products = np.zeros((len(mean), len(mean)))
    for rows in parts():
        centred = rows.astype(np.float64)
        centred -= mean
        products += centred.T @ centred
    return mean, products / count


def regression(parts: Callable[[], Iterable[tuple[Floats, Floats]]], ridge: float) -> Floats | None:
    """Ridge coefficients ``float32 [width of x + 1, width of y]`` of y on x, the intercept last.

    Parameters
    ----------
    parts : callable
        Gives x and y, ``float32 [rows, width]`` each, in parts.
    ridge : float
        Penalty relative to the number of rows.

    Returns
    -------
    ndarray or None
        None without rows.
    """
    count, x_total, y_total = 0, np.zeros(0), np.zeros(0)
    for x, y in parts():
        count, x_total, y_total = count + len(x), _sum(x_total, x), _sum(y_total, y)
    if not count:
        return None
    x_mean, y_mean = x_total / count, y_total / count
    squares, products = np.zeros((len(x_mean), len(x_mean))), np.zeros((len(x_mean), len(y_mean)))
    for x, y in parts():
        wide = x - x_mean
        squares += wide.T @ wide
        products += wide.T @ (y - y_mean)
    slope = np.zeros_like(products)
    spread = np.trace(squares)
    if spread > 0:  # a constant x predicts the mean
        penalty = ridge * count * spread / (count * len(x_mean))
        slope = np.linalg.lstsq(squares + penalty * np.eye(len(x_mean)), products, rcond=None)[0]
    return np.vstack([slope, y_mean - x_mean @ slope]).astype(np.float32)


def _sum(total: Doubles, rows: Floats) -> Doubles:
    added: Doubles = rows.sum(axis=0, dtype=np.float64)
    return added if not len(total) else total + added
