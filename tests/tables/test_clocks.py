"""Clocks that are wrong, and moments that nobody can have meant: reported, and without effect on anything else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from helpers.builders import DAY, START, fresh_repo, moments, reseal, write_tables
from ranking.pipeline.prepare import end_of_log
from sidkit.cli import build_app
from sidkit.contract import TableReport
from sidkit.core.clock import END_US, FIRST_EVENT_US, from_us, iso, present_us
from sidkit.core.errors import TableSchemaError, TimeError
from sidkit.core.integrity import write_sealed
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest, must_read_again, read_build, read_log
from sidkit.tables.labelled_rows import build_labelled_rows

YEAR_2150 = 5_680_281_600_000_000
MINUTE = 60_000_000


def events(count: int = 300) -> pd.DataFrame:
    draws = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "user_id": [f"u{n}" for n in draws.integers(0, 20, count)],
            "item_id": [f"i{n}" for n in draws.integers(0, 10, count)],
            "us": START + np.sort(draws.integers(0, 30 * DAY, count)),
            "label": (draws.random(count) < 0.3).astype("int8"),
        }
    )


def write(folder: Path, frame: pd.DataFrame, **items: Any) -> Path:
    ids = [f"i{n}" for n in range(10)]
    interactions = pa.table(
        {
            "user_id": frame["user_id"].tolist(),
            "item_id": frame["item_id"].tolist(),
            "timestamp": moments(frame["us"].tolist()),
            "label": pa.array(frame["label"].tolist(), pa.int8()),
        }
    )
    catalogue = {"item_id": ids, "created_at": moments([START - DAY] * 10), **items}
    vectors = pa.table({"item_id": ids, "text": [[0.5, 1.0]] * 10})
    return write_tables(
        folder, {"interactions": interactions, "items": pa.table(catalogue), "item_embeddings": vectors}
    )


def with_one_at(frame: pd.DataFrame, us: int) -> pd.DataFrame:
    row = pd.DataFrame({"user_id": ["u0"], "item_id": ["i0"], "us": [us], "label": np.array([1], "int8")})
    return pd.concat([frame, row], ignore_index=True)


def tables(repo: Repo) -> dict[str, pa.Table]:
    return {
        name: pq.read_table(repo.tables / f"{name}.parquet") for name in ("item_stats", "user_stats", "user_history")
    }


def told(reports: tuple[TableReport, ...], name: str) -> dict[str, int]:
    return next(report.reasons for report in reports if report.table == name)


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (YEAR_2150, "timestamp is in the future"),
        (0, "timestamp is in 1970 (an unset clock or a wrong unit)"),
    ],
)
def test_one_event_with_a_wrong_clock_changes_nothing_else(tmp_path: Path, at: int, reason: str) -> None:
    frame = events()
    right = fresh_repo(tmp_path / "right", write(tmp_path / "source", frame))
    wrong = fresh_repo(tmp_path / "wrong", write(tmp_path / "odd", with_one_at(frame, at)))
    ingest(right)
    report = ingest(wrong)
    assert (told(report.tables, "interactions"), report.rows) == ({reason: 1}, 300)
    assert pq.read_table(wrong.rejects / "interactions.parquet")["reason"].to_pylist() == [reason]
    for repo in (right, wrong):
        build_tables(repo, end_of_log(repo))
        build_labelled_rows(repo)
    assert {name: table.equals(tables(right)[name]) for name, table in tables(wrong).items()} == dict.fromkeys(
        tables(right), True
    )
    newest = tables(wrong)["item_stats"].to_pandas().sort_values("event_timestamp").groupby("item_id").last()
    assert (newest[["clicks_1d", "clicks_7d", "clicks_30d"]].sum() > 0).all()
    assert pq.read_table(wrong.labelled_rows).equals(pq.read_table(right.labelled_rows))
    build_tables(wrong, present_us())  # later builds are not locked
    assert not build_tables(wrong, present_us()).restarted


def test_every_moment_column_is_checked_and_a_planned_removal_is_kept(tmp_path: Path) -> None:
    far = [YEAR_2150, *[None] * 9]
    source = write(
        tmp_path / "source",
        events(),
        created_at=moments([START - DAY, YEAR_2150, *[START - DAY] * 8]),
        updated_at=moments([START, START, YEAR_2150, *[START] * 7]),
        removed_at=moments(far),
    )
    vectors = pq.read_table(source / "item_embeddings.parquet")
    pq.write_table(
        vectors.append_column("updated_at", moments([*[START] * 9, YEAR_2150])), source / "item_embeddings.parquet"
    )
    repo = fresh_repo(tmp_path / "repo", source, toml={"max_reject_share = 0.01": "max_reject_share = 0.5"})
    report = ingest(repo)
    assert told(report.tables, "items") == {"created_at is in the future": 1, "updated_at is in the future": 1}
    assert told(report.tables, "item_embeddings") == {
        "the item is not in the catalogue": 2,
        "updated_at is in the future": 1,
    }
    items = pq.read_table(read_log(repo).items).to_pylist()
    assert {row["item_id"] for row in items} == {f"i{n}" for n in range(10) if n not in {1, 2}}
    assert items[0]["removed_at"] == from_us(YEAR_2150)


def test_a_row_of_tomorrow_is_read_when_its_time_has_come(tmp_path: Path) -> None:
    now, tomorrow = START + 40 * DAY, START + 41 * DAY
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", with_one_at(events(), tomorrow)))
    assert (ingest(repo, now_us=now).rows, ingest(repo, now_us=now).unchanged) == (300, True)
    assert not must_read_again(repo, tomorrow - 1)
    assert must_read_again(repo, tomorrow)
    report = ingest(repo, now_us=tomorrow)
    assert (report.new_rows, report.rows, report.unchanged) == (1, 301, False)
    assert ingest(repo, now_us=tomorrow).unchanged


def test_rows_after_as_of_stay_in_the_log_and_out_of_the_build(tmp_path: Path) -> None:
    frame = events()
    middle = int(frame["us"][150])
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", frame))
    early = fresh_repo(tmp_path / "early", write(tmp_path / "past", frame[frame["us"] <= middle]))
    assert not told(ingest(repo).tables, "interactions")
    ingest(early)
    for one in (repo, early):
        build_tables(one, middle + MINUTE)
        build_labelled_rows(one, until_us=middle)
    assert read_log(repo).rows == 300
    assert all(table.equals(tables(early)[name]) for name, table in tables(repo).items())
    assert pq.read_table(repo.labelled_rows).equals(pq.read_table(early.labelled_rows))


def old_format(repo: Repo) -> None:
    """Make the log's manifest what the release before this rule wrote."""
    path = repo.log / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("format", "id", "ingests", "removed", "vanished"):
        del manifest[key]
    for table in manifest["tables"]:
        del table["merged"], table["future_us"]
    write_sealed(path, manifest)
    path = repo.tables / "manifest.json"
    if path.exists():
        manifest = json.loads(path.read_text())
        del manifest["log"]["id"], manifest["log"]["ingests"]
        write_sealed(path, manifest)


