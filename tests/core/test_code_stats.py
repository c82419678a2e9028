"""Keys of code prefixes."""

import numpy as np

from sidkit.core.code_stats import prefix_keys


def test_a_key_names_the_codebook_and_the_first_codes():
    codes = np.array([[3, 17, 2], [3, 5, 0], [-1, -1, -1], [3, 17, 9]])
    assert prefix_keys("rq", codes, 1).tolist() == ["rq/3", "rq/3", None, "rq/3"]
    assert prefix_keys("rq", codes, 2).tolist() == ["rq/3-17", "rq/3-5", None, "rq/3-17"]
    assert prefix_keys("rq", codes, 3).tolist() == ["rq/3-17-2", "rq/3-5-0", None, "rq/3-17-9"]


def test_no_items_have_no_keys():
    assert prefix_keys("rq", np.zeros((0, 2), dtype=np.int32), 2).tolist() == []
