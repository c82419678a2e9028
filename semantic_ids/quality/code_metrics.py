"""Metrics of codes that need no ranker. Definitions that differ between papers are stated explicitly.

Codes are ``int32 [items, levels]``, counted from 0; a prefix of depth p is the first p of them. A low collision rate is
not a goal in itself: codes that are all distinct carry no more information than item ids.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer
from sidkit.core.arrays import Codes, Doubles, Floats, Ints
from sidkit.core.errors import EvaluationError

_COLUMNS = 32  # columns summed at once, which bounds the copy that sorting by group makes


def utilisation(codes: Codes, sizes: tuple[int, ...]) -> list[float]:
    """Per level: used codes / codes (CUR of a single level)."""
    return [len(np.unique(codes[:, level])) / size for level, size in enumerate(sizes)]


def prefix_utilisation(codes: Codes, sizes: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Per depth: distinct prefixes / min(product of sizes, items), and distinct prefixes / product of sizes.

    Papers report either as CUR of several levels. The first is 1 when the items fill as many prefixes as they can; the
    second falls with depth whenever there are fewer items than possible codes.
    """
    reachable, possible = [], []
    for depth, group in enumerate(prefix_groups(codes), start=1):
        space = math.prod(sizes[:depth])
        distinct = int(group.max(initial=-1)) + 1
        reachable.append(distinct / max(min(space, len(codes)), 1))
        possible.append(distinct / space)
    return reachable, possible


def perplexity(codes: Codes, sizes: tuple[int, ...]) -> list[float]:
    """Per level: exp(entropy of the code shares) / codes; 1 when all codes are equally used."""
    shares = []
    for level, size in enumerate(sizes):
        counts = np.bincount(codes[:, level], minlength=size)
        share = counts[counts > 0] / len(codes)
        shares.append(float(np.exp(-(share * np.log(share)).sum()) / size))
    return shares


def gini(codes: Codes, sizes: tuple[int, ...]) -> list[float]:
    """Per level: the Gini coefficient of the items per code, unused codes included.

    Half the mean absolute difference of two codes' counts over the mean count: 0 when all codes hold equally many items,
    1 - 1 / codes when one holds all.
    """
    coefficients = []
    for level, size in enumerate(sizes):
        counts = np.sort(np.bincount(codes[:, level], minlength=size)).astype(np.float64)
        rank = 2 * np.arange(1, size + 1) - size - 1
        coefficients.append(float((rank * counts).sum() / (size * max(counts.sum(), 1))))
    return coefficients


def collision_rate(codes: Codes) -> float:
    """1 - distinct full codes / items."""
    return 1 - len(np.unique(codes, axis=0)) / len(codes) if len(codes) else 0.0


def independent_code_rate(codes: Codes) -> float:
    """Independent coding rate (ICR): share of items whose full code is unique; 1 for no items.

    This differs from 1 - collision rate: two items in one bucket lose one distinct code, but two unique items.
    """
    counts = _bucket_counts(codes)
    return float((counts == 1).sum() / len(codes)) if len(codes) else 1.0


def largest_bucket(codes: Codes) -> int:
    """Number of items in the largest bucket (items with the same full code)."""
    return int(_bucket_counts(codes).max(initial=0))


def reconstruction_error(vectors: Floats, decoded: Floats) -> float:
    """Relative reconstruction error ``sum |x - x_hat|^2 / sum |x - mean|^2``."""
    spread = float(((vectors - vectors.mean(axis=0)).astype(np.float64) ** 2).sum())
    return float(((vectors - decoded).astype(np.float64) ** 2).sum()) / max(spread, 1e-30)


