"""What a source holds, before any settings exist: enough to write a repo's ``[source]``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.config import FEATURE_NAME_RULE, RESERVED_MODALITIES, Feedback, is_feature_name
from sidkit.contract.reader import Source
from sidkit.contract.rows import check_columns, normalise, vector_of
from sidkit.contract.schemas import EMBEDDINGS, INTERACTIONS
from sidkit.errors import TableSchemaError

_CHUNK_ROWS = 200_000


@dataclass(frozen=True)
class SourceFacts:
    """The parts of ``[source]`` that the data decides."""

    modalities: tuple[str, ...]
    feedback: Feedback
    conversions: bool


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
    wanted = ["label", *(["converted"] if "converted" in found else [])]
    for batch in source.batches(INTERACTIONS.name, wanted, _CHUNK_ROWS):
        chunk = normalise(batch, INTERACTIONS)
        negatives += int(np.count_nonzero(np.asarray(pc.fill_null(pc.equal(chunk["label"], 0.0), False))))
        conversions |= "converted" in found and chunk["converted"].null_count < len(chunk)
    return SourceFacts(_modalities(source), "impressions" if negatives else "positives_only", conversions)


def _modalities(source: Source) -> tuple[str, ...]:
    found = source.columns(EMBEDDINGS.name)
    check_columns(list(found), EMBEDDINGS)
    candidates = [name for name in found if name not in RESERVED_MODALITIES]
    head = next(iter(source.batches(EMBEDDINGS.name, candidates, 1000)), None) if candidates else None
    stated = {name: found[name] for name in candidates}
    if head is not None:
        stated |= {name: head.schema.field(name).type for name in candidates if stated[name] is None}
    chosen = tuple(name for name, kind in stated.items() if kind is not None and _holds_vectors(kind, head, name))
    if not chosen:
        listed = ", ".join(f"{name} ({kind})" for name, kind in stated.items()) or "no further column"
        raise TableSchemaError(EMBEDDINGS.name, f"no column holds vectors (a list of float32 per row); found {listed}")
    unusable = [name for name in chosen if not is_feature_name(name)]
    if unusable:
        raise TableSchemaError(
            EMBEDDINGS.name,
            f"column {', '.join(map(repr, unusable))} holds vectors and cannot be the name of a feature ({FEATURE_NAME_RULE}); "
            "rename it in the source",
        )
    return chosen


def _holds_vectors(kind: pa.DataType, head: pa.RecordBatch | None, name: str) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    if pa.types.is_string(kind) and head is not None:  # a database without arrays holds JSON text
        texts = [text for text in head.column(name).to_pylist() if text is not None]
        return 2 * sum(vector_of(text) is not None for text in texts) > len(texts)
    return False
