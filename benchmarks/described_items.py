"""Attributes of items taken from their description, as a shop would write them into its own ``items`` table.

UCI Online Retail has no attribute but the price; its descriptions name products in a few words, such as ``SET OF 4 KNICK KNACK
TINS DOILY`` or ``RED RETROSPOT LUNCH BAG``. Nothing here reads the log, so the columns are known when the item is.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LEAST_ITEMS = 10
"""Items that a word must describe; rarer words say little that the id does not."""
COLOURS = [
    "red",
    "blue",
    "green",
    "pink",
    "white",
    "black",
    "ivory",
    "cream",
    "silver",
    "gold",
    "purple",
    "yellow",
    "orange",
    "brown",
    "grey",
    "gray",
    "turquoise",
    "lilac",
]
MATERIALS = [
    "wood",
    "wooden",
    "metal",
    "glass",
    "ceramic",
    "paper",
    "cotton",
    "felt",
    "tin",
    "enamel",
    "zinc",
    "porcelain",
    "plastic",
    "wicker",
    "leather",
    "silk",
]
_SKIPPED = frozenset(
    [
        "and",
        "for",
        "from",
        "the",
        "with",
        "your",
        "its",
        "our",
        "set",
        "pack",
        "box",
        "assorted",
        "small",
        "large",
        "mini",
        "medium",
    ]
)
_SIZE = re.compile(r"\b(?:set|pack|box)(?:\s*/|\s+of)?\s*(\d+)\b|^(\d+)\s")
BANDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Bounds of the price bands, in pounds."""


def described(items: pa.Table) -> pa.Table:
    """Items with the columns ``words``, ``noun``, ``colour``, ``material``, ``set_size`` and ``price_band``.

    Parameters
    ----------
    items : pyarrow.Table
        With ``title`` and ``price``.
    """
    titles = [title.lower() for title in items.column("title").to_pylist()]
    tokens = [re.findall(r"[a-z]{3,}", title) for title in titles]
    counts = Counter(word for each in tokens for word in set(each))
    frequent = {word for word, count in counts.items() if count >= LEAST_ITEMS} - _SKIPPED
    sizes = [_SIZE.search(title) for title in titles]
    price = items.column("price").to_numpy(zero_copy_only=False)
    columns: dict[str, Any] = {
        "words": pa.array([[word for word in dict.fromkeys(each) if word in frequent] for each in tokens]),
        "noun": pa.array([next((word for word in reversed(each) if word in frequent), None) for each in tokens]),
        "colour": pa.array([_first(each, COLOURS) for each in tokens], pa.string()),
        "material": pa.array([_first(each, MATERIALS) for each in tokens], pa.string()),
        "set_size": pa.array([None if found is None else float(found[1] or found[2]) for found in sizes]),
        "price_band": pa.array([f"band_{band}" for band in np.searchsorted(BANDS, price)]),
    }
    for name, column in columns.items():
        items = items.append_column(name, column)
    return items


def write_described(source: Path, folder: Path) -> Path:
    """Copy a source, its items with the columns of :func:`described`; an existing copy is used again."""
    if not (folder / "items.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("interactions.parquet", "item_embeddings.parquet"):
            shutil.copyfile(source / name, folder / name)
        pq.write_table(described(pq.read_table(source / "items.parquet")), folder / ".items.parquet")
        (folder / ".items.parquet").rename(folder / "items.parquet")
    return folder


def _first(tokens: Sequence[str], words: Sequence[str]) -> str | None:
    return next((word for word in tokens if word in words), None)
