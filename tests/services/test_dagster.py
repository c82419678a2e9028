"""The Dagster assets of ``examples/orchestration``: a partition per day, a backfill of several days as one run."""

from __future__ import annotations

import datetime as dt
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.builders import DAY, START, fresh_repo
from helpers.codebook_builders import ITEMS, write_source
from helpers.places import EXAMPLES
from oracle.features import Event
from sidkit.core.clock import from_us
from sidkit.core.errors import ContractError, RepoLockedError
from sidkit.core.repo import Repo
from sidkit.tables import read_build

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("dagster") is None,
        reason="dagster absent: `make test-services` installs it (sidkit[dagster])",
    ),
    pytest.mark.filterwarnings("default"),  # of Dagster and what it imports
]
FIRST = from_us(START + 30 * DAY).date()


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    clicks = [Event(f"u{day}", "i001", START + (30 + day) * DAY, 1) for day in range(4)]
    write_source(tmp_path / "source", ITEMS, clicks=clicks)
    made = fresh_repo(tmp_path / "repo", tmp_path / "source", modalities=("text", "image"))
    sidkit.open(made.path).apply()
    return made


@pytest.fixture
def assets(repo: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLES / "orchestration"))
    monkeypatch.setenv("SIDKIT_REPO", str(repo.path))
    monkeypatch.setenv("SIDKIT_FIRST_DAY", FIRST.isoformat())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    import dagster_daily

    yield dagster_daily
    for name in ("dagster_daily", "steps"):
        sys.modules.pop(name, None)


def key(number: int) -> str:
    return (FIRST + dt.timedelta(days=number)).isoformat()


def ran(assets: Any, first: int, last: int | None = None, *, raise_on_error: bool = True) -> Any:
    import dagster as dg

    if last is None:
        return dg.materialize(assets.ASSETS, partition_key=key(first), raise_on_error=raise_on_error)
    tags = {"dagster/asset_partition_range_start": key(first), "dagster/asset_partition_range_end": key(last)}
    return dg.materialize(assets.ASSETS, tags=tags, raise_on_error=raise_on_error)


def facts(result: Any, asset: str) -> dict[str, str]:
    (done,) = result.asset_materializations_for_node(asset)[:1]
    return {name: value.value for name, value in done.metadata.items()}


def test_a_day_is_built_once_however_often_it_runs(assets: Any, repo: Repo) -> None:
    assert ran(assets, 1).success
    assert read_build(repo)["as_of_us"] == START + 32 * DAY
    before = {path.name: path.stat().st_ino for path in repo.tables.glob("*.parquet")}
    again = ran(assets, 1)
    assert again.success
    assert facts(again, "feature_tables")["unchanged"] == "True"
    assert {path.name: path.stat().st_ino for path in repo.tables.glob("*.parquet")} == before


def test_a_backfill_of_days_gives_the_tables_of_the_last_one(assets: Any, repo: Repo, tmp_path: Path) -> None:
    assert ran(assets, 0, 3).success
    assert read_build(repo)["as_of_us"] == START + 34 * DAY
    one_by_one = {path.name: pq.read_table(path) for path in repo.tables.glob("*.parquet")}
    other = fresh_repo(tmp_path / "other", tmp_path / "source", modalities=("text", "image"))
    sidkit.open(other.path).apply()
    assets.REPO = str(other.path)
    for number in (3, 1):
        assert ran(assets, number).success
    assert {path.name: pq.read_table(path) for path in other.tables.glob("*.parquet")} == one_by_one


def test_an_error_that_needs_a_person_ends_the_run_and_a_transient_one_is_retried(
    assets: Any, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    def failing(error: Exception) -> Any:
        def ingest(_: str) -> dict[str, Any]:
            raise error

        return ingest

    monkeypatch.setattr(assets.steps, "ingest", failing(ContractError("interactions", "broken")))
    failed = ran(assets, 1, raise_on_error=False)
    assert not failed.success
    assert not any(event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY for event in failed.all_events)
    with pytest.raises(RepoLockedError):  # which the retry policy of the asset sees
        assets.retried(failing(RepoLockedError(repo.path, "sidkit run")))


def test_the_schedule_runs_the_day_that_is_over(assets: Any) -> None:
    import dagster as dg

    definition = assets.definitions.resolve_schedule_def("daily_schedule")
    at = dt.datetime(2024, 3, 5, 2, 15, tzinfo=dt.UTC)
    (request,) = definition.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=at)).run_requests
    assert request.partition_key == "2024-03-04"
    assert definition.cron_schedule == "15 2 * * *"
