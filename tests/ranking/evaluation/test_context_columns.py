"""A context column that predicts the label nearly alone stops a run, unless it is waived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ranking.evaluation import context_columns
from ranking.evaluation.context_columns import context_auc, refuse_revealing_context
from sidkit.core.errors import ContractError
from sidkit.core.feature_settings import FeatureSettings

N = 2000
RNG = np.random.default_rng(0)
LABEL = (RNG.random(N) < 0.3).astype("i1")
NOISE = RNG.normal(size=N)
DEVICE = np.array(["phone", "web", "tv"])[RNG.integers(3, size=N)]

REVEALING: dict[str, tuple[str, Any]] = {
    "dwell": ("number", LABEL * 5 + NOISE),
    "negated": ("number", -5 * LABEL + NOISE),
    "present": ("number", np.where(LABEL == 1, NOISE, np.nan)),
    "middle": ("number", np.where(LABEL == 1, 0.1 * NOISE, np.sign(NOISE) * (1 + np.abs(NOISE)))),
    "bought": ("flag", pa.array(LABEL == 1)),
    "paid_at": ("date", pa.array(LABEL.astype("i8") * 86_400_000_000).cast(pa.timestamp("us", tz="UTC"))),
    "state": ("category", pa.array(np.where(LABEL == 1, np.where(NOISE > 0, "a", "b"), np.where(NOISE > 0, "c", "d")))),
    "steps": ("categories", pa.array([["seen", "clicked"] if each else ["seen"] for each in LABEL])),
    "vector": ("vector", pa.array(np.stack([NOISE, LABEL * 5 + NOISE], axis=1).tolist(), pa.list_(pa.float32()))),
    "maybe": ("category", pa.array([None if each else "x" for each in LABEL])),
}
HARMLESS: dict[str, tuple[str, Any]] = {
    "device": ("category", pa.array(DEVICE)),
    "hour": ("number", RNG.integers(24, size=N).astype("f8")),
    "session": ("category", pa.array([f"s{n}" for n in range(N)])),  # memorised labels would look like an AUC of 1
    "better": ("number", LABEL + NOISE),
    "nothing": ("number", pa.nulls(N, pa.float64())),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    columns = {name: values for name, (_, values) in {**REVEALING, **HARMLESS}.items()}
    pq.write_table(pa.table({"label": LABEL, **columns}), path, row_group_size=300)
    return path


@pytest.mark.parametrize("name", REVEALING)
def test_a_column_that_is_known_afterwards_is_named_with_its_auc(rows: Path, name: str) -> None:
    kind = REVEALING[name][0]
    auc = context_auc(rows, FeatureSettings(context={name: kind}).context)
    assert auc[name] > 0.9
    with pytest.raises(ContractError, match=f"got '{name}', which alone predicts .* AUC of {auc[name]:.3f}") as raised:
        refuse_revealing_context(auc, ())
    line = f'context_waived = ["{name}"]'
    assert line in str(raised.value)
    refuse_revealing_context(auc, FeatureSettings(context={name: kind}, context_waived=(name,)).context_waived)
    refuse_revealing_context({}, ())  # the other remedy: without the column


@pytest.mark.parametrize("name", HARMLESS)
def test_other_columns_pass(rows: Path, name: str) -> None:
    auc = context_auc(rows, FeatureSettings(context={name: HARMLESS[name][0]}).context)
    assert auc[name] < 0.85
    refuse_revealing_context(auc, ())


def test_long_files_are_sampled_evenly(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = FeatureSettings(context={"dwell": "number"}).context
    whole = context_auc(rows, context)["dwell"]
    monkeypatch.setattr(context_columns, "SAMPLE_ROWS", 500)
    assert context_auc(rows, context)["dwell"] == pytest.approx(whole, abs=0.02)


def test_few_rows_say_nothing(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"label": pa.array([0, 1] * 20, pa.int8()), "x": [0.0, 1.0] * 20}), tmp_path / "rows.parquet"
    )
    assert context_auc(tmp_path / "rows.parquet", FeatureSettings(context={"x": "number"}).context) == {}


def test_a_run_stops_before_anything_is_trained(tmp_path: Path) -> None:
    from helpers.attribute_world import attribute_repo, attribute_tables
    from helpers.builders import FAST_PRESET, write_tables
    from ranking.pipeline.run import run_preset

    tables = attribute_tables(events=600)
    events = tables["interactions"]
    events = events.append_column("seconds", events["dwell_time"])
    source = write_tables(tmp_path / "source", {**tables, "interactions": events})
    repo = attribute_repo(tmp_path / "repo", source, '[features]\n[features.context]\nseconds = "number"\n')
    with pytest.raises(ContractError, match="got 'seconds', which alone predicts the label"):
        run_preset(repo, str(source), str(FAST_PRESET))
    assert not repo.tables.exists()
