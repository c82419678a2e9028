"""Sample rows to audit from a feature service, a file or a saved run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.audit.expected import HISTORY_CODES
from ranking.audit.reference import Cells
from ranking.data.code_counts import code_reader, has_code_counts
from ranking.data.code_frame import with_code_counts
from ranking.data.coded import Codes32
from ranking.data.dataset import Dataset
from ranking.data.feature_views import historical_reader, string_array
from ranking.data.schema import BUILT_IN, FeatureSchema
from sidkit.core.arrays import Ints
from sidkit.core.errors import ArtifactMissingError, ContractError
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.core.stages import read_facts
from sidkit.stores.on_demand import ServiceViews

_KEYS = ("user_id", "item_id", "event_timestamp")


@dataclass(frozen=True)
class AuditedRows:
    """Sampled rows of a frame: row numbers, keys, times and cells.

    ``cells`` has one mapping per row. ``rate`` is the positive rate that a saved frame smooths its rates towards, None for a
    frame of plain features.
    """

    source: str
    total: int
    numbers: Ints
    user_ids: npt.NDArray[np.object_]
    item_ids: npt.NDArray[np.object_]
    at_us: Ints
    cells: list[Cells]
    rate: float | None = None
    schema: FeatureSchema = BUILT_IN
    """The features of a saved frame besides the built-in ones."""

    def __len__(self) -> int:
        return len(self.numbers)


def sample_rows(total: int, n_rows: int, seed: int) -> Ints:
    """Sample row numbers without replacement, in ascending order; the same arguments give the same numbers."""
    return np.sort(np.random.default_rng(seed).choice(total, min(n_rows, total), replace=False)).astype(np.int64)


def rows_of_service(repo: Repo, service: str, n_rows: int, seed: int) -> AuditedRows:
    """Sample the labelled rows and retrieve their features from a feature service, and the counts per prefix of their codes."""
    from sidkit.stores.feast_repo import feature_service, open_store

    if not repo.labelled_rows.exists():
        raise ArtifactMissingError(
            f"expected labelled rows in {repo.labelled_rows}, got no such file; run `sidkit tables rows --repo {repo.path}` "
            "first"
        )
    store = open_store(repo)
    features_of = feature_service(store, service)
    read = historical_reader(store, features_of)
    path = checked(repo.labelled_rows)
    inputs = set(ServiceViews.of(store, features_of).inputs)
    table = pq.read_table(
        path, columns=[name for name in pq.read_schema(path).names if name in inputs or name in _KEYS]
    )
    total, numbers = len(table), sample_rows(len(table), n_rows, seed)
    table = table.take(pa.array(numbers))
    views = read(dict(zip(table.column_names, table.columns, strict=True)), _moments(table))
    features = {name: column for view in views.values() for name, column in _columns(view.plain())}
    if has_code_counts(store, service):
        reader = code_reader(store, service, partial(historical_reader, store))
        keyed = {name: table.column(name) for name in _KEYS}
        counted = with_code_counts(pa.table({**features, **keyed}), reader)
        features = dict(_columns(counted.drop_columns(list(_KEYS))))
    return _plain(f"feature service {service}", total, numbers, table, pa.table(features))


def _columns(table: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
    return zip(table.column_names, table.columns, strict=True)


def rows_of_file(path: Path, n_rows: int, seed: int) -> AuditedRows:
    """Sample a frame that `sidkit frame` wrote.

    Raises
    ------
    ContractError
        When the file is not such a frame.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ContractError(
            "frame", f"{path} cannot be read as Parquet ({error}); write it again with `sidkit frame`"
        ) from error
    missing = [key for key in _KEYS if key not in table.column_names]
    if missing or not len(table):
        raise ContractError(
            "frame",
            f"expected at least one row and the columns {', '.join(_KEYS)} in {path}, got {len(table):,} rows, missing "
            f"columns: {', '.join(missing) or 'none'}; write the file with `sidkit frame`",
        )
    numbers = sample_rows(len(table), n_rows, seed)
    total = len(table)
    table = table.take(pa.array(numbers))
    return _plain(str(path), total, numbers, table, table.drop_columns(list(_KEYS)))


def _plain(source: str, total: int, numbers: Ints, keys: pa.Table, features: pa.Table) -> AuditedRows:
    at_us = _moments(keys)
    users, items = (string_array(keys.column(name)) for name in ("user_id", "item_id"))
    return AuditedRows(source, total, numbers, users, items, at_us, features.to_pylist())


def _moments(rows: pa.Table) -> Ints:
    at_us: Ints = rows.column("event_timestamp").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return at_us


def rows_of_run(repo: Repo, folder: Path, n_rows: int, seed: int) -> AuditedRows:
    """Sample the frame of a saved run, decoded into its features.

    Parameters
    ----------
    repo : Repo
        Repository of the run.
    folder : Path
        Folder of the saved run (``artifacts/runs/<preset>``).
    n_rows : int
        Number of rows.
    seed : int
        Random seed of the sample.
    """
    from ranking.data.disk_frame import DiskFrame
    from ranking.data.numeric_features import numeric_columns

    if not (folder / "frame").is_dir():
        available = ", ".join(sorted(path.parent.name for path in repo.runs.glob("*/frame"))) or "none yet"
        raise ArtifactMissingError(
            f"expected a saved frame in {folder / 'frame'}, got no such folder; runs with a saved frame: {available}"
        )
    data = DiskFrame.load(folder / "frame")
    numbers = sample_rows(len(data), n_rows, seed)
    part = data.take(numbers)
    names, coded = numeric_columns(part.schema), _coded(part)
    cells: list[Cells] = []
    for row in range(len(part)):
        filled = part.history_items[part.history[row]]
        filled = filled[filled != 0]
        times_us = part.history_us[part.history[row]][: len(filled)]
        features: Cells = {
            "candidate": part.items.ids[part.candidate[row]],
            "user_history__item_ids": part.items.ids[filled].tolist(),
            "user_history__timestamps_us": times_us.tolist(),
            "item_sid__codes": _codes(part.items.codes[part.candidate[row]]),
            "item_content": part.items.content[part.candidate[row]],
            HISTORY_CODES: [_codes(codes) for codes in part.items.codes[filled]],
            **{name: float(value) for name, value in zip(names, part.numeric[row], strict=True)},
            **{name: values[codes[row]] for name, (values, codes) in coded.items()},
        }
        if part.rows.had_before is not None:
            features["had_before"] = bool(part.rows.had_before[row])
        cells.append(features)
    rate = float(read_facts(folder / "stages.json", "frame")["rate"])
    rows = part.rows
    keys = (rows.user_ids, rows.item_ids, rows.at_us)
    return AuditedRows(str(folder / "frame"), len(data), numbers, *keys, cells, rate, part.schema)


def _coded(part: Dataset) -> dict[str, tuple[list[Any], Codes32]]:
    """Coded feature -> its distinct values, and the index of each row's value."""
    return {feature.name: (values.to_pylist(), codes) for feature, values, codes in part.coded_columns()}


def _codes(codes: npt.NDArray[np.int32]) -> list[int] | None:
    return None if (codes < 0).all() else [int(code) for code in codes]
