"""What a source holds, before any settings exist: enough to write a repo's ``[source]``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.column_names import check_columns
from sidkit.contract.reader import Source
from sidkit.contract.remedies import remedy
from sidkit.contract.rows import REASON, is_list, normalise, vector_of
from sidkit.contract.schemas import EMBEDDINGS, INTERACTIONS
from sidkit.core.config import FEATURE_NAME_RULE, Feedback, is_feature_name
from sidkit.core.errors import TableSchemaError

_CHUNK_ROWS = 200_000


@dataclass(frozen=True)
class SourceFacts:
    """What the data decides.

    Attributes
    ----------
    modalities, feedback, conversions
        The keys of ``[source]`` in ``sidkit.toml``.
    left_out : tuple of str
        A line for each further column of ``item_embeddings`` that holds no vectors.
    """

    modalities: tuple[str, ...]
    feedback: Feedback
    conversions: bool
    left_out: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """The keys of ``[source]``."""
        return {"modalities": self.modalities, "feedback": self.feedback, "conversions": self.conversions}

    def warn(self) -> None:
        """Say on stderr what was left out."""
        for line in self.left_out:
            sys.stderr.write(f"warning: {line}\n")


def inspect_source(source: Source) -> SourceFacts:
    """Find the modalities, whether there are negatives, and whether there are conversions.

    Raises
    ------
    TableSchemaError
        When a required column is missing or of a wrong type, or no column holds vectors.
    """
    found = source.columns(INTERACTIONS.name)
    check_columns(list(found), INTERACTIONS)
    negatives, conversions = 0, False
    wanted = [column.name for column in INTERACTIONS.columns if column.required]
    wanted += [name for name in ("position", "converted", "rating") if name in found]
    for batch in source.batches(INTERACTIONS.name, wanted, _CHUNK_ROWS):
        chunk = normalise(batch, INTERACTIONS)
        chunk = chunk.filter(pc.is_null(chunk[REASON]))  # a reject decides nothing
        negatives += int(np.count_nonzero(np.asarray(pc.equal(chunk["label"], 0.0))))
        conversions |= "converted" in found and chunk["converted"].null_count < len(chunk)
    modalities, left_out = _modalities(source)
    return SourceFacts(modalities, "impressions" if negatives else "positives_only", conversions, left_out)


def _modalities(source: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that hold vectors, and a line for each that does not."""
    found = source.columns(EMBEDDINGS.name)
    check_columns(list(found), EMBEDDINGS)
    candidates = [name for name in found if EMBEDDINGS.column(name) is None]
    head = next(iter(source.batches(EMBEDDINGS.name, candidates, 1000)), None) if candidates else None
    stated = {name: found[name] for name in candidates}
    if head is not None:
        stated |= {name: head.schema.field(name).type for name in candidates if stated[name] is None}
    chosen = tuple(name for name, kind in stated.items() if kind is not None and _holds_vectors(kind, head, name))
    left_out = {name: kind for name, kind in stated.items() if name not in chosen}
    lines = {
        name: f". For example: {remedy('vector', name, _plain(head.column(name)))}"
        if head is not None and kind is not None and _may_hold_vectors(kind)
        else ""
        for name, kind in left_out.items()
    }
    if not chosen:
        listed = ", ".join(f"{name} ({kind})" for name, kind in stated.items()) or "no further column"
        line = next(filter(None, lines.values()), "")
        raise TableSchemaError(
            EMBEDDINGS.name, f"no column holds vectors (a list of float32 per row); found {listed}{line}"
        )
    unusable = [name for name in chosen if not is_feature_name(name)]
    if unusable:
        raise TableSchemaError(
            EMBEDDINGS.name,
            f"column {', '.join(map(repr, unusable))} holds vectors and cannot be the name of a feature ({FEATURE_NAME_RULE}); "
            f"rename it in the source. For example: df = df.rename(columns={{{unusable[0]!r}: 'vector'}})",
        )
    return chosen, tuple(
        f"column {name!r} of {EMBEDDINGS.name} ({kind or 'of several types'}) is left out: it holds no vectors (a list of "
        f"float32 per row){lines[name]}"
        for name, kind in left_out.items()
    )


def _holds_vectors(kind: pa.DataType, head: pa.RecordBatch | None, name: str) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if is_list(kind):
        return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    if (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and head is not None:
        # A database without arrays holds JSON text.
        texts = [text for text in head.column(name).to_pylist() if text is not None]
        return 2 * sum(vector_of(text) is not None for text in texts) > len(texts)
    return False


def _may_hold_vectors(kind: pa.DataType) -> bool:
    """Whether a type may hold vectors in a form that a line of pandas can read."""
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    return bool(binary or text or is_list(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind))


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
