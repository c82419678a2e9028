"""The tree of codes as flat arrays: counts of all branches, and a limited number of items."""

from __future__ import annotations

from typing import Any

import numpy as np

from semantic_ids.report.facts import Listed
from sidkit.core.arrays import Ints

EMBEDDED_ITEMS = 30_000
"""Maximum number of items embedded in the page; branch counts include all items."""
EXAMPLES = 3
LONGEST_TITLE = 160


def tree(items: Listed, levels: int, most: int = EMBEDDED_ITEMS) -> dict[str, Any]:
    """The tree of the first ``levels`` codes, as JSON values.

    ``levels`` has, per depth, one entry per branch in code order: ``code``, ``count`` (items, embedded or not),
    ``children`` (branches of the next depth; at the last depth its embedded items), and ``category`` with ``share`` (its
    most frequent category and the number of items with it; -1 and 0 if no item has a category). ``items`` holds the
    embedded items in leaf order, smallest residual norm first: ``id``, ``title`` (null if missing), ``category`` (an index
    into ``categories``, or -1), and ``extra``, the codes that are not levels of the tree. With more than ``most`` items,
    every branch embeds its ``EXAMPLES`` items of smallest residual norm as space permits, coarse branches first; the
    rest is filled leaf by leaf.
    """
    order = np.lexsort((items.residual_norm, *items.codes[:, :levels].T[::-1]))
    codes = items.codes[order]
    branch = [_branches(codes[:, : depth + 1]) for depth in range(levels)]
    embedded = order[_embedded_rows(branch, items.residual_norm[order], most)]
    names, category = _categories(items)
    branches: list[dict[str, Any]] = []
    for depth in range(levels):
        starts = np.flatnonzero(np.diff(branch[depth], prepend=-1))
        if depth + 1 < levels:
            children = np.bincount(branch[depth][np.flatnonzero(np.diff(branch[depth + 1], prepend=-1))])
        else:
            inside = np.zeros(len(items), dtype=bool)
            inside[embedded] = True
            children = np.bincount(branch[depth], weights=inside[order])
        frequent, share = _most_frequent(branch[depth], category[order], len(names))
        branches.append(
            {
                "code": codes[starts, depth].tolist(),
                "count": np.bincount(branch[depth]).tolist(),
                "children": children.astype(np.int64).tolist(),
                "category": frequent.tolist(),
                "share": share.tolist(),
            }
        )
    return {
        "levels": branches,
        "categories": names,
        "items": {
            "id": items.ids.take(embedded).to_pylist(),
            "title": [shortened(title) for title in items.titles.take(embedded).to_pylist()],
            "category": category[embedded].tolist(),
            "extra": items.codes[embedded, levels:].tolist() if items.codes.shape[1] > levels else [],
        },
    }


def shortened(title: str | None) -> str | None:
    """A title truncated to ``LONGEST_TITLE`` characters."""
    return title if title is None or len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 1]}…"


def _branches(prefixes: Ints) -> Ints:
    """The branch index of each row; rows are sorted by prefix."""
    if len(prefixes) == 0:
        return np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[False], (prefixes[1:] != prefixes[:-1]).any(axis=1)])
    return np.cumsum(starts, dtype=np.int64)


def _embedded_rows(branch: list[Ints], residual_norm: np.ndarray[Any, np.dtype[np.float64]], most: int) -> Ints:
    """Rows to embed, ascending."""
    rows = len(residual_norm)
    if rows <= most:
        return np.arange(rows)
    turn = np.full(rows, -1, dtype=np.int64)
    for depth, numbers in enumerate(branch):
        best = np.lexsort((residual_norm, numbers))
        rank = np.empty(rows, dtype=np.int64)
        starts = np.flatnonzero(np.diff(numbers[best], prepend=-1))
        rank[best] = np.arange(rows) - np.repeat(starts, np.diff(starts, append=rows))
        turn[(turn < 0) & (rank < EXAMPLES)] = depth
        last = rank
    turn[turn < 0] = len(branch) + last[turn < 0]
    return np.sort(np.lexsort((residual_norm, turn))[:most])


def _categories(items: Listed) -> tuple[list[str], Ints]:
    """The sorted category names, and each item's index into them (-1 for none)."""
    coded = items.categories.dictionary_encode()
    numbers = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    names = coded.dictionary.to_pylist()
    rank = {name: number for number, name in enumerate(sorted(names))}
    lookup = np.array([*(rank[name] for name in names), -1], dtype=np.int64)
    return sorted(names), lookup[numbers]


def _most_frequent(branch: Ints, category: Ints, categories: int) -> tuple[Ints, Ints]:
    """Per branch: its most frequent category (ties go to the first by name; -1 for none) and its item count."""
    branches = int(branch[-1]) + 1 if len(branch) else 0
    frequent, share = np.full(branches, -1, dtype=np.int64), np.zeros(branches, dtype=np.int64)
    known = category >= 0
    pairs, counts = np.unique(branch[known] * max(categories, 1) + category[known], return_counts=True)
    # Ascending by count, later names first: the last write per branch is the most frequent category.
    last = np.lexsort((-pairs, counts))
    frequent[pairs[last] // max(categories, 1)] = pairs[last] % max(categories, 1)
    share[pairs[last] // max(categories, 1)] = counts[last]
    return frequent, share
