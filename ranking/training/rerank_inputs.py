"""The inputs of a re-ranker: what the ranker says of each row, and the tokens of whole requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ranking.data.batches import SCAN_ROWS
from ranking.data.dataset import Dataset
from ranking.data.item_table import NO_CODE, PADDING
from ranking.data.requests import request_numbers
from ranking.models.rerankers.base import RequestBatch, RerankShape
from sidkit.core.arrays import Codes, Floats, Ints

if TYPE_CHECKING:
    from ranking.training.ranker import Ranker


def ranked(ranker: Ranker, data: Dataset) -> tuple[Tensor, Tensor]:
    """The ranker's logits ``float32 [rows]`` and last hidden layer ``float32 [rows, width]``, from one forward pass."""
    model, hidden = ranker.model.eval(), list[Tensor]()

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hidden.append(inputs[0])

    handle = model.last.register_forward_pre_hook(keep)
    try:
        batches = ranker.batches(data).to(next(model.parameters()).device)
        with torch.inference_mode():
            logits = [model(batch) for batch in batches.batches(SCAN_ROWS)]
    finally:
        handle.remove()
    if not logits:
        return torch.zeros(0), torch.zeros((0, model.last.in_features))
    return torch.cat(logits).cpu().clone(), torch.cat(hidden).cpu().clone()


def shape_of(ranker: Ranker) -> RerankShape:
    """The shape of the re-rankers of a ranker."""
    config = ranker.config
    return RerankShape(config.sizes, ranker.model.last.in_features, max(config.content_dim, 1))


class RequestBatches:
    """The requests of a dataset, in batches of whole requests.

    Parameters
    ----------
    ranker : Ranker
        The ranker.
    data : Dataset
        The rows.
    """

    def __init__(self, ranker: Ranker, data: Dataset) -> None:
        self.shape = shape_of(ranker)
        self._data = data
        self.logit, self.vector = ranked(ranker, data)
        self.label = torch.from_numpy(data.rows.label.astype(np.float32))
        self._request = request_numbers(data.rows)
        self._order = np.argsort(self._request, kind="stable")
        self._sizes = np.bincount(self._request)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return len(self._request)

    @property
    def requests(self) -> int:
        """Number of requests."""
        return len(self._sizes)

    def batches(self, rows: int, generator: torch.Generator | None = None) -> Iterator[tuple[Ints, RequestBatch]]:
        """Row indices and batches with about so many rows, at least one request; shuffled if a generator is given."""
        order = np.arange(self.requests)
        if generator is not None:
            order = torch.randperm(self.requests, generator=generator).numpy()
        group = (np.cumsum(self._sizes[order]) - 1) // max(rows, 1)
        for requests in np.split(order, np.flatnonzero(np.diff(group)) + 1) if len(order) else ():
            index = np.concatenate([self._order[self._starts[at] : self._starts[at + 1]] for at in requests])
            yield index, self._batch(index)

    def _batch(self, index: Ints) -> RequestBatch:
        data, number = self._data, np.unique(self._request[index], return_inverse=True)[1].ravel()
        first = np.unique(number, return_index=True)[1]
        tokens, own = union(data.items.codes[data.candidate[index]], number, self.shape.sizes)
        rows = torch.from_numpy(index)
        return RequestBatch(
            tokens=torch.from_numpy(tokens),
            user=torch.from_numpy(user_vectors(data, data.history[index[first]], self.shape.user_dim)),
            request=torch.from_numpy(number.astype(np.int64)),
            own=torch.from_numpy(own),
            vector=self.vector[rows],
            logit=self.logit[rows],
            label=self.label[rows],
        )


def union(codes: Codes, request: Ints, sizes: tuple[int, ...]) -> tuple[Ints, Ints]:
    """The distinct tokens of each request, and where the rows' own ones are.

    Parameters
    ----------
    codes : int32 [rows, levels]
        -1 where an item has no code.
    request : int64 [rows]
        Request of each row, 0 to the number of requests - 1.
    sizes : tuple of int
        Number of codes per level.

    Returns
    -------
    tokens : int64 [requests, tokens]
        ``1 + sizes before the level + code``, ascending; 0 is padding.
    own : int64 [rows, levels]
        Places in ``tokens``; -1 without a code.
    """
    requests, levels = int(request.max(initial=-1)) + 1, len(sizes)
    first = 1 + np.concatenate([[0], np.cumsum(sizes)])[:levels]
    has = codes[:, :levels] != NO_CODE
    stride = 1 + sum(sizes)
    key = (request[:, None] * stride + first + codes[:, :levels])[has]
    distinct, back = np.unique(key, return_inverse=True)
    of_request = distinct // stride
    starts = np.searchsorted(of_request, np.arange(requests))
    place = np.arange(len(distinct)) - starts[of_request]
    tokens = np.zeros((requests, int(place.max(initial=0)) + 1), dtype=np.int64)
    tokens[of_request, place] = distinct % stride
    own = np.full((len(codes), levels), -1, dtype=np.int64)
    own[has] = place[back.ravel()]
    return tokens, own


def user_vectors(data: Dataset, histories: npt.NDArray[np.integer], width: int) -> Floats:
    """Mean content vector of the items of histories, ``float32 [histories, width]``; 0 for an empty one."""
    items = data.history_items[histories]
    vectors = np.zeros((len(items), width), dtype=np.float32)
    if not data.items.content.shape[1]:
        return vectors
    content, there = data.items.content[items], items != PADDING
    total = (content * there[..., None]).sum(axis=1, dtype=np.float32)
    return np.asarray(total / np.maximum(there.sum(axis=1, keepdims=True), 1), dtype=np.float32)
