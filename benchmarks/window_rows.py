"""Rows on which codebook windows are compared: the same number of training rows after each cut, and many validation users.

Training rows are drawn by user, in the order of a hash of their ids, as ``max_train_rows`` does; the last user's rows are cut
short, so that every variant has exactly the same number where the log has as many. Validation rows are limited per user, so
that a few users with long sessions do not decide the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.dataset import LabelledRows
from ranking.data.split import TimeSplit
from sidkit.core.arrays import Ints

FIRST = -(2**63)
"""The cut of variants that train on all rows."""
Users = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Limits:
    """Limits of rows."""

    train: int
    """Training rows of each variant."""
    evaluation: int
    """Validation rows."""
    per_user: int
    """Validation rows of one user."""


@dataclass(frozen=True)
class WindowRows:
    """The rows of all variants: ``index`` into the labelled rows, ascending in time within each part.

    ``train`` maps a cut (microseconds UTC) to positions in ``index`` of the training rows from then on; ``thinned`` maps it to
    those of the rows for ``FIRST``, limited before the cut. ``validation`` holds positions too.
    """

    index: Ints
    train: Mapping[int, Ints]
    thinned: Mapping[int, Ints]
    validation: Ints

    @classmethod
    def of(cls, rows: LabelledRows, split: TimeSplit, cuts: Sequence[int], limits: Limits) -> WindowRows:
        """Choose rows after each cut, and validation rows."""
        parts = split.parts(rows.at_us)
        validation = parts["validation"][few_per_user(rows.user_ids[parts["validation"]], limits)]
        train = {}
        for cut in (FIRST, *cuts):
            after = parts["train"][rows.at_us[parts["train"]] >= cut]
            train[cut] = after[first_users(rows.user_ids[after], limits.train)]
        index = np.unique(np.concatenate([*train.values(), validation]))
        index = index[np.argsort(rows.at_us[index], kind="stable")]
        place = np.empty(len(rows), np.int64)
        place[index] = np.arange(len(index))
        thinned = {cut: train[FIRST][rows.at_us[train[FIRST]] >= cut] for cut in cuts}
        return cls(
            index,
            {cut: np.sort(place[chosen]) for cut, chosen in train.items()},
            {cut: np.sort(place[chosen]) for cut, chosen in thinned.items()},
            np.sort(place[validation]),
        )


def first_users(user_ids: Users, most: int) -> Ints:
    """Indices of ``most`` rows (all, if there are fewer), of the users whose hashed ids are smallest."""
    codes, names = pd.factorize(user_ids)
    order = np.argsort(pd.util.hash_array(names)[codes], kind="stable")
    return np.sort(order[:most])


def few_per_user(user_ids: Users, limits: Limits) -> Ints:
    """Indices of at most ``limits.per_user`` rows per user, fewer if all would be more than ``limits.evaluation`` rows."""
    codes = pd.factorize(user_ids)[0]
    order = np.random.default_rng(0).permutation(len(codes))
    rank = np.empty(len(codes), np.int64)
    rank[order] = pd.Series(codes[order]).groupby(codes[order]).cumcount().to_numpy()
    rows = np.cumsum(np.bincount(rank))  # rows[n]: with at most n + 1 per user
    most = max(int((rows <= limits.evaluation).sum()), 1)
    return np.flatnonzero(rank < min(most, limits.per_user))
