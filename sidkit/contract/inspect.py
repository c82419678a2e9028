"""Inference of the ``[source]`` settings from the data, for a new repository."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.column_names import check_columns
from sidkit.contract.mapped_source import MappedSource
from sidkit.contract.remedies import remedy
from sidkit.contract.rows import REASON, is_list, normalise, vector_of
from sidkit.contract.schemas import EMBEDDINGS, INTERACTIONS, ITEMS
from sidkit.contract.stated import further_keys
from sidkit.contract.vector_columns import is_bytes
from sidkit.core.config import FEATURE_NAME_RULE, Feedback, is_feature_name
from sidkit.core.errors import SidkitWarning, TableSchemaError

_CHUNK_ROWS = 200_000
_SHOWN = 3
_BYTES = '; state the type of their numbers below [source.vectors] in sidkit.toml (dtype = "float64"), or convert them'
_NO_VECTORS = (
    "item_embeddings is missing: arms that read content or codes are skipped (modalities = []). `sidkit data embed` computes "
    "vectors of texts and images"
)
_NO_CREATED_AT = (
    "items has no column created_at: an item counts as created at its first interaction, or at the last one of the log if it "
    'has none (missing_created_at = "first_interaction")'
)


@dataclass(frozen=True)
class SourceFacts:
    """Settings inferred from the data.

    Attributes
    ----------
    modalities, feedback, conversions
        Keys of ``[source]`` in ``sidkit.toml``.
    left_out : tuple of str
        A message for each column of ``item_embeddings`` that is ignored because it has no vectors, and for each table or
        column that is missing.
    further : mapping
        Other keys of ``[source]``: those that the user states, and what replaces a missing column.
    """

    modalities: tuple[str, ...]
    feedback: Feedback
    conversions: bool
    left_out: tuple[str, ...] = ()
    further: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """The settings as keys of ``[source]``."""
        inferred = {"modalities": self.modalities, "feedback": self.feedback, "conversions": self.conversions}
        return {**inferred, **({"further": dict(self.further)} if self.further else {})}

    def warn(self) -> None:
        """Issue a :class:`SidkitWarning` for each ignored column."""
        for line in self.left_out:
            warnings.warn(line, SidkitWarning, stacklevel=2)


def inspect_source(source: MappedSource) -> SourceFacts:
    """Infer the modalities, and whether the log has negatives and conversions.

    Raises
    ------
    TableSchemaError
        When a required column is missing or has the wrong type, or no column has vectors.
    """
    columns = source.columns(INTERACTIONS.name)
    check_columns(list(columns), INTERACTIONS)
    negatives, conversions = 0, False
    wanted = [column.name for column in INTERACTIONS.columns if column.required]
    wanted += [name for name in ("position", "converted", "rating") if name in columns]
    for batch in source.batches(INTERACTIONS.name, wanted, _CHUNK_ROWS):
        chunk = normalise(batch, INTERACTIONS)
        chunk = chunk.filter(pc.is_null(chunk[REASON]))  # ignore rejected rows
        negatives += int(np.count_nonzero(np.asarray(pc.equal(chunk["label"], 0.0))))
        conversions |= "converted" in columns and chunk["converted"].null_count < len(chunk)
    modalities, left_out = _modalities(source) if source.has(EMBEDDINGS.name) else ((), (_NO_VECTORS,))
    feedback: Feedback = "impressions" if negatives else "positives_only"
    stated, further = source.settings, further_keys(source.settings)
    if "created_at" not in source.columns(ITEMS.name) and "missing_created_at" not in stated.model_fields_set:
        further["missing_created_at"] = "first_interaction"
        left_out = (*left_out, _NO_CREATED_AT)
    return SourceFacts(
        stated.modalities if "modalities" in stated.model_fields_set else modalities,
        stated.feedback if "feedback" in stated.model_fields_set else feedback,
        stated.conversions if "conversions" in stated.model_fields_set else conversions,
        left_out,
        further,
    )


def _modalities(source: MappedSource) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the vector columns, and a message for each other column."""
    columns = source.columns(EMBEDDINGS.name)
    check_columns(list(columns), EMBEDDINGS)
    candidates = [name for name in columns if EMBEDDINGS.column(name) is None]
    head = next(iter(source.batches(EMBEDDINGS.name, candidates, 1000)), None) if candidates else None
    stated = {name: columns[name] for name in candidates}
    if head is not None:
        stated |= {name: head.schema.field(name).type for name in candidates if stated[name] is None}
    chosen = tuple(name for name, kind in stated.items() if kind is not None and _holds_vectors(kind, head, name))
    left_out = {name: kind for name, kind in stated.items() if name not in chosen}
    lines = {
        name: f"{_BYTES if is_bytes(kind) else ''}. For example: {remedy('vector', name, _plain(head.column(name)))}"
        if head is not None and kind is not None and _may_hold_vectors(kind)
        else ""
        for name, kind in left_out.items()
    }
    if not chosen:
        shown = [f"{name} ({kind})" for name, kind in list(stated.items())[:_SHOWN]]
        listed = ", ".join(shown + [f"{len(stated) - _SHOWN} more"] * (len(stated) > _SHOWN)) or "no further column"
        line = next(filter(None, lines.values()), "")
        numbers = [name for name, kind in stated.items() if kind is not None and _is_number(kind)]
        if not line and len(numbers) > 1:
            first = f'df = df[["item_id"]].assign(text=list(df[{numbers[:1]!r} + [...]].to_numpy("float32")))'
            if len(numbers) == len(stated):
                first = 'df = df[["item_id"]].assign(text=list(df.drop(columns="item_id").to_numpy("float32")))'
            line = f". For example, to pack one column per dimension: {first}"
        raise TableSchemaError(
            EMBEDDINGS.name, f"expected a column of vectors (a list of float32 per row), got {listed}{line}"
        )
    unusable = [name for name in chosen if not is_feature_name(name)]
    if unusable:
        raise TableSchemaError(
            EMBEDDINGS.name,
            f"column {', '.join(map(repr, unusable))} has vectors but is not a valid feature name ({FEATURE_NAME_RULE}); "
            f"rename it in the source. For example: df = df.rename(columns={{{unusable[0]!r}: 'vector'}})",
        )
    return chosen, tuple(
        f"column {name!r} of {EMBEDDINGS.name} ({kind or 'of several types'}) is ignored: expected vectors (a list of "
        f"float32 per row){lines[name]}"
        for name, kind in left_out.items()
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _holds_vectors(kind: pa.DataType, head: pa.RecordBatch | None, name: str) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if is_list(kind):
        return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    if (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and head is not None:
        # Databases without array types store vectors as JSON text.
        texts = [text for text in head.column(name).to_pylist() if text is not None]
        return 2 * sum(vector_of(text) is not None for text in texts) > len(texts)
    return False


def _may_hold_vectors(kind: pa.DataType) -> bool:
    """Whether a type may encode vectors that one line of pandas can convert."""
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    return bool(binary or text or is_list(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind))


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
