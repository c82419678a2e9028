"""The judge of a comparison: from the units' predictions to the rows of ``arms.json`` and the facts of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.dataset import Dataset
from ranking.data.storage import load_dataset
from ranking.evaluation.arms_table import HIGHER_IS_BETTER, METRICS, RESAMPLES, Evaluated, Figure, Row, figures, row
from ranking.evaluation.judge import enough, refuse_leakage
from ranking.evaluation.metrics import auc, gauc
from ranking.evaluation.paper_slices import SliceCuts, is_hot, paper_slices
from ranking.evaluation.resamples import Resamples
from ranking.experiments.comparison.arms import BOOSTING, CODES_AS_FEATURES, ID_ALONE, SHUFFLED
from ranking.experiments.comparison.time_origins import Origin
from ranking.experiments.comparison.trials import Plan, Unit
from ranking.pipeline.prepare import oracle_of
from ranking.training.arms import FIRST_EPOCH, read_predictions
from semantic_ids.catalog import Catalog
from sidkit.core.arrays import Bools, Doubles
from sidkit.core.errors import EvaluationError
from sidkit.core.repo import Repo

_CURVE_BINS = 10
_ROLLED = ("all", "cold")


@dataclass(frozen=True)
class Parts:
    """The rows of one origin; predictions of all arms are of these test rows, in their order."""

    train: Dataset
    validation: Dataset
    test: Dataset

    @classmethod
    def load(cls, plan: Plan, key: str) -> Parts:
        """Read a kept frame."""
        data = load_dataset(plan.frames[key].folder)
        parts = plan.frames[key].split.parts(data.rows.at_us)
        return cls(*(data.take(parts[name]) for name in ("train", "validation", "test")))


def judge_comparison(repo: Repo, data: str, plan: Plan, places: Sequence[Origin]) -> dict[str, Any]:
    """Judge all finished units of a plan.

    Returns
    -------
    dict
        ``rows`` (of ``arms.json``), ``slices`` (rows, positives, users and the kept share of GAUC per slice), ``cuts``,
        ``arms`` (per arm: what its seeds and epochs did), ``calibration``, ``gauc_by``.

    Raises
    ------
    LeakageError
        When a codebook was fitted on what came after its origin's training rows.
    """
    catalog = Catalog.open(repo)
    for frame in plan.frames.values():
        record = catalog.codebook(frame.codebook)
        refuse_leakage(frame.split.train_end_us, {record.name: record.fit_end_us})
    latest = [unit for unit in plan.units if unit.origin == 0]
    parts = Parts.load(plan, latest[0].frame)
    rows = Evaluated.of(parts.test)
    cuts = SliceCuts.of(parts.train, parts.validation)
    slices = paper_slices(parts.test, cuts)
    resamples = Resamples.draw(rows.user, RESAMPLES)
    scores = _scores(plan, latest)
    told: list[Row] = []
    by_seed: dict[str, Any] = {arm: {} for arm in scores}
    for name, part in slices.items():
        found = {arm: figures(rows, each, part, resamples) for arm, each in scores.items()}
        told += _lines(data, name, found, plan.own_baselines, int(rows.label[part].sum()))
        for arm, figured in found.items():
            if "auc" in figured:
                by_seed[arm][name] = list(figured["auc"].by_seed)
    told += _oracle_lines(data, rows, slices, oracle_of(repo, parts.test))
    told += _rolling_lines(data, plan, places)
    return {
        "rows": [line.as_json() for line in told],
        "slices": {
            name: {
                "rows": int(part.sum()),
                "positives": int(rows.label[part].sum()),
                "users": len(np.unique(rows.user[part])),
                "gauc_kept": _kept(rows, part),
            }
            for name, part in slices.items()
        },
        "cuts": {
            "theta_80": cuts.theta,
            "head_from": cuts.head_from,
            "tail_below": cuts.tail_below,
            "hot_share": float(is_hot(parts.test).mean()),
        },
        "arms": {arm: _of_arm(plan, latest, arm, by_seed[arm], rows, slices) for arm in scores},
        "calibration": {arm: _calibration_curve(rows.label, each) for arm, each in scores.items()},
        "gauc_by": rows.grouped_by,
        "train_rows": len(parts.train),
    }


def judge_outsider(data: str, plan: Plan, arm: str, scores: Sequence[Doubles]) -> list[dict[str, Any]]:
    """Judge what another library says of the test rows, beside the kept predictions of A3 and A0.

    Parameters
    ----------
    data : str
        What the data is called in the table.
    plan : Plan
        Whose units of A3 and A0 at the latest origin are finished.
    arm : str
        What the outsider is called.
    scores : sequence of float64 [test rows]
        Probabilities, or anything that sorts; one per seed.

    Returns
    -------
    list of dict
        Rows of ``arms.json``.

    Raises
    ------
    EvaluationError
        When the units of A3 or A0 are not finished, the scores are not of the test rows, or one is no finite number.
    """
    latest = units_beside(plan, arm)
    parts = Parts.load(plan, latest[0].frame)
    rows = Evaluated.of(parts.test)
    if {len(each) for each in scores} != {len(rows.label)}:
        raise EvaluationError(
            f"{arm} came with {', '.join(str(len(each)) for each in scores) or 'no'} scores per seed; the comparison has "
            f"{len(rows.label)} test rows"
        )
    broken = [int((~np.isfinite(np.asarray(each, dtype=np.float64))).sum()) for each in scores]
    if any(broken):
        raise EvaluationError(
            f"{arm} came with {', '.join(map(str, broken))} scores per seed that are NaN or infinite; expected a number for "
            "each test row"
        )
    resamples = Resamples.draw(rows.user, RESAMPLES)
    everyone = {arm: scores, **_scores(plan, latest)}
    told: list[Row] = []
    for name, part in paper_slices(parts.test, SliceCuts.of(parts.train, parts.validation)).items():
        found = {who: figures(rows, each, part, resamples) for who, each in everyone.items()}
        told += _lines(data, name, found, {}, int(rows.label[part].sum()))
    return [line.as_json() for line in told if line.arm == arm]


def units_beside(plan: Plan, arm: str) -> list[Unit]:
    """The units of A3 and A0 that an outsider is judged beside.

    Raises
    ------
    EvaluationError
        When some are not finished.
    """
    latest = [unit for unit in plan.units if unit.origin == 0 and unit.arm in {CODES_AS_FEATURES, ID_ALONE}]
    left = [unit.name for unit in latest if plan.details(unit) is None]
    if left or not latest:
        raise EvaluationError(
            f"{arm} is judged beside {CODES_AS_FEATURES} and {ID_ALONE}, and {', '.join(left) or 'neither'} is "
            "trained; run the comparison with the same options first"
        )
    return latest


def _scores(plan: Plan, units: Sequence[Unit], part: str = "test") -> dict[str, list[Doubles]]:
    found: dict[str, list[Doubles]] = {}
    for unit in units:
        found.setdefault(unit.arm, []).append(read_predictions(plan.path(unit), part))
    return found


def _baselines(arm: str, arms: Mapping[str, Any], own: Mapping[str, str]) -> list[str]:
    """Every arm is compared with A3, A0 and boosting, and A3 with its own control besides; an arm may name one of its own."""
    wanted = [ID_ALONE, SHUFFLED] if arm == CODES_AS_FEATURES else [CODES_AS_FEATURES, ID_ALONE]
    wanted.append(BOOSTING)
    wanted += [own[arm]] if own.get(arm) and own[arm] not in wanted else []
    return [baseline for baseline in wanted if baseline in arms and baseline != arm]


def _lines(
    data: str, name: str, found: Mapping[str, Mapping[str, Figure]], own_baselines: Mapping[str, str], positives: int
) -> list[Row]:
    lines = []
    for arm, own in found.items():
        for metric in METRICS:
            if metric not in own:
                continue
            against = [
                (baseline, found[baseline][metric])
                for baseline in _baselines(arm, found, own_baselines)
                if metric in found[baseline] and metric in HIGHER_IS_BETTER
            ]
            # Differences to all baselines are told for AUC; those of the other metrics only to the first.
            told = against if metric == "auc" else against[:1]
            lines += [row(data, arm, name, metric, own[metric], each, positives) for each in told or (None,)]
    return lines


def _oracle_lines(data: str, rows: Evaluated, slices: Mapping[str, Bools], truth: Doubles | None) -> list[Row]:
    """The AUC of the true probabilities, where a world knows them: no arm can be better."""
    lines = []
    for name, part in slices.items() if truth is not None else ():
        assert truth is not None
        known = part & np.isfinite(truth)
        if enough(rows.label[known]):
            exact = auc(rows.label[known], truth[known])
            own = Figure(exact, (exact,), np.zeros(0))
            lines.append(row(data, "oracle", name, "auc", own, None, int(rows.label[part].sum())))
    return lines


def _rolling_lines(data: str, plan: Plan, places: Sequence[Origin]) -> list[Row]:
    """AUC at every origin of the arms that roll, and over all origins with users drawn once for all of them."""
    if len(places) < 2:
        return []
    names: list[str] = []
    judged = []
    for place in places:
        units = [unit for unit in plan.units if unit.origin == place.number]
        judged.append((Parts.load(plan, units[0].frame), units))
        names += list(dict.fromkeys(judged[-1][0].test.rows.user_ids))
    seeds = 1 + max(unit.seed for unit in plan.units if unit.origin == places[-1].number)
    rolling = {unit.arm for unit in plan.units if unit.origin == places[-1].number}
    users = pd.Index(dict.fromkeys(names))
    everyone = Resamples.draw(np.arange(len(users)), RESAMPLES)
    found: dict[str, dict[str, list[dict[str, Figure]]]] = {name: {} for name in _ROLLED}
    positives: dict[str, list[int]] = {name: [] for name in _ROLLED}
    lines: list[Row] = []
    for place, (parts, units) in zip(places, judged, strict=True):
        rows = Evaluated.of(parts.test)
        slices = paper_slices(parts.test, SliceCuts.of(parts.train, parts.validation))
        drawn = Resamples(everyone.weights, users.get_indexer(parts.test.rows.user_ids).astype(np.int64))
        scores = _scores(plan, [unit for unit in units if unit.arm in rolling and unit.seed < seeds])
        for name in _ROLLED:
            part = slices.get(name)
            if part is None or not enough(rows.label[part]):
                continue
            positives[name].append(int(rows.label[part].sum()))
            at = {arm: {"auc": figures(rows, each, part, drawn)["auc"]} for arm, each in scores.items()}
            lines += _lines(data, f"{name} @ origin {place.number}", at, plan.own_baselines, positives[name][-1])
            for arm, own in at.items():
                found[name].setdefault(arm, []).append(own)
    for name, arms in found.items():
        if len(positives[name]) == len(places):
            pooled = {arm: {"auc": _pooled([own["auc"] for own in each])} for arm, each in arms.items()}
            lines += _lines(data, f"{name} @ {len(places)} origins", pooled, plan.own_baselines, sum(positives[name]))
    return lines


def _pooled(each: Sequence[Figure]) -> Figure:
    """The mean over origins."""
    by_seed = tuple(float(np.mean(values)) for values in zip(*(one.by_seed for one in each), strict=True))
    return Figure(float(np.mean([one.value for one in each])), by_seed, np.mean([one.samples for one in each], axis=0))


def _of_arm(
    plan: Plan,
    units: Sequence[Unit],
    arm: str,
    by_seed: Mapping[str, Any],
    rows: Evaluated,
    slices: Mapping[str, Bools],
) -> dict[str, Any]:
    own = [unit for unit in units if unit.arm == arm]
    details = [plan.details(unit) or {} for unit in own]
    first = [read_predictions(plan.path(unit), FIRST_EPOCH) for unit in own]
    curves = [each.get("validation_auc") for each in details]
    return {
        "title": plan.arms[arm].title,
        "baseline": plan.arms[arm].baseline,
        "codebook": plan.frames[own[0].frame].codebook,
        "parameters": details[0].get("parameters"),
        "table_parameters": details[0].get("table_parameters"),
        "dim": details[0].get("dim"),
        "auc_by_seed": by_seed,
        "validation_curves": curves if all(curves) else None,
        "best_epoch": [each.get("best_epoch") for each in details],
        "first_epoch_auc": {
            name: float(np.mean([auc(rows.label[part], each[part]) for each in first]))
            for name, part in slices.items()
            if name in {"all", "cold", "prior 0-99"} and all(map(len, first)) and enough(rows.label[part])
        },
        "seconds": [each["seconds"] for each in details],
    }


def _kept(rows: Evaluated, part: Bools) -> float:
    """Share of the slice's rows in groups that have both classes inside it."""
    label = rows.label[part]
    return gauc(label, label, rows.group[part])[1]  # whatever the scores are


def _calibration_curve(label: npt.NDArray[np.int8], scores: Sequence[Doubles]) -> list[list[float]]:
    """Mean prediction, share of positives and rows of ten equally full bins of the prediction, all seeds together."""
    predicted, true = np.concatenate(scores), np.tile(label, len(scores)).astype(np.float64)
    order = np.argsort(predicted, kind="stable")
    return [
        [float(predicted[rows].mean()), float(true[rows].mean()), len(rows) / len(scores)]
        for rows in np.array_split(order, _CURVE_BINS)
        if len(rows)
    ]