def reconstruction_errors(quantizer: Quantizer, vectors: Floats, codes: Codes) -> list[float | None]:
    """Per depth: :func:`reconstruction_error` of the reconstruction from the first levels only.

    None where a prefix cannot be decoded: before the last level if the quantizer has no ``decode_prefix(codes, depth)``,
    and past ``residual_levels``, where levels do not refine each other.
    """
    levels = len(quantizer.sizes_)
    decode = getattr(quantizer, "decode_prefix", None)
    errors: list[float | None] = []
    for depth in range(1, levels):
        if decode is None or depth > quantizer.residual_levels:
            errors.append(None)
        else:
            errors.append(reconstruction_error(vectors, decode(codes, depth)))
    return [*errors, reconstruction_error(vectors, quantizer.decode(codes))]


def unexplained_spread(vectors: Floats, codes: Codes) -> list[float]:
    """Per depth: within-prefix variance as a share of the total variance.

    sum |x - mean of its prefix|^2 / sum |x - mean|^2. This is a lower bound of :func:`reconstruction_error` on these
    items for any decoder of prefixes, and never grows with depth. It falls to 0 when every item has a unique prefix, so
    read it together with :func:`independent_code_rate`.
    """
    if not len(codes):
        return [0.0] * codes.shape[1]
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = float(np.einsum("nd,nd->", centred, centred, dtype=np.float64))
    left = []
    for group in prefix_groups(codes):
        counts, length = _squared_sums(centred, group)
        left.append(max(spread - float((length / counts).sum()), 0.0) / max(spread, 1e-30))
    return left


def content_cohesion(vectors: Floats, codes: Codes) -> list[float | None]:
    """Per depth: mean cosine of two different items with the same prefix, minus that of any two different items.

    All pairs have equal weight, so large prefixes dominate. Zero vectors are excluded. None if no prefix holds two
    items. Computed from sums of unit vectors in O(items x dim).
    """
    length = np.linalg.norm(vectors, axis=1)
    nonzero = length > 0
    unit = (vectors[nonzero] / length[nonzero, None]).astype(np.float32)
    squares = np.einsum("nd,nd->n", unit, unit, dtype=np.float64)  # 1 up to rounding
    overall = _mean_cosine(unit, squares, np.zeros(len(unit), dtype=np.int64))
    cohesion: list[float | None] = []
    for group in prefix_groups(codes[nonzero]):
        inside = _mean_cosine(unit, squares, group)
        cohesion.append(None if inside is None or overall is None else inside - overall)
    return cohesion


def behaviour_cohesion(codes: Codes, pairs: ItemPairs) -> list[float | None]:
    """Per depth: weighted share of pairs whose items share a prefix, divided by the share expected by chance.

    Under chance, trigger and target are drawn independently from their marginal distributions in the pairs, excluding
    equal items, so popular items in one bucket do not raise the value. 1 means no better than chance. None if there are
    no pairs or the expected share is 0.

    Parameters
    ----------
    codes : int32 [items, levels]
        Codes of the items that ``pairs`` index.
    pairs : ItemPairs
        Mined before the cut-off, or after it (required for an unbiased value if the quantizer was trained on pairs).
    """
    if not len(pairs):
        return [None] * codes.shape[1]
    weight = pairs.weight.astype(np.float64) / pairs.weight.sum(dtype=np.float64)
    trigger = np.bincount(pairs.trigger, weight, minlength=len(codes))
    target = np.bincount(pairs.target, weight, minlength=len(codes))
    same = float((trigger * target).sum())
    cohesion: list[float | None] = []
    for group in prefix_groups(codes):
        shared = float(weight[group[pairs.trigger] == group[pairs.target]].sum())
        together = float((np.bincount(group, trigger) * np.bincount(group, target)).sum())
        expected = (together - same) / (1 - same) if same < 1 else 0.0
        cohesion.append(shared / expected if expected > 1e-12 else None)
    return cohesion


