"""Encoders map raw content vectors to the item vectors used by quantizers and rankers. Register a new one here."""

from semantic_ids.encoders.base import Encoder
from semantic_ids.encoders.behaviour import BehaviourEncoder
from semantic_ids.encoders.collaborative import CollaborativeEncoder
from semantic_ids.encoders.content import ContentEncoder

ENCODERS: dict[str, type[Encoder]] = {
    "content": ContentEncoder,
    "behaviour": BehaviourEncoder,
    "collaborative": CollaborativeEncoder,
}

__all__ = ["ENCODERS", "BehaviourEncoder", "CollaborativeEncoder", "ContentEncoder", "Encoder"]
