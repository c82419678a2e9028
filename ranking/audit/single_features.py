"""AUC of single counts and ages within requests, for data with sampled negatives.

If sampled negatives are older or less clicked than the positives of the same request, a ranker learns the sampling instead of
the user's interest. This module measures each count and age alone: the share of pairs (positive, negative) of one request in
which the positive has the larger value. 0.5 is uninformative.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ranking.data.dataset import read_rows
from ranking.data.feature_views import built_in_views
from ranking.data.numeric_features import numeric_columns, numeric_features
from sidkit.core.arrays import Ints
from sidkit.core.repo import Repo

SUSPECT = 0.6
"""Threshold of the warning: an AUC above it, or below 1 - ``SUSPECT``."""
SAMPLE_ROWS = 20_000

_EXCLUDED = ("_rate_", "item_without_content", "item_price")  # derived from counts, or content


@dataclass(frozen=True)
class SingleFeatures:
    """Within-request AUC of single features on a sample of requests.

    ``auc`` has the features that vary within at least one request: the share of pairs (positive, sampled negative) of one
    request in which the positive has the larger value; ties count half. ``same`` lists the features that never vary.
    """

    requests: int
    rows: int
    pairs: int
    auc: dict[str, float]
    same: tuple[str, ...]

    @property
    def suspects(self) -> dict[str, float]:
        """Features that separate positives from negatives alone."""
        return {name: value for name, value in self.auc.items() if not 1 - SUSPECT <= value <= SUSPECT}

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        sizes = {"requests": self.requests, "rows": self.rows, "pairs": self.pairs}
        return {**sizes, "auc": self.auc, "same": list(self.same), "suspects": list(self.suspects), "above": SUSPECT}


def measure_single_features(
    repo: Repo, service: str, seed: int = 0, most_rows: int = SAMPLE_ROWS
) -> SingleFeatures | None:
    """Measure the counts and ages of a feature service on sampled rows; None if no row is sampled.

    Parameters
    ----------
    repo : Repo
        A repository with built tables and labelled rows.
    service : str
        Name of the feature service.
    seed : int
        Random seed of the sampled requests.
    most_rows : int
        Approximate maximum number of rows.
    """
    from sidkit.stores.feast_repo import open_store

    path = _rows_file(repo)
    if path is None or repo.settings.source.feedback != "positives_only":
        return None
    request_ids = _sampled_requests(path, most_rows, seed)
    if request_ids is None:
        return None
    table = pq.read_table(path, filters=pc.field("request_id").isin(request_ids))
    rows = read_rows(table)
    store = open_store(repo)
    views = built_in_views(store, service, {"user_id": rows.user_ids, "item_id": rows.item_ids}, rows.at_us)
    values = numeric_features(views, rows.item_ids, rows.at_us, rate=0.5)
    group = pd.factorize(table.column("request_id").to_pandas())[0].astype(np.int64)
    auc, same = {}, []
    for column, name in enumerate(numeric_columns()):
        if any(part in name for part in _EXCLUDED):
            continue
        if _varies(values[:, column], group):
            auc[name], _ = auc_within(rows.label, values[:, column], group)
        else:
            same.append(name)
    _, pairs = auc_within(rows.label, values[:, 0], group)
    return SingleFeatures(int(group.max(initial=-1)) + 1, len(rows), pairs, auc, tuple(same))


def auc_within(label: npt.NDArray[np.int8], value: npt.NDArray[np.floating], group: Ints) -> tuple[float, int]:
    """Compute the AUC within groups, and the number of pairs (positive, negative) of one group.

    The AUC is the share of pairs in which the positive has the larger value; ties count half. It is 0.5 without pairs.
    """
    rows = pd.DataFrame({"group": group, "label": label == 1, "value": value})
    rows["rank"] = rows.groupby("group")["value"].rank()
    sizes = rows.groupby("group")["label"].agg(["size", "sum"])
    positives = sizes["sum"].to_numpy()
    pairs = int((positives * (sizes["size"].to_numpy() - positives)).sum())
    above = rows.loc[rows["label"], "rank"].sum() - (positives * (positives + 1) / 2).sum()
    return (float(above) / pairs if pairs else 0.5), pairs


def _varies(value: npt.NDArray[np.floating], group: Ints) -> bool:
    order = np.lexsort((value, group))
    value, group = value[order], group[order]
    return bool(((value[1:] != value[:-1]) & (group[1:] == group[:-1])).any())


def _rows_file(repo: Repo) -> Path | None:
    """Return the file of labelled rows; if only parts of it exist, the newest part."""
    if repo.labelled_rows.exists():
        return repo.labelled_rows
    parts = sorted(repo.data.glob("rows-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    return parts[-1] if parts else None


def _sampled_requests(path: Path, most_rows: int, seed: int) -> pa.Array | None:
    """Sample ids of requests with sampled negatives; the same file and seed give the same ids."""
    table = pq.read_table(path, columns=["request_id"], filters=pc.field("sampled"))
    if not len(table):
        return None
    counted = table.column("request_id").combine_chunks().value_counts()
    ids, rows = counted.field("values"), counted.field("counts").to_numpy()
    order = np.random.default_rng(seed).permutation(len(ids))
    count = max(int(np.searchsorted(np.cumsum(rows[order]), most_rows * 0.8, side="right")), 1)
    return ids.take(pa.array(order[:count]))
