"""Auxiliary losses of SMILE (arXiv 2510.12604)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def directional_transfer(own: Tensor, shared: Tensor, gate: Tensor, temperature: float = 1.0) -> Tensor:
    """Adaptive transfer loss between id and RQ code embeddings (SMILE, arXiv 2510.12604, step 1).

    ``L_trans = T * KL(sg(id) || RQ) + (1 - T) * KL(id || sg(RQ))`` per item, where ``sg`` is stop-gradient and KL compares
    ``softmax(vector / temperature)`` over the dimensions. The first term pulls the codes towards a warm id, the second
    pulls a cold id towards its codes. The gate ``T`` is detached, so that it is trained by the click loss only and not to
    select the smaller term.

    Parameters
    ----------
    own, shared : Tensor
        Id and RQ code embeddings, ``float32 [items, dim]``.
    gate : Tensor
        ``T``, ``float32 [items]`` in 0..1.

    Returns
    -------
    Tensor
        ``float32 [items]``.
    """
    weight = gate.detach()
    own_log = torch.log_softmax(own / temperature, dim=1)
    shared_log = torch.log_softmax(shared / temperature, dim=1)
    return weight * _divergence(own_log.detach(), shared_log) + (1 - weight) * _divergence(own_log, shared_log.detach())


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) per row."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def masked_info_nce(
    anchor: Tensor, positive: Tensor, others: Tensor, masked: tuple[Tensor, Tensor], temperature: float
) -> Tensor:
    """InfoNCE loss with cosine similarity and masked negatives (SMILE, arXiv 2510.12604, step 2).

    ``L_cont = -log(exp(cos(a, p) / t) / (exp(cos(a, p) / t) + sum_n exp(cos(a, n) / t)))`` per anchor.

    Parameters
    ----------
    anchor, positive : Tensor
        ``float32 [anchors, dim]``.
    others : Tensor
        Negatives, ``float32 [others, dim]``.
    masked : tuple of Tensor
        Index pairs (anchor, other) that must not count as negatives, ``int64 [pairs]`` each.
    temperature : float
        The temperature ``t``.

    Returns
    -------
    Tensor
        ``float32 [anchors]``.
    """
    anchor, positive, others = (functional.normalize(each, dim=1) for each in (anchor, positive, others))
    anchor = anchor / temperature
    to_others = anchor @ others.T
    # In place and without autograd: the softmax weight of a masked entry is 0, and so is its gradient.
    to_others.detach()[masked] = torch.finfo(to_others.dtype).min
    return functional.softplus(torch.logsumexp(to_others, dim=1) - (anchor * positive).sum(dim=1))
