"""Every system that the two papers are compared with, beside its plain baseline, its control and the arm that is served.

    python benchmarks/family.py --data DATA... [--work .work/family] [--seeds 5] [--systems NAME...] [--open] [--table]

One time origin: rankers train on a sample of users of the training window, choose their epoch on the next rows, and are
compared on validation rows, or with ``--open`` on test rows. Every system has one arm, the same inputs without its idea
(baseline), the same arm with its idea made meaningless (control), and is also compared with ``content_codes``, the arm that
the default preset serves. All arms have their shipped settings; none is tuned. Differences on cold rows are corrected by Holm
over all systems and data sets of the table. Results go to ``benchmarks/results/family.json``, one entry per data set and kind
of rows, with the processor seconds of a training. Saved trials are not repeated.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from codes import measured_difference
from gates import interval_text
from rich.console import Console

from ranking.evaluation.evaluator import EvaluationRows, Evaluator, MetricValue
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.arms import load_arms, shipped_arms
from ranking.experiments.comparison.comparison import CompareOptions, Comparison, data_name
from ranking.experiments.comparison.evaluation import Parts
from ranking.experiments.comparison.trials import Plan, work_through
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import load_preset
from ranking.training.predictions import read_predictions
from sidkit.api.progress import LineProgress
from sidkit.core.files import read_json, write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "family.json"
SERVED = "content_codes"
SLICES = ("all", "cold", "warm")


@dataclass(frozen=True)
class System:
    """A system: its arm, the same inputs as plain features, and the control."""

    arm: str
    baseline: str
    control: str


SYSTEMS = {
    "SaviorRec": System("saviorrec", "id_content_codes_saviorrec", "id_codes_shuffled"),
    "SMILE": System("smile", "id_codes_smile", "id_codes_shuffled"),
    "neighbour prior": System("id_content_prior", "id_content", "id_content_prior_random"),
    "LM prior": System("id_content_lm_prior", "id_content", "id_content_lm_prior_random"),
    "LATTICE": System("id_content_graph", "id_content", "id_content_graph_random"),
    "MICRO, MM-GEF": System("id_content_graph_clicks", "id_content", "id_content_graph_clicks_random"),
    "GateSID": System("gatesid", "id_content", "gatesid_shuffled"),
    "CCFRec": System("ccfrec", "id_content_codes_views", "ccfrec_shuffled"),
    "Hi-SAM": System("hisam", "id_codes_shared_private", "hisam_shuffled"),
    "LAMIA": System("id_codes_aspects", "id_codes", "id_codes_aspects_shuffled"),
    "PSRQ": System("id_codes_psrq", "id_codes", "id_codes_psrq_shuffled"),
    "residual k-means + FSQ": System("id_codes_rk_fsq", "id_codes", "id_codes_rk_fsq_shuffled"),
    "MMQ-v2": System("mmq", "id_content_codes_mass", "mmq_shuffled"),
    "Reindex-Then-Adapt, bias": System("id_content_bias", "id_content", "id_content_bias_shuffled"),
    "Reindex-Then-Adapt, gate": System("content_gate", "content", "content_gate_shuffled"),
    "CROSS-JEM": System("id_content_joint", "id_content", "id_content_joint_shuffled"),
    "CMiMC": System("smile_kept", "smile", "smile_kept_shuffled"),
    "HEKP4NBR": System("id_content_groups", "id_content", "id_content_groups_random"),
    "statistics of codes": System("content_codes", "content", "content_codes_shuffled"),
    "blend by counts": System("blend_counts", "blend", "blend_counts_shuffled"),
}
"""ColdGPT is missing: it needs a modality of attributes, which no data set of the bench has."""


def planned(data: str, options: argparse.Namespace) -> Plan:
    """Prepare the frames of a data set and list its trials."""
    repo = prepare_repo(data, options.work / data_name(data))
    chosen = [SYSTEMS[name] for name in options.systems]
    names = list(dict.fromkeys([SERVED, *(arm for each in chosen for arm in (each.arm, each.baseline, each.control))]))
    for name in list(names):  # what blends and adapters are made of
        names += [member for member in shipped_arms()[name].of if member not in names]
    spec = load_preset("rqkmeans").ranker
    rows = {"max_train_rows": options.max_train_rows, "max_evaluation_rows": options.max_evaluation_rows}
    spec = spec.model_copy(update={"training": spec.training.model_copy(update=rows)})
    asked = CompareOptions(
        data,
        load_arms(names),
        spec,
        options.seeds,
        origins=1,
        jobs=options.jobs,
        impressions=options.impressions,
        equal_budgets=False,
    )
    with repo.locked():
        return Comparison(repo, asked, LineProgress(Console())).plan()[0]


def compared(plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """AUC of all arms, and the differences of every system, on validation or test rows."""
    part = "test" if options.open else "validation"
    rows = getattr(Parts.load(plan, plan.trials[0].frame), part)
    evaluator = Evaluator(
        EvaluationRows.of(rows), {name: mask for name, mask in slices(rows).items() if name in SLICES}
    )
    values: dict[str, dict[str, MetricValue]] = {}
    cpu: dict[str, float] = {}
    for arm in plan.arms:
        trials = [trial for trial in plan.trials if trial.arm == arm]
        scores = [read_predictions(plan.path(trial), part) for trial in trials]
        details = [each for trial in trials if (each := plan.details(trial)) is not None]
        cpu[arm] = round(float(np.mean([each.cpu_seconds for each in details])), 2)
        for name, metrics in evaluator.evaluate(scores).items():
            if "auc" in metrics.metrics:
                values.setdefault(name, {})[arm] = metrics.metrics["auc"]
    found = []
    for system in options.systems:
        own = SYSTEMS[system]
        for name, known in values.items():
            for role, other in (("baseline", own.baseline), ("control", own.control), ("served", SERVED)):
                if other != own.arm:
                    measured = measured_difference(own.arm, other, name, known[own.arm], known[other])
                    found.append({"system": system, "role": role, **asdict(measured)})
    return {
        "rows": len(rows),
        "seeds": options.seeds,
        "auc": {name: {arm: value.value for arm, value in known.items()} for name, known in values.items()},
        "differences": found,
        "cpu_seconds": cpu,
    }


def holm(cells: Mapping[Any, Mapping[str, float]]) -> dict[Any, float]:
    """Two-sided p-values of differences with 95 % intervals, corrected by Holm over all of them."""
    raw = {}
    for key, each in cells.items():
        error = (each["high"] - each["low"]) / (2 * 1.96)
        raw[key] = math.erfc(abs(each["value"]) / max(error, 1e-12) / math.sqrt(2))
    corrected, least = {}, 0.0
    for place, key in enumerate(sorted(raw, key=raw.__getitem__)):
        least = max(least, min(1.0, raw[key] * (len(raw) - place)))
        corrected[key] = least
    return corrected


def table(results: Mapping[str, Any], kind: str) -> str:
    """Markdown: one table per data set; bold intervals exclude 0, and a star marks p below .05 after Holm on cold rows."""
    cold = {
        (data, each["system"], each["role"]): each
        for data, found in results.items()
        for each in found.get(kind, {}).get("differences", ())
        if each["slice"] == "cold"
    }
    corrected = holm(cold)
    lines: list[str] = []
    for data, found in results.items():
        if kind not in found:
            continue
        lines += ["", f"### {data}, {kind} rows", ""]
        lines += [
            "| system | to its baseline, all | cold | to its control, cold | to `content_codes`, all | cold | s |"
        ]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        cells = {(each["system"], each["role"], each["slice"]): each for each in found[kind]["differences"]}
        for system in dict.fromkeys(each["system"] for each in found[kind]["differences"]):
            shown = [
                _cell(cells.get((system, role, name)), corrected.get((data, system, role)) if name == "cold" else None)
                for role, name in _COLUMNS
            ]
            lines.append(f"| {system} | {' | '.join(shown)} | {found[kind]['cpu_seconds'][SYSTEMS[system].arm]:.1f} |")
    return "\n".join(lines)


_COLUMNS: Sequence[tuple[str, str]] = (
    ("baseline", "all"),
    ("baseline", "cold"),
    ("control", "cold"),
    ("served", "all"),
    ("served", "cold"),
)


def _cell(each: Mapping[str, Any] | None, p: float | None) -> str:
    if each is None:
        return "-"
    return interval_text(each) + (" *" if p is not None and p < 0.05 else "")


def main() -> None:
    """Compare the systems on the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "family")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--open", action="store_true", help="compare on test rows")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--max-train-rows", type=int, default=20_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=20_000)
    parser.add_argument("--impressions", type=int, default=100_000, help="of a synthetic world")
    options = parser.parse_args()
    for data in options.data:
        began, name = time.process_time(), data_name(data)
        plan = replace(planned(data, options), loss_trials=())  # `sidkit ranker compare` trains without each loss
        work_through(plan, LineProgress(Console()))
        result = compared(plan, options) | {"cpu_seconds_in_all": round(time.process_time() - began)}
        held = read_json(RESULTS) if RESULTS.exists() else {}
        kind = "test" if options.open else "validation"
        write_json(RESULTS, {**held, name: {**held.get(name, {}), kind: result}})
    if options.table:
        for kind in ("validation", "test"):
            print(table(read_json(RESULTS), kind))


if __name__ == "__main__":
    main()
