"""The daily run of ``examples/orchestration``: repeated it changes nothing, a range of days is as good as a day at a time."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

import sidkit
from helpers.builders import DAY, START, fresh_repo
from helpers.codebook_builders import CUT, ITEMS, SPEC, write_source
from helpers.places import EXAMPLES
from oracle.features import Event
from semantic_ids import lifecycle
from sidkit.core.clock import from_us
from sidkit.core.errors import ConfigError, ContractError, RepoLockedError
from sidkit.core.repo import Repo
from sidkit.tables import read_build

FIRST = from_us(START + 30 * DAY).date()
"""The day of the first event of the source."""


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of the example, imported as their own folder does."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "orchestration"))
    import daily
    import steps

    yield daily, steps
    for name in ("daily", "steps"):
        sys.modules.pop(name, None)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    clicks = [
        Event(f"u{day}", f"i{number:03d}", START + (30 + day) * DAY + number, 1)
        for day in range(4)
        for number in range(3)
    ]
    write_source(tmp_path / "source", ITEMS, clicks=clicks)
    made = fresh_repo(tmp_path / "repo", tmp_path / "source", modalities=("text", "image"))
    sidkit.open(made.path).apply()
    return made


def day(number: int) -> str:
    return (FIRST + dt.timedelta(days=number)).isoformat()


def run(daily: Any, repo: Repo, log: Path, *arguments: str, retries: str = "0") -> int:
    given = ["--repo", str(repo.path), "--log", str(log), "--retries", retries, "--wait", "0", *arguments]
    return int(daily.main(given))


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def tables(repo: Repo) -> dict[str, Any]:
    return {path.name: pq.read_table(path) for path in sorted(repo.tables.glob("*.parquet"))}


def test_a_second_run_of_a_day_changes_nothing(examples: Any, repo: Repo, tmp_path: Path) -> None:
    daily, _ = examples
    log = tmp_path / "daily.log"
    assert run(daily, repo, log, "--to", day(1)) == daily.DONE
    names = [line["step"] for line in lines(log)]
    assert names == ["ingest", f"build {day(1)}", "refresh", "materialize"]
    assert {line["state"] for line in lines(log)} == {"done"}
    before = {path: path.stat().st_ino for path in (*repo.log.rglob("*.parquet"), *repo.tables.glob("*.parquet"))}
    assert run(daily, repo, log, "--to", day(1)) == daily.DONE
    again = lines(log)[4:]
    assert (again[0]["new_rows"], again[1]["unchanged"], again[1]["new_rows"]) == (0, True, 0)
    assert again[3]["keys"] == lines(log)[3]["keys"]
    assert {
        path: path.stat().st_ino for path in (*repo.log.rglob("*.parquet"), *repo.tables.glob("*.parquet"))
    } == before


def test_new_items_get_codes_of_published_codebooks(examples: Any, repo: Repo, tmp_path: Path) -> None:
    daily, _ = examples
    log = tmp_path / "daily.log"
    assert run(daily, repo, log, "--to", day(1)) == daily.DONE
    lifecycle.fit(repo, "book", SPEC, CUT)
    lifecycle.publish(repo, "book")
    write_source(tmp_path / "source", {**ITEMS, "new": START + 32 * DAY})
    assert run(daily, repo, log, "--to", day(3)) == daily.DONE
    refreshed = next(line for line in reversed(lines(log)) if line["step"] == "refresh")
    assert refreshed["new_codes"] == {"book": 1}


def test_days_of_the_past_in_any_order_give_the_tables_of_the_last_day(
    examples: Any, repo: Repo, tmp_path: Path
) -> None:
    daily, _ = examples
    log = tmp_path / "daily.log"
    assert run(daily, repo, log, "--from", day(0), "--to", day(3)) == daily.DONE
    assert [line["step"] for line in lines(log)][1:5] == [f"build {day(number)}" for number in range(4)]
    in_order = tables(repo)
    other = fresh_repo(tmp_path / "other", tmp_path / "source", modalities=("text", "image"))
    sidkit.open(other.path).apply()
    for number in (2, 0, 3, 1):
        assert run(daily, other, log, "--from", day(number), "--to", day(number)) == daily.DONE
    assert read_build(other)["as_of_us"] == read_build(repo)["as_of_us"] == START + 34 * DAY
    assert tables(other) == in_order


def test_rows_that_arrive_late_are_taken_in_by_the_next_run_of_a_day(examples: Any, repo: Repo, tmp_path: Path) -> None:
    daily, _ = examples
    log = tmp_path / "daily.log"
    assert run(daily, repo, log, "--to", day(3)) == daily.DONE
    late = [Event("late", "i001", START + 31 * DAY + 5, 1)]
    clicks = [
        Event(f"u{each}", f"i{number:03d}", START + (30 + each) * DAY + number, 1)
        for each in range(4)
        for number in range(3)
    ]
    write_source(tmp_path / "source", ITEMS, clicks=[*clicks, *late])
    assert run(daily, repo, log, "--to", day(1)) == daily.DONE  # a day that the tables cover
    assert "late" in pq.read_table(repo.tables / "user_history.parquet").column("user_id").to_pylist()
    assert read_build(repo)["as_of_us"] == START + 34 * DAY


def test_a_run_beside_another_ends_at_once(examples: Any, repo: Repo, tmp_path: Path) -> None:
    daily, _ = examples
    with FileLock(repo.path / ".daily.lock"):
        assert run(daily, repo, tmp_path / "daily.log", "--to", day(1)) == daily.BUSY
    assert not (tmp_path / "daily.log").exists()


def test_a_transient_error_is_tried_again_and_others_are_not(
    examples: Any, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daily, steps = examples
    log, failing = tmp_path / "daily.log", [RepoLockedError(repo.path, "sidkit events tick")]
    original = steps.ingest

    def ingest(path: str) -> dict[str, Any]:
        if failing:
            raise failing.pop()
        found: dict[str, Any] = original(path)
        return found

    monkeypatch.setattr(steps, "ingest", ingest)
    assert run(daily, repo, log, "--to", day(1), retries="1") == daily.DONE
    assert [line["state"] for line in lines(log)][:2] == ["retry", "done"]
    failing += [RepoLockedError(repo.path, "sidkit run")] * 2
    assert run(daily, repo, log, "--to", day(1), retries="1") == daily.FAILED
    assert "is locked by another sidkit command" in lines(log)[-1]["error"]
    failing[:] = [ContractError("interactions", "broken")]
    assert run(daily, repo, log, "--to", day(1), retries="3") == daily.FAILED
    assert lines(log)[-1]["state"] == "failed"
    assert "broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "last", "told"),
    [
        ("2024-01-03", "2024-01-02", "expected --from no later than --to"),
        ("2024-01-03", "2999-01-01", r"expected days that are over \(UTC\), got 2999-01-01; pass an earlier --to"),
    ],
)
def test_days_that_cannot_be_built_are_refused(examples: Any, repo: Repo, first: str, last: str, told: str) -> None:
    daily, steps = examples
    with pytest.raises(ConfigError, match=told):
        steps.days(dt.date.fromisoformat(first), dt.date.fromisoformat(last))
    assert daily.main(["--repo", str(repo.path), "--from", first, "--to", last]) == daily.WRONG
