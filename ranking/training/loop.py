"""Training with early stopping on validation AUC, and batched prediction; deterministic for a seed on one CPU thread."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ranking.data.batch import Batch
from ranking.data.batches import SCAN_ROWS, Batches
from ranking.data.disk_batches import DiskBatches
from ranking.data.shares import Share
from ranking.data.split import check_both_classes
from ranking.evaluation.metrics import auc
from ranking.models.ctr_model import CtrModel
from ranking.models.dropout import drawing_for
from ranking.training.checkpoint import Checkpoint, Progress
from ranking.training.liveness import TableChange
from ranking.training.optimizers import make_optimizers
from ranking.training.prefetch import Prefetched
from ranking.training.processes import ALONE, Processes
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
    processes: Processes = ALONE,
) -> Trained:
    """Train a model.

    Several processes share the rows of every batch: the loss of a batch is the mean over its rows of all processes, so that
    their number does not change the weights beyond rounding. Auxiliary losses and standardised histories are exceptions: each
    process computes them on its own rows, weighted by their share.

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
    processes : Processes
        The processes that share the rows, each of which calls this with the same arguments. Process 0 writes the checkpoint and
        calls ``after_epoch`` and ``report``; all return the trained model.

    Raises
    ------
    ProcessesError
        When another process stopped, or has other rows or settings.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    device = processes.device(spec.device)
    model = make_model().to(device)
    trace = TableTrace(model) if trace_tables else None
    optimizers = make_optimizers(model, spec)
    order = torch.Generator().manual_seed(seed)
    label = validation.label.numpy(force=True)
    check_both_classes(label, "validation")
    parts = (training.to(device), validation.to(device))
    match_moments = [part.learn_matches(model.matches) for part in parts]
    model.scale_matches(match_moments[0])
    run = [seed, spec.model_dump(mode="json"), len(training), len(validation)]
    if (lanes := training.lanes(processes.part)) > 1:
        run.append(lanes)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    processes.check_same([run, shapes, torch.__version__])
    saved_at = Checkpoint(checkpoint, run)
    progress = _resumed(saved_at, model, optimizers, order, processes)
    while len(progress.curve) < spec.epochs and not _patience_exhausted(progress.curve, spec.patience):
        loss = _epoch(model, training, optimizers, order, spec, processes)
        reached = processes.agreed(auc(label, _predicted(model, validation, processes)))
        if reached > max(progress.curve, default=-1.0):
            progress.best = copy.deepcopy(model.state_dict())
        progress.curve.append(reached)
        if not processes.leads:
            continue
        if after_epoch is not None:
            after_epoch(len(progress.curve) - 1, model)
        saved_at.save(progress, model, optimizers, order)
        if report is not None:
            report(Epoch(len(progress.curve), loss, reached))
    for part in parts:
        part.forget_matches()
    model.load_state_dict(progress.best)
    if processes.leads:
        saved_at.remove()
    tables = trace.changes(model, optimizers) if trace is not None else {}
    return Trained(model.cpu().eval(), tuple(progress.curve), int(np.argmax(progress.curve)), tables)


def predict(model: CtrModel, data: Batches) -> npt.NDArray[np.float64]:
    """Predict click probabilities ``float64 [rows]``; rows are moved to the model's device."""
    device = next(model.parameters()).device
    data = data if data.label.device == device else data.to(device)
    return _probabilities(model, data.batches(SCAN_ROWS))


def _probabilities(model: CtrModel, batches: Iterable[Batch]) -> npt.NDArray[np.float64]:
    if model.training:
        model.eval()
    with torch.inference_mode():
        parts = [torch.sigmoid(model(batch).double()).numpy(force=True) for batch in batches]
    return np.concatenate(parts) if parts else np.zeros(0)


def _resumed(
    saved_at: Checkpoint,
    model: CtrModel,
    optimizers: list[torch.optim.Optimizer],
    order: torch.Generator,
    processes: Processes,
) -> Progress:
    """The progress of an interrupted run, whose state all processes take over, or of a new one."""
    progress = saved_at.resume(model, optimizers, order) if processes.leads else None
    # Process 0 looks first: it discards a damaged checkpoint.
    epochs = processes.agreed(len(progress.curve) if progress else None)
    if not processes.leads and epochs is not None:
        progress = saved_at.resume(model, optimizers, order)
    processes.check_same(["resumed", len(progress.curve) if progress else None])
    processes.share_weights(model)
    return progress or Progress([], copy.deepcopy(model.state_dict()))


def _predicted(model: CtrModel, validation: Batches, processes: Processes) -> npt.NDArray[np.float64]:
    """Predictions of all validation rows; several processes predict some each."""
    if processes.part.of == 1:
        return predict(model, validation)
    return processes.joined(_probabilities(model, validation.of_part(SCAN_ROWS, processes.part)))


def _epoch(
    model: CtrModel,
    training: Batches | DiskBatches,
    optimizers: list[torch.optim.Optimizer],
    order: torch.Generator,
    spec: TrainingSpec,
    processes: Processes,
) -> float:
    """Train on all rows once; returns the mean loss per row."""
    model.train()
    # Summed on the device: reading the loss of every batch would wait for the device at every step.
    total = torch.zeros((), device=next(model.parameters()).device, dtype=torch.float64)
    with _prepared(training, training.shares(spec.batch_rows, order, processes.part)) as shares:
        for share in shares:
            model.zero_grad(set_to_none=True)
            if share.batch is not None:
                with drawing_for(share):
                    loss = _loss(model, share.batch, bf16=spec.bf16)
                (loss if share.weight == 1 else loss * share.weight).backward()  # type: ignore[no-untyped-call]
                total.add_(loss.detach(), alpha=len(share.batch))
            processes.sum_gradients(model)
            for optimizer in optimizers:
                optimizer.step()
    processes.share_state(model)
    return processes.total(float(total.item())) / max(len(training), 1)


def _prepared(training: Batches | DiskBatches, shares: Iterator[Share]) -> AbstractContextManager[Iterator[Share]]:
    """The same shares; with more than one thread, rows on disk are read ahead."""
    if isinstance(training, DiskBatches) and torch.get_num_threads() > 1:
        return Prefetched(shares)
    return nullcontext(shares)


def _loss(model: CtrModel, batch: Batch, *, bf16: bool) -> torch.Tensor:
    """The mean loss of a batch's rows, with the auxiliary losses."""
    with torch.autocast(batch.label.device.type, torch.bfloat16, enabled=bf16):
        logits, auxiliary = model(batch), model.auxiliary(batch)
    loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), batch.label)
    return sum((term.float() for term in auxiliary.values()), start=loss)


def _patience_exhausted(curve: list[float], patience: int) -> bool:
    """Whether the last ``patience`` epochs did not improve on the best AUC, once the model is better than chance.

    Worse than chance, a model has learned nothing yet; stopping there would return its initial weights.
    """
    return bool(curve) and max(curve) > 0.5 and len(curve) - 1 - int(np.argmax(curve)) >= patience
