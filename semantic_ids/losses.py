"""Loss functions shared by several models of this package."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(
    trigger: Tensor,
    candidates: Tensor,
    positive: Tensor,
    log_q: Tensor,
    excluded: Tensor,
    temperature: float,
    weight: Tensor | None = None,
) -> Tensor:
    """InfoNCE loss with logQ correction: cross-entropy of each row's positive among the candidates.

    ``loss = -mean_i log softmax_j(<trigger_i, candidate_j> / temperature - log_q_j)[positive_i]``. Subtracting ``log_q``
    (Yi et al., RecSys 2019, equation 6) corrects for popular items being sampled more often as in-batch negatives.

    Parameters
    ----------
    trigger : float32 [rows, dim]
        Unit vectors, like the candidates.
    candidates : float32 [n, dim]
    positive : int64 [rows]
        Index of each row's positive among the candidates.
    log_q : float32 [n]
        Log of each candidate's sampling probability, up to a constant.
    excluded : bool [rows, n]
        True where a candidate must not be used as a negative of a row; the positive itself is always included.
    temperature : float
    weight : float32 [rows], optional
        Weights of the rows in the mean; default: equal.
    """
    logits = trigger @ candidates.T / temperature - log_q
    is_positive = functional.one_hot(positive, len(candidates)).bool()
    logits = logits.masked_fill(excluded & ~is_positive, -torch.inf)
    if weight is None:
        return functional.cross_entropy(logits, positive)
    return (weight * functional.cross_entropy(logits, positive, reduction="none")).sum() / weight.sum()
