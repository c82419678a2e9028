"""Base class of re-rankers, and the requests that they read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Literal, Self

import torch
from torch import Tensor, nn

from ranking.models.rerank_spec import RerankSpec

LEAST_DEVIATION = 1e-6
MOST_DEVIATIONS = 5.0
"""The ranker's vectors are clipped at so many standard deviations, as numeric features are."""
PADDING_TOKEN = 0
"""Token of padding; those of codes start at 1."""


@dataclass(frozen=True)
class RerankShape:
    """Sizes that a re-ranker is built for.

    Attributes
    ----------
    sizes : tuple of int
        Number of codes per level.
    vector_dim : int
        Width of the ranker's vector of a candidate.
    user_dim : int
        Width of the user's vector.
    """

    sizes: tuple[int, ...]
    vector_dim: int
    user_dim: int

    @property
    def tokens(self) -> int:
        """Number of tokens: padding, and one per code of each level."""
        return 1 + sum(self.sizes)


@dataclass(frozen=True)
class RequestBatch:
    """Some whole requests. Rows are candidates, in any order.

    Attributes
    ----------
    tokens : int64 [requests, tokens]
        The distinct tokens (level, code) of all candidates of a request, ascending; 0 is padding.
    user : float32 [requests, user_dim]
        Mean content vector of the items in the user's history; 0 for an empty history.
    request : int64 [rows]
        Request of each row.
    own : int64 [rows, levels]
        Places of the candidate's own tokens in ``tokens``; -1 where it has no code.
    vector : float32 [rows, vector_dim]
        The ranker's last hidden layer.
    logit : float32 [rows]
        The ranker's logit.
    label : float32 [rows]
    """

    tokens: Tensor
    user: Tensor
    request: Tensor
    own: Tensor
    vector: Tensor
    logit: Tensor
    label: Tensor

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device."""
        return type(self)(*(getattr(self, each.name).to(device) for each in fields(self)))


class Context(nn.Module):
    """Passes on what candidates read from the other candidates of their request, or replaces it in evaluation; it has no
    parameters.
    """

    off: Literal["zero", "mean"] | None = None

    def forward(self, read: Tensor) -> Tensor:
        """Map ``float32 [rows, dim]`` to the same shape: unchanged, zeros, or the mean over the rows."""
        if self.off is None or self.training:
            return read
        return torch.zeros_like(read) if self.off == "zero" else read.mean(dim=0, keepdim=True).expand_as(read)


class Reranker(nn.Module, ABC):
    """Changes the logits of the candidates of a request, given all of them.

    The change of a candidate must not depend on the order of the candidates, on other requests of the batch or on padding, and
    must be 0 before training: an arm that learns nothing scores as its ranker.

    Parameters
    ----------
    shape : RerankShape
        Sizes of codes and vectors.
    spec : RerankSpec
        Settings.
    """

    context: Context
    """What a candidate reads from the others passes through it."""

    def __init__(self, shape: RerankShape, spec: RerankSpec) -> None:
        super().__init__()
        self.shape, self.spec = shape, spec
        self.context = Context()
        self.register_buffer("mean", torch.zeros(shape.vector_dim + 1))
        self.register_buffer("scale", torch.ones(shape.vector_dim + 1))

    mean: Tensor
    scale: Tensor

    def fit_scale(self, vector: Tensor, logit: Tensor) -> None:
        """Standardise :meth:`ranked` by the moments of training rows: ``float32 [rows, vector_dim]`` and ``float32 [rows]``."""
        deviation, mean = torch.std_mean(torch.cat([vector, logit[:, None]], dim=1).double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > LEAST_DEVIATION, 1 / deviation.clamp(min=LEAST_DEVIATION), 0.0))

    def ranked(self, batch: RequestBatch) -> Tensor:
        """The ranker's vector and logit of each candidate, standardised, ``float32 [rows, vector_dim + 1]``."""
        scaled = (torch.cat([batch.vector, batch.logit[:, None]], dim=1) - self.mean) * self.scale
        return scaled.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)

    @abstractmethod
    def forward(self, batch: RequestBatch) -> Tensor:
        """Changes of the logits, ``float32 [rows]``."""

    def loss(self, batch: RequestBatch, scores: Tensor) -> Tensor:
        """Loss of a training batch, given its logits ``float32 [rows]`` after the change, a scalar.

        The list-wise loss of a request is the cross-entropy between the softmax of its logits and its labels, divided by their
        sum; its mean is over requests with both labels. The log-loss of rows is added with the weight ``spec.pointwise``.
        """
        listwise = request_cross_entropy(scores, batch.label, batch.request, len(batch.tokens))
        pointwise = nn.functional.binary_cross_entropy_with_logits(scores, batch.label)
        return listwise + self.spec.pointwise * pointwise


def request_cross_entropy(scores: Tensor, label: Tensor, request: Tensor, requests: int) -> Tensor:
    """Mean over requests with both labels of ``-sum_j (y_j / sum y) log softmax(scores)_j``; 0 without such requests.

    Parameters
    ----------
    scores, label : float32 [rows]
    request : int64 [rows]
        Request of each row.
    requests : int
        Number of requests.
    """
    zeros = scores.new_zeros(requests)
    count = zeros.index_add(0, request, torch.ones_like(scores))
    positives = zeros.index_add(0, request, label)
    both = (positives > 0) & (positives < count)
    largest = scores.new_full((requests,), -torch.inf).scatter_reduce(0, request, scores.detach(), "amax")
    shifted = scores - largest[request]
    log_total = zeros.index_add(0, request, shifted.exp()).clamp(min=1e-30).log()
    log_share = shifted - log_total[request]
    entropy = -zeros.index_add(0, request, label / positives.clamp(min=1)[request] * log_share)
    return (entropy * both).sum() / both.sum().clamp(min=1)
