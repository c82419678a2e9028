"""Training of a re-ranker on whole requests; the ranker stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ranking.evaluation.metrics import auc
from ranking.models.rerank_spec import RerankSpec
from ranking.models.rerankers.base import Reranker
from ranking.training.rerank_inputs import RequestBatches
from sidkit.core.arrays import Doubles

SCORED_ROWS = 8192
"""Rows of a batch in passes without training."""


@dataclass(frozen=True)
class TrainedReranker:
    """A trained re-ranker on the CPU.

    Attributes
    ----------
    reranker : Reranker
    validation_auc : tuple of float
        That of the ranker, then one per epoch.
    best : int
        Place of the best one; with 0, no epoch was better than the ranker, and the re-ranker changes nothing.
    """

    reranker: Reranker
    validation_auc: tuple[float, ...]
    best: int


def train_reranker(
    make: Callable[[], Reranker],
    training: RequestBatches,
    validation: RequestBatches,
    spec: RerankSpec,
    *,
    seed: int,
    device: torch.device,
) -> TrainedReranker:
    """Train a re-ranker, and select the epoch with the best validation AUC; the untrained one, which changes nothing, counts.

    Parameters
    ----------
    make : callable
        Called once, after the seed is set.
    training, validation : RequestBatches
        The second set only selects the epoch.
    spec : RerankSpec
        Settings.
    seed : int
        Seed of initialization, dropout and order; with one thread on the CPU, the same seed gives the same weights.
    device : torch.device
        Where to train.
    """
    torch.manual_seed(seed)
    reranker = make().to(device)
    reranker.fit_scale(training.vector, training.logit)
    optimizer = torch.optim.AdamW(reranker.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    order, label = torch.Generator().manual_seed(seed), validation.label.numpy()
    curve, best = [auc(label, changed_logits(reranker, validation))], copy.deepcopy(reranker.state_dict())
    while len(curve) <= spec.epochs and len(curve) - 1 - int(np.argmax(curve)) < spec.patience:
        reranker.train()
        for _, requests in training.batches(spec.batch_rows, order):
            batch = requests.to(device)
            loss = reranker.loss(batch, batch.logit + reranker(batch))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        reached = auc(label, changed_logits(reranker, validation))
        if reached > max(curve):
            best = copy.deepcopy(reranker.state_dict())
        curve.append(reached)
    reranker.load_state_dict(best)
    return TrainedReranker(reranker.cpu().eval(), tuple(curve), int(np.argmax(curve)))


def changed_logits(reranker: Reranker, requests: RequestBatches) -> Doubles:
    """Logits after the change, ``float64 [rows]``, in the order of the rows."""
    reranker.eval()
    device = next(reranker.parameters()).device
    logits = requests.logit.double().numpy().copy()
    with torch.inference_mode():
        for index, batch in requests.batches(SCORED_ROWS):
            logits[index] += reranker(batch.to(device)).double().numpy(force=True)
    return logits
