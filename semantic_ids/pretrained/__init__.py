"""Item texts and pictures to vectors with pretrained models, kept on disk by content so that only what is new is computed."""

from semantic_ids.pretrained.embed import EmbedReport, ModalityReport, Progress, embed_items
from semantic_ids.pretrained.image import ImageSpec
from semantic_ids.pretrained.text import TextSpec

__all__ = ["EmbedReport", "ImageSpec", "ModalityReport", "Progress", "TextSpec", "embed_items"]
