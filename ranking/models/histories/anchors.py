"""Anchor history (Hi-SAM, arXiv 2602.11799): target attention sees one vector per item of the history."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ranking.data.batch import Batch
from ranking.data.time_gaps import TIME_BUCKETS
from ranking.models.attention import TargetAttention, attend
from ranking.models.histories.base import History, Space
from ranking.models.parts import Attention
from ranking.models.spec import ModelSpec


class AnchorPooling(Attention):
    """Attention pooling of an item's tokens to its anchor: ``a = sum_t softmax_t(q . K token_t + bias_t) token_t``.

    Parameters
    ----------
    tokens, dim : int
        Number and width of the tokens.
    """

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(dim, dim, bias=False)
        self.query = nn.Parameter(torch.randn(dim) / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        """Anchors ``float32 [items, dim]`` of ``tokens`` float32 [items, tokens, dim]."""
        # Normalised: tokens of small embeddings would have equal weights for long, and almost no gradient.
        score = functional.layer_norm(self.key(tokens), tokens.shape[2:]) @ self.query + self.bias
        weights = torch.softmax(torch.zeros_like(score) if self.is_off else score, dim=1)
        if self.listener is not None:
            self.observe(weights[:, None], torch.ones_like(weights, dtype=torch.bool))
        return (weights[:, None] @ tokens).squeeze(1)


class AnchorsHistory(History):
    """Target attention of all tokens of the candidate over the anchors of the history.

    Tokens are ``dim`` wide: each representation is one, and codes are one each with ``sid_pool = "tokens"``. The tokens of a
    history item are pooled to its anchor once per batch, so that the attention costs the length of the history and not that
    times the tokens. Every token of the candidate asks with the same weights; the output is what each pools, and its product
    with the token. The paper's attention also has the candidate's own tokens among its keys; here they go to the head, and an
    empty history gives zeros. A single token is its own anchor. A space whose width is no multiple of ``dim`` is projected to
    the next one.
    """

    def __init__(self, modality_dim: int, behaviour_dim: int, spec: ModelSpec) -> None:
        super().__init__()
        self.width = spec.dim
        self.fits = nn.ModuleList(self._fit(each) for each in (modality_dim, behaviour_dim))
        self.tokens = sum(-(-each // spec.dim) for each in (modality_dim, behaviour_dim))
        self.dim = 2 * spec.heads * self.tokens * spec.dim
        self.pool = AnchorPooling(self.tokens, spec.dim) if self.tokens > 1 else None
        self.attention = TargetAttention.from_spec(spec.dim, spec, TIME_BUCKETS)

    def _fit(self, width: int) -> nn.Module:
        return nn.Linear(width, -(-width // self.width) * self.width) if width % self.width else nn.Identity()

    def forward(self, modality: Space, behaviour: Space, batch: Batch) -> Tensor:
        """See :class:`History`."""
        candidate, pooled, weights = self._attend(modality, behaviour, batch)
        self.attention.observe(weights, batch.mask)
        return torch.cat([pooled.flatten(1), (pooled * candidate[:, :, None]).flatten(1)], dim=1)

    def weights(self, modality: Space, behaviour: Space, batch: Batch) -> dict[str, Tensor]:
        """The attention weights, as ``attention``: the heads of the first token, of the second, and so on."""
        return {"attention": self._attend(modality, behaviour, batch)[2]}

    def tokens_of(self, modality: Tensor, behaviour: Tensor) -> Tensor:
        """Tokens ``float32 [n, tokens, dim]`` of vectors in both spaces, ``float32 [n, width of the space]``."""
        fitted = [fit(each) for fit, each in zip(self.fits, (modality, behaviour), strict=True)]
        return torch.cat(fitted, dim=1).view(modality.shape[0], self.tokens, self.width)

    def _attend(self, modality: Space, behaviour: Space, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of the candidates ``float32 [rows, tokens, dim]``, what each pools ``[rows, tokens, heads, dim]``, and the
        weights ``[rows, tokens * heads, length]``.
        """
        candidate = self.tokens_of(modality.candidate, behaviour.candidate)
        tokens = self.tokens_of(modality.items, behaviour.items)
        anchors = tokens.squeeze(1) if self.pool is None else self.pool(tokens)
        rows, heads = candidate.shape[0], self.attention.heads
        queries = self.attention.queries(candidate.flatten(0, 1)).reshape(rows, self.tokens * heads, self.width)
        scale = self.attention.key_scale(anchors)
        recency = self.attention.biases().repeat(1, self.tokens)
        pooled, weights = attend(
            queries,
            anchors,
            batch.history,
            batch.mask,
            batch.gap_bucket,
            recency,
            None if scale is None else scale.repeat(1, self.tokens),
        )
        return candidate, pooled.reshape(rows, self.tokens, heads, self.width), weights
