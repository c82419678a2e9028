"""Auxiliary losses of representations and histories."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def directional_transfer(
    own: Tensor,
    shared: Tensor,
    gate: Tensor,
    temperature: float = 1.0,
    terms: Literal["both", "codes", "ids"] = "both",
) -> Tensor:
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
    temperature : float
        The larger, the closer both distributions are to uniform.
    terms : str
        ``both``; or ``codes`` for the first term alone, or ``ids`` for the second.

    Returns
    -------
    Tensor
        ``float32 [items]``.
    """
    weight = gate.detach()
    own_log = torch.log_softmax(own / temperature, dim=1)
    shared_log = torch.log_softmax(shared / temperature, dim=1)
    to_id = weight * _divergence(own_log.detach(), shared_log)
    if terms == "codes":
        return to_id
    to_codes = (1 - weight) * _divergence(own_log, shared_log.detach())
    return to_codes if terms == "ids" else to_id + to_codes


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


def gated_alignment(
    own: Tensor, content: Tensor, gate: Tensor, candidate: Tensor, temperature: float, most: int
) -> Tensor:
    """Alignment of id and content vectors, strong where the gate is low (GateSID, arXiv 2603.22916; weights are ours).

    ``L = mean_i (1 - g_i) InfoNCE(id_i, content_i)`` over distinct candidates, with the id as anchor, cosine similarity, and
    the contents of the batch's other candidates as negatives. The gate is detached: it is trained by the click loss only
    and not to escape the alignment.

    Parameters
    ----------
    own, content : Tensor
        Id and content vectors of the rows' candidates, ``float32 [rows, dim]``.
    gate : Tensor
        ``g``, ``float32 [rows]`` in 0..1.
    candidate : Tensor
        Item of each row, ``int64 [rows]``; of the rows of one item, the last one counts.
    temperature : float
        Temperature of the similarity.
    most : int
        Maximum number of anchors and negatives, sampled.

    Returns
    -------
    Tensor
        ``float32``, a scalar; 0 for fewer than two distinct candidates.
    """
    items, back = torch.unique(candidate, return_inverse=True)
    last = torch.arange(len(back), device=back.device)
    rows = torch.zeros_like(items).scatter_reduce(0, back, last, "amax")
    if len(rows) < 2:
        return (own.sum() + content.sum()) * 0.0
    if len(rows) > most:
        rows = rows[torch.randperm(len(rows), device=rows.device)[:most]]
    diagonal = torch.arange(len(rows), device=rows.device)
    loss = masked_info_nce(own[rows], content[rows], content[rows], (diagonal, diagonal), temperature)
    return ((1 - gate.detach()[rows]) * loss).mean()


def view_contrast(view: Tensor, fused: Tensor, temperature: float) -> Tensor:
    """Contrast between the vector of one view of items and the vector of all views (MICRO, arXiv 2111.00678).

    ``L_i = -log(exp(cos(v_i, h_i) / t) / (sum_j exp(cos(v_i, h_j) / t) + sum_{j != i} exp(cos(v_i, v_j) / t)))``: negatives are
    the fused vectors and the views of other items.

    Parameters
    ----------
    view, fused : Tensor
        ``v`` and ``h``, ``float32 [items, dim]``.
    temperature : float
        ``t``.

    Returns
    -------
    Tensor
        ``float32 [items]``.
    """
    view, fused = functional.normalize(view, dim=1), functional.normalize(fused, dim=1)
    across, within = view @ fused.T / temperature, view @ view.T / temperature
    own = torch.eye(len(view), dtype=torch.bool, device=view.device)
    within = within.masked_fill(own, torch.finfo(within.dtype).min)
    return torch.logsumexp(torch.cat([across, within], dim=1), dim=1) - across.diagonal()


def neighbour_pull(own: Tensor, others: Tensor, weight: Tensor, fixed: Tensor) -> Tensor:
    """Weighted squared distance of items to their neighbours (arXiv 2411.09065, there summed over a batch).

    ``L_i = sum_j w_ij ||z_i - z_j||^2``.

    Parameters
    ----------
    own : Tensor
        ``z_i``, ``float32 [items, dim]``.
    others : Tensor
        ``z_j``, ``float32 [items, neighbours, dim]``.
    weight : Tensor
        ``w``, ``float32 [items, neighbours]``.
    fixed : Tensor
        ``bool [items, neighbours]``: neighbours whose vectors get no gradient.

    Returns
    -------
    Tensor
        ``float32 [items]``.
    """
    others = torch.where(fixed[:, :, None], others.detach(), others)
    return (weight * (own[:, None] - others).square().sum(dim=2)).sum(dim=1)


def keep_view(view: Tensor, fused: Tensor, weight: Tensor) -> Tensor:
    """Jensen-Shannon estimate of the mutual information that a view shares with the fused vector, negated (arXiv 2403.10068).

    ``L_i = sp(-T(v_i, f_i)) + mean_{j != i} sp(T(v_i, f_j))`` with ``sp`` the softplus and ``T(v, f) = v W f``, of vectors of
    length 1: what the vectors of two items are close by, not how long they are. (The paper's T is a convolution over images.)

    Parameters
    ----------
    view, fused : Tensor
        ``v`` and ``f``, ``float32 [items, dim]``, at least two items.
    weight : Tensor
        ``W``, ``float32 [dim, dim]``.

    Returns
    -------
    Tensor
        ``float32 [items]``; 2 log 2 where ``W`` is 0.
    """
    view, fused = functional.normalize(view, dim=1), functional.normalize(fused, dim=1)
    scores = view @ weight @ fused.T
    own = scores.diagonal()
    apart = functional.softplus(scores).sum(dim=1) - functional.softplus(own)
    return functional.softplus(-own) + apart / (len(view) - 1)


def symmetric_info_nce(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """InfoNCE in both directions between two vectors of each row, with those of other rows as negatives.

    Parameters
    ----------
    left, right : Tensor
        ``float32 [rows, dim]``.
    temperature : float
        Temperature of the cosines.

    Returns
    -------
    Tensor
        ``float32``, a scalar; 0 for fewer than two rows.
    """
    if len(left) < 2:
        return (left.sum() + right.sum()) * 0.0
    cosine = functional.normalize(left, dim=1) @ functional.normalize(right, dim=1).T / temperature
    own = torch.arange(len(left), device=left.device)
    return (functional.cross_entropy(cosine, own) + functional.cross_entropy(cosine.T, own)) / 2


def masked_code_prediction(predicted: Tensor, table: Tensor, code: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of masked codes by a softmax of cosines with the rows of all codes (CCFRec, arXiv 2503.12183).

    Parameters
    ----------
    predicted : Tensor
        Vectors of the masked codes, ``float32 [masked, dim]``.
    table : Tensor
        Rows of all codes, ``float32 [codes, dim]``.
    code : Tensor
        Index of each masked code in the table, ``int64 [masked]``.
    temperature : float
        Temperature of the cosines.

    Returns
    -------
    Tensor
        ``float32``, a scalar; 0 for none.
    """
    if not len(predicted):
        return predicted.sum() + table.sum() * 0.0
    cosine = functional.normalize(predicted, dim=1) @ functional.normalize(table, dim=1).T
    return functional.cross_entropy(cosine / temperature, code)
