"""Adapters: fitted on rows before those that they correct, exact where they have seen nothing, and at their minimum else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from helpers.builders import DAY, START
from helpers.training_builders import random_set
from ranking.evaluation.metrics import auc
from ranking.training.adapted_arm import adapted_arm, corrected_by_day
from ranking.training.adapters import ADAPTER_NAMES, ADAPTERS
from ranking.training.adapters.base import AdapterRows
from ranking.training.adapters.bias import LEAST_SCALE, BiasAdapter, _offset
from ranking.training.adapters.gate import GateAdapter
from ranking.training.arm_members import check_blends, check_served
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import ArmDetails, ArmResult
from ranking.training.mixing import logits, probabilities
from ranking.training.predictions import read_details, write_predictions
from sidkit.core.errors import ConfigError

law = settings(max_examples=30, deadline=None, database=None)
DELAY = 60_000_000
BIAS = ArmSpec(kind="adapter", of=("base",))
GATE = ArmSpec(kind="adapter", adapter="gate", of=("base", "other"))


def rows_of(seed: int, count: int = 400, items: int = 12, days: int = 4) -> AdapterRows:
    """Rows whose frozen logits miss a property of each item."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, items, count)
    logit = rng.normal(-1, 1, count)
    own = np.linspace(-2, 2, items)[item]
    label = (rng.random(count) < 1 / (1 + np.exp(-(logit + own)))).astype(np.int8)
    counts = rng.integers(0, 200, (count, 3))
    return AdapterRows(
        np.array([f"i{each}" for each in item], dtype=object),
        np.array([f"u{each}" for each in rng.integers(0, 40, count)], dtype=object),
        np.sort(START + rng.integers(0, days * DAY, count)),
        label,
        logit,
        rng.normal(-1, 1, count),
        np.log1p(counts),
    )


@pytest.mark.parametrize("name", ADAPTERS)
@law
@given(seed=st.integers(0, 2**31))
def test_an_adapter_read_from_its_table_corrects_as_before_and_each_row_alone(name: str, seed: int) -> None:
    rows = rows_of(seed)
    adapter = ADAPTER_NAMES.find(name).fit(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, adapter.table().schema) as writer:
        writer.write_table(adapter.table())
    again = ADAPTER_NAMES.find(name).of_table(pa.ipc.open_stream(sink.getvalue()).read_all())
    corrected = adapter.logits(rows)
    assert np.array_equal(again.logits(rows), corrected)
    assert again.summary == adapter.summary
    one = int(seed % len(rows))
    assert adapter.logits(rows.take(np.array([one])))[0] == pytest.approx(corrected[one], abs=1e-12)


@law
@given(seed=st.integers(0, 2**31), decay=st.sampled_from([1.0, 10.0, 100.0]))
def test_an_item_without_rows_in_the_fit_keeps_exactly_the_frozen_logit(seed: int, decay: float) -> None:
    rows, others = rows_of(seed), rows_of(seed + 1, items=20)
    corrected = BiasAdapter.fit_with(rows, decay).logits(others)
    unseen = ~np.isin(others.item_ids, rows.item_ids)
    assert unseen.any()
    assert np.array_equal(corrected[unseen], others.logit[unseen])


@law
@given(seed=st.integers(0, 2**31), decay=st.sampled_from([1.0, 10.0, 100.0]))
def test_the_auc_within_one_item_is_unchanged(seed: int, decay: float) -> None:
    rows = rows_of(seed)
    corrected = BiasAdapter.fit_with(rows, decay).logits(rows)
    for item in np.unique(rows.item_ids):
        own = rows.item_ids == item
        if 0 < rows.label[own].sum() < own.sum():
            assert auc(rows.label[own], corrected[own]) == auc(rows.label[own], rows.logit[own])


