"""Training sets by hand, for tests of what learns from them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from helpers.builders import DAY, START
from ranking.data.batches import Vocabulary, seen_in
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.item_table import ItemTable
from ranking.data.numeric_features import Scaling, feature_names, logged_columns, numeric_columns
from ranking.models.ctr_model import Fitted
from ranking.models.representations import REPRESENTATIONS, representation
from ranking.models.representations.base import ItemShape
from ranking.models.spec import ModelSpec
from ranking.training.arms import TrainedOn
from ranking.training.ranker import RankerConfig
from ranking.training.serving_spec import ServingSpec
from sidkit.core.arrays import Floats

SIZES = (4, 3, 2)
CONTENT_DIM = 6
SERVING = ServingSpec(
    sizes=SIZES, codebook="codes_v1", codebook_hash="abc", service="ctr_codes_v1",
    features={"item_sid__codes": "Array(Int64)"}, history_length=5,
)  # fmt: skip
"""What a ranker by hand is served with."""
TRAINED_ON = TrainedOn(1, 2, ("codes_v1",), {}, 200)
"""What it learned from."""


def random_items(rng: np.random.Generator, count: int) -> ItemTable:
    """Padding and ``count`` entries: items have up to two versions, some lack codes, some lack content."""
    ids = np.array(["", *(f"i{number // 3 * 2 + number % 2:03d}" for number in range(count))], dtype=object)
    codes = np.stack([rng.integers(0, size, count + 1) for size in SIZES], axis=1).astype(np.int32)
    content = rng.normal(size=(count + 1, CONTENT_DIM)).astype(np.float32)
    bare = np.flatnonzero(np.arange(count + 1) % 7 == 6)
    codes[[0, *bare]] = -1
    content[[0, *bare]] = 0
    return ItemTable(ids, codes, content)


def random_set(rows: int = 60, *, seed: int = 0, items: int = 15, users: int = 9, length: int = 5) -> Dataset:
    """A training set by hand; labels follow the first numeric feature and the candidate's content."""
    rng = np.random.default_rng(seed)
    table = random_items(np.random.default_rng(7), items)
    at_us = np.sort(START + 10 * DAY + rng.integers(0, 5 * DAY, rows))
    drawn = rng.normal(size=(rows, len(feature_names()))).astype(np.float32)
    candidate = rng.integers(1, items + 1, rows).astype(np.int32)
    lengths = rng.integers(1, length + 1, users)
    lengths[0] = 0
    there = np.arange(length) < lengths[:, None]
    history_items = np.where(there, rng.integers(1, items + 1, (users, length)), 0).astype(np.int32)
    history_us = np.where(there, -np.sort(-(START + rng.integers(0, 10 * DAY, (users, length))), axis=1), 0)
    history = rng.integers(0, users, rows).astype(np.int32)
    logit = 2 * drawn[:, 0] + 1.5 * table.content[candidate, 0]
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    user_ids = np.array([f"u{number}" for number in history], dtype=object)
    rows_of = LabelledRows(user_ids, table.ids[candidate], at_us, label)
    return Dataset(rows_of, seen_as(drawn), candidate, history, history_items, history_us, table)


def seen_as(features: Floats) -> Floats:
    """Numeric columns that a model sees as these features; counts are no integers then, and may be negative."""
    numeric = features.copy()
    numeric[:, logged_columns()] = np.expm1(features[:, logged_columns()], dtype=np.float64)
    return numeric


def ranker_config(parts: tuple[str, ...], model: ModelSpec, scaling: Scaling, **changes: Any) -> RankerConfig:
    """What a ranker by hand is, over the items of :func:`random_items`."""
    told = {**vars(SERVING), "numeric": feature_names(), "content_dim": CONTENT_DIM, **changes}
    return RankerConfig(
        arm="any", representations=parts, model=model, scaling=scaling, **told
    )  # fmt: skip


def fitted_to(data: Dataset, shape: ItemShape, vocabulary: Vocabulary, spec: ModelSpec) -> Fitted:
    """The fitted state of every representation, with codewords by hand."""
    seen = seen_in(data, vocabulary, flat_vectors=lambda codes: np.sin(1.0 + codes[:, 2:]).astype(np.float32))
    return {name: representation(name).fit(shape, spec, seen) for name in REPRESENTATIONS}


def set_with(
    exposures: list[int], clicks: list[int] | None = None, age_days: list[float | None] | None = None
) -> Dataset:
    """Rows whose item had so many exposures and clicks and was so old (None: of unknown age)."""
    data = random_set(len(exposures))
    numeric = np.zeros_like(data.numeric)
    names = numeric_columns()
    numeric[:, names.index("item_exposures_all")] = exposures
    numeric[:, names.index("item_clicks_all")] = clicks or [0] * len(exposures)
    ages = age_days or [0.0] * len(exposures)
    numeric[:, names.index("item_age_days")] = [age or 0.0 for age in ages]
    numeric[:, names.index("item_without_content")] = [age is None for age in ages]
    return dataclasses.replace(data, numeric=numeric)
