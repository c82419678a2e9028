"""k-means on faiss, and balanced k-means with clusters of equal size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from semantic_ids.quantizers.nearest import squared_distances
from sidkit.core.arrays import Floats

_BALANCE_CELLS = 2**24  # distances held while balancing: 128 MB in double
_BALANCE_ROUNDS = 5
_PRICE_STEPS = 6


def cluster(rows: Floats, size: int, iterations: int, seed: int, threads: int) -> Floats:
    """Run k-means on ``rows`` ``float32 [rows, dim]``; returns centroids ``float32 [size, dim]``.

    Uses faiss' ``ProgressiveDimClustering``: clustering in a growing number of principal dimensions, each step
    initialised from the last, gives a lower error than initialising from random rows.
    """
    import faiss

    faiss.omp_set_num_threads(threads)
    dim = rows.shape[1]
    progressive = len(rows) > dim  # its PCA needs more rows than dimensions
    parameters: Any = faiss.ProgressiveDimClusteringParameters() if progressive else faiss.ClusteringParameters()
    parameters.seed, parameters.niter = seed, iterations
    parameters.min_points_per_centroid, parameters.max_points_per_centroid = 1, 2**31 // size
    clustering: Any
    if progressive:
        parameters.progressive_dim_steps = min(parameters.progressive_dim_steps, max(1, dim.bit_length() - 1))
        clustering = faiss.ProgressiveDimClustering(dim, size, parameters)
        clustering.train(len(rows), faiss.swig_ptr(rows), faiss.ProgressiveDimIndexFactory())
    else:
        clustering = faiss.Clustering(dim, size, parameters)
        clustering.train(rows, faiss.IndexFlatL2(dim))
    centroids = faiss.vector_to_array(clustering.centroids).reshape(size, dim)
    return np.ascontiguousarray(centroids, dtype=np.float32)


def refine(rows: Floats, centroids: Floats, iterations: int, seed: int, threads: int) -> Floats:
    """Run more k-means iterations from given centroids ``float32 [size, dim]``; an empty cluster splits a full one."""
    import faiss

    faiss.omp_set_num_threads(threads)
    parameters = faiss.ClusteringParameters()
    parameters.seed, parameters.niter = seed, iterations
    parameters.min_points_per_centroid, parameters.max_points_per_centroid = 1, 2**31 // len(centroids)
    clustering = faiss.Clustering(rows.shape[1], len(centroids), parameters)
    faiss.copy_array_to_vector(np.ascontiguousarray(centroids, dtype=np.float32).ravel(), clustering.centroids)
    clustering.train(rows, faiss.IndexFlatL2(rows.shape[1]))
    moved = faiss.vector_to_array(clustering.centroids).reshape(centroids.shape)
    return np.ascontiguousarray(moved, dtype=np.float32)


def balance(rows: Floats, centroids: Floats) -> Floats:
    """Balanced k-means from given centroids; returns centroids ``float32 [size, dim]``.

    Alternates between assigning the same number of rows (plus or minus one) to every code and moving each centroid to
    the mean of its rows. Uses at most 2**24 / size evenly spaced rows, which bounds memory.

    Parameters
    ----------
    rows : float32 [rows, dim]
        At least as many as centroids.
    centroids : float32 [size, dim]
        Initial centroids.
    """
    step = -(-len(rows) * len(centroids) // _BALANCE_CELLS)
    sample = rows[::step] if len(rows[::step]) >= len(centroids) else rows
    prices = np.zeros(len(centroids), dtype=np.float32)
    for _ in range(_BALANCE_ROUNDS):
        distance = squared_distances(sample, centroids)
        code = equal_groups(distance, prices)
        total = np.zeros(centroids.shape, dtype=np.float64)
        np.add.at(total, code, sample)
        centroids = (total / np.bincount(code, minlength=len(centroids))[:, None]).astype(np.float32)
    return centroids


def equal_groups(distance: Floats, prices: Floats) -> npt.NDArray[np.int64]:
    """Assign a code to each row, ``int64 [rows]``, so that all codes get the same number of rows (plus or minus one).

    Prices on the codes, raised for overfull codes and lowered for others, first bring the nearest-code assignment close
    to balance (the dual of the assignment problem). The remaining rows go to their nearest code with capacity left, rows
    with the highest regret first. ``prices`` (``float32 [codes]``) is updated in place.
    """
    rows, codes = distance.shape
    scale = float(np.median(distance.min(axis=1))) or float(distance.mean())
    for step in range(_PRICE_STEPS):
        count = np.bincount((distance + prices).argmin(axis=1), minlength=codes)
        prices += np.float32(scale * 0.3 / (1 + step)) * np.log((count + 1) * codes / (rows + codes)).astype(np.float32)
    cost = distance + prices
    assigned = np.full(rows, -1, dtype=np.int64)
    for share in (rows // codes, 1):  # an equal share first, then one more row for as many codes as needed
        capacity = np.full(codes, share)
        while (assigned < 0).any() and capacity.any():
            waiting, free = np.flatnonzero(assigned < 0), np.flatnonzero(capacity)
            open_cost = cost[np.ix_(waiting, free)]
            two = np.argpartition(open_cost, min(1, len(free) - 1), axis=1)[:, :2]
            pair = np.take_along_axis(open_cost, two, axis=1)
            choice = free[two[np.arange(len(two)), pair.argmin(axis=1)]]
            regret = pair.max(axis=1) - pair.min(axis=1)
            order = np.lexsort((-regret, choice))
            ordered = choice[order]
            rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
            accepted = order[rank < capacity[ordered]]
            assigned[waiting[accepted]] = choice[accepted]
            capacity -= np.bincount(choice[accepted], minlength=codes)
    return assigned