@law
@given(seed=st.integers(0, 2**31), decay=st.sampled_from([0.3, 3.0, 30.0]))
def test_scale_and_shift_of_an_item_are_the_minimum_of_its_loss(seed: int, decay: float) -> None:
    """The oracle minimises the documented loss of each item with a general solver."""
    rows = rows_of(seed, count=150, items=5)
    table = BiasAdapter.fit_with(rows, decay).table().to_pydict()
    offset = _offset(rows.logit, rows.label.astype(float))
    for item, scale, shift in zip(table["item_id"], table["scale"], table["shift"], strict=True):
        own = rows.item_ids == item
        logit, label = rows.logit[own], rows.label[own]

        def loss(values: np.ndarray, logit: np.ndarray = logit, label: np.ndarray = label) -> float:
            y = values[0] * logit + values[1] + offset
            return float(np.sum(np.logaddexp(0, y) - label * y) + decay / 2 * ((values[0] - 1) ** 2 + values[1] ** 2))

        best = minimize(loss, [1.0, 0.0], method="L-BFGS-B", bounds=[(LEAST_SCALE, None), (None, None)])
        assert scale >= LEAST_SCALE
        assert loss(np.array([scale, shift])) <= best.fun + 1e-6


def test_the_offset_of_the_day_is_no_property_of_an_item() -> None:
    """A day with more clicks everywhere changes no score by itself: items without rows would fall behind."""
    rng = np.random.default_rng(3)
    rows = rows_of(3, count=4_000)
    frozen = rng.normal(-1, 1, 4_000)
    label = (rng.random(4_000) < 1 / (1 + np.exp(-(frozen + 2)))).astype(np.int8)
    adapter = BiasAdapter.fit_with(dataclasses.replace(rows, logit=frozen, label=label), 30.0)
    assert np.abs(adapter.logits(rows) - rows.logit).max() < 1.0
    assert abs(np.mean(adapter.table().to_pydict()["shift"])) < 0.1


def test_a_bias_of_items_is_found_and_one_that_is_not_there_is_not() -> None:
    rows = rows_of(5, count=4_000)
    earlier, later = (np.flatnonzero(mask) for mask in (rows.at_us < START + 2 * DAY, rows.at_us >= START + 2 * DAY))
    fitted = BiasAdapter.fit(rows.take(earlier))
    test = rows.take(later)
    assert auc(test.label, fitted.logits(test)) > auc(test.label, test.logit) + 0.03
    control = BiasAdapter.fit(rows.take(earlier).with_shuffled_items(0))
    assert auc(test.label, control.logits(test)) < auc(test.label, test.logit) + 0.01


def test_a_gate_mixes_the_scorer_with_the_better_of_two() -> None:
    rows = rows_of(7, count=2_000)
    rng = np.random.default_rng(0)
    truth = rng.normal(size=2_000)
    label = (rng.random(2_000) < 1 / (1 + np.exp(-2 * truth))).astype(np.int8)
    mixed = dataclasses.replace(rows, label=label, logit=rng.normal(size=2_000), other=2 * truth)
    gate = GateAdapter.fit(mixed)
    assert auc(label, gate.logits(mixed)) > 0.98 * auc(label, truth)
    frozen = GateAdapter.fit(dataclasses.replace(mixed, logit=2 * truth, other=rng.normal(size=2_000)))
    assert np.corrcoef(frozen.logits(dataclasses.replace(mixed, logit=2 * truth)), truth)[0, 1] > 0.98


@pytest.mark.parametrize("name", ADAPTERS)
def test_rows_of_one_label_correct_nothing(name: str) -> None:
    rows = rows_of(1)
    for label in (np.zeros(len(rows), np.int8), np.ones(len(rows), np.int8)):
        adapter = ADAPTER_NAMES.find(name).fit(dataclasses.replace(rows, label=label))
        assert np.array_equal(adapter.logits(rows), rows.logit)
    assert np.array_equal(ADAPTER_NAMES.find(name).fit(rows.take(np.arange(0))).logits(rows), rows.logit)


