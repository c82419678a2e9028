"""Forgetting users whose events were pushed: nothing of them is left in queue, log or online store, and nothing comes back."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.builders import DAY, START
from helpers.bytes_of import holders
from helpers.ticked import AS_OF, Click, drawn, rows_of, started
from semantic_ids.ticks import Ticker
from sidkit.core.repo import Repo
from sidkit.tables import read_log
from sidkit.tables.absorb import absorb
from sidkit.tables.push import FORGOTTEN, push_events
from sidkit.tables.queue import EVENTS, enqueue, queued

PERSON = "person-77aa"
FIRST = Click(PERSON, "i01", START + DAY, label=0)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """The person is in the source, in the log by a push, in the record of what a push changed, and in the queue."""
    clicks = [*drawn(0, 120, START, AS_OF - DAY), FIRST, Click(PERSON, "i02", START + 2 * DAY)]
    repo = started(tmp_path, clicks)
    corrected = Click(PERSON, "i01", START + DAY, label=1)
    push_events(
        repo, rows_of([corrected, Click(PERSON, "i03", AS_OF - 1_000_000), Click("u1", "i03", AS_OF - 2_000_000)])
    )
    Ticker(repo).tick(AS_OF + 5_000_000)
    assert any("overridden" in name for name in read_log(repo).manifest["snapshots"])
    push_events(repo, rows_of([Click(PERSON, "i04", AS_OF), Click("u2", "i04", AS_OF)]))
    return repo


def users_of(repo: Repo) -> set[str]:
    return {user for part in read_log(repo).parts for user in pq.read_table(part).column("user_id").to_pylist()}


def test_nothing_is_left_of_pushed_events(repo: Repo) -> None:
    assert holders(repo.path, PERSON)
    others = users_of(repo) - {PERSON}
    report = sidkit.open(repo.path).forget(PERSON)
    assert holders(repo.path, PERSON) == []
    assert report.rows["data/log/interactions"] >= 4  # of the source, and pushed ones, those in the queue included
    assert users_of(repo) == others
    assert not queued(repo, EVENTS)


def test_pushes_of_a_forgotten_user_are_rejected_and_those_on_their_way_left_out(repo: Repo) -> None:
    sidkit.open(repo.path).forget(PERSON)
    late = Click(PERSON, "i05", AS_OF)
    rows = rows_of([Click("u3", "i05", AS_OF), late, Click("u3", "nothing", AS_OF), late])
    report = push_events(repo, rows)
    assert report.accepted == 1
    reasons = {each.row: each.reason for each in report.rejected}
    assert reasons[1] == reasons[3] == FORGOTTEN
    assert 2 in reasons and reasons[2] != FORGOTTEN
    enqueue(repo, {EVENTS: pa.concat_tables([rows_of([late]), rows_of([Click("u4", "i05", AS_OF)])])})  # checked before
    with repo.locked():
        assert absorb(repo).new == 2
    assert holders(repo.path, PERSON) == []
    assert {"u3", "u4"} <= users_of(repo)
