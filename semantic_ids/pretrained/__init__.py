"""Embed item texts and images with pretrained models, and attributes without one; vectors are cached on disk by content."""

from semantic_ids.pretrained.attributes import AttributeSpec
from semantic_ids.pretrained.embed import EmbedReport, ModalityReport, Progress, embed_items
from semantic_ids.pretrained.image import ImageSpec
from semantic_ids.pretrained.kg_text import KgTextSpec
from semantic_ids.pretrained.text import TextSpec

__all__ = [
    "AttributeSpec",
    "EmbedReport",
    "ImageSpec",
    "KgTextSpec",
    "ModalityReport",
    "Progress",
    "TextSpec",
    "embed_items",
]
