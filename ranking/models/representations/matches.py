"""Parameter-free match features of a candidate and a history."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking.data.batch import ItemBatch
from ranking.data.gather_rows import gather_rows, is_shared, longest
from ranking.data.plain import is_plain

CONTENT_MATCHES = 3
_BLOCK = 256
"""Rows per block on a CPU, whose gathered histories fit in cache; a block is as wide as its longest history."""


def content_matches(items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor, columns: slice) -> Tensor:
    """Content similarity of candidate and history: the maximum and the mean cosine with the history's items, and the cosine
    with the sum of their unit vectors.

    Parameters
    ----------
    items, candidate, history, mask
        See :class:`ranking.data.batch.Batch`.
    columns : slice
        Content columns to compare; the others were trained on clicks, possibly on the labels to be predicted.

    Returns
    -------
    Tensor
        ``float32 [rows, 3]``, 0 for an empty history; ``[rows, 0]`` without columns.
    """
    content = items.content[:, columns]
    if not content.shape[1]:
        return content.new_zeros((candidate.shape[0], 0))
    shared = is_shared(history) and is_shared(mask)
    if shared:
        history, mask = history[:1], mask[:1]  # one row for all
    unit = functional.normalize(content, dim=1)
    if shared or is_plain() or content.device.type != "cpu" or not mask.numel():
        return _matches(unit, candidate, history, mask, shared)
    blocks = []
    for start in range(0, len(candidate), _BLOCK):
        rows = slice(start, start + _BLOCK)
        used = slice(0, longest(mask[rows]))
        blocks.append(_matches(unit, candidate[rows], history[rows, used], mask[rows, used], shared))
    return torch.cat(blocks)


def _matches(unit: Tensor, candidate: Tensor, history: Tensor, mask: Tensor, shared: bool) -> Tensor:
    """:func:`content_matches` of some rows by the items' unit vectors ``float32 [items, dim]``."""
    count, weight = mask.sum(dim=1), mask.to(unit.dtype)
    candidates, past = gather_rows(unit, candidate), gather_rows(unit, history)
    cosine = candidates @ past[0].t() if shared else torch.bmm(past, candidates[:, :, None]).squeeze(2)
    largest = torch.where(count > 0, cosine.masked_fill(~mask, -1).amax(dim=1), 0.0)
    total = torch.bmm(weight[:, None, :], past).squeeze(1)
    with_total = (candidates * functional.normalize(total, dim=1)).sum(dim=1)
    return torch.stack([largest, (cosine * weight).sum(dim=1) / count.clamp(min=1), with_total], dim=1)


def code_matches(items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor, residual_levels: int) -> Tensor:
    """Per level, log1p of the number and the share of history items with the candidate's prefix (past
    ``residual_levels``: with its code): ``float32 [rows, 2 * levels]``.
    """
    shared = torch.stack(
        [alike.sum(dim=1) for alike in same_codes(items, candidate, history, mask, residual_levels)], 1
    )
    share = shared / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.cat([torch.log1p(shared.float()), share], dim=1)


def same_codes(
    items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor, residual_levels: int
) -> list[Tensor]:
    """Per level, a mask ``bool [rows, length]`` of the history items with the candidate's prefix up to that level (past
    ``residual_levels``: with its code). Items without codes never match.
    """
    masks: list[Tensor] = []
    past = history[:1] if is_shared(history) else history
    for level, codes in enumerate(items.codes.unbind(dim=1)):
        # A missing code is -1 for the candidate and -2 in the history, so that two missing codes do not match.
        equal = codes[candidate][:, None] == torch.where(codes < 0, -2, codes)[past]
        masks.append(equal & (masks[-1] if 0 < level < residual_levels else mask))
    return masks
