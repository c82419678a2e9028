"""Id embeddings with the mean embedding of the groups that an item belongs to: the prefixes of its codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.gather_rows import gather_rows
from ranking.data.plain import is_plain
from ranking.data.vocabulary import UNKNOWN
from ranking.models.parts import Gate
from ranking.models.representations.base import ItemShape, Representation, Table
from ranking.models.representations.id import dropped
from ranking.models.spec import ModelSpec
from sidkit.core.arrays import Ints
from sidkit.core.hashing import GOLDEN_GAMMA

_ODD = GOLDEN_GAMMA - 2**64  # as a signed integer


class GroupMeanRepresentation(Representation):
    """``(n own + k sum_a w_a m_a) / (n + k)``: hyperedges of items as a mean per aspect (after HEKP4NBR, arXiv 2312.15851).

    The paper convolves over hyperedges, which are built by a mixture of experts; this is its cheap equivalent. An aspect is a
    prefix depth of the codes (of codes of equal rank: one of the codes), a group are the items with the same prefix, and m_a
    is the mean of the id rows of the item's group. w is a softmax over the aspects whose group has members, learned and equal
    for all items. As in the prior of ``id``, n is the number of interactions of a candidate as of the row, at most its
    training rows; in histories, n is the training rows. k is ``prior_strength``.

    Members are items of the training window, at most ``prior_neighbours`` per group, those with the most training rows; an item
    counts as a member of its own groups. An item that is alone in all of them keeps its own row. An item outside the window
    has the rows of its groups, or that of the unknown id if none has members.

    Parameters
    ----------
    shape : ItemShape
        ``vocabulary`` is the number of rows, ``sizes`` the codes per level.
    spec : ModelSpec
        Width, start, dropout, strength and members.
    fitted : mapping, optional
        The groups, from :meth:`fit`.
    """

    knows_ids = True
    reads_codes = True

    def __init__(self, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(spec.dim)
        self.spec, self.sizes, self.refining = spec, shape.sizes, shape.refining
        self.scaling = shape.counts
        self.table = Table(shape.vocabulary, spec.dim, spec.id_table_start)
        even = torch.zeros(len(shape.sizes))
        if spec.prior_strength > 0:
            self.aspects = nn.Parameter(even)
        else:  # groups have no weight, so there is nothing to learn
            self.register_buffer("aspects", even)
        self.group_share, self.history_group_share = Gate(per_row=True), Gate()
        self._keep(_no_groups(shape, spec) | dict(fitted or {}))

    aspects: Tensor
    fitted_keys: Tensor
    fitted_members: Tensor
    fitted_trained: Tensor

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Find the groups of the training window's items, and their members."""
        trained = np.bincount(seen.index, weights=seen.shown, minlength=shape.vocabulary)
        trained[: UNKNOWN + 1] = 0
        codes = np.full((shape.vocabulary, len(shape.sizes)), -1, dtype=np.int64)
        order = np.argsort(seen.shown, kind="stable")  # of an item's versions, the most shown one is assigned last
        order = order[(seen.shown[order] > 0) & (seen.index[order] > UNKNOWN)]
        codes[seen.index[order]] = seen.codes[order]
        rows = np.flatnonzero((trained > 0) & (codes >= 0).all(axis=1))
        rows = rows[np.argsort(-trained[rows], kind="stable")]
        keys = group_keys(torch.from_numpy(codes[rows]), shape.sizes, shape.refining).numpy()
        if spec.prior_random:
            keys = keys[np.random.default_rng(0).permutation(len(keys))]
        groups = [_members(keys[:, aspect], rows, spec.prior_neighbours) for aspect in range(len(shape.sizes))]
        held = np.concatenate([each for each, _ in groups])
        listed = np.concatenate([each for _, each in groups])
        order = np.argsort(held, kind="stable")
        return {
            "keys": torch.from_numpy(held[order]),
            "members": torch.from_numpy(listed[order]),
            "trained": torch.from_numpy(trained.astype(np.float32)),
        }

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(shape, spec, fitted)

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        index = self._index(items)
        return self._in_history(self.table.rows(index), *self.of_groups(items), self.fitted_trained[index])

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See :class:`Representation`; the share of a candidate's groups depends on its interactions as of the row."""
        index = self._index(batch.items)
        own, trained = self.table.rows(index), self.fitted_trained[index]
        mean, grouped = self.of_groups(batch.items)
        candidate = batch.candidate
        count = trained[candidate]
        if self.scaling is not None:
            count = torch.minimum(count, self.scaling.counts(batch.numeric))
        share = self.group_share(torch.where(grouped[candidate], self._share(count), 0.0))[:, None]
        vectors = (1 - share) * gather_rows(own, candidate) + share * gather_rows(mean, candidate)
        return self._in_history(own, mean, grouped, trained), vectors

    def of_groups(self, items: ItemBatch) -> tuple[Tensor, Tensor]:
        """The weighted mean rows of the items' groups ``float32 [items, dim]``, and whether any group has members, bool."""
        keys = group_keys(items.codes, self.sizes, self.refining)
        if not len(self.fitted_keys):
            return self.table.rows(torch.full_like(items.index, UNKNOWN)), torch.zeros_like(items.index).bool()
        place = _place(self.fitted_keys, keys).clamp(max=len(self.fitted_keys) - 1)
        there = (self.fitted_keys[place] == keys) & (items.codes >= 0).all(dim=1, keepdim=True)
        members = self.fitted_members[place]
        counted = (members >= 0) & there[:, :, None]
        rows = self.table.rows(members.clamp(min=0)) * counted[..., None]
        mean = rows.sum(dim=2) / counted.sum(dim=2, keepdim=True).clamp(min=1)
        weight = torch.softmax(self.aspects.masked_fill(~there, torch.finfo(mean.dtype).min), dim=1)
        return (weight[:, :, None] * mean).sum(dim=1), there.any(dim=1)

    def _index(self, items: ItemBatch) -> Tensor:
        return dropped(items.index, self.spec.id_dropout) if self.training else items.index

    def _share(self, count: Tensor) -> Tensor:
        """Weight of the groups of items with so many interactions."""
        strength = self.spec.prior_strength
        return strength / (count + strength) if strength > 0 else torch.zeros_like(count)

    def _in_history(self, own: Tensor, mean: Tensor, grouped: Tensor, trained: Tensor) -> Tensor:
        share = self.history_group_share(torch.where(grouped, self._share(trained), 0.0))[:, None]
        mixed: Tensor = (1 - share) * own + share * mean
        return mixed


