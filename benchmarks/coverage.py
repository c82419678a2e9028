"""Coverage of the 95 % intervals of AUC differences, simulated on the predictions of real arms.

    python benchmarks/coverage.py [--data DATA...] [--work FOLDER] [--seeds 8] [--draws 400]

Trains the arms of three kinds of differences (codes over shuffled codes, content over ids, boosting over content) with several
seeds, and takes their test rows as the population. Each draw samples users with replacement, items with replacement (a row
counts as often as its user times its item were drawn, each copy a user and an item of its own), three seeds per arm, and a
label per row from its click probability; the interval covers if it contains the difference in the population, over all seeds.
Click probabilities are those of all arms together, recalibrated, with a random effect per user and per item that is estimated
from the labels, so that labels vary by user and item as they do in the log.

Compared: a percentile bootstrap over users (the method before), the jackknife over users, that over users and items, and that
with the variance of training (:mod:`sidkit.core.intervals`). Results: ``benchmarks/results/coverage.json``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
from rich.console import Console
from scipy import sparse
from scipy.special import expit, logit

from ranking.evaluation.evaluator import EvaluationRows, Evaluator, MetricValue, difference
from ranking.evaluation.metrics import SortedScores
from ranking.experiments.comparison.arms import BOOSTING, CODES_AS_FEATURES, CONTENT, ID_ALONE, SHUFFLED, load_arms
from ranking.experiments.comparison.comparison import CompareOptions, Comparison, data_name
from ranking.experiments.comparison.evaluation import Parts
from ranking.experiments.comparison.tables import merge_rows
from ranking.experiments.comparison.trials import Plan
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import load_preset
from ranking.training.predictions import read_predictions
from sidkit.api.progress import LineProgress
from sidkit.core.arrays import Doubles, Ints
from sidkit.core.intervals import Changes, Clusters, Interval

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "coverage.json"
KINDS = {
    "codes over shuffled codes": (CODES_AS_FEATURES, SHUFFLED),
    "content over ids": (CONTENT, ID_ALONE),
    "boosting over content": (BOOSTING, CONTENT),
}
USERS = (None, 200)
"""Numbers of users drawn; None: as many as the test rows have."""
SEEDS = 3
RESAMPLES = 200
METHODS = ("bootstrap over users", "users", "users and items", "users, items and training")


@dataclass(frozen=True)
class Population:
    """Test rows of one data set with the predictions of all arms and seeds."""

    name: str
    user: Ints
    item: Ints
    probability: Doubles
    scores: Mapping[str, list[Doubles]]

    def difference(self, kind: str) -> float:
        """AUC difference over all rows, labels and seeds."""
        arm, base = (np.mean([self.auc(score) for score in self.scores[name]]) for name in KINDS[kind])
        return float(arm - base)

    def auc(self, scores: Doubles) -> float:
        """AUC with each row a positive with its probability, else a negative."""
        label = np.repeat([1, 0], len(scores))
        weight = np.r_[self.probability, 1 - self.probability]
        return SortedScores.of(np.r_[scores, scores]).auc(label, weight)


def trained(data: str, options: argparse.Namespace) -> Plan:
    """Train all arms, or reuse finished trials."""
    spec = load_preset("rqkmeans").ranker
    limits = {"max_train_rows": options.max_rows, "max_evaluation_rows": options.max_rows}
    spec = spec.model_copy(update={"training": spec.training.model_copy(update=limits)})
    arms = load_arms(list(dict.fromkeys(arm for pair in KINDS.values() for arm in pair)))
    compared = CompareOptions(data, arms, spec, options.seeds, 1, impressions=options.impressions)
    repo = prepare_repo(data, options.work / data_name(data))
    with repo.locked():
        comparison = Comparison(repo, compared, LineProgress(Console()))
        comparison.run()
        return comparison.plan()[0]


def population(name: str, plan: Plan) -> Population:
    """Collect the predictions and estimate click probabilities."""
    parts = Parts.load(plan, plan.trials[0].frame)
    rows = parts.test.rows
    scores: dict[str, list[Doubles]] = {}
    for trial in plan.trials:
        scores.setdefault(trial.arm, []).append(read_predictions(plan.path(trial)))
    user, item = pd.factorize(rows.user_ids)[0], pd.factorize(rows.item_ids)[0]
    blended = np.mean([logit(np.clip(score, 1e-4, 1 - 1e-4)) for each in scores.values() for score in each], axis=0)
    return Population(name, user, item, click_probabilities(rows.label, blended, user, item), scores)


def click_probabilities(label: np.ndarray, blended: Doubles, user: Ints, item: Ints, strength: float = 4.0) -> Doubles:
    """Logistic regression on the blended logits with a normal random effect (variance 1 / strength) per user and per item."""
    rows = np.arange(len(label))
    columns = [
        sparse.csr_matrix(np.stack([np.ones(len(label)), blended], axis=1)),
        sparse.csr_matrix((np.ones(len(label)), (rows, user))),
        sparse.csr_matrix((np.ones(len(label)), (rows, item))),
    ]
    design = sparse.hstack(columns).tocsr()
    ridge = np.r_[1e-6, 1e-6, np.full(design.shape[1] - 2, strength)]
    weight = np.zeros(design.shape[1])
    for _ in range(12):  # Newton steps
        p = expit(design @ weight)
        hessian = design.T @ sparse.diags(p * (1 - p)) @ design + sparse.diags(ridge)
        weight += sparse.linalg.spsolve(hessian.tocsc(), design.T @ (label - p) - ridge * weight)
    return expit(design @ weight)


def drawn(world: Population, users: int | None, rng: np.random.Generator) -> tuple[np.ndarray, EvaluationRows]:
    """Draw users and items with replacement, and a label per row."""
    user_count, item_count = world.user.max() + 1, world.item.max() + 1
    by_user = sparse.csr_matrix((np.arange(1, len(world.user) + 1), (world.user, np.arange(len(world.user)))))
    picked = rng.integers(0, user_count, users or user_count)
    rows = np.concatenate([by_user[one].data - 1 for one in picked])
    of_user = np.repeat(np.arange(len(picked)), np.diff(by_user.indptr)[picked])
    times = np.bincount(rng.integers(0, item_count, item_count), minlength=item_count)[world.item[rows]]
    copy = np.concatenate([np.arange(count) for count in times]) if times.any() else np.zeros(0, np.int64)
    rows, of_user = np.repeat(rows, times), np.repeat(of_user, times)
    clusters = Clusters.of(of_user, world.item[rows] * 64 + copy)
    label = (rng.random(len(rows)) < world.probability[rows]).astype(np.int8)
    return rows, EvaluationRows(label, clusters, clusters.user, "user")


def intervals(one: MetricValue, other: MetricValue, bootstrap: Interval) -> dict[str, Interval]:
    """The interval of a difference by each method."""
    changes, value = one.changes - other.changes, one.value - other.value
    by_users = Changes(changes.user, 0 * changes.item, 0 * changes.pair)
    return {
        "bootstrap over users": bootstrap,
        "users": Interval.of(value, by_users.variance(one.support)),
        "users and items": Interval.of(value, changes.variance(one.support)),
        "users, items and training": difference(one, other).interval,
    }


def bootstrap_over_users(
    rows: EvaluationRows, one: list[Doubles], other: list[Doubles], rng: np.random.Generator
) -> Interval:
    """Percentile interval of samples of users, with rows weighted by how often their user was drawn."""
    prepared = [(SortedScores.of(score), sign) for scores, sign in ((one, 1), (other, -1)) for score in scores]
    users = rows.clusters.sizes[0]
    samples = []
    for _ in range(RESAMPLES):
        weight = np.bincount(rng.integers(0, users, users), minlength=users)[rows.clusters.user].astype(np.float64)
        samples.append(sum(sign * each.auc(rows.label, weight) for each, sign in prepared) / len(one))
    return Interval(0.0, *np.quantile(samples, [0.025, 0.975]).tolist())


def coverage(
    world: Population, users: int | None, draws: int, bootstraps: int, seed: int = 0
) -> list[dict[str, object]]:
    """Share of the draws whose interval contains the difference in the population, per kind and method."""
    rng = np.random.default_rng(seed)
    true = {kind: world.difference(kind) for kind in KINDS}
    covered: dict[tuple[str, str], list[bool]] = {}
    widths: dict[tuple[str, str], list[float]] = {}
    effective, positives = [], []
    for draw in range(draws):
        rows, evaluated = drawn(world, users, rng)
        evaluator = Evaluator(evaluated, {"all": np.ones(len(rows), bool)})
        effective.append(evaluator.support["all"].effective_users)
        positives.append(int(evaluated.label.sum()))
        seeds = {arm: rng.integers(0, len(scores), SEEDS) for arm, scores in world.scores.items()}
        chosen = {arm: [world.scores[arm][seed][rows] for seed in seeds[arm]] for arm in seeds}
        metrics = {arm: evaluator.evaluate(scores)["all"].metrics["auc"] for arm, scores in chosen.items()}
        for kind, (arm, base) in KINDS.items():
            boot = bootstrap_over_users(evaluated, chosen[arm], chosen[base], rng) if draw < bootstraps else None
            for method, interval in intervals(metrics[arm], metrics[base], boot or Interval(0, 0, 0)).items():
                if method != METHODS[0] or boot is not None:
                    covered.setdefault((kind, method), []).append(interval.low <= true[kind] <= interval.high)
                    widths.setdefault((kind, method), []).append(interval.high - interval.low)
    shared = {
        "data": world.name,
        "users": users or int(world.user.max() + 1),
        "effective_users": round(float(np.mean(effective)), 1),
        "positives": int(np.mean(positives)),
    }
    return [
        {
            **shared,
            "kind": kind,
            "method": method,
            "difference": round(true[kind], 5),
            "coverage": round(float(np.mean(hits)), 4),
            "width": round(float(np.mean(widths[kind, method])), 5),
            "draws": len(hits),
        }
        for (kind, method), hits in covered.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    folder = Path(os.environ.get("SIDKIT_DATA", ROOT.parent / "shared" / "data"))
    real = [str(folder / name) for name in ("ml_latest_small", "uci_online_retail")]
    parser.add_argument("--data", nargs="+", default=[*real, "synthetic:strong"])
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "coverage")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--bootstraps", type=int, default=20, help="Draws that also compute the bootstrap.")
    parser.add_argument("--max-rows", type=int, default=20_000)
    parser.add_argument("--impressions", type=int, default=100_000)
    options = parser.parse_args()
    for data in options.data:
        world = population(data_name(data), trained(data, options))
        results = []
        for users in USERS:
            of_users = coverage(world, users, options.draws, options.bootstraps)
            results += of_users
            for row in of_users:
                print(
                    f"{row['data']:18} {row['users']:5} users ({row['effective_users']:6} effective) {row['kind']:26} "
                    f"{row['method']:26} coverage {row['coverage']:.3f}  width {row['width']:.4f}"
                )
        merge_rows(RESULTS, results)


if __name__ == "__main__":
    main()
