"""Quantizers map item vectors to codes. Register a new one here."""

from semantic_ids.quantizers.base import Quantizer, roundtrip_share
from semantic_ids.quantizers.opq import OptimizedProductQuantizer
from semantic_ids.quantizers.parallel_aspects import ParallelAspects
from semantic_ids.quantizers.pq import ProductQuantizer
from semantic_ids.quantizers.psrq import PrefixSemanticQuantizer
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans
from semantic_ids.quantizers.rk_fsq import ResidualKMeansFSQ
from semantic_ids.quantizers.rq_opq import ResidualOPQ
from semantic_ids.quantizers.rq_vae import RQVAE
from semantic_ids.quantizers.shared_private import SharedPrivate
from sidkit.core.plugins import Registry

QUANTIZERS: dict[str, type[Quantizer]] = {
    "residual_kmeans": ResidualKMeans,
    "pq": ProductQuantizer,
    "opq": OptimizedProductQuantizer,
    "rq_opq": ResidualOPQ,
    "rq_vae": RQVAE,
    "parallel_aspects": ParallelAspects,
    "psrq": PrefixSemanticQuantizer,
    "rk_fsq": ResidualKMeansFSQ,
    "shared_private": SharedPrivate,
}

QUANTIZER_NAMES: Registry[Quantizer] = Registry(
    "quantizer", "sidkit.quantizers", "semantic_ids.quantizers.base:Quantizer", QUANTIZERS, takes=("sizes",)
)
"""What ``[codebook] quantizer`` of a preset may name: the above, and plug-ins (:mod:`sidkit.core.plugins`)."""

__all__ = [
    "QUANTIZERS",
    "QUANTIZER_NAMES",
    "RQVAE",
    "OptimizedProductQuantizer",
    "ParallelAspects",
    "PrefixSemanticQuantizer",
    "ProductQuantizer",
    "Quantizer",
    "ResidualKMeans",
    "ResidualKMeansFSQ",
    "ResidualOPQ",
    "SharedPrivate",
    "roundtrip_share",
]
