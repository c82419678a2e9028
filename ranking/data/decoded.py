"""Item vectors that are decoded from codes, so that a ranker needs no content vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from sidkit.core.arrays import Codes, Floats

if TYPE_CHECKING:
    from ranking.data.item_table import ItemTable

VectorsOf: TypeAlias = Literal["content", "decoded"]
"""Where item vectors come from: ``content``, the encoder's vectors of the items' content, or ``decoded``, their codes."""
CONTENT_VECTORS: VectorsOf = "content"
DECODED_VECTORS: VectorsOf = "decoded"


def decoded_items(items: ItemTable, decode: Callable[[Codes], Floats]) -> ItemTable:
    """The same item versions with vectors decoded from their codes instead of the encoder's.

    Parameters
    ----------
    items : ItemTable
        Any items; shuffled or random codes give the vectors of those codes.
    decode : callable
        Codes ``int32 [items, levels]``, -1 for items without codes -> vectors ``float32 [items, dim]``, zero for those:
        :meth:`semantic_ids.codebook.Codebook.decode`.
    """
    return dataclasses.replace(items, content=decode(items.codes), vectors=DECODED_VECTORS)
