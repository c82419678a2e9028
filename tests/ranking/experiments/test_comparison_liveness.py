"""Liveness in a comparison: what is averaged over seeds, which parts are an arm's own, and which arm gets no verdict."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ranking.experiments.comparison.arms import load_arms
from ranking.experiments.comparison.liveness import ArmPart, arm_liveness, exercised, not_exercised
from ranking.experiments.comparison.probes import Probes
from ranking.experiments.comparison.report.page import _liveness_table
from ranking.experiments.comparison.results import ComparisonEvaluation, ComparisonResult, CutFacts, Seconds
from ranking.experiments.comparison.trials import Plan, Trial, TrialDetails
from ranking.training.arm_spec import RankerSpec
from ranking.training.arms import ArmDetails, ArmResult
from ranking.training.liveness import PartLiveness
from ranking.training.predictions import write_predictions
from sidkit.cli.liveness_report import print_liveness
from sidkit.core.records import record_json

IDS = PartLiveness(
    "id.table",
    "table",
    "id.table",
    size=0.4,
    start=0.1,
    size_over_start=4.0,
    moved=3.9,
    auc=0.7,
    auc_off=(0.6,),
    delta_auc=(-0.1,),
)
Aucs = Mapping[str, Sequence[float]]


def table(name: str, delta: float, **changes: Any) -> PartLiveness:
    return PartLiveness(name, "table", name, auc=0.7, auc_off=(0.7 + delta,), delta_auc=(delta,), **changes)


def plan_of(
    folder: Path, arms: Mapping[str, Sequence[PartLiveness] | None], aucs: Aucs, losses: Aucs | None = None
) -> Plan:
    """A plan whose trials are finished: the parts and the validation AUC per seed of each arm; ``losses`` of smile."""
    trials = [Trial(arm, seed, 0, "frame", "mark") for arm in arms for seed in range(len(aucs[arm]))]
    without = [
        Trial("smile", seed, 0, "frame", "mark", None, loss)
        for loss, values in (losses or {}).items()
        for seed in range(len(values))
    ]
    plan = Plan(folder, folder, RankerSpec(), load_arms(list(arms)), {}, tuple(trials), tuple(without))
    for trial in plan.all_trials:
        auc = (losses or {})[trial.without][trial.seed] if trial.without else aucs[trial.arm][trial.seed]
        parts = None if trial.without else arms[trial.arm]
        details = TrialDetails(mark="mark", validation=auc, liveness=None if parts is None else tuple(parts))
        scores = np.array([0.5])
        plan.path(trial).parent.mkdir(parents=True, exist_ok=True)
        write_predictions(plan.path(trial), ArmResult(auc, scores, scores, None, ArmDetails()), details.as_json())
    return plan


def parts_of(plan: Plan, arm: str) -> dict[str, ArmPart]:
    return {part.name: part for part in arm_liveness(plan)[arm]}


BASE = "id_content_codes_saviorrec"
BASE_PARTS = [IDS, table("sid.codes.table", -0.02)]
STEADY = (0.70, 0.71)
"""Validation AUC of two seeds; their standard deviation is .0071."""


def compared(folder: Path, correction: float) -> Plan:
    mba = [IDS, table("mba.codes.table", correction, size=0.02, start=0.0)]
    return plan_of(folder, {BASE: BASE_PARTS, "mba": mba}, {BASE: STEADY, "mba": STEADY})


@pytest.mark.parametrize("delta", [-0.02, 0.02])
def test_a_part_is_alive_if_it_changes_the_auc_by_more_than_seeds_do(tmp_path: Path, delta: float) -> None:
    plan = compared(tmp_path, delta)
    part = parts_of(plan, "mba")["mba.codes.table"]
    assert part.deviation == pytest.approx(0.00707, abs=1e-5)
    assert (part.own, part.alive, part.delta_auc) == (True, True, pytest.approx((delta,)))
    assert exercised(arm_liveness(plan), "mba") is True
    assert not_exercised(arm_liveness(plan), "mba") is None


def test_an_arm_whose_own_parts_do_nothing_is_not_exercised_whatever_the_others_do(tmp_path: Path) -> None:
    liveness = arm_liveness(compared(tmp_path, 0.001))
    states = {part.name: (part.own, part.alive) for part in liveness["mba"]}
    assert states == {"id.table": (False, True), "mba.codes.table": (True, False)}
    assert exercised(liveness, "mba") is False
    reason = not_exercised(liveness, "mba")
    assert reason == (
        "no part of its own changes the validation AUC by more than seeds do (0.0071): mba.codes.table +0.0010"
    )
    # The baseline's own baseline, id_codes, is not in the comparison.
    assert {part.own for part in liveness[BASE]} == {None}
    assert exercised(liveness, BASE) is None


def test_with_one_seed_and_without_the_baseline_nothing_is_known(tmp_path: Path) -> None:
    parts = [table("mba.codes.table", 0.0)]
    one_seed = arm_liveness(plan_of(tmp_path / "a", {BASE: BASE_PARTS, "mba": parts}, {BASE: [0.7], "mba": [0.7]}))
    assert (one_seed["mba"][0].own, one_seed["mba"][0].alive, one_seed["mba"][0].deviation) == (True, None, None)
    alone = arm_liveness(plan_of(tmp_path / "b", {"mba": parts}, {"mba": STEADY}))
    assert (alone["mba"][0].own, alone["mba"][0].alive) == (None, False)
    for liveness in (one_seed, alone):
        assert exercised(liveness, "mba") is None
        assert not_exercised(liveness, "mba") is None


def test_an_arm_without_parts_of_its_own_gets_its_verdict(tmp_path: Path) -> None:
    arms = {"id_codes": BASE_PARTS, "id": [IDS], "gbdt": None}
    liveness = arm_liveness(plan_of(tmp_path, arms, dict.fromkeys(arms, STEADY)))
    assert set(liveness) == {"id_codes", "id"}
    assert exercised(liveness, "id") is None and not_exercised(liveness, "gbdt") is None
    # Codes are what id_codes adds to its plain baseline, id.
    assert [part.name for part in liveness["id_codes"] if part.own] == ["sid.codes.table"]
    assert exercised(liveness, "id_codes") is True


def smile(folder: Path, gate: tuple[float, float], transfer: float) -> Plan:
    """Two seeds of smile with a gate, and without its transfer loss."""
    own = PartLiveness(
        "rq_opq_gate.candidate_gate",
        "gate",
        "rq_opq_gate.candidate_gate",
        auc=0.7,
        auc_off=(0.7 + gate[0], 0.7 + gate[1]),
        delta_auc=gate,
    )
    ids = dataclasses.replace(IDS, name="rq_opq_gate.table")
    without = {"rq_opq_gate.transfer": [auc + transfer for auc in STEADY]}
    arms = {"id_codes_smile": BASE_PARTS, "smile": [ids, own]}
    return plan_of(folder, arms, dict.fromkeys(arms, STEADY), without)


def test_a_gate_is_alive_if_neither_constant_replaces_it(tmp_path: Path) -> None:
    gates = {
        name: parts_of(smile(tmp_path / name, deltas, 0.0), "smile")["rq_opq_gate.candidate_gate"]
        for name, deltas in {"both": (-0.02, -0.03), "always 0": (0.0, -0.03)}.items()
    }
    assert (gates["both"].alive, gates["always 0"].alive) == (True, False)
    assert gates["both"].off == ("0", "1")


def test_a_loss_is_compared_with_the_same_seeds_trained_without_it(tmp_path: Path) -> None:
    plan = smile(tmp_path, (0.0, 0.0), -0.03)
    parts = parts_of(plan, "smile")
    loss = parts["rq_opq_gate.transfer"]
    assert (loss.kind, loss.own, loss.alive, loss.seeds) == ("loss", True, True, 2)
    assert loss.delta_auc == pytest.approx((-0.03,))
    # An id table is the same part in both arms, whatever the representation is called.
    assert parts["rq_opq_gate.table"].own is False
    assert exercised(arm_liveness(plan), "smile") is True


def result_of(plan: Plan) -> ComparisonResult:
    evaluation = ComparisonEvaluation(
        rows=(),
        slices={},
        cuts=CutFacts(0, 0, 0, 0.0),
        arms={},
        calibration={},
        gauc_by="user",
        train_rows=0,
        probes=Probes({}, {}, {}),
        liveness=arm_liveness(plan),
    )
    return ComparisonResult("world", evaluation, (), (), (), Seconds(0, 0, 0, 0, 0), 0.0)


def test_a_frame_has_a_row_per_part_and_replacement(tmp_path: Path) -> None:
    frame = result_of(smile(tmp_path, (-0.02, 0.001), 0.0)).liveness
    own = frame[(frame["arm"] == "smile") & frame["own"].astype(bool)]
    assert list(zip(own["part"], own["off"], own["alive"], strict=True)) == [
        ("rq_opq_gate.candidate_gate", "0", False),
        ("rq_opq_gate.candidate_gate", "1", False),
        ("rq_opq_gate.transfer", "removed", False),
    ]
    assert frame["size_over_start"].max() == 4.0
    np.testing.assert_allclose(frame["auc_off"] - frame["auc"], frame["delta_auc"], atol=1e-12)


def test_results_of_earlier_releases_have_no_liveness(tmp_path: Path) -> None:
    result = result_of(smile(tmp_path, (-0.02, 0.001), 0.0))
    written = result.as_json()
    assert ComparisonResult.of_json(written, tmp_path).evaluation.liveness == result.evaluation.liveness
    del written["liveness"]
    old = ComparisonResult.of_json(written, tmp_path)
    assert old.evaluation.liveness == {} and old.liveness.empty
    assert _liveness_table(written).caption == "Liveness was not measured"


def test_the_terminal_and_the_page_have_a_row_per_part(tmp_path: Path) -> None:
    liveness = arm_liveness(compared(tmp_path, 0.001))
    out = io.StringIO()
    print_liveness(Console(width=80, file=out), liveness)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "mba: SD over seeds 0.0071" in lines
    cells = [line.split() for line in lines]
    assert ["mba.codes.table*", "-", "0+2.0e-02", "+0.0010", "no"] in cells
    assert ["id.table", "-", "x", "4.00", "-0.1000", "yes"] in cells
    page = _liveness_table({"liveness": record_json(result_of(compared(tmp_path, 0.001)))["evaluation"]["liveness"]})
    rows = [[cell.text for cell in row] for row in page.rows if row[0].note == "mba.codes.table"]
    assert rows == [["mba", "table", "yes", "-", "0+2.0e-02", "-", "+0.0010", "0.0071", "no"]]
    widest = [
        table("bidirectional.behaviour.recency", 0.0, size=0.00005, start=0.0),
        PartLiveness("rq_opq_gate.candidate_gate", "gate", "gate", auc=0.7, auc_off=(0.6, 0.6), delta_auc=(-0.1, -0.1)),
    ]
    wide = io.StringIO()
    arms = {BASE: BASE_PARTS, "saviorrec": widest}
    print_liveness(
        Console(width=80, file=wide), arm_liveness(plan_of(tmp_path / "wide", arms, dict.fromkeys(arms, (0.7,))))
    )
    assert max(map(len, wide.getvalue().splitlines())) <= 80
    assert ["bidirectional.behaviour.recency*", "-", "0+5.0e-05", "+0.0000", "?"] in [
        line.split() for line in wide.getvalue().splitlines()
    ]
    nothing = io.StringIO()
    print_liveness(Console(file=nothing), {})
    assert nothing.getvalue() == ""
