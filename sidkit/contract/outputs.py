"""Columns as the contract names them, each made from columns of the source."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

REASONS = b"sidkit.reasons"
"""Key of a field's metadata: JSON object, rejection reason -> rows of the batch."""


@dataclass
class Converted:
    """Values of one output for a batch, and the rows that are rejected, by reason."""

    array: pa.Array
    reasons: dict[str, list[int]] = field(default_factory=dict)

    def reject(self, rows: pa.Array, reason: str) -> Converted:
        """Add the rows of a mask."""
        found = np.flatnonzero(np.asarray(pc.fill_null(rows, False))).tolist()
        if found:
            self.reasons[reason] = sorted({*self.reasons.get(reason, []), *found})
        return self


Read = Callable[[Mapping[str, pa.Array]], Converted]


@dataclass(frozen=True)
class Output:
    """One column that a table has for the validation.

    ``inputs`` are the source's columns, ``kind`` is the Arrow type of the result (None if it follows from the values),
    ``note`` says how it is read, for a report. A ``constant`` one reads only the number of rows from its input.
    """

    inputs: tuple[str, ...]
    kind: pa.DataType | None
    read: Read
    note: str = ""
    constant: bool = False


def unchanged(name: str, kind: pa.DataType | None) -> Output:
    """A column as it is in the source."""
    return Output((name,), kind, lambda arrays: Converted(arrays[name]))


def converted_batch(batch: pa.RecordBatch, outputs: Mapping[str, Output], names: Sequence[str]) -> pa.RecordBatch:
    """Apply outputs to a batch of the source's columns; rejected rows are noted in the fields' metadata."""
    arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns, fields = [], []
    for name in names:
        output = outputs[name]
        done = output.read(arrays)
        metadata = dict(batch.schema.field(output.inputs[0]).metadata or {}) if len(output.inputs) == 1 else {}
        if done.reasons:
            metadata[REASONS] = json.dumps(done.reasons).encode()
        columns.append(done.array)
        fields.append(pa.field(name, done.array.type, metadata=metadata or None))
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, metadata=batch.schema.metadata))
