"""Semantic IDs: encoders, quantizers, immutable codebooks and the catalogue of their versions.

Encoders turn content vectors into item vectors, quantizers turn those into codes; both follow scikit-learn.

>>> import numpy as np
>>> from semantic_ids import ContentEncoder, ResidualKMeans
>>> x = np.random.default_rng(0).normal(size=(500, 32)).astype("float32")
>>> vectors = ContentEncoder(dim=16).fit_transform(x)
>>> codes = ResidualKMeans(sizes=(16, 8)).fit_transform(vectors)
>>> codes.shape
(500, 2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.lazy import lazy_names

if TYPE_CHECKING:
    from semantic_ids.catalog import Catalog
    from semantic_ids.code_stats import prefix_keys
    from semantic_ids.codebook import Codebook, load_codebook
    from semantic_ids.encoders import BehaviourEncoder, CollaborativeEncoder, ContentEncoder
    from semantic_ids.item_vectors import ItemVectors
    from semantic_ids.pairs.mining import ItemPairs
    from semantic_ids.quantizers import (
        RQVAE,
        OptimizedProductQuantizer,
        ProductQuantizer,
        ResidualKMeans,
        ResidualOPQ,
    )

__all__ = [
    "RQVAE",
    "BehaviourEncoder",
    "Catalog",
    "Codebook",
    "CollaborativeEncoder",
    "ContentEncoder",
    "ItemPairs",
    "ItemVectors",
    "OptimizedProductQuantizer",
    "ProductQuantizer",
    "ResidualKMeans",
    "ResidualOPQ",
    "load_codebook",
    "prefix_keys",
]

if not TYPE_CHECKING:  # a typo stays an error for type checkers
    __getattr__ = lazy_names(  # the feature definitions import the catalogue only
        __name__,
        {
            "Catalog": "semantic_ids.catalog",
            "Codebook": "semantic_ids.codebook",
            "load_codebook": "semantic_ids.codebook",
            "prefix_keys": "semantic_ids.code_stats",
            "BehaviourEncoder": "semantic_ids.encoders",
            "CollaborativeEncoder": "semantic_ids.encoders",
            "ContentEncoder": "semantic_ids.encoders",
            "ItemPairs": "semantic_ids.pairs.mining",
            "ItemVectors": "semantic_ids.item_vectors",
            "OptimizedProductQuantizer": "semantic_ids.quantizers",
            "ProductQuantizer": "semantic_ids.quantizers",
            "ResidualKMeans": "semantic_ids.quantizers",
            "ResidualOPQ": "semantic_ids.quantizers",
            "RQVAE": "semantic_ids.quantizers",
        },
    )
