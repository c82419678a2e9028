"""splitmix64 against the published sequence."""

from __future__ import annotations

import numpy as np

from sidkit.core.hashing import GOLDEN_GAMMA, splitmix64


def test_the_finalizer_gives_the_published_sequence() -> None:
    state = (np.arange(1, 4, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)).reshape(3, 1)
    expected = [[0xE220A8397B1DCDAF], [0x6E789E6AA1B965F4], [0x06C45D188009454F]]
    assert splitmix64(state).tolist() == expected
    assert state[0, 0] == GOLDEN_GAMMA
