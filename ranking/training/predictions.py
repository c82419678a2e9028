"""Saved predictions of an arm: one Parquet file, with the arm's details in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.core.sealed_table import read_sealed_table, write_sealed_table

if TYPE_CHECKING:
    from ranking.training.arms import ArmResult

FIRST_EPOCH = "test, first epoch"


def write_predictions(path: Path, result: ArmResult, facts: Mapping[str, Any] | None = None) -> None:
    """Save an arm's predictions as Parquet (part, probability), with its details in the file's metadata."""
    parts = {"validation": result.validation, "test": result.test}
    if result.test_first_epoch is not None:
        parts[FIRST_EPOCH] = result.test_first_epoch
    table = pa.table(
        {
            "part": np.repeat(list(parts), [len(values) for values in parts.values()]),
            "probability": np.concatenate(list(parts.values())),
        }
    )
    write_sealed_table(path, table, {**result.details.as_json(), **(facts or {})})


def read_predictions(path: Path, part: str = "test") -> npt.NDArray[np.float64]:
    """Read an arm's predictions on one part; empty if the file does not have the part."""
    table, _ = read_sealed_table(path)
    table = table.filter(pc.equal(table.column("part"), part))
    probability: npt.NDArray[np.float64] = table.column("probability").to_numpy()
    return probability


def read_details(path: Path) -> dict[str, Any]:
    """Read the details that were saved with an arm's predictions."""
    return read_sealed_table(path)[1]
