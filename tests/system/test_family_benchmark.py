"""The benchmark of the family: what its page says follows from the figures (``benchmarks/family*.py``)."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ranking.experiments.comparison.arms import shipped_arms

pytestmark = pytest.mark.usefixtures("benchmarks_on_path")
law = settings(max_examples=60, deadline=None, database=None)


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return importlib.import_module("family_page")


@pytest.fixture(scope="module")
def sources() -> ModuleType:
    return importlib.import_module("family_sources")


def difference(**changes: Any) -> dict[str, Any]:
    """A difference on cold rows."""
    errors = {"rows_error": 0.01, "trainings_error": 0.004, "degrees": 30.0}
    stated = {"system": "LAMIA", "role": "baseline", "slice": "cold", "value": 0.001, "low": -0.02, "high": 0.022}
    return {**stated, "positives": 100, **errors, **changes}


def test_arms_of_the_systems_are_shipped() -> None:
    systems = importlib.import_module("family_systems")
    own = {systems.WITH_ATTRIBUTES, systems.SHUFFLED_ATTRIBUTES}
    named = {name for system in systems.SYSTEMS.values() for name in system.names} - own
    assert {name for name, system in systems.SYSTEMS.items() if system.clicks} == {
        name for name, system in systems.SYSTEMS.items() if shipped_arms()[system.arm].codebook_spec().needs_pairs
    }
    assert named <= set(shipped_arms())
    assert systems.SERVED in shipped_arms()


@law
@given(
    error=st.floats(0.001, 0.05), positives=st.integers(30, 5000), told=st.floats(0.001, 0.02), of=st.integers(1, 200)
)
def test_with_the_positives_that_are_needed_the_difference_is_told_in_four_of_five_samples(
    page: ModuleType, error: float, positives: int, told: float, of: int
) -> None:
    needed = page.positives_needed(difference(rows_error=error, positives=positives), told, of)
    # An independent statement: the power of a z-test whose error falls with the root of the positives.
    scaled = error * math.sqrt(positives / needed)
    critical = stats.norm.isf(0.05 / (2 * of))
    power = stats.norm.sf(critical - told / scaled)
    assert power >= 0.8 - 1e-9
    if needed > 50:
        assert power == pytest.approx(0.8, abs=0.02)


def test_more_positives_are_needed_for_smaller_differences_and_more_comparisons(page: ModuleType) -> None:
    each = difference()
    assert page.positives_needed(each, 0.002) == pytest.approx(6.25 * page.positives_needed(each, 0.005), rel=0.01)
    assert page.positives_needed(each, 0.005, 118) > 2 * page.positives_needed(each, 0.005)
    assert page.seeds_needed(each, 5, 0.005) == math.ceil(5 * ((1.959964 + 0.841621) * 0.004 / 0.005) ** 2)
    assert page.seeds_needed(difference(trainings_error=0.0), 5, 0.005) == 1
    # Results of an earlier version have an interval alone.
    assert page.positives_needed(difference(rows_error=None), 0.005) == math.ceil(
        100 * ((1.959964 + 0.841621) * 0.042 / 3.92 / 0.005) ** 2
    )


@law
@given(st.lists(st.tuples(st.floats(-0.05, 0.05), st.floats(0.001, 0.05)), min_size=1, max_size=40))
def test_holm_rejects_what_its_definition_rejects(page: ModuleType, drawn: list[tuple[float, float]]) -> None:
    cells = {
        place: difference(value=value, rows_error=error, trainings_error=0.0, degrees=None)
        for place, (value, error) in enumerate(drawn)
    }
    raw = {place: 2 * stats.norm.sf(abs(value) / error) if value else 1.0 for place, (value, error) in enumerate(drawn)}
    corrected = page.holm(cells)
    rejected = set()
    for step, place in enumerate(sorted(raw, key=lambda place: raw[place])):
        if raw[place] >= 0.05 / (len(raw) - step):
            break
        rejected.add(place)
    assert {place for place, p in corrected.items() if p < 0.05} == rejected
    assert all(raw[place] <= corrected[place] * (1 + 1e-9) and corrected[place] <= 1 for place in raw)


def test_p_values_of_few_trainings_are_those_of_students_t(page: ModuleType) -> None:
    each = difference(value=0.03, degrees=1.5)
    error = math.hypot(0.01, 0.004)
    assert page.p_value(each) == pytest.approx(2 * stats.t.sf(0.03 / error, 1.5))
    assert page.p_value(difference(value=0.0, low=0.0, high=0.0, rows_error=0.0, trainings_error=0.0)) == 1.0


def part(name: str, alive: bool | None, own: bool = True, **changes: Any) -> dict[str, Any]:
    stated = {"entropy_over_log_n": None, "delta_auc": [-0.002], "deviation": 0.001, "by_count": []}
    return {"name": name, "alive": alive, "own": own, **stated, **changes}


def test_the_page_says_which_parts_of_a_system_act(page: ModuleType) -> None:
    liveness = {
        "SMILE": [part("gate", False, delta_auc=[-0.0001, 0.0002]), part("table", True), part("id", True, own=False)],
        "CCFRec": [part("attention", False, entropy_over_log_n=0.998)],
        "LAMIA": [part("sid.tables", True, own=False), part("id", False, own=False)],
        "statistics of codes": [part("content", True, own=False)],
        "GateSID": [part("gate", None, deviation=None)],
    }
    lines = {line.split(" | ")[0][2:]: line for line in page.alive_table({"liveness": liveness}).splitlines()[2:]}
    states = {system: line.split(" | ")[1] for system, line in lines.items()}
    assert states == {
        "SMILE": "yes", "CCFRec": "no", "LAMIA": "yes", "statistics of codes": "no trained part", "GateSID": "unknown",
    }  # fmt: skip
    assert "`gate` -.0001 and +.0002; `table` -.0020" in lines["SMILE"]
    assert "`id`" not in lines["SMILE"] + lines["LAMIA"]
    assert "`attention` 0.998, -.0020 | 0.0010 |" in lines["CCFRec"]
    known = {"wines": {"liveness": liveness}, "films": {"liveness": {"CCFRec": [part("attention", True)]}}}
    rows = page.acting_table(known).splitlines()
    assert "| SMILE | yes, -.0020 | - |" in rows
    assert "| CCFRec | no, -.0020 | yes, -.0020 |" in rows
    assert "| statistics of codes | no trained part | - |" in rows


def test_tables_have_every_system_and_mark_what_holds_after_the_correction(page: ModuleType) -> None:
    sure = {"value": 0.09, "low": 0.07, "high": 0.11}
    found = {
        "differences": [
            difference(),
            difference(system="PSRQ", **sure),
            difference(system="PSRQ", slice="all"),
            difference(system="PSRQ", role="id_codes_psrq without sid.loss", **sure),
        ],
        "cpu_seconds": {"id_codes_aspects": 4.2, "id_codes_psrq": 3.7},
        "megabytes": {"id_codes_aspects": 1.25, "id_codes_psrq": None},
        "seeds": 2,
        "rows": 4000,
        "train_rows": {"id_codes_aspects": 3000, "id_codes_psrq": 2000},
    }
    gates = {
        "films": {"validation": {"seeds": 2, "differences": [difference(rows_error=None), difference(slice="all")]}}
    }
    shown = page.blocks({"wines": {"validation": found}}, gates)
    head = "**wines**, validation rows, two seeds, 2,000 or 3,000 training rows, 4,000 validation rows, 100 cold positives:"
    assert shown["differences"].startswith(head)
    assert "| LAMIA | - | +.0010 [-.0200, +.0220] | - | - | - | - | 1.2 | 4.2 |" in shown["differences"]
    psrq = "| PSRQ | +.0010 [-.0200, +.0220] | **+.0900 [+.0700, +.1100]** * | - | - | - | - | - | 3.7 |"
    assert psrq in shown["differences"]
    assert "| wines | its baseline | 100 | .0100 |" in shown["needed"]
    assert "| films | pairs of `make gates` | 100 | .0107 |" in shown["needed"]
    assert ", of 2 " in shown["needed"]  # losses are no comparisons of their own
    assert "| PSRQ | `sid.loss` | - | **+.0900 [+.0700, +.1100]** |" in page.losses_table(found)


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    family = importlib.import_module("family")
    assert family.page() == family.PAGE.read_text(), "run `python benchmarks/family.py --write`"


def test_a_part_acts_anywhere_if_any_result_says_so(page: ModuleType) -> None:
    idle = part("shared_gated.modality", False)
    gate = part("shared_gated.gate", False)
    results = {
        "xwines_slim": {
            "validation": {"liveness": {"GateSID": [idle, gate]}},
            "tries": {"GateSID": {"gentle": {"parts": [{**gate, "alive": True}, idle]}}},
        }
    }
    attention = {
        "tastes": {"validation": {"parts": {"gatesid_cosine": [{**idle, "alive": True}], "id_content_dot": [idle]}}}
    }
    rows = page.anywhere_table(results, {}, attention).splitlines()[2:]
    both = "`shared_gated.modality`: `tastes` (cosine); `shared_gated.gate`: X-Wines (gentle)"
    assert rows == [f"| GateSID | {both} | - |"]
    assert page.anywhere_table(results, {}, {}).splitlines()[2:] == [
        "| GateSID | `shared_gated.gate`: X-Wines (gentle) | `shared_gated.modality` |"
    ]


def test_the_table_of_planted_worlds_has_a_row_per_system(page: ModuleType) -> None:
    found = {
        "differences": [difference(system="CROSS-JEM", slice="all"), difference(system="CROSS-JEM")],
        "liveness": {"CROSS-JEM": [part("reranker.context", True, deviation=0.0008)]},
    }
    rows = page.planted_table({"competing": {"validation": found}}).splitlines()[2:]
    assert rows == [
        "| `competing` | CROSS-JEM | +.0010 [-.0200, +.0220] | - | `reranker.context` -.0020 | .0008 | yes |"
    ]


def test_planted_worlds_have_one_click_per_page_and_shifts_after_the_training_rows() -> None:
    worlds = importlib.import_module("planted_worlds")
    rng = np.random.default_rng(0)
    page, logit = np.repeat(np.arange(3000), 8), rng.standard_normal(24_000)
    label = worlds.competing(logit, page, rng)
    clicks = np.bincount(page, label)
    assert set(clicks) == {0, 1} and clicks.mean() == pytest.approx(worlds.CLICKED_PAGES, abs=0.01)
    assert logit[label == 1].mean() > 1
    item, at_us = np.arange(40_000) % 4, np.arange(40_000)
    label = worlds.shifted(np.zeros(40_000), item, at_us, rng)
    before, after = (
        [label[(item == each) & part].mean() for each in range(4)]
        for part in (at_us < worlds.TRAINING * 40_000, at_us >= worlds.TRAINING * 40_000)
    )
    np.testing.assert_allclose(before, 0.5, atol=0.03)
    assert np.abs(np.array(after) - 0.5).max() > 0.1


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    ids = [f"w{number}" for number in range(60)]
    kinds = [None if number % 10 == 0 else f"kind {number % 7}" for number in range(60)]
    vectors = pa.array([[float(number), 1.0] for number in range(60)], pa.list_(pa.float32()))
    moment = pa.array([0] * 60, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"item_id": ids, "created_at": moment, "kind": kinds}), folder / "items.parquet")
    pq.write_table(pa.table({"item_id": ids, "text": vectors}), folder / "item_embeddings.parquet")
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["w1"]}), folder / "interactions.parquet")
    return folder


def test_the_control_has_the_attributes_of_other_items_and_all_else_unchanged(
    sources: ModuleType, source: Path, tmp_path: Path
) -> None:
    own = sources.with_attributes(source, tmp_path / "own", ["kind"])
    control = sources.with_attributes(source, tmp_path / "control", ["kind"], shuffled=True)
    assert sources.with_attributes(source, tmp_path / "own", ["kind"]) == own  # used again
    read = {folder: pq.read_table(folder / "item_embeddings.parquet").sort_by("item_id") for folder in (own, control)}
    given, shuffled = (read[folder].column("attributes").to_pylist() for folder in (own, control))
    assert given != shuffled
    assert sorted(map(str, given)) == sorted(map(str, shuffled))
    assert [each is None for each in given] == [each is None for each in shuffled]
    assert sum(each is None for each in given) == 6
    assert read[own].column("text").equals(read[control].column("text"))
    for table in ("items", "interactions"):
        assert (control / f"{table}.parquet").read_bytes() == (source / f"{table}.parquet").read_bytes()
    assert {path.name for path in control.iterdir()} == {f"{table}.parquet" for table in sources.TABLES}


@law
@given(st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 5))
def test_a_shuffled_column_is_a_permutation_that_keeps_gaps(
    sources: ModuleType, values: list[int | None], seed: int
) -> None:
    table = pa.table({"row": list(range(len(values))), "x": pa.array(values, pa.int64())})
    shuffled = sources.shuffled_column(table, "x", seed)
    assert shuffled.column("row").equals(table.column("row"))
    found = shuffled.column("x").to_pylist()
    assert [value is None for value in found] == [value is None for value in values]
    np.testing.assert_array_equal(sorted(v for v in found if v is not None), sorted(v for v in values if v is not None))


def test_other_settings_are_tried_for_systems_whose_trained_parts_do_not_act() -> None:
    tries = importlib.import_module("family_tries")
    liveness = {
        "SMILE": [part("gate", False, kind="gate"), part("table", True, kind="table")],
        "CCFRec": [part("attention", False, kind="attention")],
        "Reindex-Then-Adapt, bias": [part("adapter", False, kind="adapter")],
        "blend by counts": [part("weights", False, kind="weights")],
        "statistics of codes": [],
    }
    assert tries.idle({"liveness": liveness}) == ["CCFRec", "Reindex-Then-Adapt, bias"]
    assert list(tries.settings_for("Reindex-Then-Adapt, bias")) == ["7 days", "28 days", "365 days"]
    assert list(tries.settings_for("CCFRec")) == [*tries.TRIED, "as published"]
    assert not tries.settings_for("blend by counts")
    one = [tries.PartLiveness("gate", "gate", "gate", delta_auc=(off, 0.002)) for off in (-0.004, -0.002)]
    assert tries.averaged("gate", one, 0.001)["alive"]
    assert not tries.averaged("gate", one, 0.0025)["alive"]
    assert tries.averaged("gate", one, None)["alive"] is None


def test_the_table_of_other_settings_parts_what_acts_from_what_does_not(page: ModuleType) -> None:
    tried = {
        "auc": 0.81234,
        "deviation": 0.0005,
        "seeds": 5,
        "parts": [part("gate", True), part("table", False, delta_auc=[0.0001])],
    }
    results = {
        "films": {"validation": {}},
        "uci_online_retail": {"validation": {"auc": {"all": {"smile": 0.82}}}, "tries": {"SMILE": {"learnt": tried}}},
    }
    rows = page.tries_table(results).splitlines()[2:]
    assert rows == ["| UCI | SMILE | .8200 | learnt | 5 | .8123 (.0005) | `gate` -.0020 | `table` +.0001 |"]


def test_a_system_is_compared_with_each_arm_once() -> None:
    systems = importlib.import_module("family_systems").SYSTEMS
    assert systems["statistics of codes"].others == {"baseline": "content", "control": "content_codes_shuffled"}
    assert systems["later rows alone"].others == {"baseline": "content_codes"}
    assert systems["LAMIA"].others == {
        "baseline": "id_codes_after", "control": "id_codes_aspects_shuffled", "served": "content_codes",
        "same rows": "content_codes_after",
    }  # fmt: skip


def result_of(value: float, *systems: str, rows: int = 100, **changes: Any) -> dict[str, Any]:
    numbers = {key: dict.fromkeys(systems, value) for key in ("train_rows", "cpu_seconds", "megabytes", "liveness")}
    found = [difference(system=system, value=value, slice=name) for system in systems for name in ("all", "cold")]
    auc = {name: dict.fromkeys(systems, value) for name in ("all", "cold")}
    stated = {"rows": rows, "seeds": 2, "missing": {}, "cpu_seconds_in_all": 10, "auc": auc, "differences": found}
    return {**stated, **numbers, **changes}


def test_a_run_of_other_systems_adds_to_a_result_on_the_same_rows_and_replaces_one_on_others() -> None:
    family = importlib.import_module("family")
    held = result_of(0.1, "SMILE", "PSRQ", missing={"ColdGPT": "not finished"})
    found = family.merged(held, result_of(0.2, "ColdGPT", "PSRQ"))
    values = {(each["system"], each["slice"]): each["value"] for each in found["differences"]}
    assert values == {
        (system, name): value
        for system, value in (("SMILE", 0.1), ("PSRQ", 0.2), ("ColdGPT", 0.2))
        for name in ("all", "cold")
    }
    assert [each["system"] for each in found["differences"]] == ["SMILE"] * 2 + ["ColdGPT"] * 2 + ["PSRQ"] * 2
    assert found["auc"]["cold"] == found["cpu_seconds"] == {"SMILE": 0.1, "PSRQ": 0.2, "ColdGPT": 0.2}
    assert (found["missing"], found["cpu_seconds_in_all"]) == ({}, 20)
    other = result_of(0.2, "ColdGPT", rows=90)
    assert family.merged(held, other) == family.merged(None, other) == other
