"""Quantizers map item vectors to codes. Register a new one here."""

from semantic_ids.quantizers.base import Quantizer, roundtrip_share
from semantic_ids.quantizers.controls import RandomCodes, ShuffledCodes
from semantic_ids.quantizers.opq import OptimizedProductQuantizer
from semantic_ids.quantizers.pq import ProductQuantizer
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans
from semantic_ids.quantizers.rq_opq import ResidualOPQ
from semantic_ids.quantizers.rq_vae import RQVAE

QUANTIZERS: dict[str, type[Quantizer]] = {
    "residual_kmeans": ResidualKMeans,
    "pq": ProductQuantizer,
    "opq": OptimizedProductQuantizer,
    "rq_opq": ResidualOPQ,
    "rq_vae": RQVAE,
    "random": RandomCodes,
    "shuffled": ShuffledCodes,
}

__all__ = [
    "QUANTIZERS",
    "RQVAE",
    "OptimizedProductQuantizer",
    "ProductQuantizer",
    "Quantizer",
    "RandomCodes",
    "ResidualKMeans",
    "ResidualOPQ",
    "ShuffledCodes",
    "roundtrip_share",
]
