"""Arms of adapters: a frozen arm whose logits are corrected, refitted once a day on the rows of the days before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.evaluation.metrics import auc
from ranking.training.adapted_ranker import AdaptedConfig, Window, save_adapted
from ranking.training.adapters import ADAPTER_NAMES
from ranking.training.adapters.base import Adapter, AdapterRows
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import ArmDetails, ArmResult, TrainingContext
from ranking.training.liveness import PartLiveness
from ranking.training.load_ranker import load_trained
from ranking.training.mixing import logits, probabilities
from ranking.training.predictions import read_predictions
from ranking.training.serving_spec import joined_spec
from sidkit.core.arrays import Doubles
from sidkit.core.clock import DAY_US
from sidkit.core.progress import SILENT, Progress


def adapted_arm(
    arm: str,
    seed: int,
    spec: ArmSpec,
    validation: Dataset,
    test: Dataset,
    members: Mapping[str, Path],
    delay_us: int,
    progress: Progress = SILENT,
) -> ArmResult:
    """Correct the saved predictions of a frozen arm, as a service would that refits its adapter every day.

    A row is corrected by the adapter of its day. That is fitted on validation and test rows of the ``spec.days`` before this
    day whose labels were known by its start, so no row is corrected by its own label or by a later one. Rows of the first
    day keep the frozen score: all earlier rows trained the frozen arm.

    Parameters
    ----------
    arm, seed : str, int
        Name and seed of the arm; with ``spec.shuffled_items``, the seed shuffles.
    spec : ArmSpec
        The arm.
    validation, test : Dataset
        The rows of the predictions.
    members : mapping
        Arm -> predictions of the same seed; the first of ``spec.of`` is the frozen scorer, the second the other one of a gate.
    delay_us : int
        Time from a row until its label is known, microseconds.
    progress : Progress
        Receives the number of fits as a remark.
    """
    parts = [_rows(spec, data, members, part) for part, data in (("validation", validation), ("test", test))]
    rows = AdapterRows.joined(parts)
    corrected, fits = corrected_by_day(rows, spec, seed, delay_us)
    count = len(parts[0])
    scores = [
        _scores(part.logit, each) for part, each in zip(parts, (corrected[:count], corrected[count:]), strict=True)
    ]
    reached, frozen = (auc(validation.rows.label, each) for each in (corrected[:count], rows.logit[:count]))
    last = fits[-1].summary if fits else {}
    progress.remark(
        f"{arm} seed {seed}: {spec.adapter} fitted for {len(fits)} days, validation AUC {reached:.4f}, frozen {frozen:.4f}"
    )
    liveness = PartLiveness(
        "adapter", "adapter", "adapter", auc=reached, auc_off=(frozen,), delta_auc=(frozen - reached,)
    )
    details = ArmDetails(adapter={"fits": float(len(fits)), **last})
    return ArmResult(reached, scores[0], scores[1], None, details, liveness=(liveness,))


def corrected_by_day(rows: AdapterRows, spec: ArmSpec, seed: int, delay_us: int) -> tuple[Doubles, Sequence[Adapter]]:
    """Logits ``float64 [rows]`` corrected by the adapter of each row's day, and the adapters in order of time.

    Days are counted from the first row.
    """
    kind = ADAPTER_NAMES.find(spec.adapter)
    start = int(rows.at_us.min()) if len(rows) else 0
    corrected = rows.logit.copy()
    fits: list[Adapter] = []
    day = (rows.at_us - start) // DAY_US
    for number in np.unique(day[day > 0]):
        now_us = start + int(number) * DAY_US
        seen = np.flatnonzero(window_mask(rows, now_us, spec.days, delay_us))
        own = np.flatnonzero(day == number)
        window = rows.take(seen)
        adapter = kind.fit(window.with_shuffled_items(seed) if spec.shuffled_items else window)
        corrected[own] = adapter.logits(rows.take(own))
        fits.append(adapter)
    return corrected, fits


def window_mask(rows: AdapterRows, now_us: int, days: float, delay_us: int) -> npt.NDArray[np.bool_]:
    """Which rows are of the last ``days`` before a time, with labels known by then, ``bool [rows]``."""
    mask: npt.NDArray[np.bool_] = (rows.at_us >= now_us - round(days * DAY_US)) & (rows.at_us + delay_us <= now_us)
    return mask


def save_adapted_arm(
    context: TrainingContext,
    arm: str,
    seed: int,
    name: str,
    spec: ArmSpec,
    result: ArmResult,
    members: Mapping[str, str],
    predictions: Mapping[str, Path],
    delay_us: int,
) -> ArmResult:
    """Save the adapter that would serve at the end of the validation rows as a ranker artefact.

    Parameters
    ----------
    context : TrainingContext
        The data of the run, with the folder of its artefacts.
    arm, seed, name : str, int, str
        Name and seed of the arm, and name of its artefact.
    spec : ArmSpec
        The arm.
    result : ArmResult
        The arm, from :func:`adapted_arm`.
    members : mapping
        Arm -> name of its artefact.
    predictions : mapping
        Arm -> its predictions.
    delay_us : int
        See :func:`adapted_arm`.
    """
    assert context.rankers is not None
    rows = _rows(spec, context.validation, predictions, "validation")
    end_us = context.trained_on.fit_end_us
    seen = np.flatnonzero(window_mask(rows, end_us, spec.days, delay_us))
    adapter = ADAPTER_NAMES.find(spec.adapter).fit(rows.take(seen))
    scorers = [members[member] for member in spec.of]
    parents = [load_trained(context.rankers / scorer) for scorer in scorers]
    stated = joined_spec([parent.config for parent in parents])
    config = AdaptedConfig(
        arm=arm,
        adapter=spec.adapter,
        rate=parents[0].smoothing_rate,
        positives=parents[0].positive_rate,
        scorers=tuple(scorers),
        **vars(stated),
    )
    start_us = int(rows.at_us[seen].min()) if len(seen) else end_us
    window = Window(start_us, end_us, len(seen))
    facts = {"name": name, "seed": seed, "feature_settings": dict(context.trained_on.feature_settings)}
    save_adapted(context.rankers, facts, config, adapter, window, result.details.as_json())
    return replace(result, ranker=name)


def _rows(spec: ArmSpec, data: Dataset, members: Mapping[str, Path], part: str) -> AdapterRows:
    scores = [logits(read_predictions(members[member], part)) for member in spec.of]
    return AdapterRows.of(data, *scores)


def _scores(frozen: Doubles, corrected: Doubles) -> Doubles:
    return np.where(corrected == frozen, probabilities(frozen), probabilities(corrected))
