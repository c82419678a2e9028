"""Semantic IDs: encoders, quantizers, immutable codebooks and the catalogue of their versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.lazy import lazy_names

if TYPE_CHECKING:
    from semantic_ids.catalog import Catalog
    from semantic_ids.codebook import Codebook
    from semantic_ids.item_vectors import ItemVectors

__all__ = ["Catalog", "Codebook", "ItemVectors"]

if not TYPE_CHECKING:  # a typo stays an error for type checkers
    __getattr__ = lazy_names(  # the feature definitions import the catalogue only
        __name__,
        {
            "Catalog": "semantic_ids.catalog",
            "Codebook": "semantic_ids.codebook",
            "ItemVectors": "semantic_ids.item_vectors",
        },
    )
