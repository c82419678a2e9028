"""Attributes of items as vectors with one column per attribute, for the encoder ``attribute_graph``; no model is needed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from semantic_ids.pretrained.cache import Missing, Vectors
from sidkit.contract.attribute_values import SEPARATORS
from sidkit.core.errors import TableSchemaError
from sidkit.core.section import Section

LISTED = "\x1f"
"""Separates the elements of a list in its text."""


class AttributeSpec(Section):
    """Configuration of vectors of attributes: their columns and their width."""

    columns: tuple[str, ...] = ("attributes",)
    """Columns of ``items``: texts, numbers, flags, or lists of them. A text with ``|``, ``;`` or ``,`` lists several values."""
    width: int = Field(default=256, ge=8, le=8192)
    """Columns of a vector. An attribute has one of them, by a hash; with twice as many columns as attributes, about a fifth of
    the attributes share theirs."""


class AttributeEmbedder:
    """Attributes such as ``brand=acme`` as vectors ``float32 [width]``: 1 in the column of each attribute, else 0."""

    loose = True
    """Whether columns that are no texts are read too, as texts."""
    group = 4096
    folder = "attributes"

    def __init__(self, spec: AttributeSpec) -> None:
        self.spec = spec

    @property
    def identity(self) -> Mapping[str, Any]:
        """What determines the vectors besides the attributes."""
        return {"kind": "attributes", "width": self.spec.width}

    def columns(self, available: Sequence[str]) -> tuple[str, ...]:
        """The columns of ``items`` to read.

        Raises
        ------
        TableSchemaError
            When they are missing.
        """
        return existing(self.spec.columns, available)

    def contents(self, rows: pa.Table) -> list[tuple[str, ...] | Missing]:
        """The attributes of each row, in alphabetical order."""
        found: list[set[str]] = [set() for _ in range(len(rows))]
        for name in self.spec.columns:
            for place, text in enumerate(rows.column(name).to_pylist()):
                found[place] |= {f"{name}={value}" for value in values_of(text)}
        return [tuple(sorted(each)) if each else Missing("no attributes") for each in found]

    def key(self, content: tuple[str, ...]) -> bytes | Missing:
        """SHA-256 of the attributes."""
        return hashlib.sha256(LISTED.join(content).encode()).digest()

    def vectors(self, contents: Sequence[tuple[str, ...]], keys: Sequence[bytes]) -> Vectors:
        """Vectors ``float32 [contents, width]``."""
        matrix = np.zeros((len(contents), self.spec.width), dtype=np.float32)
        for place, attributes in enumerate(contents):
            matrix[place, [self.column_of(each) for each in attributes]] = 1
        return Vectors(matrix, np.zeros(len(contents), dtype=np.bool_), [None] * len(contents))

    def column_of(self, attribute: str) -> int:
        """The column of an attribute such as ``brand=acme``."""
        digest = hashlib.blake2b(attribute.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") % self.spec.width


def existing(columns: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """The columns, if the table has all of them.

    Raises
    ------
    TableSchemaError
        When some are missing.
    """
    missing = [name for name in columns if name not in available]
    if missing:
        raise TableSchemaError(
            "items",
            f"column {', '.join(map(repr, missing))} is missing; the table has {', '.join(available)}. Name other columns",
        )
    return tuple(columns)


def values_of(text: str | None) -> list[str]:
    """The values that a text lists, stripped and in lower case; empty for a missing or blank one."""
    if text is None:
        return []
    separator = next((each for each in (LISTED, *SEPARATORS) if each in text), LISTED)
    return [value for each in text.split(separator) if (value := re.sub(r"\s+", " ", each).strip().lower())]
