"""Quantizers: from item vectors to codes. One file and one line here each."""

from semantic_ids.quantizers.base import Quantizer
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans

QUANTIZERS: dict[str, type[Quantizer]] = {"residual_kmeans": ResidualKMeans}

__all__ = ["QUANTIZERS", "Quantizer", "ResidualKMeans"]
