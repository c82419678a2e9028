"""Sampling of rows by user: a user is included entirely or not at all, depending on the id alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd


def thin_by_user(user_ids: npt.NDArray[np.object_], most: int | None) -> npt.NDArray[np.int64]:
    """Row indices of a sample of users with about ``most`` rows (None: all rows).

    A user is included entirely or not at all, depending on the id alone.
    """
    if most is None or len(user_ids) <= most:
        return np.arange(len(user_ids))
    return np.flatnonzero(kept_users(user_ids, most / len(user_ids)))


def kept_users(user_ids: npt.NDArray[np.object_], share: float) -> npt.NDArray[np.bool_]:
    """Mask ``bool [rows]`` of the rows of about ``share`` of the users, selected by a hash of the id."""
    codes, names = pd.factorize(user_ids)
    mark = pd.util.hash_array(names).astype(np.float64) / 2.0**64
    kept: npt.NDArray[np.bool_] = mark[codes] < share
    return kept
