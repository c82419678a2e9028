"""Where item vectors come from: content, or codes that are decoded, so that a ranker needs no content vectors."""

from __future__ import annotations

from typing import Literal, TypeAlias

VectorsOf: TypeAlias = Literal["content", "decoded"]
"""Where item vectors come from: ``content``, the encoder's vectors of the items' content, or ``decoded``, their codes."""
CONTENT_VECTORS: VectorsOf = "content"
DECODED_VECTORS: VectorsOf = "decoded"
