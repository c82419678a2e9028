"""Item representations: how an item becomes a vector inside the ranker. One file and one line here each."""

from ranking.representations.base import ItemBatch, ItemShape, Representation
from ranking.representations.content import ContentRepresentation
from ranking.representations.id import IdRepresentation
from ranking.representations.prefix_ngram import PrefixNgramRepresentation

REPRESENTATIONS: dict[str, type[Representation]] = {
    "id": IdRepresentation,
    "content": ContentRepresentation,
    "prefix_ngram": PrefixNgramRepresentation,
}

__all__ = [
    "REPRESENTATIONS",
    "ContentRepresentation",
    "IdRepresentation",
    "ItemBatch",
    "ItemShape",
    "PrefixNgramRepresentation",
    "Representation",
]
