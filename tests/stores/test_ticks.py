"""Events in, seconds later online: what ticks write is what a build from scratch as of the same time would have."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import DAY, START, copy_of
from helpers.ticked import (
    AS_OF,
    FOLLOWING,
    Click,
    assert_same,
    drawn,
    items_rows,
    logged,
    merged,
    online,
    rebuilt,
    rows_of,
    started,
    vector,
    write_source,
)
from semantic_ids.ticks import Ticker
from sidkit.core.errors import ContractError, RepoLockedError, TimeError
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import materialize
from sidkit.tables import build_tables, ingest, read_log
from sidkit.tables.absorb import absorb
from sidkit.tables.push import push_events, push_items
from sidkit.tables.queue import queued_rows

pytestmark = pytest.mark.own_store("online", "the whole file of the packed store is compared")

SECOND, HOUR = 1_000_000, 3_600_000_000
FIRST = drawn(0, 200, START, AS_OF)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return started(tmp_path_factory.mktemp("begun"), FIRST)


@pytest.fixture
def repo(begun: Repo, tmp_path: Path) -> Repo:
    """A copy to change; its source too."""
    shutil.copytree(begun.path.parent / "source", tmp_path / "source")
    copy = copy_of(begun, tmp_path / "repo")
    path = copy.path / "sidkit.toml"
    path.write_text(path.read_text().replace(str(begun.path.parent), str(tmp_path)))
    return Repo.open(copy.path)


def push(repo: Repo, clicks: list[Click], at: int) -> None:
    assert not push_events(repo, rows_of(clicks), at).rejected


@dataclass
class Expected:
    """The events of the log and where they came from, in plain Python."""

    log: dict[tuple[Any, ...], Click] = field(default_factory=lambda: {click.key: click for click in FIRST})
    pushed: set[tuple[Any, ...]] = field(default_factory=set)
    overridden: dict[tuple[Any, ...], Click] = field(default_factory=dict)

    def push(self, clicks: list[Click]) -> None:
        for click in clicks:
            old = self.log.get(click.key)
            if old is None:
                self.log[click.key] = click
                self.pushed.add(click.key)
            elif click.key in self.pushed:
                self.log[click.key] = merged(click, old)
            elif (new := merged(old, click)) != old:
                self.overridden.setdefault(click.key, old)
                self.log[click.key] = new

    def ingest(self, source: dict[tuple[Any, ...], Click]) -> None:
        for key, click in source.items():
            if self.overridden.get(key) == click:
                continue
            self.overridden.pop(key, None)
            self.log[key], old = merged(click, self.log[key]) if key in self.pushed else click, click
            self.pushed.discard(key)
            if self.log[key] != old:
                self.overridden[key] = old


@pytest.mark.parametrize("seed", [1, 2])
def test_streamed_values_are_those_of_a_rebuild(repo: Repo, tmp_path: Path, seed: int) -> None:
    draw, expected, ticker = np.random.default_rng(seed), Expected(), Ticker(repo)
    source, at, pushed = {click.key: click for click in FIRST}, AS_OF, []
    for step in range(6):
        at += int(draw.choice([SECOND, 90 * SECOND, HOUR, 26 * HOUR]))
        new = drawn(1_000 * seed + step, 12, at - 3 * HOUR, at)
        late = drawn(2_000 * seed + step, 3, START, AS_OF)
        again = [list(expected.log.values())[place] for place in draw.integers(len(expected.log), size=6)]
        bought = [replace(click, label=1, converted=1, query="shoes") for click in again[:3]]
        batch = [*new, *late, *again[3:], *bought] if step % 3 < 2 else []
        if batch:
            push(repo, batch, at)
            expected.push(list({click.key: click for click in batch}.values()))
            pushed += batch
        if step in {2, 4}:  # the source gets half of the pushed events, and corrects some of its own
            source |= {click.key: click for click in pushed[::2]}
            for key in list(source)[step::40]:
                source[key] = replace(source[key], label=0, converted=0)
            write_source(tmp_path / "source", list(source.values()))
            ticker.tick(at)
            ingest(repo, now_us=at)
            expected.ingest(source)
        assert ticker.tick(at).as_of_us == at
        assert logged(repo) == expected.log
    copy = rebuilt(repo, tmp_path / "copy", at)
    assert assert_same(online(repo), online(copy)) > 1_000
    build_tables(repo, at)  # continues from the parts that ticks left
    for name in FOLLOWING:
        found, fresh = (
            sorted(pq.read_table(each.tables / f"{name}.parquet").to_pylist(), key=str) for each in (repo, copy)
        )
        assert found == fresh, name


def test_a_click_is_online_when_it_is_available_and_not_before(repo: Repo) -> None:
    at, ticker = AS_OF + DAY, Ticker(repo)
    ticker.tick(at)
    push(repo, [Click("u1", "i01", at)], at)
    before = online(repo, ["user_history"])
    assert "user_history" not in ticker.tick(at + SECOND - 1).written
    assert online(repo, ["user_history"]) == before
    assert ticker.tick(at + SECOND).written["user_history"] == 1
    changed = [
        row for key, row in online(repo, ["user_history"])["user_history"].items() if before["user_history"][key] != row
    ]
    [(available, values)] = changed
    assert available == at + SECOND and values["item_ids"][0] == "i01" and values["timestamps_us"][0] == at


def test_a_click_that_is_pushed_again_is_one_event(repo: Repo) -> None:
    at, click = AS_OF + HOUR, Click("u1", "i01", AS_OF + HOUR, label=0)
    for label in (0, 0, 1, 0):
        push(repo, [replace(click, label=label)], at)
    assert absorb(repo).new == 1
    assert logged(repo)[click.key].label == 1
    push(repo, [click], at)
    done = absorb(repo)
    assert (done.new, done.changed, done.duplicates) == (0, 0, 1)


def test_an_ingest_of_a_source_without_the_pushed_events_keeps_them(repo: Repo, tmp_path: Path) -> None:
    click = Click("u1", "i01", AS_OF + HOUR)
    push(repo, [click], AS_OF + HOUR)
    absorb(repo)
    write_source(tmp_path / "source", FIRST[:-1])
    report = ingest(repo, remove_vanished=True, now_us=AS_OF + 2 * HOUR)
    assert (report.vanished, report.removed) == (0, 1)
    assert click.key in logged(repo)
    rebuilt_report = ingest(repo, rebuild=True, now_us=AS_OF + 2 * HOUR)
    assert rebuilt_report.rows == len(FIRST) and click.key in logged(repo)


def test_a_changed_row_of_the_source_replaces_a_pushed_event(repo: Repo, tmp_path: Path) -> None:
    at, click = AS_OF + HOUR, Click("u1", "i01", AS_OF + HOUR, label=1)
    push(repo, [click], at)
    absorb(repo)
    for label, expected in (
        (0, 1),
        (0, 1),
        (1, 1),
        (0, 0),
    ):  # the third is another row of the source, and so is the fourth
        write_source(tmp_path / "source", [*FIRST, replace(click, label=label), Click("u9", f"i0{label}", at, label)])
        ingest(repo, now_us=at)
        assert logged(repo)[click.key].label == expected


class Killed(BaseException):
    """What a test raises where a process is killed."""


def test_kills_older_materializations_and_removals_are_made_up_for(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, visitor = AS_OF + DAY, Click("visitor", "i01", AS_OF + HOUR)
    push(repo, drawn(6, 30, START, at), at)

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    for place, waiting in (("sidkit.tables.absorb.dequeue", 30), ("semantic_ids.ticks.record", 0)):
        with monkeypatch.context() as patched:
            patched.setattr(place, killed)
            with pytest.raises(Killed):
                Ticker(repo).tick(at)
        assert queued_rows(repo)["events"] == waiting
    ticker = Ticker(repo)
    write_source(tmp_path / "source", [*FIRST, visitor])
    ingest(repo, now_us=at)
    ticker.tick(at + SECOND)
    users = len(online(repo, ["user_history"])["user_history"])
    materialize(repo, AS_OF)
    write_source(tmp_path / "source", FIRST)
    ingest(repo, remove_vanished=True, now_us=at)
    assert ticker.tick(at + 2 * SECOND).written
    assert len(online(repo, ["user_history"])["user_history"]) == users - 1
    assert_same(online(repo), online(rebuilt(repo, tmp_path / "copy", at + 2 * SECOND)))


def test_another_online_store_is_written_through_feast(repo: Repo) -> None:
    from sidkit.stores.feast_repo import apply_repo, open_store

    yaml = repo.path / "feature_store.yaml"
    own = "type: sidkit.stores.online.PackedSqliteOnlineStore\n  path: data/online.sqlite"
    yaml.write_text(yaml.read_text().replace(own, "type: sqlite\n  path: data/feast.sqlite"))
    (repo.data / "registry.sqlite").unlink()
    apply_repo(repo)
    at = AS_OF + DAY
    push(repo, [Click("u1", "i01", at)], at)
    Ticker(repo).tick(at + HOUR)
    features = ["user_history:item_ids", "item_stats:clicks_1d", "user_item_id_stats:clicks_1d"]
    rows = [{"user_id": "u1", "item_id": "i01"}]
    read = open_store(repo).get_online_features(features, rows, full_feature_names=True).to_dict()
    assert read["user_history__item_ids"][0][0] == "i01"
    assert read["item_stats__clicks_1d"] == read["user_item_id_stats__clicks_1d"] == [1]


def test_pushed_items_get_codes_and_stay(repo: Repo, tmp_path: Path) -> None:
    at, new = AS_OF + DAY, ["i30", "i31"]
    table = items_rows(new, AS_OF + HOUR).append_column("text", pa.array([vector(item) for item in new]))
    report = push_items(repo, table, at)
    assert report.accepted == 2 and not report.rejected
    ticker = Ticker(repo)
    written = ticker.tick(at).written
    assert written["item_content"] == written["item_sid_a"] == written["item_attributes"] == 2
    push(repo, [Click("u1", "i30", at)], at)
    ticker.tick(at + 2 * HOUR)
    views = (
        "item_content",
        "item_sid_a",
        "item_attributes",
        "user_history",
        "item_stats",
        "user_category_stats",
        "code_stats_a",
    )
    write_source(tmp_path / "source", [*FIRST, Click("u2", "i31", at + HOUR)])
    assert ingest(repo, now_us=at + 2 * HOUR).tables[1].rejected == 0
    ticker.tick(at + 3 * HOUR)
    assert_same(online(repo, views), online(rebuilt(repo, tmp_path / "copy", at + 3 * HOUR), views))
    again = push_items(repo, table, at)
    changed = push_items(repo, table.set_column(3, "price", pa.array([9.0, 9.0], pa.float32())), at)
    assert (again.accepted, again.duplicates) == (0, 2)
    assert [each.reason for each in changed.rejected] == ["the item exists already, with other values"] * 2


REJECTED = [
    ({"timestamp": "2150-01-01T00:00:00Z"}, "timestamp is in the future"),
    ({"item_id": "i99"}, "the item is not in the catalogue"),
    ({"timestamp": "yesterday"}, "timestamp is not an ISO 8601 time"),
    ({"label": 2}, "label is not 0 or 1"),
    ({"user_id": ""}, "user_id is empty"),
]


def test_rows_that_break_the_contract_are_rejected_alone(begun: Repo) -> None:
    good = {"user_id": "u1", "item_id": "i01", "timestamp": "2020-03-01T00:00:00Z", "label": 0}
    rows = [good, *({**good, **wrong} for wrong, _ in REJECTED)]
    report = push_events(begun, pa.Table.from_pylist(rows))
    assert report.accepted == 1
    assert {each.row: each.reason for each in report.rejected} == dict(enumerate((why for _, why in REJECTED), start=1))
    for path in (begun.data / "events" / "queue").glob("*.parquet"):
        path.unlink()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"user_id": "u1"}], "expected column 'item_id', 'timestamp', 'label'"),
        ([{"user_id": "u1", "item_id": "i1", "timestamp": "2020-03-01", "label": 1}], "without a time zone"),
        ([{"user_id": "u1", "item_id": "i1", "timestamp": "2020-03-01T00:00:00Z", "label": 1, "colour": "red"}], "got colour"),
    ],
)  # fmt: skip
def test_a_table_that_breaks_the_contract_is_refused(begun: Repo, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        push_events(begun, pa.Table.from_pylist(rows))


def test_a_damaged_file_of_the_queue_is_set_aside(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    at = AS_OF + HOUR
    push(repo, [Click("u1", "i01", at)], at)
    push(repo, [Click("u1", "i02", at)], at)
    first, _ = sorted((repo.data / "events" / "queue").glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-10] + b"0123456789")
    assert absorb(repo).new == 1
    assert "set aside" in capsys.readouterr().err and (repo.data / "events" / "damaged" / first.name).exists()


def test_a_tick_before_the_last_one_is_refused_and_a_held_lock_leaves_the_queue(repo: Repo) -> None:
    Ticker(repo).tick(AS_OF + HOUR)
    with pytest.raises(TimeError, match="no earlier than the online store"):
        Ticker(repo).tick(AS_OF)
    push(repo, [Click("u1", "i01", AS_OF)], AS_OF + HOUR)
    with repo.locked(), pytest.raises(RepoLockedError):
        Ticker(repo).tick(AS_OF + 2 * HOUR)
    assert queued_rows(repo)["events"] == 1


def test_many_pushes_leave_few_parts(repo: Repo) -> None:
    for number in range(20):
        push(repo, [Click("u1", "i01", AS_OF + number * SECOND)], AS_OF + HOUR)
        absorb(repo)
    assert len(read_log(repo).parts) < 20
    assert len(logged(repo)) == len(FIRST) + 20
    build_tables(repo, AS_OF + DAY)
