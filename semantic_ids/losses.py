"""Losses that several models of this package share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(
    trigger: Tensor, candidates: Tensor, positive: Tensor, log_q: Tensor, excluded: Tensor, temperature: float
) -> Tensor:
    """InfoNCE: the mean of ``-log softmax`` of each row's positive among the candidates.

    The logit of a candidate is ``<trigger, candidate> / temperature - log_q``: the logQ correction of in-batch negatives
    (Yi et al., RecSys 2019, equation 6), after which a popular item is not pushed away for being drawn often.

    Parameters
    ----------
    trigger : float32 [rows, dim]
        Of length 1, as the candidates are.
    candidates : float32 [n, dim]
    positive : int64 [rows]
        The place of each row's positive among the candidates.
    log_q : float32 [n]
        Log of how popular each candidate is, up to a constant.
    excluded : bool [rows, n]
        True where a candidate is no negative of a row; the positive itself always counts.
    temperature : float
    """
    logits = trigger @ candidates.T / temperature - log_q
    own = functional.one_hot(positive, len(candidates)).bool()
    return functional.cross_entropy(logits.masked_fill(excluded & ~own, -torch.inf), positive)
