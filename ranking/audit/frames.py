"""The rows of a training frame that are audited, from wherever the frame lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.audit.expected import HISTORY_CODES
from ranking.audit.reference import Cells
from ranking.data.feature_views import string_array
from sidkit.core.arrays import Ints
from sidkit.core.errors import ArtifactMissingError, ContractError
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.core.stages import read_facts

_KEYS = ("user_id", "item_id", "event_timestamp")


@dataclass(frozen=True)
class AuditedRows:
    """A sample of a frame: the row numbers within it, the rows' keys and times, and what the frame holds of them.

    ``cells`` holds one mapping per row. ``rate`` is the share of positives to which a saved frame smooths its rates, None
    for a frame of plain features.
    """

    source: str
    total: int
    numbers: Ints
    user_ids: npt.NDArray[np.object_]
    item_ids: npt.NDArray[np.object_]
    at_us: Ints
    cells: list[Cells]
    rate: float | None = None

    def __len__(self) -> int:
        return len(self.numbers)


def drawn(total: int, most: int, seed: int) -> Ints:
    """Row numbers of a sample, in rising order; which rows it holds depends on the three arguments alone."""
    return np.sort(np.random.default_rng(seed).choice(total, min(most, total), replace=False)).astype(np.int64)


def rows_of_service(repo: Repo, service: str, most: int, seed: int) -> AuditedRows:
    """A sample of the labelled rows, with the features that the service gives for them now."""
    import pandas as pd

    from sidkit.stores.feast_repo import feature_service, open_store

    if not repo.labelled_rows.exists():
        raise ArtifactMissingError(
            f"{repo.labelled_rows} is missing; run `sidkit tables rows --repo {repo.path}` first"
        )
    table = pq.read_table(checked(repo.labelled_rows), columns=list(_KEYS))
    numbers = drawn(len(table), most, seed)
    table = table.take(pa.array(numbers))
    entities = pd.DataFrame({key: table.column(key).to_pandas() for key in _KEYS})
    entities["__row"] = range(len(entities))
    store = open_store(repo)
    job = store.get_historical_features(entities, features=feature_service(store, service), full_feature_names=True)
    found = job.to_arrow().sort_by("__row").drop_columns(["__row", *_KEYS])
    return _plain(f"feature service {service}", pq.read_metadata(repo.labelled_rows).num_rows, numbers, table, found)


def rows_of_file(path: Path, most: int, seed: int) -> AuditedRows:
    """A sample of a frame as `sidkit frame` writes it.

    Raises
    ------
    ContractError
        When it is no such frame.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ContractError("frame", f"{path} cannot be read as Parquet ({error})") from error
    missing = [key for key in _KEYS if key not in table.column_names]
    if missing or not len(table):
        raise ContractError(
            "frame",
            f"{path} has {len(table):,} rows and lacks {', '.join(missing) or 'nothing'}; `sidkit frame` writes one",
        )
    numbers = drawn(len(table), most, seed)
    total = len(table)
    table = table.take(pa.array(numbers))
    return _plain(str(path), total, numbers, table, table.drop_columns(list(_KEYS)))


def _plain(source: str, total: int, numbers: Ints, keys: pa.Table, features: pa.Table) -> AuditedRows:
    at_us = keys.column("event_timestamp").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    users, items = (string_array(keys.column(name)) for name in ("user_id", "item_id"))
    return AuditedRows(source, total, numbers, users, items, at_us, features.to_pylist())


def rows_of_run(repo: Repo, folder: Path, most: int, seed: int) -> AuditedRows:
    """A sample of the frame that a run of the main job saved, decoded into the features that it was made of.

    Parameters
    ----------
    repo : Repo
        The run's repo.
    folder : Path
        The run (``artifacts/runs/<preset>``).
    most : int
        Rows.
    seed : int
        Decides which.
    """
    from ranking.data.disk_frame import DiskFrame
    from ranking.data.numeric_features import numeric_columns

    if not (folder / "frame").is_dir():
        there = ", ".join(sorted(path.parent.name for path in repo.runs.glob("*/frame"))) or "none yet"
        raise ArtifactMissingError(f"{folder / 'frame'} is missing; runs with a saved frame: {there}")
    data = DiskFrame.load(folder / "frame")
    numbers = drawn(len(data), most, seed)
    part = data.take(numbers)
    names = numeric_columns()
    cells: list[Cells] = []
    for at in range(len(part)):
        filled = part.history_items[part.history[at]]
        filled = filled[filled != 0]
        listed = part.history_us[part.history[at]][: len(filled)]
        row: Cells = {
            "candidate": part.items.ids[part.candidate[at]],
            "user_history__item_ids": part.items.ids[filled].tolist(),
            "user_history__timestamps_us": listed.tolist(),
            "item_sid__codes": _codes(part.items.codes[part.candidate[at]]),
            "item_content": part.items.content[part.candidate[at]],
            HISTORY_CODES: [_codes(codes) for codes in part.items.codes[filled]],
            **{name: float(value) for name, value in zip(names, part.numeric[at], strict=True)},
        }
        if part.rows.had_before is not None:
            row["had_before"] = bool(part.rows.had_before[at])
        cells.append(row)
    rate = float(read_facts(folder / "stages.json", "frame")["rate"])
    rows = part.rows
    return AuditedRows(str(folder / "frame"), len(data), numbers, rows.user_ids, rows.item_ids, rows.at_us, cells, rate)


def _codes(codes: npt.NDArray[np.int32]) -> list[int] | None:
    return None if (codes < 0).all() else [int(code) for code in codes]
