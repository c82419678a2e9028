"""CROSS-JEM's joint scoring of all candidates of a request, over the union of their code tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranking.models.rerank_spec import RerankSpec
from ranking.models.rerankers.base import PADDING_TOKEN, RequestBatch, Reranker, RerankShape
from sidkit.core.errors import ConfigError

_START = 0.05
"""Standard deviation of the initial token vectors, and of the weights of their logits."""


class JointReranker(Reranker):
    """One pass per request over the user and the set union of the candidates' tokens (arXiv 2409.09795).

    Tokens are (level, code) pairs, each once per request, however many candidates share it. To the vector of each is added a
    multiple of the highest logit among the candidates that have it: what else is on a page matters as far as it is liked. A
    transformer reads [user; union] without positions. A candidate's change of the logit is ``MLP([mean of its own tokens'
    outputs; its ranker vector])``. The paper scores short texts by the tokens of their words. Codes as tokens, their highest
    logits, the ranker's vector and the change of its logit are ours, and so is the loss (:meth:`Reranker.loss`), as the paper's
    ranking probability loss is not known in detail.

    Parameters
    ----------
    shape : RerankShape
        Sizes of codes and vectors.
    spec : RerankSpec
        Widths, layers and dropout.

    Raises
    ------
    ConfigError
        When the width is no multiple of the number of heads.
    """

    def __init__(self, shape: RerankShape, spec: RerankSpec) -> None:
        super().__init__(shape, spec)
        if spec.dim % spec.heads:
            raise ConfigError(
                f"expected rerank.dim to be a multiple of rerank.heads, got {spec.dim} and {spec.heads}; change one of them"
            )
        self.token = nn.Embedding(shape.tokens, spec.dim, padding_idx=PADDING_TOKEN)
        with torch.no_grad():
            self.token.weight[1:].normal_(std=_START)
        self.strength = nn.Linear(1, spec.dim, bias=False)
        nn.init.normal_(self.strength.weight, std=_START)  # larger, and tokens differ by the sign of their logit alone
        self.user = nn.Linear(shape.user_dim, spec.dim)
        self.layers = nn.ModuleList(_Layer(spec) for _ in range(spec.layers))
        self.vector = nn.Linear(shape.vector_dim + 1, spec.dim)
        last = nn.Linear(spec.dim, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(2 * spec.dim, spec.dim), nn.ReLU(), nn.Dropout(spec.dropout), last)

    def forward(self, batch: RequestBatch) -> Tensor:
        """See :class:`Reranker`."""
        return self.change(self.context(self.read(batch)), batch)

    def read(self, batch: RequestBatch) -> Tensor:
        """Mean output of each candidate's own tokens, ``float32 [rows, dim]``; 0 for a candidate without codes."""
        tokens = self.token(batch.tokens) + self.strength(self.highest(batch)[..., None])
        outputs = torch.cat([self.user(batch.user)[:, None], tokens], dim=1)
        first = torch.ones_like(batch.tokens[:, :1], dtype=torch.bool)
        mask = torch.cat([first, batch.tokens != PADDING_TOKEN], dim=1)
        for layer in self.layers:
            outputs = layer(outputs, mask)
        has = batch.own >= 0
        own = outputs[batch.request[:, None], batch.own + 1] * has[..., None]  # 0 is the user, and a missing code
        mean: Tensor = own.sum(dim=1) / has.sum(dim=1, keepdim=True).clamp(min=1)
        return mean

    def highest(self, batch: RequestBatch) -> Tensor:
        """The highest standardised logit of the candidates that have a token, ``float32 [requests, tokens]``; 0 for padding."""
        requests, length = batch.tokens.shape
        has = batch.own >= 0
        place = (batch.request[:, None] * length + batch.own)[has]
        logit = self.ranked(batch)[:, -1:].expand_as(batch.own)[has]
        found = logit.new_full((requests * length,), -torch.inf).scatter_reduce(0, place, logit, "amax")
        return found.masked_fill(found.isinf(), 0.0).view(requests, length)

    def change(self, read: Tensor, batch: RequestBatch) -> Tensor:
        """Changes of the logits ``float32 [rows]``, of what candidates read and their own vectors."""
        change: Tensor = self.head(torch.cat([read, self.vector(self.ranked(batch))], dim=1))
        return change.squeeze(1)


class _Layer(nn.Module):
    """A transformer layer with normalised inputs and without positions."""

    def __init__(self, spec: RerankSpec) -> None:
        super().__init__()
        self.heads, self.share = spec.heads, spec.dropout
        self.before, self.between = nn.LayerNorm(spec.dim), nn.LayerNorm(spec.dim)
        self.mix, self.out = nn.Linear(spec.dim, 3 * spec.dim), nn.Linear(spec.dim, spec.dim)
        self.wide = nn.Sequential(
            nn.Linear(spec.dim, 2 * spec.dim), nn.ReLU(), nn.Dropout(spec.dropout), nn.Linear(2 * spec.dim, spec.dim)
        )

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Map ``float32 [requests, length, dim]`` to the same shape; ``mask`` bool [requests, length] marks what is read."""
        requests, length, dim = inputs.shape
        mixed = self.mix(self.before(inputs)).view(requests, length, 3, self.heads, dim // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        share = self.share if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None, None], dropout_p=share
        )
        outputs = inputs + self.out(attended.transpose(1, 2).reshape(requests, length, dim))
        result: Tensor = outputs + self.wide(self.between(outputs))
        return result
