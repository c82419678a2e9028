"""The benchmark of attention over histories: its world, and what its page says follows from the figures."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

pytestmark = pytest.mark.usefixtures("benchmarks_on_path")


@pytest.fixture(scope="module")
def attention() -> ModuleType:
    return importlib.import_module("attention")


def test_in_the_world_of_tastes_only_the_items_of_the_candidates_category_say_what_a_user_likes() -> None:
    tastes = importlib.import_module("planted_worlds").tastes
    rng = np.random.default_rng(0)
    users, items, categories, rows = 200, 2_000, 39, 20_000
    category = rng.integers(categories, size=items)
    own = rng.integers(categories, size=(users, 5))  # a user sees few categories
    user = rng.integers(users, size=rows)
    shown = own[user, rng.integers(5, size=rows)]
    by_category = [np.flatnonzero(category == each) for each in range(categories)]
    item = np.array([rng.choice(by_category[each]) for each in shown])
    label, content = tastes(user, item, category, rng)

    past = np.arange(rows) < rows // 2
    history = [item[past & (user == each) & (label == 1)] for each in range(users)]
    candidate, clicked = content[item[~past]], label[~past]
    histories = [content[history[each]] for each in user[~past]]
    mean = [own @ vectors.mean(axis=0) for own, vectors in zip(candidate, histories, strict=True)]

    def attended(own: np.ndarray, vectors: np.ndarray) -> float:
        cosine = (vectors @ own) / 2
        near = np.exp(20 * (cosine - cosine.max()))
        return float(own @ (near @ vectors) / near.sum())

    scores = [attended(own, vectors) for own, vectors in zip(candidate, histories, strict=True)]
    assert roc_auc_score(clicked, scores) > roc_auc_score(clicked, mean) + 0.05


def test_every_arm_has_the_mean_of_its_own_inputs_as_baseline(attention: ModuleType) -> None:
    arms = attention.arms()
    for name, arm in arms.items():
        if arm.baseline is None:
            assert arm.model.history == "mean"
        else:
            baseline = arms[arm.baseline]
            assert baseline.representations == arm.representations and baseline.features == arm.features, name
            assert baseline.codebook == arm.codebook


def test_a_row_says_the_difference_to_the_mean_and_whether_the_attention_acts(attention: ModuleType) -> None:
    part = {"name": "shared_gated.modality", "entropy_over_log_n": 0.5, "delta_auc": [-0.03], "alive": True}
    idle = {**part, "name": "shared_gated.behaviour", "delta_auc": [0.0001], "alive": False}
    found = {
        "auc": {"gatesid_cosine": [0.8, 0.81]},
        "differences": [
            {"arm": "gatesid_cosine", "slice": "all", "value": 0.02, "low": 0.01, "high": 0.03},
        ],
        "parts": {"gatesid_cosine": [part, idle]},
    }
    row = attention.table({"tastes": {"validation": found}}, "validation").splitlines()[-1]
    assert row == (
        "| `tastes` | GateSID | cosine | .8050 | **+.0200 [+.0100, +.0300]** | - | "
        "`modality` 0.500, -.0300; `behaviour` 0.500, +.0001 (no) |"
    )


def test_the_tables_of_the_page_are_those_of_the_results(attention: ModuleType) -> None:
    assert attention.page() == Path(attention.PAGE).read_text(), "run `python benchmarks/attention.py --write`"