def group_keys(codes: Tensor, sizes: tuple[int, ...], refining: int) -> Tensor:
    """A number per item and aspect, ``int64 [items, levels]``, equal for the items of a group.

    The first ``refining`` aspects are prefixes; each later one is a single code. Numbers are hashes of 64 bits.
    """
    numbers, prefix = [], torch.zeros_like(codes[:, 0])
    for level, size in enumerate(sizes):
        if level < refining:
            prefix = prefix * (size + 1) + codes[:, level] + 1  # overflow wraps around
        code = prefix if level < refining else codes[:, level] + 1
        numbers.append(code * _ODD + (level + 1) * 0x9E3779B1)
    return torch.stack(numbers, dim=1)


def _place(keys: Tensor, key: Tensor) -> Tensor:
    """Where keys of any shape would be inserted into the sorted ones."""
    if is_plain():
        return (keys < key[..., None]).sum(dim=-1)
    return torch.searchsorted(keys, key.contiguous())


def _members(keys: Ints, rows: Ints, most: int) -> tuple[Ints, Ints]:
    """Distinct keys and the first ``most`` rows of each, ``int64 [groups, most]``, padded with -1."""
    order = np.argsort(keys, kind="stable")
    distinct, start = np.unique(keys[order], return_index=True)
    within = np.arange(len(order)) - np.repeat(start, np.diff([*start, len(order)]))
    listed = np.full((len(distinct), most), -1, dtype=np.int64)
    kept = within < most
    listed[np.repeat(np.arange(len(distinct)), np.diff([*start, len(order)]))[kept], within[kept]] = rows[order][kept]
    return distinct, listed


def _no_groups(shape: ItemShape, spec: ModelSpec) -> dict[str, Tensor]:
    """The state of a model without training rows."""
    return {
        "keys": torch.zeros(0, dtype=torch.int64),
        "members": torch.zeros((0, spec.prior_neighbours), dtype=torch.int64),
        "trained": torch.zeros(shape.vocabulary),
    }