def test_a_repo_of_an_older_release_that_was_built_up_to_2150_is_not_locked(tmp_path: Path) -> None:
    frame = events()
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", with_one_at(frame, YEAR_2150)))
    assert ingest(repo, now_us=YEAR_2150).rows == 301
    build_tables(repo, YEAR_2150 + 2 * MINUTE, allow_future=True)
    old_format(repo)
    report = ingest(repo)
    assert (report.unchanged, report.rows, report.removed, report.new_rows) == (False, 300, 1, 0)
    assert read_log(repo).last_us == frame["us"].max()
    built = build_tables(repo, end_of_log(repo))
    assert "built as of 2150-01-01T00:02:00+00:00, which is in the future; rebuilding them" in built.restarted
    fresh = fresh_repo(tmp_path / "fresh", write(tmp_path / "sound", frame))
    ingest(fresh)
    build_tables(fresh, end_of_log(fresh))
    assert all(table.equals(tables(fresh)[name]) for name, table in tables(repo).items())
    assert not build_tables(repo, present_us()).restarted


def test_a_log_of_an_older_release_with_two_rows_of_one_event_ends_with_one(tmp_path: Path) -> None:
    frame = events()
    source = write(tmp_path / "source", frame)
    repo = fresh_repo(tmp_path / "repo", source)
    ingest(repo)
    part = read_log(repo).parts[0]
    rows = pq.read_table(part)
    schema = rows.schema
    # Two events with a second row each; the source holds one of them still.
    twins = [{**row, "label": 1 - row["label"]} for row in rows.slice(0, 2).to_pylist()]
    pq.write_table(pa.concat_tables([rows, pa.Table.from_pylist(twins, schema)]), part)
    reseal(part)
    old_format(repo)
    write(source, frame[1:])
    report = ingest(repo)
    assert (report.rows, report.changed, report.vanished) == (300, 2, 1)
    held = pa.concat_tables([pq.read_table(file) for file in read_log(repo).parts]).to_pandas()
    assert not held.duplicated(["user_id", "item_id", "timestamp"]).any()
    assert held.sort_values("timestamp")["label"].tolist()[0] == 1
    assert held.sort_values("timestamp")["label"].tolist()[1:] == frame["label"].tolist()[1:]


