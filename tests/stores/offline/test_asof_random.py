"""Random feature tables and questions through Feast itself: ours, Feast's own DuckDB store, and the oracle agree.

Each case is one seed, from which tables, entity rows, views, names and the created cut-off are drawn; a failure names it.
Some cases in CI, thousands with `make proof`.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from helpers.pit_oracle import VIEWS, Ground, asked_rows, cells, in_order

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning:ibis")
PROOF = bool(os.environ.get("SIDKIT_PROOF"))
CASES = 1000 if PROOF else 4
ROWS = 60


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("random"))


@pytest.mark.parametrize("part", range(10 if PROOF else 1))
def test_a_random_question_has_one_answer(ground: Ground, part: int) -> None:
    for case in range(CASES // (10 if PROOF else 1)):
        seed = 1_000 + part * CASES + case
        rng = ground.draw(seed, ticks=int(rng_of(seed).choice([2, 8, 40])))
        frame = asked_rows(rng, ROWS, null_times=float(rng.choice([0, 0.2])))
        names = sorted(rng.choice(list(VIEWS), int(rng.integers(1, 4)), replace=False))
        by_created, full = bool(rng.integers(2)), bool(rng.integers(2))
        refs = [f"{name}:{name}_{feature}" for name in names for feature in ("number", "text", "list")]
        asked = {
            "entity_df": frame,
            "features": list(rng.permutation(refs)),
            "full_feature_names": full,
            "filter_by_created_timestamp": by_created,
        }
        ours = ground.ours.get_historical_features(**asked).to_arrow()
        stock = ground.stock.get_historical_features(**asked).to_arrow()
        found = cells(ours)
        assert found == cells(in_order(stock)), seed
        for name in names:
            for feature, expected in ground.oracle(frame, name, by_created).items():
                assert found[f"{name}__{feature}" if full else feature] == expected, (seed, feature)


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
