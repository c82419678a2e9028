"""A sample of users, whole or not at all: a user's id alone decides."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd


def thin_by_user(user_ids: npt.NDArray[np.object_], most: int | None) -> npt.NDArray[np.int64]:
    """Row numbers of a sample of users that has about ``most`` rows (None: of all); a user is in it whole or not at all.

    Which users are in it depends on their ids alone.
    """
    if most is None or len(user_ids) <= most:
        return np.arange(len(user_ids))
    return np.flatnonzero(kept_users(user_ids, most / len(user_ids)))


def kept_users(user_ids: npt.NDArray[np.object_], share: float) -> npt.NDArray[np.bool_]:
    """Which rows ``bool [rows]`` are of users in a sample of about ``share`` of them; a user's id alone decides."""
    codes, names = pd.factorize(user_ids)
    mark = pd.util.hash_array(names).astype(np.float64) / 2.0**64
    kept: npt.NDArray[np.bool_] = mark[codes] < share
    return kept
