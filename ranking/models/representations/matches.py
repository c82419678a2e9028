"""How a candidate matches a history, without any parameter; representations of the same data give the same matches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking.data.batch import ItemBatch
from ranking.data.gather_rows import gather_rows

CONTENT_MATCHES = 3


def content_matches(items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor, columns: slice) -> Tensor:
    """How the candidate's content lies to its history's: the largest and the mean cosine with its items, and the cosine
    with the sum of their directions.

    Parameters
    ----------
    items, candidate, history, mask
        Of a batch.
    columns : slice
        The columns of the content that are compared; the others learned from clicks, perhaps from those that are to be
        told.

    Returns
    -------
    Tensor
        ``float32 [rows, 3]``, 0 for an empty history; ``[rows, 0]`` without columns.
    """
    content = items.content[:, columns]
    if not content.shape[1]:
        return content.new_zeros((len(candidate), 0))
    count, there = mask.sum(dim=1), mask.to(content.dtype)
    unit = functional.normalize(content, dim=1)
    own, others = gather_rows(unit, candidate), gather_rows(unit, history)
    cosine = torch.bmm(others, own[:, :, None]).squeeze(2)
    largest = torch.where(count > 0, cosine.masked_fill(~mask, -1).amax(dim=1), 0.0)
    together = torch.bmm(there[:, None, :], others).squeeze(1)
    towards = (own * functional.normalize(together, dim=1)).sum(dim=1)
    return torch.stack([largest, (cosine * there).sum(dim=1) / count.clamp(min=1), towards], dim=1)


def code_matches(items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor, residual_levels: int) -> Tensor:
    """Per level, how many of the history's items share the candidate's prefix (of a code that refines no other, the code
    itself): log1p(count) and share, ``float32 [rows, 2 * levels]``.
    """
    shared = torch.stack(
        [alike.sum(dim=1) for alike in same_codes(items, candidate, history, mask, residual_levels)], 1
    )
    share = shared / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.cat([torch.log1p(shared.float()), share], dim=1)


def same_codes(
    items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor, residual_levels: int
) -> list[Tensor]:
    """Per level, which items of the history ``bool [rows, length]`` share the candidate's prefix up to there (of a code
    that refines no other, the code itself). An item without codes shares none.
    """
    found: list[Tensor] = []
    for level, codes in enumerate(items.codes.unbind(dim=1)):
        # No code is -1 on the candidate's side and -2 on the history's, so that two absences are not alike.
        own, others = codes[candidate], torch.where(codes < 0, -2, codes)[history]
        equal = own[:, None] == others
        found.append(equal & (found[-1] if 0 < level < residual_levels else mask))
    return found
