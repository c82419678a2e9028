"""Helpers of arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sidkit.core.arrays import distinct_below


@given(arrays.arrays(np.int32, arrays.array_shapes(max_dims=2, min_side=0), elements=st.integers(0, 40)))
def test_distinct_values_are_those_of_numpy(values: np.ndarray) -> None:
    distinct, back = distinct_below(values, 41)
    expected, inverse = np.unique(values, return_inverse=True)
    np.testing.assert_array_equal(distinct, expected)
    np.testing.assert_array_equal(back, inverse.reshape(values.shape))