@pytest.mark.parametrize("spec", [BIAS, GATE], ids=["bias", "gate"])
@law
@given(seed=st.integers(0, 2**31), cut=st.integers(1, 3))
def test_no_row_is_corrected_by_its_own_day_or_a_later_one(spec: ArmSpec, seed: int, cut: int) -> None:
    """Changing all labels from the start of a day on, less the delay of labels, leaves the scores of this day as they were."""
    rows = rows_of(seed)
    first = int(rows.at_us.min())
    now = first + cut * DAY
    label = np.where(rows.at_us + DELAY > now, 1 - rows.label, rows.label).astype(np.int8)
    one, _ = corrected_by_day(rows, spec, 0, DELAY)
    other, _ = corrected_by_day(dataclasses.replace(rows, label=label), spec, 0, DELAY)
    until = rows.at_us < now + DAY
    assert np.array_equal(one[until], other[until])
    assert np.array_equal(one[rows.at_us < first + DAY], rows.logit[rows.at_us < first + DAY])


def test_only_rows_of_the_last_days_are_read() -> None:
    rows = rows_of(11, count=2_000, days=5)
    old = rows.at_us < rows.at_us.min() + 2 * DAY
    label = np.where(old, 1 - rows.label, rows.label).astype(np.int8)
    one, fits = corrected_by_day(rows, BIAS, 0, DELAY)
    other, _ = corrected_by_day(dataclasses.replace(rows, label=label), BIAS, 0, DELAY)
    late = rows.at_us >= rows.at_us.min() + 3 * DAY
    assert len(fits) == 4
    assert np.array_equal(one[late], other[late])
    assert not np.array_equal(one, other)


def test_an_arm_states_what_it_fitted_and_what_the_frozen_arm_reaches(tmp_path: Path) -> None:
    data = random_set(600, users=40)
    paths = {}
    for number, name in enumerate(("base", "other")):
        scores = probabilities(np.random.default_rng(number).normal(size=600))
        paths[name] = tmp_path / f"{name}.parquet"
        write_predictions(paths[name], ArmResult(0.5, scores, scores[:200], None, ArmDetails()))
    test = data.take(np.arange(200))
    result = adapted_arm("gate", 0, GATE, data, test, paths, DELAY)
    assert result.liveness is not None and result.details.adapter is not None
    (part,) = result.liveness
    frozen = np.random.default_rng(0).normal(size=600)
    assert part.kind == "adapter" and part.auc_off[0] == pytest.approx(auc(data.rows.label, frozen))
    assert part.auc == result.validation_auc == pytest.approx(auc(data.rows.label, logits(result.validation)))
    assert result.details.adapter["fits"] == 4
    write_predictions(tmp_path / "gate.parquet", result)
    assert read_details(tmp_path / "gate.parquet")["adapter"]["fits"] == 4


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"kind": "adapter"}, r"expected one arm to adapt.*got none.*set of, such as"),
        ({"kind": "adapter", "of": ("a", "b")}, "got a, b for adapter 'bias'"),
        ({"kind": "adapter", "adapter": "gate", "of": ("a", "b", "c")}, "got a, b, c"),
        ({"kind": "adapter", "adapter": "tilt", "of": ("a",)}, "no adapter named 'tilt'; available: bias, gate"),
        ({"kind": "gbdt", "shuffled_items": True}, "only an adapter arm has 'shuffled_items'"),
        ({"kind": "adapter", "of": ("a",), "days": 0}, "greater than 0"),
        ({"kind": "adapter", "of": ("a",), "vectors": "decoded"}, "an adapter arm reads no item vectors"),
    ],
)
def test_an_adapter_that_cannot_be_made_is_refused(arm: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ArmSpec.model_validate(arm)


def test_members_of_adapters_are_other_arms_and_no_adapters() -> None:
    neural = ArmSpec(representations=("id",))
    arms = {"base": neural, "one": BIAS}
    check_blends(arms)
    check_served(arms, ["one"])
    with pytest.raises(ConfigError, match=r"arms\.two\.of: 'one' is an adapter; name the arm that it adapts instead"):
        check_blends({**arms, "two": BIAS.model_copy(update={"of": ("one",)})})
    with pytest.raises(ConfigError, match=r"expected arms of the same run \(base\), got 'gone'; add this arm"):
        check_blends({**arms, "two": BIAS.model_copy(update={"of": ("gone",)})})
    control = BIAS.model_copy(update={"shuffled_items": True})
    with pytest.raises(ConfigError, match="expected arms that can serve"):
        check_served({**arms, "one": control}, ["one"])
