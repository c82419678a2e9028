"""How a candidate matches a history, without any parameter; representations of the same data give the same matches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ranking.gather import gather_rows
from ranking.representations.base import ItemBatch

CONTENT_MATCHES = 2


def content_matches(items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
    """Largest and mean cosine between the candidate's and the history's contents, ``float32 [rows, 2]``; 0 for an empty
    history.
    """
    unit = functional.normalize(items.content, dim=1)
    own, others = gather_rows(unit, candidate), gather_rows(unit, history)
    cosine = torch.bmm(others, own[:, :, None]).squeeze(2)
    count = mask.sum(dim=1)
    mean = (cosine * mask).sum(dim=1) / count.clamp(min=1)
    largest = cosine.masked_fill(~mask, -1).amax(dim=1)
    return torch.stack([torch.where(count > 0, largest, 0.0), mean], dim=1)


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
