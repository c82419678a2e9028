"""Click probabilities of synthetic worlds: what is true and what can be known, upper bounds of every arm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ranking.data.dataset import Dataset
from sidkit.core.arrays import Doubles
from sidkit.core.config import resolved_url
from sidkit.core.repo import Repo

ORACLE = "oracle"
CEILING = "fair ceiling"


@dataclass(frozen=True)
class WorldProbabilities:
    """Click probabilities of rows, ``float64 [rows]``; NaN where unknown."""

    oracle: Doubles
    """True probabilities."""
    ceiling: Doubles | None
    """Expected probabilities given what can be known at serving time; None for data written before they were."""

    def by_name(self) -> dict[str, Doubles]:
        """Name in reports -> probabilities."""
        return {ORACLE: self.oracle} if self.ceiling is None else {ORACLE: self.oracle, CEILING: self.ceiling}


def world_probabilities(repo: Repo, data: Dataset) -> WorldProbabilities | None:
    """Return the probabilities of rows if the source is a synthetic world, else None."""
    source = resolved_url(repo.settings.source.url)
    path = Path(source) / "oracle.parquet"
    if "://" in source or not path.exists() or data.rows.request_ids is None:
        return None
    known = pq.read_table(path).to_pandas()
    rows = pd.MultiIndex.from_arrays([data.rows.request_ids, data.rows.item_ids])
    place = pd.MultiIndex.from_frame(known[["request_id", "item_id"]]).get_indexer(rows)

    def of_rows(column: str) -> Doubles:
        return np.where(place >= 0, known[column].to_numpy(np.float64)[np.maximum(place, 0)], np.nan)

    return WorldProbabilities(
        of_rows("probability"), of_rows("knowable_probability") if "knowable_probability" in known else None
    )
