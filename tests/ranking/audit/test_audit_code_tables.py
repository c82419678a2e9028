"""`sidkit audit` on the stored statistics of codes: sound ones pass, and what was planted in tables and frames is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from helpers.builders import DAY, FinishedJob, moments, reseal
from helpers.restored import RestoredRepo
from ranking.audit.artifacts import audit_artifacts
from ranking.audit.frames import sample_rows
from ranking.audit.run import run_audit
from ranking.data.export import write_frame
from ranking.data.numeric_features import numeric_columns
from ranking.data.storage import NUMERIC, load_dataset
from semantic_ids.catalog import Catalog
from sidkit.core.code_stats import stats_views
from sidkit.core.repo import Repo

HOUR = 3_600_000_000
ROWS = 200


@pytest.fixture(scope="module")
def restored(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> RestoredRepo:
    return RestoredRepo(finished.repo, tmp_path_factory.mktemp("audit"))


@pytest.fixture
def repo(restored: RestoredRepo) -> Repo:
    return restored.restore()


def table_of(repo: Repo, *, of_users: bool = False) -> Path:
    return repo.tables / f"{stats_views(Catalog.open(repo).serving_codebook().name)[of_users]}.parquet"


def frame_of(repo: Repo, path: Path) -> Path:
    """A file of `sidkit frame` on some labelled rows."""
    rows = pq.read_table(repo.labelled_rows, columns=["user_id", "item_id", "event_timestamp"])
    pq.write_table(rows.take(pa.array(sample_rows(len(rows), ROWS, 0))), path.with_name("rows.parquet"))
    write_frame(repo, path.with_name("rows.parquet"), path)
    return path


def audited(repo: Repo, frame: Path) -> Any:
    return run_audit(repo, rows=ROWS, seed=0, frame=frame).rows


def change(path: Path, column: str, values: pa.Array) -> None:
    """Replace a column of a table, and let its record hold the new hash."""
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(
        table.set_column(place, table.schema.field(place), values.cast(table.schema.field(place).type)), path
    )
    reseal(path)


def test_a_frame_with_counts_of_prefixes_agrees_in_every_column(repo: Repo, tmp_path: Path) -> None:
    frame = frame_of(repo, tmp_path / "frame.parquet")
    counts = [name for name in pq.read_schema(frame).names if "code_stats_d" in name]
    result = audited(repo, frame)
    assert result.difference is None and result.not_audited == ()
    assert len(counts) == 16 and result.cells >= ROWS * (28 + len(counts))


def test_the_audit_of_the_feature_service_covers_counts_of_prefixes(repo: Repo) -> None:
    sound = run_audit(repo, rows=ROWS, seed=0).rows
    assert sound.difference is None and sound.cells == ROWS * (28 + 2 + 16) and not sound.not_audited
    path = table_of(repo, of_users=True)
    change(path, "exposures_30d", pc.add(pq.read_table(path)["exposures_30d"], 1))
    assert run_audit(repo, rows=ROWS, seed=0).rows.difference.feature == "user_code_stats_d1__exposures_30d"


def test_one_click_more_in_a_table_is_named(repo: Repo, tmp_path: Path) -> None:
    path = table_of(repo)
    clicks = pq.read_table(path)["clicks_all"]
    change(path, "clicks_all", pc.add(clicks, 1))
    difference = audited(repo, frame_of(repo, tmp_path / "frame.parquet")).difference
    assert difference.feature == "code_stats_d1__clicks_all" and difference.found == difference.expected + 1


@pytest.mark.parametrize(("of_users", "early_us"), [(False, HOUR), (True, DAY)])
def test_counts_read_a_window_end_too_early_are_named_as_later_than_the_row(
    repo: Repo, tmp_path: Path, of_users: bool, early_us: int
) -> None:
    path = table_of(repo, of_users=of_users)
    times_us = pq.read_table(path)["event_timestamp"].cast(pa.int64()).to_pylist()
    change(path, "event_timestamp", moments([us - early_us for us in times_us]))
    difference = audited(repo, frame_of(repo, tmp_path / "frame.parquet")).difference
    view = "user_code_stats_d1__" if of_users else "code_stats_d1__"
    assert difference.feature.startswith(view)
    assert difference.found_known_from is not None and difference.found_known_from > difference.at


@pytest.mark.parametrize(
    "name",
    ["code_stats_d1__rate_all", "code_stats__item_rate_1d", "user_code_stats_d1__rate_30d", "code_affinity_d1__count"],
)
def test_a_saved_frame_that_was_changed_is_named(repo: Repo, name: str) -> None:
    folder = repo.runs / "fast" / "frame"
    schema = load_dataset(folder).schema
    arrays = load_file(folder / "arrays.safetensors")
    column = arrays[NUMERIC][:, numeric_columns(schema).index(name)]
    column[:] = np.where(arrays["label"] == 1, column + 0.25, column)
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, folder / "arrays.safetensors")
    reseal(folder / "arrays.safetensors")
    assert run_audit(repo, rows=60, seed=0, preset="fast").rows.difference.feature == name


def removed(path: Path) -> None:
    path.unlink()


def of_nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "problem"), [(removed, "is missing; run `sidkit codebooks refresh`"), (of_nothing, "does not match")]
)
def test_tables_that_are_missing_or_damaged_are_a_problem(
    repo: Repo, damage: Callable[[Path], None], problem: str
) -> None:
    damage(table_of(repo))
    [found] = audit_artifacts(repo).problems
    assert problem in found.problem and found.artifact == Catalog.open(repo).serving_codebook().name