def refit_changes(before: Codes, after: Codes) -> list[float]:
    """Per level: the share of items whose code changes under a re-fit, after matching codes.

    Code numbers are arbitrary across fits. Codes of the same level are matched one to one to maximise the number of
    unchanged items (linear assignment on co-occurrence counts, solved by the Hungarian method); unmatched codes, if one
    fit has more, count as changed.

    Parameters
    ----------
    before, after : int32 [items, levels]
        Codes of the same items under both fits; the sizes of a level may differ.

    Raises
    ------
    EvaluationError
        When the shapes differ, or there are no items.
    """
    from scipy.optimize import linear_sum_assignment

    if before.shape != after.shape or not len(before):
        raise EvaluationError(
            f"expected two code arrays of the same shape (items, levels) with at least one item, got {before.shape} and "
            f"{after.shape}; pass codes of the same items"
        )
    changed = []
    for old, new in zip(before.T.astype(np.int64), after.T.astype(np.int64), strict=True):
        height, width = int(old.max()) + 1, int(new.max()) + 1
        together = np.bincount(old * width + new, minlength=height * width).reshape(height, width)
        unchanged = together[linear_sum_assignment(together, maximize=True)].sum()
        changed.append(1 - float(unchanged) / len(old))
    return changed


def code_quality(quantizer: Quantizer, vectors: Floats, codes: Codes, pairs: ItemPairs | None = None) -> dict[str, Any]:
    """The metrics saved in a codebook's ``metrics.json``, on the items of its fit.

    Parameters
    ----------
    quantizer : Quantizer
        Fitted.
    vectors : float32 [items, dim]
        The quantized vectors.
    codes : int32 [items, levels]
        Their codes.
    pairs : ItemPairs, optional
        Pairs of these items; adds ``behaviour_cohesion``.

    Returns
    -------
    dict
        JSON values; lists have one value per level or depth, null where undefined.
    """
    reachable, possible = prefix_utilisation(codes, quantizer.sizes_)
    quality: dict[str, Any] = {
        "items": len(codes),
        "utilisation": utilisation(codes, quantizer.sizes_),
        "prefix_utilisation": reachable,
        "prefix_utilisation_of_all": possible,
        "perplexity": perplexity(codes, quantizer.sizes_),
        "gini": gini(codes, quantizer.sizes_),
        "collision_rate": collision_rate(codes),
        "independent_code_rate": independent_code_rate(codes),
        "largest_bucket": largest_bucket(codes),
        "reconstruction_error": reconstruction_error(vectors, quantizer.decode(codes)),
        "reconstruction_errors": reconstruction_errors(quantizer, vectors, codes),
        "unexplained_spread": unexplained_spread(vectors, codes),
        "content_cohesion": content_cohesion(vectors, codes),
    }
    if pairs is not None:
        quality["behaviour_cohesion"] = behaviour_cohesion(codes, pairs)
    return quality


def prefix_groups(codes: Codes) -> list[Ints]:
    """Per depth: consecutive ids of the items' prefixes, ``int64 [items]``, in prefix order."""
    group = np.zeros(len(codes), dtype=np.int64)
    groups = []
    for code in codes.T.astype(np.int64):
        group = np.unique(group * (code.max(initial=0) + 1) + code, return_inverse=True)[1].ravel()
        groups.append(group)
    return groups


def _squared_sums(vectors: Floats, group: Ints) -> tuple[Ints, Doubles]:
    """Row count and squared norm of the vector sum of each group."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    length = np.zeros(len(counts), dtype=np.float64)
    for first in range(0, vectors.shape[1], _COLUMNS):
        block = vectors[order, first : first + _COLUMNS]
        length += (np.add.reduceat(block, starts, axis=0, dtype=np.float64) ** 2).sum(axis=1)
    return counts, length


def _mean_cosine(unit: Floats, squares: Doubles, group: Ints) -> float | None:
    """Mean cosine over pairs of different rows within groups: (|sum|^2 - sum of |row|^2) / pairs, over all groups."""
    if not len(unit):
        return None
    counts, length = _squared_sums(unit, group)
    pairs = int((counts * (counts - 1)).sum())
    if not pairs:
        return None
    several = (counts > 1)[group]
    return (float(length[counts > 1].sum()) - float(squares[several].sum())) / pairs


def _bucket_counts(codes: Codes) -> npt.NDArray[np.int64]:
    return np.unique(codes, axis=0, return_counts=True)[1]
