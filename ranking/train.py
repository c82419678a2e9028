"""Training with early stopping on validation AUC, and scoring in batches. Deterministic by seed on one thread."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ranking.evaluation.metrics import auc
from ranking.model import CtrModel
from ranking.split import check_both_classes
from ranking.tensors import TensorSet
from ranking.training_spec import TrainingSpec

_SCORING_ROWS = 4096


@dataclass(frozen=True)
class Trained:
    """A trained model and how it got there: validation AUC per epoch, the epoch that was kept (from 0)."""

    model: CtrModel
    validation_auc: tuple[float, ...]
    best_epoch: int


def train(
    make_model: Callable[[], CtrModel],
    training: TensorSet,
    validation: TensorSet,
    spec: TrainingSpec,
    *,
    seed: int,
    threads: int,
) -> Trained:
    """Train a model.

    Parameters
    ----------
    make_model : callable
        Called once, after the seed is set.
    training, validation : TensorSet
        Validation decides when to stop and which epoch is kept, nothing else.
    spec : TrainingSpec
        Optimiser and stopping.
    seed : int
        Decides weights, dropout and the order of the rows.
    threads : int
        CPU threads; on one thread the same seed gives the same weights bit by bit.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = make_model()
    optimiser = _optimiser(model, spec)
    order = torch.Generator().manual_seed(seed)
    label = validation.label.numpy()
    check_both_classes(label, "validation")
    for part in (training, validation):
        part.keep_matches(_all_matches(model, part))
    curve: list[float] = []
    best, kept = -1.0, copy.deepcopy(model.state_dict())
    for epoch in range(spec.epochs):
        model.train()
        for batch in training.batches(spec.batch_rows, order):
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
            loss = sum(model.auxiliary(batch).values(), start=loss)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        reached = auc(label, predict(model, validation))
        curve.append(reached)
        if reached > best:
            best, kept = reached, copy.deepcopy(model.state_dict())
        elif epoch - int(np.argmax(curve)) >= spec.patience:
            break
    for part in (training, validation):
        part.keep_matches(None)
    model.load_state_dict(kept)
    model.eval()
    return Trained(model, tuple(curve), int(np.argmax(curve)))


def predict(model: CtrModel, data: TensorSet) -> npt.NDArray[np.float64]:
    """Click probabilities ``float64 [rows]``."""
    model.eval()
    with torch.inference_mode():
        parts = [torch.sigmoid(model(batch).double()).numpy() for batch in data.batches(_SCORING_ROWS)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _all_matches(model: CtrModel, data: TensorSet) -> Tensor:
    """The matches of all rows, which no weight changes: computed once, not once per epoch."""
    data.keep_matches(None)
    with torch.no_grad():
        return torch.cat([model.matches(batch) for batch in data.batches(_SCORING_ROWS)])


def _optimiser(model: CtrModel, spec: TrainingSpec) -> torch.optim.Optimizer:
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    return torch.optim.AdamW(
        [
            {
                "params": [parameter for parameter in model.parameters() if id(parameter) in tables],
                "lr": spec.table_learning_rate,
                "weight_decay": spec.table_weight_decay,
            },
            {
                "params": [parameter for parameter in model.parameters() if id(parameter) not in tables],
                "lr": spec.learning_rate,
                "weight_decay": spec.weight_decay,
            },
        ],
        fused=True,
    )
