"""What leakage promises and what it delivers: one model on whole-log aggregates and on point-in-time ones.

The leak is the commonest one: counts of items and users are read as of the end of the log for every row (one
``GROUP BY``, or one join on the newest feature row), so they hold the clicks to be predicted and those after them. Three
figures tell what it costs, each on the same test rows:

- *promised*: trained and tested on leaked counts, which is what an offline report would say;
- *delivered*: the same trained model on the counts that serving would have had;
- *possible*: the same kind of model trained and tested on the counts that serving would have had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ranking.data.dataset import Dataset
from ranking.data.feature_views import ITEM_STATS, USER_STATS, historical_views
from ranking.data.numeric_features import numeric_columns, numeric_features
from ranking.evaluation.bootstrap import Interval, auc_difference, auc_interval
from ranking.evaluation.judge import LEAST_POSITIVES, enough
from ranking.evaluation.slices import slices
from ranking.pipeline.presets import load_preset
from ranking.pipeline.saved_run import read_run
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import TrainingContext, train_arm
from sidkit.core.arrays import Doubles, Ints
from sidkit.core.errors import EvaluationError
from sidkit.core.repo import Repo
from sidkit.core.temporary import temporary_folder

WAYS = ("promised", "delivered", "possible")
SLICES = ("all", "cold", "warm")
RESAMPLES = 400


def leaked_aggregates(repo: Repo, data: Dataset, service: str, rate: float) -> Dataset:
    """The same rows with every count of item and user read as of the end of the log.

    Parameters
    ----------
    repo : Repo
        Whose tables are read.
    data : Dataset
        Point-in-time rows; ids, histories, content and codes stay as they are.
    service : str
        The feature service they came from.
    rate : float
        The share of positives to which their rates were smoothed.

    Returns
    -------
    Dataset
        Equal to ``data`` but for the columns of ``numeric`` that are made of counts.
    """
    from sidkit.stores.feast_repo import feature_service, open_store
    from sidkit.tables import read_build

    store = open_store(repo)
    asked, keys = feature_service(store, service), {"user_id": data.rows.user_ids, "item_id": data.rows.item_ids}
    views = historical_views(store, asked, keys, data.rows.at_us)
    end: Ints = np.full(len(data), read_build(repo)["as_of_us"], dtype=np.int64)
    last = historical_views(store, asked, keys, end)
    mixed = {name: last[name] if name in {ITEM_STATS, USER_STATS} else view for name, view in views.items()}
    numeric = data.numeric.copy()
    counted = [at for at, name in enumerate(numeric_columns()) if is_aggregate(name)]
    numeric[:, counted] = numeric_features(mixed, data.rows.item_ids, data.rows.at_us, rate)[:, counted]
    return dataclasses.replace(data, numeric=numeric)


def is_aggregate(name: str) -> bool:
    """Whether a numeric column is made of trailing counts."""
    return name.startswith(("item_", "user_")) and any(
        kind in name for kind in ("_exposures_", "_clicks_", "_conversions_", "_rate_")
    )


def train_both(
    context: TrainingContext, leaked: Mapping[str, Dataset], arm: str, spec: ArmSpec, seeds: int
) -> dict[str, list[Doubles]]:
    """Train one arm on leaked and on point-in-time counts.

    Parameters
    ----------
    context : TrainingContext
        With point-in-time parts.
    leaked : mapping
        ``train``, ``validation`` and ``test`` with leaked counts.
    arm, spec : str, ArmSpec
        The competitor.
    seeds : int
        Trainings of each kind.

    Returns
    -------
    dict
        One of :data:`WAYS` -> test predictions ``float64 [rows]`` per seed.
    """
    scores: dict[str, list[Doubles]] = {way: [] for way in WAYS}
    both = _twice(leaked["test"], context.test)
    with temporary_folder() as folder:  # rankers that leak are not kept
        for seed in range(seeds):
            leaky = dataclasses.replace(
                context, train=leaked["train"], validation=leaked["validation"], test=both,
                rankers=folder / "leaked",
            )  # fmt: skip
            promised, delivered = np.split(train_arm(leaky, arm, spec, seed, f"{arm}_s{seed}").test, 2)
            sound = dataclasses.replace(context, rankers=folder / "sound")
            possible = train_arm(sound, arm, spec, seed, f"{arm}_s{seed}").test
            for way, score in zip(WAYS, (promised, delivered, possible), strict=True):
                scores[way].append(score)
    return scores


def _twice(one: Dataset, other: Dataset) -> Dataset:
    """The same rows twice, with the numeric features of both."""
    rows = np.tile(np.arange(len(one)), 2)
    return dataclasses.replace(one.take(rows), numeric=np.concatenate([one.numeric, other.numeric]))


def judge_leakage(test: Dataset, scores: Mapping[str, Sequence[Doubles]]) -> list[dict[str, Any]]:
    """AUC of each way and its differences, with intervals over users, per slice.

    Slices are decided by point-in-time counts. A difference on fewer than 500 positives is no evidence.

    Returns
    -------
    list of dict
        One per slice: ``slice``, ``rows``, ``positives``, ``promised``, ``delivered``, ``possible`` (each ``auc``,
        ``low``, ``high``), ``broken_promise`` (delivered - promised) and ``cost`` (delivered - possible) with verdicts.
    """
    label, user = test.rows.label, pd.factorize(test.rows.user_ids)[0].astype(np.int64)
    parts, found = slices(test), []
    for name in SLICES:
        if name not in parts or not enough(label[parts[name]]):
            continue
        rows = parts[name]
        positives = int(label[rows].sum())
        cut = {way: [score[rows] for score in scores[way]] for way in WAYS}
        told: dict[str, Any] = {"slice": name, "rows": int(rows.sum()), "positives": positives}
        for way in WAYS:
            told[way] = _figures(auc_interval(label[rows], cut[way], user[rows], RESAMPLES), "auc")
        for key, base in (("broken_promise", "promised"), ("cost", "possible")):
            interval = auc_difference(label[rows], cut["delivered"], cut[base], user[rows], RESAMPLES)
            verdict = interval.verdict if positives >= LEAST_POSITIVES else "no evidence"
            told[key] = _figures(interval, "delta") | {"verdict": verdict}
        found.append(told)
    return found


def _figures(interval: Interval, name: str) -> dict[str, Any]:
    values = {name: interval.value, "low": interval.low, "high": interval.high}
    return {key: round(value, 6) if np.isfinite(value) else None for key, value in values.items()}


def measure_leakage(repo: Repo, preset_name: str, arms: Sequence[str], seeds: int) -> dict[str, Any]:
    """Tell the price of leakage on the kept frame of a finished run.

    Parameters
    ----------
    repo : Repo
        On which ``sidkit run`` with the preset has finished.
    preset_name : str
        The preset.
    arms : sequence of str
        Arms of the preset.
    seeds : int
        Trainings per neural arm and kind.

    Returns
    -------
    dict
        ``preset``, ``codebook``, ``seeds`` per arm, ``arms``: arm -> rows of :func:`judge_leakage`.

    Raises
    ------
    ArtifactMissingError
        When the run has no kept frame.
    EvaluationError
        When the preset has no such arm.
    """
    preset = load_preset(preset_name)
    unknown = [arm for arm in arms if arm not in preset.arms]
    if unknown:
        raise EvaluationError(f"{preset_name} has no arm {', '.join(unknown)}; it has {', '.join(preset.arms)}")
    context = read_run(repo, preset_name)
    service = context.serving["service"]
    leaked = {
        name: leaked_aggregates(repo, part, service, context.rate)
        for name, part in (
            ("train", context.train_in_memory()),
            ("validation", context.validation),
            ("test", context.test),
        )
    }
    # Boosting draws nothing on so few rows: another seed gives the same trees.
    trained = {arm: 1 if preset.arms[arm].kind == "gbdt" else seeds for arm in arms}
    found = {
        arm: judge_leakage(context.test, train_both(context, leaked, arm, preset.arms[arm], trained[arm]))
        for arm in arms
    }
    return {"preset": preset_name, "codebook": context.serving["codebook"], "seeds": trained, "arms": found}
