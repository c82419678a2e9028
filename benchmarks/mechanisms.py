"""Do the papers' mechanisms act: arms with several settings, and what every part of them contributes, on validation rows.

    python benchmarks/mechanisms.py --data DATA... [--work .work/mechanisms] [--arms ARM...] [--settings NAME...] [--open]

Codebooks are fitted on the first 30 % of the log, and rankers train on the rows after them, with statistics of codes. Every arm
is trained with every setting of ``mechanism_settings.SETTINGS`` that is for it, with the same number of epochs at most; an
arm's setting is the one with the best mean AUC over all rows and cold rows. After training, every part is forced off, and
every auxiliary loss of the arms named in ``--losses`` is left out of another training; changes of the AUC have 95 % intervals
over users, items and trainings. Only by ``--open`` are arms compared on test rows, each with its chosen setting. Trials are
saved in the work folder and not repeated. Results go to ``benchmarks/results/mechanisms.json``; ``--table`` prints those as
Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from arms import ROOT, with_settings
from loss_effects import contrast_batches, first_batches, fitted_of, loss_facts, model_with
from mechanism_settings import FOR_ARMS, SETTINGS, of_arm, of_ranker

from ranking.data.dataset import Dataset
from ranking.evaluation.evaluator import EvaluationRows, Evaluator, difference
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.arms import ComparedArm, load_arms
from ranking.experiments.comparison.comparison import CompareOptions, Comparison, data_name
from ranking.experiments.comparison.trials import Plan, context_of
from ranking.models.attention import TargetAttention
from ranking.models.spec import ModelSpec
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import load_preset
from ranking.training.arm_spec import RankerSpec, losses_of, without_loss
from ranking.training.arms import TrainingContext, train_arm
from ranking.training.measure_liveness import measure_liveness
from ranking.training.ranker import Ranker, make_model
from sidkit.core.arrays import Doubles
from sidkit.core.config import content_hash
from sidkit.core.files import read_json, write_json, written_beside
from sidkit.core.repo import SETTINGS_FILE, Repo

RESULTS = ROOT / "benchmarks" / "results" / "mechanisms.json"
ARMS = ("id_content_codes_saviorrec", "mba", "saviorrec", "id_codes_smile", "smile_rq", "smile_opq", "smile",
        "id_content_codes_smile", "saviorrec_smile", "gatesid", "id_content_prior")  # fmt: skip
LOSSES = ("smile", "smile_rq", "smile_opq")
BUDGET: dict[str, Any] = {"training.epochs": 12, "training.patience": 2}
SLICES = ("all", "cold")
LOSS = "loss "


@dataclasses.dataclass(frozen=True)
class Found:
    """One trained arm: probabilities of validation and test rows, those with parts off by name, and measurements."""

    validation: Doubles
    test: Doubles
    off: dict[str, Doubles]
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write to a file atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as temporary, temporary.open("wb") as file:
            off = {f"off {name}": values for name, values in self.off.items()}
            facts = np.array(json.dumps(self.facts))
            np.savez(file, validation=self.validation, test=self.test, facts=facts, **off)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Found:
        """Read a file."""
        with np.load(path) as held:
            off = {name.removeprefix("off "): held[name] for name in held.files if name.startswith("off ")}
            return cls(held["validation"], held["test"], off, json.loads(str(held["facts"])))


def spec_of(options: argparse.Namespace) -> RankerSpec:
    """The settings of the presets, which are the same for all, with fewer rows and epochs."""
    rows = {
        "training.max_train_rows": options.max_train_rows,
        "training.max_evaluation_rows": options.max_evaluation_rows,
    }
    return with_settings(load_preset("rqkmeans").ranker, {**BUDGET, **rows})


def ranker_of(spec: RankerSpec, setting: str) -> RankerSpec:
    """The settings of rankers with those of :data:`SETTINGS`."""
    return with_settings(spec, of_ranker(SETTINGS[setting]))


def settings_for(arm: str) -> list[str]:
    """The settings that an arm is trained with by default."""
    return [name for name in SETTINGS if arm in FOR_ARMS.get(name, (arm,))]


def arm_of(arm: ComparedArm, setting: str) -> ComparedArm:
    """An arm with those of :data:`SETTINGS` that are keys of an arm."""
    return arm.model_copy(update=of_arm(SETTINGS[setting]))


def planned(data: str, options: argparse.Namespace) -> tuple[Plan, dict[str, TrainingContext]]:
    """Codebooks and frames of a data set, and the training context of each arm."""
    repo = prepare_repo(data, options.work / data_name(data))
    settings = repo.path / SETTINGS_FILE
    text = settings.read_text(encoding="utf-8")
    if "\ncodebook = " not in text:
        settings.write_text(text.replace("\ntrain = ", "\ncodebook = 0.3\ntrain = "), "utf-8")
        repo = Repo.open(repo.path)
    asked = CompareOptions(
        data, load_arms(options.arms), spec_of(options), 1, 1, 1, options.impressions, equal_budgets=False
    )
    with repo.locked():
        plan, _ = Comparison(repo, asked).plan()
    frames = {name: context_of(repo, frame, plan.spec) for name, frame in plan.frames.items()}
    return plan, {trial.arm: dataclasses.replace(frames[trial.frame], first_epoch=False) for trial in plan.trials}


def trained(context: TrainingContext, name: str, arm: ComparedArm, seed: int, folder: Path, whole: ModelSpec) -> Found:
    """Train an arm, and force each of its parts off; ``whole`` is its model with all auxiliary losses, which are measured."""
    shutil.rmtree(folder, ignore_errors=True)
    started = time.process_time()
    result = train_arm(dataclasses.replace(context, rankers=folder), name, arm, seed, "trial")
    seconds = time.process_time() - started
    ranker = Ranker.load(folder / "trial")
    off: dict[tuple[str, float], Doubles] = {}
    parts = measure_liveness(ranker.model, ranker.batches(context.of_arm(arm, seed).validation), scores=off)
    started_as = started_model(ranker, seed)
    begun = sizes_of(started_as)
    batches = first_batches(ranker, context.of_arm(arm, seed).train, context.spec.training.batch_rows)
    facts = {
        "seconds": round(seconds, 2),
        "curve": result.details.validation_auc,
        "parts": {
            part.name: {"kind": part.kind, "role": part.role, "entropy": part.entropy_over_log_n} for part in parts
        },
        "losses": {
            when: loss_facts(model_with(ranker, whole, model.state_dict()), whole, batches)
            for when, model in (("start", started_as), ("end", ranker.model))
        },
        "contrast": contrast_batches(ranker.model, batches, whole.contrast_negatives),
        "sizes": {key: [begun[key], size] for key, size in sizes_of(ranker.model).items()},
        "scales": [
            module.scale().tolist()
            for module in ranker.model.modules()
            if isinstance(module, TargetAttention) and module.log_scale is not None
        ],
    }
    shutil.rmtree(folder, ignore_errors=True)
    return Found(
        result.validation, result.test, {f"{part}={value:g}": each for (part, value), each in off.items()}, facts
    )


def started_model(ranker: Ranker, seed: int) -> torch.nn.Module:
    """The model as it was before training."""
    torch.manual_seed(seed)
    return make_model(ranker.config, ranker.vocabulary, fitted_of(ranker))


def sizes_of(model: Any) -> dict[str, float]:
    """Root mean square of each embedding table."""
    tables = [part for part in model.evaluated_parts() if part.kind == "table"]
    return {part.name: float(part.module.weight.detach().square().mean().sqrt()) for part in tables}


class Trials:
    """The trials of one data set, trained when they are first asked for."""

    def __init__(self, data: str, options: argparse.Namespace) -> None:
        self.options = options
        self.plan, self.contexts = planned(data, options)
        self.folder = options.work / "trials" / data_name(data)

    def get(self, arm: str, setting: str, seed: int, without: str | None = None) -> Found:
        """One trial; ``without`` names an auxiliary loss that it is trained without."""
        context, spec = self.contexts[arm], arm_of(self.plan.arms[arm], setting)
        ranker = ranker_of(context.spec, setting)
        arm_spec = spec if without is None else without_loss(spec, ranker.model, without)
        marks = [context.trained_on.as_json(), arm_spec.trained_by(), ranker.model_dump(mode="json", exclude={"serve"})]
        path = (
            self.folder
            / f"{arm}-{setting.replace(' ', '_')}-{without or 'whole'}-{content_hash([*marks, seed])[:10]}.npz"
        )
        if not path.exists():
            asked = dataclasses.replace(context, spec=ranker)
            folder, whole = self.folder / f"ranker-{os.getpid()}", spec.model_spec(ranker.model)
            trained(asked, arm, arm_spec, seed, folder, whole).save(path)
            print(f"  {path.name} {Found.load(path).facts['seconds']} s", flush=True)
        return Found.load(path)

    def seeds(self, arm: str, setting: str, without: str | None = None) -> list[Found]:
        """The trials of all seeds."""
        return [self.get(arm, setting, seed, without) for seed in range(self.options.seeds)]


def evaluator_of(rows: Dataset) -> Evaluator:
    """An evaluator of all rows and cold rows."""
    masks = slices(rows)
    return Evaluator(EvaluationRows.of(rows), {name: masks[name] for name in SLICES if name in masks})


def changed(evaluator: Evaluator, scores: Sequence[Doubles], base: Sequence[Doubles]) -> dict[str, Any]:
    """Slice -> difference in AUC with its interval, and the number of positives."""
    own, other = evaluator.evaluate(scores), evaluator.evaluate(base)
    found = {}
    for name in evaluator.slices:
        if "auc" in own[name].metrics:
            between = difference(own[name].metrics["auc"], other[name].metrics["auc"])
            found[name] = {**between.interval.as_json(digits=5), "positives": between.positives}
    return found


def measured(trials: Trials, arm: str, setting: str) -> dict[str, Any]:
    """AUC of an arm with a setting, and what its parts contribute, on validation rows."""
    found = trials.seeds(arm, setting)
    evaluator = evaluator_of(trials.contexts[arm].validation)
    base = [each.validation for each in found]
    aucs = {name: each.metrics["auc"] for name, each in evaluator.evaluate(base).items() if "auc" in each.metrics}
    parts: dict[str, Any] = {}
    for name in found[0].off:
        part = name.rpartition("=")[0]
        facts = found[0].facts["parts"][part]
        entropies = [each.facts["parts"][part]["entropy"] for each in found]
        size = np.mean([each.facts["sizes"].get(part, [0, 0]) for each in found], axis=0)
        parts[name] = {
            **facts,
            "entropy": float(np.mean(entropies)) if None not in entropies else None,
            "size": size.tolist() if facts["kind"] == "table" else None,
            "change": changed(evaluator, [each.off[name] for each in found], base),
        }
    spec = ranker_of(trials.plan.spec, setting)
    for loss in losses_of(arm_of(trials.plan.arms[arm], setting), spec.model) if arm in trials.options.losses else ():
        without = trials.seeds(arm, setting, loss)
        parts[LOSS + loss] = {
            "kind": "loss",
            "role": loss,
            "start": found[0].facts["losses"]["start"][loss],
            "end": found[0].facts["losses"]["end"][loss],
            "end_without": without[0].facts["losses"]["end"][loss],
            "change": changed(evaluator, [each.validation for each in without], base),
            "tables_without": {
                name: changed(evaluator, [each.off[name] for each in without], [each.validation for each in without])
                for name in without[0].off
                if name.endswith("table=0")
            },
        }
    return {
        "auc": {name: value.value for name, value in aucs.items()},
        "seconds": float(np.mean([each.facts["seconds"] for each in found])),
        "epochs": [len(each.facts["curve"]) for each in found],
        "scales": found[0].facts["scales"],
        "contrast": found[0].facts.get("contrast"),
        "parts": parts,
    }


def alive(parts: Mapping[str, Any], part: str) -> bool:
    """Whether the interval of the change in AUC over all rows excludes 0; for a gate, with both constants."""
    changes = [
        each["change"]["all"]
        for name, each in parts.items()
        if name in (part, LOSS + part) or name.startswith(f"{part}=")
    ]
    known = [each for each in changes if each["low"] is not None]
    return bool(known) and all(each["low"] > 0 or each["high"] < 0 for each in known)


def chosen(settings: Mapping[str, Any]) -> str:
    """The setting with the best mean AUC over all rows and cold rows."""
    return max(settings, key=lambda name: float(np.mean(list(settings[name]["auc"].values()))))


def opened(trials: Trials, arms: Mapping[str, Any]) -> dict[str, Any]:
    """Differences on test rows of each arm to its ablation baseline, both with their chosen settings."""
    found = {}
    for arm, baseline in trials.plan.ablation_baselines.items():
        if arm in arms and baseline in arms:
            evaluator = evaluator_of(trials.contexts[arm].test)
            own, base = ([each.test for each in trials.seeds(name, chosen(arms[name]))] for name in (arm, baseline))
            found[arm] = {"baseline": baseline, **changed(evaluator, own, base)}
    return found


def holm(arms: Mapping[str, Any], name: str = "cold") -> dict[str, float]:
    """Arm -> p-value of the difference on a slice, two-sided and corrected by Holm over the arms."""
    raw = {}
    for arm, each in arms.items():
        if name in each and each[name]["low"] is not None:
            error = (each[name]["high"] - each[name]["low"]) / (2 * 1.96)
            raw[arm] = float(torch.special.erfc(torch.tensor(abs(each[name]["value"]) / max(error, 1e-12) / 2**0.5)))
    corrected, least = {}, 0.0
    for place, arm in enumerate(sorted(raw, key=lambda arm: raw[arm])):
        least = max(least, min(1.0, raw[arm] * (len(raw) - place)))
        corrected[arm] = least
    return corrected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "mechanisms")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="any arms that `sidkit ranker compare` takes")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), help="default: those for each arm")
    parser.add_argument("--losses", nargs="*", default=list(LOSSES), help="arms to train without each auxiliary loss")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--max-train-rows", type=int, default=20_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=20_000)
    parser.add_argument("--impressions", type=int, default=100_000, help="of a synthetic world")
    parser.add_argument("--open", action="store_true", help="compare on test rows")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    options = parser.parse_args()
    for data in options.data:
        name, trials = data_name(data), Trials(data, options)
        for arm in options.arms:
            for setting in options.settings or settings_for(arm):
                found = measured(trials, arm, setting)
                print(name, arm, setting, found["auc"], round(found["seconds"], 1), flush=True)
                _save(options.results, name, ["arms", arm, setting], {**found, "seeds": options.seeds})
        if options.open:
            found = opened(trials, read_json(options.results)[name]["arms"])
            _save(options.results, name, ["test"], found)
            print(name, holm(found), json.dumps(found), flush=True)
    if options.table:
        print("\n".join(tables(read_json(options.results))))


def _save(path: Path, data: str, keys: Sequence[str], value: Any) -> None:
    """Replace one value of the results of a data set."""
    results = read_json(path) if path.exists() else {}
    place = results.setdefault(data, {})
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    write_json(path, results)


def tables(results: Mapping[str, Any]) -> list[str]:
    """Markdown: AUC of every setting, and the parts of every arm with its chosen setting."""
    lines = ["| data | arm | setting | AUC, all | cold | seconds |", "|" + " --- |" * 6]
    for data, facts in results.items():
        for arm, settings in facts["arms"].items():
            best = chosen(settings)
            for setting, each in settings.items():
                aucs = " | ".join(_short(each["auc"].get(name)) for name in SLICES)
                name = f"**{setting}**" if setting == best else setting
                lines.append(f"| {data} | `{arm}` | {name} | {aucs} | {each['seconds']:.1f} |")
    lines += ["", "| data | arm | setting | part | entropy / log n | size, from | AUC with it off | cold | alive |"]
    lines.append("|" + " --- |" * 9)
    for data, facts in results.items():
        for arm, settings in facts["arms"].items():
            for setting, each in settings.items():
                for name, part in each["parts"].items():
                    if name.startswith("features."):
                        continue  # of attributes, which all arms read
                    size = part.get("size")
                    cells = [_short(part.get("entropy")), f"{size[1]:.3f}, {size[0]:.3f}" if size else "-"]
                    cells += [_between(part["change"].get(slice_name)) for slice_name in SLICES]
                    cells.append("yes" if alive(each["parts"], name.removeprefix(LOSS).partition("=")[0]) else "no")
                    lines.append(f"| {data} | `{arm}` | {setting} | `{name}` | {' | '.join(cells)} |")
    return lines


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}".removeprefix("0")


def _between(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return "-"
    numbers = [change[name] for name in ("value", "low", "high")]
    texts = ["-" if number is None else f"{number:+.4f}".replace("0.", ".") for number in numbers]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


if __name__ == "__main__":
    main()
