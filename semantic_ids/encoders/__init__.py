"""Encoders map raw content vectors to the item vectors used by quantizers and rankers. Register a new one here."""

from semantic_ids.encoders.attribute_graph import AttributeGraphEncoder
from semantic_ids.encoders.base import Encoder
from semantic_ids.encoders.behaviour import BehaviourEncoder
from semantic_ids.encoders.behaviour_mass import BehaviourMassEncoder
from semantic_ids.encoders.collaborative import CollaborativeEncoder
from semantic_ids.encoders.content import ContentEncoder
from semantic_ids.encoders.whitened_views import WhitenedViewsEncoder
from sidkit.core.plugins import Registry

ENCODERS: dict[str, type[Encoder]] = {
    "content": ContentEncoder,
    "behaviour": BehaviourEncoder,
    "behaviour_mass": BehaviourMassEncoder,
    "collaborative": CollaborativeEncoder,
    "whitened_views": WhitenedViewsEncoder,
    "attribute_graph": AttributeGraphEncoder,
}

ENCODER_NAMES: Registry[Encoder] = Registry(
    "encoder", "sidkit.encoders", "semantic_ids.encoders.base:Encoder", ENCODERS
)
"""What ``[codebook] encoder`` of a preset may name: the above, and plug-ins (:mod:`sidkit.core.plugins`)."""

__all__ = [
    "ENCODERS",
    "ENCODER_NAMES",
    "AttributeGraphEncoder",
    "BehaviourEncoder",
    "BehaviourMassEncoder",
    "CollaborativeEncoder",
    "ContentEncoder",
    "Encoder",
    "WhitenedViewsEncoder",
]
