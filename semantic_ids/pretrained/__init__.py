"""Embed item texts and images with pretrained models; vectors are cached on disk by content."""

from semantic_ids.pretrained.embed import EmbedReport, ModalityReport, Progress, embed_items
from semantic_ids.pretrained.image import ImageSpec
from semantic_ids.pretrained.text import TextSpec

__all__ = ["EmbedReport", "ImageSpec", "ModalityReport", "Progress", "TextSpec", "embed_items"]
