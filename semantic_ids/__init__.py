"""How item codes are made: encoders, quantizers, immutable codebooks, and the catalogue of their versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semantic_ids.catalog import Catalog
    from semantic_ids.codebook import Codebook
    from semantic_ids.item_vectors import ItemVectors

__all__ = ["Catalog", "Codebook", "ItemVectors"]

_HOMES = {
    "Catalog": "semantic_ids.catalog",
    "Codebook": "semantic_ids.codebook",
    "ItemVectors": "semantic_ids.item_vectors",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the feature definitions need the catalogue only."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
