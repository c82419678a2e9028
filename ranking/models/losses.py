"""The auxiliary losses of SMILE (arXiv 2510.12604); equations and defaults in the docstrings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def directional_transfer(own: Tensor, shared: Tensor, gate: Tensor, temperature: float = 1.0) -> Tensor:
    """Two-way transfer between id and code vectors, each way towards the one that knows more.

    ``T * KL(sg(id) || RQ) + (1 - T) * KL(id || sg(RQ))`` per item, with distributions ``softmax(vector / temperature)``
    over the dimensions. The first term moves the codes towards a warm id, the second a cold id towards its codes. The
    gate is detached: it must learn which mixture predicts clicks, not which term is smaller.

    Parameters
    ----------
    own, shared : Tensor
        Id and code vectors, ``float32 [items, dim]``.
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
    """InfoNCE with cosines: ``-log(e^(a.p / t) / (e^(a.p / t) + sum over n of e^(a.n / t)))`` per anchor.

    Parameters
    ----------
    anchor, positive : Tensor
        ``float32 [anchors, dim]``.
    others : Tensor
        Candidates for negatives, ``float32 [others, dim]``.
    masked : tuple of Tensor
        Pairs of an anchor and one of the others that is no negative of it: their numbers, ``int64 [pairs]`` each.
    temperature : float
        ``t``.

    Returns
    -------
    Tensor
        ``float32 [anchors]``.
    """
    anchor, positive, others = (functional.normalize(each, dim=1) for each in (anchor, positive, others))
    anchor = anchor / temperature
    to_others = anchor @ others.T
    # Behind autograd's back: what is this low weighs 0 in the sum, so the gradient there is 0 as well.
    to_others.detach()[masked] = torch.finfo(to_others.dtype).min
    return functional.softplus(torch.logsumexp(to_others, dim=1) - (anchor * positive).sum(dim=1))
