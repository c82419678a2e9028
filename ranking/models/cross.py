"""Explicit feature crosses (DCN-v2, arXiv 2008.13535)."""

from __future__ import annotations

from torch import Tensor, nn


class CrossLayers(nn.Module):
    """``x_(l+1) = x_0 * (W_l x_l + b_l) + x_l``, full-rank, ``layers`` times.

    Parameters
    ----------
    dim : int
        Input and output width.
    layers : int
        Number of layers.
    """

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``float32 [rows, dim]`` to the same shape."""
        crossed = features
        for layer in self.layers:
            crossed = features * layer(crossed) + crossed
        return crossed
