"""Item representations: how an item becomes a vector inside the ranker. One file and one line here each.

The registry names the classes without importing them, so that a preset can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ranking.representations.base import Representation

REPRESENTATIONS = {
    "id": "ranking.representations.id:IdRepresentation",
    "content": "ranking.representations.content:ContentRepresentation",
    "prefix_ngram": "ranking.representations.prefix_ngram:PrefixNgramRepresentation",
}

__all__ = ["REPRESENTATIONS", "representation"]


def representation(name: str) -> type[Representation]:
    """The class of a representation.

    Raises
    ------
    KeyError
        When there is none of that name.
    """
    module, _, kind = REPRESENTATIONS[name].partition(":")
    return cast("type[Representation]", getattr(importlib.import_module(module), kind))