def test_a_log_that_was_deleted_and_read_again_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    import shutil

    frame = events()
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", frame[100:]))
    ingest(repo)
    build_tables(repo, START + 40 * DAY)
    shutil.rmtree(repo.log)
    write(tmp_path / "source", frame)
    ingest(repo)
    assert "another log" in build_tables(repo, START + 40 * DAY).restarted
    incremental = tables(repo)
    build_tables(repo, START + 40 * DAY, rebuild=True)
    assert all(table.equals(incremental[name]) for name, table in tables(repo).items())


def seconds_as_text(us: Any) -> Any:
    return pd.to_datetime(pd.Series(us // 1_000_000), unit="us", utc=True).map(lambda moment: moment.isoformat())


UNITS = [
    (seconds_as_text, "seconds"),
    (
        lambda us: pd.to_datetime(pd.Series(us // 1_000_000), utc=True),
        "seconds since 1970 read as nanoseconds",
    ),
    (
        lambda us: pd.to_datetime(pd.Series(us // 1_000), utc=True),
        "milliseconds since 1970 read as nanoseconds",
    ),
    (lambda us: pd.to_datetime(pd.Series(us), utc=True), "microseconds since 1970 read as nanoseconds"),
    (
        lambda us: pd.to_datetime(pd.Series(us // 1_000_000), unit="us", utc=True).astype("datetime64[us, UTC]"),
        "seconds",
    ),
    (
        lambda us: pd.to_datetime(pd.Series(us // 1_000_000), unit="ms", utc=True).astype("datetime64[ms, UTC]"),
        "seconds",
    ),
    (
        lambda us: pd.to_datetime(pd.Series(us // 1_000), unit="us", utc=True).astype("datetime64[us, UTC]"),
        "milliseconds",
    ),
]


@pytest.mark.parametrize(("read", "unit"), UNITS, ids=["text", "s-ns", "ms-ns", "us-ns", "s-us", "s-ms", "ms-us"])
def test_a_wrong_unit_is_named_and_the_advice_reads_the_times(tmp_path: Path, read: Any, unit: str) -> None:
    frame = events()
    frame["us"] = frame["us"] // 1_000_000 * 1_000_000
    source = write(tmp_path / "source", frame)
    wrong = frame.drop(columns="us").assign(timestamp=read(frame["us"].to_numpy()))
    wrong.to_parquet(source / "interactions.parquet")
    repo = fresh_repo(tmp_path / "repo", source)
    with pytest.raises(TableSchemaError, match=rf"all times are within days of 1970.*look like {unit}") as raised:
        ingest(repo)
    [line] = re.findall(r"For example: (.*)$", str(raised.value))
    df = pd.read_parquet(source / "interactions.parquet")
    exec(line, {"df": df, "pd": pd})
    df.to_parquet(source / "interactions.parquet")
    ingest(repo)
    found = (
        pa.concat_tables([pq.read_table(part) for part in read_log(repo).parts])["timestamp"].cast("int64").to_pylist()
    )
    assert sorted(found) == sorted(frame["us"])


def test_dates_written_as_numbers_and_times_of_items_are_refused_too(tmp_path: Path) -> None:
    frame = events()
    source = write(tmp_path / "source", frame)
    days = pd.to_datetime(frame["us"], unit="us").dt.strftime("%Y%m%d").astype("int64")
    dated = frame.drop(columns="us").assign(
        timestamp=pd.to_datetime(days, unit="s", utc=True).astype("datetime64[s, UTC]")
    )
    dated.to_parquet(source / "interactions.parquet")
    with pytest.raises(TableSchemaError, match=r"look like dates written as YYYYMMDD") as raised:
        ingest(fresh_repo(tmp_path / "dated", source))
    [line] = re.findall(r"For example: (.*)$", str(raised.value))
    df = pd.read_parquet(source / "interactions.parquet")
    exec(line, {"df": df, "pd": pd})
    assert df["timestamp"].dt.strftime("%Y%m%d").astype("int64").tolist() == days.tolist()
    source = write(tmp_path / "source", frame, created_at=moments([START // 1_000_000] * 10))
    with pytest.raises(TableSchemaError, match=r"items: column 'created_at'.*look like seconds"):
        ingest(fresh_repo(tmp_path / "items", source))
    # The beginning of time is how some write that they do not know.
    source = write(tmp_path / "source", frame, created_at=moments([0] * 10))
    assert ingest(fresh_repo(tmp_path / "unknown", source)).rows == 300


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit | TimeError), result.exception
    return result.exit_code, f"{result.output}{result.exception or ''}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("built")
    repo = fresh_repo(folder / "repo", write(folder / "source", events()))
    ingest(repo)
    build_tables(repo, START + 40 * DAY)
    return repo


@pytest.mark.parametrize("command", ["tables build", "materialize", "run"])
def test_as_of_beyond_now_is_refused_and_the_option_named(built: Repo, command: str) -> None:
    where = ["--data", built.settings.source.url] if command == "run" else []
    for text in ("2100-01-01T00:00:00Z", iso(present_us() + 3_600_000_000)):
        code, said = run(*command.split(), *where, "--repo", built.path, "--as-of", text)
        assert code == 1
        assert "expected --as-of no later than now" in said
        assert "--allow-future" in said
    assert read_build(built)["as_of_us"] == START + 40 * DAY


@pytest.mark.parametrize("command", ["tables build", "materialize", "run"])
@pytest.mark.parametrize(
    "text", ["1969-12-31T00:00:00Z", "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"]
)
def test_an_as_of_that_no_log_can_have_is_refused_in_one_line(built: Repo, command: str, text: str) -> None:
    where = ["--data", built.settings.source.url] if command == "run" else []
    code, said = run(*command.split(), *where, "--allow-future", "--repo", built.path, "--as-of", text)
    assert code == 1
    assert re.search(r"expected --as-of between 1971-01-01|expected a time in the years 1 to 9999", said), said
    assert "Traceback" not in said


def test_a_simulation_may_go_beyond_now(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", events()))
    ingest(repo)
    code, _ = run("tables", "build", "--repo", repo.path, "--as-of", "2199-12-31T00:00:00Z", "--allow-future")
    assert code == 0
    with pytest.raises(TimeError, match="expected --as-of no earlier than the tables"):
        build_tables(repo, YEAR_2150, allow_future=True)
    for wild in (FIRST_EVENT_US - 1, END_US):
        with pytest.raises(TimeError, match="expected --as-of between"):
            build_tables(repo, wild, allow_future=True)
    with pytest.raises(TimeError, match="expected a time in the years 1 to 9999"):
        iso(2**62)


def test_the_end_of_a_log_that_goes_on_now_is_now(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", events()))
    ingest(repo)
    last = read_log(repo).last_us
    assert end_of_log(repo, now_us=last + 1) == last + 1
    build_tables(repo, end_of_log(repo, now_us=last + 1), now_us=last + 1)
    assert end_of_log(repo) == -(-last // MINUTE) * MINUTE + MINUTE


def test_an_event_of_this_second_can_be_built_at_once(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", with_one_at(events(), present_us())))
    assert ingest(repo).rows == 301
    build_tables(repo, end_of_log(repo))
