"""Training with early stopping on validation AUC, and batched prediction; deterministic for a seed on one CPU thread."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ranking.data.batches import SCAN_ROWS, Batches
from ranking.data.disk_batches import DiskBatches
from ranking.data.split import check_both_classes
from ranking.evaluation.metrics import auc
from ranking.models.ctr_model import CtrModel
from ranking.training.checkpoint import Checkpoint, Progress
from ranking.training.device import training_device
from ranking.training.liveness import TableChange
from ranking.training.optimizers import make_optimizers
from ranking.training.spec import TrainingSpec
from ranking.training.table_changes import TableTrace


@dataclass(frozen=True)
class Epoch:
    """A finished epoch: its number (from 1), the mean training loss over its rows, and the validation AUC."""

    number: int
    loss: float
    validation_auc: float


@dataclass(frozen=True)
class Trained:
    """A trained model on the CPU, with its validation AUC per epoch and the best epoch (from 0)."""

    model: CtrModel
    validation_auc: tuple[float, ...]
    best_epoch: int
    tables: Mapping[str, TableChange] = field(default_factory=dict)
    """Changes of the embedding tables by name of the part, if they were traced."""


def train(
    make_model: Callable[[], CtrModel],
    training: Batches | DiskBatches,
    validation: Batches,
    spec: TrainingSpec,
    *,
    seed: int,
    threads: int,
    checkpoint: Path | None = None,
    after_epoch: Callable[[int, CtrModel], None] | None = None,
    report: Callable[[Epoch], None] | None = None,
    trace_tables: bool = False,
) -> Trained:
    """Train a model.

    Parameters
    ----------
    make_model : callable
        Called once, after the seed is set.
    training : Batches or DiskBatches
    validation : Batches
        Used only for early stopping and to select the best epoch. Both sets are moved to the training device.
    spec : TrainingSpec
        Optimizer, stopping and device.
    seed : int
        Seed of initialization, dropout and row order.
    threads : int
        CPU threads; with one thread on the CPU, the same seed gives bit-identical weights.
    checkpoint : Path, optional
        File for the state after every epoch. An interrupted run that is restarted with the same seed, spec and rows resumes
        after its last finished epoch and yields the weights of an uninterrupted run. The file is removed at the end.
    after_epoch : callable, optional
        Called after each epoch of this process with the epoch (from 0) and the model, which it must not modify.
    report : callable, optional
        Called after each epoch of this process with its loss and validation AUC.
    trace_tables : bool
        Compare the embedding tables of the result with their initial weights, which are copied for this.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    device = training_device(spec.device)
    model = make_model().to(device)
    trace = TableTrace(model) if trace_tables else None
    optimizers = make_optimizers(model, spec)
    order = torch.Generator().manual_seed(seed)
    label = validation.label.numpy(force=True)
    check_both_classes(label, "validation")
    parts = (training.to(device), validation.to(device))
    match_moments = [part.learn_matches(model.matches) for part in parts]
    model.scale_matches(match_moments[0])
    saved_at = Checkpoint(checkpoint, [seed, spec.model_dump(mode="json"), len(training), len(validation)])
    progress = saved_at.resume(model, optimizers, order) or Progress([], copy.deepcopy(model.state_dict()))
    while len(progress.curve) < spec.epochs and not _patience_exhausted(progress.curve, spec.patience):
        loss = _epoch(model, training, optimizers, order, spec)
        reached = auc(label, predict(model, validation))
        if reached > max(progress.curve, default=-1.0):
            progress.best = copy.deepcopy(model.state_dict())
        progress.curve.append(reached)
        if after_epoch is not None:
            after_epoch(len(progress.curve) - 1, model)
        saved_at.save(progress, model, optimizers, order)
        if report is not None:
            report(Epoch(len(progress.curve), loss, reached))
    for part in parts:
        part.forget_matches()
    model.load_state_dict(progress.best)
    saved_at.remove()
    tables = trace.changes(model, optimizers) if trace is not None else {}
    return Trained(model.cpu().eval(), tuple(progress.curve), int(np.argmax(progress.curve)), tables)


def predict(model: CtrModel, data: Batches) -> npt.NDArray[np.float64]:
    """Predict click probabilities ``float64 [rows]``; rows are moved to the model's device."""
    if model.training:
        model.eval()
    device = next(model.parameters()).device
    data = data if data.label.device == device else data.to(device)
    with torch.inference_mode():
        parts = [torch.sigmoid(model(batch).double()).numpy(force=True) for batch in data.batches(SCAN_ROWS)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _epoch(
    model: CtrModel,
    training: Batches | DiskBatches,
    optimizers: list[torch.optim.Optimizer],
    order: torch.Generator,
    spec: TrainingSpec,
) -> float:
    """Train on all rows once; returns the mean loss per row."""
    model.train()
    # Summed on the device: reading the loss of every batch would wait for the device at every step.
    total = torch.zeros((), device=next(model.parameters()).device, dtype=torch.float64)
    for batch in training.batches(spec.batch_rows, order):
        with torch.autocast(batch.label.device.type, torch.bfloat16, enabled=spec.bf16):
            logits, auxiliary = model(batch), model.auxiliary(batch)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), batch.label)
        loss = sum((term.float() for term in auxiliary.values()), start=loss)
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        total.add_(loss.detach(), alpha=len(batch.label))
    return float(total.item()) / max(len(training), 1)


def _patience_exhausted(curve: list[float], patience: int) -> bool:
    """Whether the last ``patience`` epochs did not improve on the best AUC, once the model is better than chance.

    Worse than chance, a model has learned nothing yet; stopping there would return its initial weights.
    """
    return bool(curve) and max(curve) > 0.5 and len(curve) - 1 - int(np.argmax(curve)) >= patience
