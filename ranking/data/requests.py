"""Which rows belong to one request."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ranking.data.dataset import LabelledRows
from sidkit.core.arrays import Ints


def request_numbers(rows: LabelledRows) -> Ints:
    """Number of each row's request, ``int64 [rows]``, in order of their first rows.

    Rows of one user with the same ``request_id`` are one request; rows without one are a request with those of the same user at
    the same time, as all rows of a served request are.
    """
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    user = pd.factorize(rows.user_ids)[0].astype(np.int64)
    moment = pd.factorize(rows.at_us)[0].astype(np.int64)
    if rows.request_ids is None:
        within = moment
    else:
        # Nulls become -1, and the empty text is no id either.
        named = pd.factorize(pd.Series(rows.request_ids).replace("", None))[0].astype(np.int64)
        within = np.where(named >= 0, moment.max() + 1 + named, moment)
    numbers: Ints = pd.factorize(user * (within.max() + 1) + within)[0].astype(np.int64)
    return numbers
