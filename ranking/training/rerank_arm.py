"""The re-ranker of an arm: trained after its ranker, and measured with the context of a request taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ranking.data.dataset import Dataset
from ranking.evaluation.metrics import auc
from ranking.models.rerankers import RERANKER_NAMES
from ranking.training.arm_spec import ArmSpec
from ranking.training.liveness import PartLiveness
from ranking.training.ranker import Ranker
from ranking.training.rerank_inputs import RequestBatches, shape_of
from ranking.training.rerank_training import TrainedReranker, changed_logits, train_reranker
from ranking.training.reranked_ranker import RerankedRanker
from sidkit.core.progress import Progress

_OFF: Sequence[Literal["zero", "mean"]] = ("zero", "mean")


def rerank(
    ranker: Ranker,
    spec: ArmSpec,
    train: Dataset,
    validation: Dataset,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> tuple[RerankedRanker, TrainedReranker]:
    """Train the re-ranker of an arm on the rows that its ranker was trained on.

    Parameters
    ----------
    ranker : Ranker
        The trained ranker; it is not changed.
    spec : ArmSpec
        An arm with a re-ranker.
    train, validation : Dataset
        Rows of whole requests; the second set selects the epoch.
    seed : int
        Seed of the arm.
    device : torch.device
        Where to train.
    progress : Progress
        Receives the validation AUC as a remark.
    """
    assert spec.reranker is not None
    kind, shape = RERANKER_NAMES.find(spec.reranker), shape_of(ranker)
    trained = train_reranker(
        lambda: kind(shape, spec.rerank),
        RequestBatches(ranker, train),
        RequestBatches(ranker, validation),
        spec.rerank,
        seed=seed,
        device=device,
    )
    reached = trained.validation_auc
    progress.remark(
        f"seed {seed}: re-ranker {spec.reranker}, validation AUC {max(reached):.4f} after {len(reached) - 1} epochs, "
        f"{reached[0]:.4f} without it"
    )
    return RerankedRanker(ranker, trained.reranker, spec.reranker), trained


def context_liveness(reranked: RerankedRanker, rows: Dataset) -> PartLiveness:
    """Validation AUC of a re-ranker, and with zeros, or the mean over all rows, in place of what candidates read from the
    others of their request.
    """
    requests, reranker = RequestBatches(reranked.base, rows), reranked.reranker
    reached, off = auc(rows.rows.label, changed_logits(reranker, requests)), []
    for replaced in _OFF:
        reranker.context.off = replaced
        try:
            off.append(auc(rows.rows.label, changed_logits(reranker, requests)))
        finally:
            reranker.context.off = None
    name = "reranker.context"
    delta = tuple(each - reached for each in off)
    return PartLiveness(name, "context", name, auc=reached, auc_off=tuple(off), delta_auc=delta)
