"""The attribute tree of an item as one text, for a model of sentences (the knowledge-tree prompt of HEKP4NBR)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from semantic_ids.pretrained.attributes import LISTED, existing
from semantic_ids.pretrained.cache import Missing
from semantic_ids.pretrained.text import TextEmbedder, TextSpec


class KgTextSpec(TextSpec):
    """Configuration of texts of attributes; all ``columns`` are read, and the default are title and category."""

    columns: tuple[str, ...] = ("title", "category")
    """Columns of ``items`` in the order of the text: texts, numbers, flags, or lists of them."""


class KgTextEmbedder(TextEmbedder):
    """Embeds texts such as ``title: trail shoe; category: shoes > running; brand: acme`` (arXiv 2312.15851).

    The paper turns the relations of a knowledge graph into a prompt, so that a language model can read items whose ids it
    does not know. Only columns of the item's own row are read, so the text is known from the row's time on.
    """

    loose = True

    @property
    def identity(self) -> Mapping[str, Any]:
        """What determines the vectors besides the text."""
        return {**super().identity, "kind": "kg_text"}

    def columns(self, available: Sequence[str]) -> tuple[str, ...]:
        """The columns of ``items`` to read.

        Raises
        ------
        TableSchemaError
            When they are missing.
        """
        return existing(self.spec.columns, available)

    def contents(self, rows: pa.Table) -> list[str | Missing]:
        """The text of each row: its non-blank columns with their names."""
        columns = {name: rows.column(name).to_pylist() for name in self.spec.columns}
        return [
            "; ".join(f"{name}: {text}" for name in columns if (text := _joined(columns[name][place])))
            or Missing("no text")
            for place in range(len(rows))
        ]


def _joined(text: str | None) -> str:
    return ", ".join(each.strip() for each in (text or "").split(LISTED) if each.strip())
