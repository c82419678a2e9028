"""Measure what the parts of a trained model contribute, by forcing each of them off on validation rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ranking.data.batch import Batch
from ranking.data.batches import SCAN_ROWS, Batches
from ranking.data.dataset import Dataset
from ranking.evaluation.metrics import auc
from ranking.models.ctr_model import CtrModel
from ranking.models.parts import Gate, Part, forced_off, listening, observing
from ranking.training.liveness import GateByCount, PartLiveness, TableChange, gate_by_count
from sidkit.core.arrays import Doubles, Ints

LIVENESS_ROWS = 20_000
"""Maximum number of validation rows, a sample of users, that parts are forced off on."""


def measure_liveness(
    model: CtrModel,
    data: Batches,
    tables: Mapping[str, TableChange] | None = None,
    scores: dict[tuple[str, float], Doubles] | None = None,
    counts: Ints | None = None,
) -> tuple[PartLiveness, ...]:
    """Measure every attention, embedding table and gate of a model; the model is not changed.

    Parameters
    ----------
    model : CtrModel
        The trained model; it is set to evaluation mode.
    data : Batches
        Validation rows of both classes, see :func:`liveness_rows`; they are moved to the model's device.
    tables : mapping, optional
        Changes of the tables in training by name of the part; without them, sizes are None.
    scores : dict, optional
        Receives the click probabilities ``float64 [rows]`` by name of the part that is off and the value that it is forced to.
    counts : int64 [rows], optional
        Interactions of the candidates as of their rows; without them, gates are not averaged by count.
    """
    model.eval()
    data.to(next(model.parameters()).device).learn_matches(model.matches)
    label = data.label.numpy(force=True)
    # Built once: looking up the histories of a batch takes longer than a part of the model.
    batches = list(data.batches(SCAN_ROWS))
    data.forget_matches()
    parts = model.evaluated_parts()
    entropies = [_Entropy() for _ in parts]
    gates: list[list[Tensor]] = [[] for _ in parts]
    with contextlib.ExitStack() as listeners:
        for part, entropy, values in zip(parts, entropies, gates, strict=True):
            if part.kind == "attention":
                listeners.enter_context(listening(part, entropy.add))
            elif isinstance(part.module, Gate) and part.module.per_row:
                listeners.enter_context(observing(part.module, values.append))
        trained = auc(label, _scores(model, batches))
    measured = []
    for part, entropy, values in zip(parts, entropies, gates, strict=True):
        without = {(part.name, value): _scores_without(model, part, value, batches) for value in part.off_values}
        off = tuple(auc(label, each) for each in without.values())
        if scores is not None:
            scores.update(without)
        size = _sizes((tables or {}).get(part.name))
        delta = tuple(each - trained for each in off)
        measured.append(
            PartLiveness(
                part.name,
                part.kind,
                part.role,
                entropy.mean(),
                *size,
                auc=trained,
                auc_off=off,
                delta_auc=delta,
                by_count=_by_count(values, counts),
            )
        )
    return tuple(measured)


def liveness_rows(validation: Dataset, most: int = LIVENESS_ROWS) -> Dataset:
    """Sample users with at most about ``most`` rows, the same in every call; all rows if the sample lacks a class."""
    if len(validation) <= most:
        return validation
    users, number = np.unique(validation.rows.user_ids.astype(str), return_inverse=True)
    order = np.random.default_rng(0).permutation(len(users))
    total = np.cumsum(np.bincount(number.ravel())[order])
    chosen = order[: max(1, int(np.searchsorted(total, most, side="right")))]
    sample = validation.take(np.flatnonzero(np.isin(number.ravel(), chosen)))
    return sample if 0 < sample.rows.label.mean() < 1 else validation


def _by_count(values: Sequence[Tensor], counts: Ints | None) -> tuple[GateByCount, ...]:
    if not values or counts is None:
        return ()
    return gate_by_count(torch.cat(list(values)).double().numpy(force=True), counts)


def _scores_without(model: CtrModel, part: Part, value: float, batches: Sequence[Batch]) -> Doubles:
    with forced_off(part, value):
        return _scores(model, batches)


def _scores(model: CtrModel, batches: Sequence[Batch]) -> Doubles:
    with torch.inference_mode():
        scores = torch.cat([torch.sigmoid(model(batch).double()) for batch in batches])
    return np.asarray(scores.numpy(force=True), np.float64)


def _sizes(change: TableChange | None) -> tuple[float | None, float | None, float | None, float | None]:
    """Size, start, size over start and movement of a table; values that are not finite become None."""
    if change is None:
        return None, None, None, None
    start = change.start
    values = (change.size, start, *((change.size / start, change.change / start) if start > 0 else (None, None)))
    size, start_or_none, ratio, moved = (
        value if value is not None and math.isfinite(value) else None for value in values
    )
    return size, start_or_none, ratio, moved


class _Entropy:
    """Mean of the entropy over log n of attention weights, over heads and the rows with at least two valid items."""

    def __init__(self) -> None:
        self._total = 0.0
        self._count = 0

    def add(self, weights: Tensor, mask: Tensor) -> None:
        """Add weights ``float32 [rows, heads, length]`` over the valid items ``mask`` bool [rows, length]."""
        valid = mask.sum(dim=1)
        rows = valid >= 2
        shares = weights[rows].double()
        entropy = torch.special.entr(shares).sum(dim=2) / valid[rows].double().log()[:, None]
        self._total += float(entropy.sum())
        self._count += entropy.numel()

    def mean(self) -> float | None:
        """The mean; None without rows."""
        return self._total / self._count if self._count and math.isfinite(self._total) else None
