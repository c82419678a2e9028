"""From the source to the log: append-only parts, a snapshot of the items, and what survives a crash."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, START, forked_sidkit, fresh_repo, moments, write_tables
from sidkit.cli.data import ingest_
from sidkit.core.errors import (
    ArtifactCorruptError,
    ArtifactMissingError,
    ContractError,
    RejectedRowsError,
    SettingsChangedError,
    TableSchemaError,
)
from sidkit.core.repo import Repo
from sidkit.tables import ingest, read_log
from sidkit.tables.log import Log

Row = tuple[str, str, int, float]
FIRST: list[Row] = [(f"u{n % 3}", f"i{n % 4}", START + 1000 * n, float(n % 2)) for n in range(1, 13)]
LATER: list[Row] = [("u7", "i1", START + DAY, 1.0), ("u8", "i2", START + DAY, 0.0)]
LATE: list[Row] = [("u9", "i1", START, 1.0)]  # before everything that the log holds


MODULE = importlib.import_module("sidkit.tables.ingest")  # the package's `ingest` is the function


def kill(*_: object) -> None:
    raise KeyboardInterrupt


def write(folder: Path, rows: list[Row], items: dict[str, str] | None = None, **more: pa.Array) -> Path:
    """A source with these interactions; ``items`` maps ids to categories."""
    catalogue = items or dict.fromkeys((f"i{n}" for n in range(4)), "old")
    user, item, time, label = zip(*rows, strict=True)
    return write_tables(
        folder,
        {
            "interactions": pa.table({"user_id": user, "item_id": item, "timestamp": moments(time), "label": label}),
            "items": pa.table(
                {
                    "item_id": list(catalogue),
                    "created_at": moments([START - DAY] * len(catalogue)),
                    "category": list(catalogue.values()),
                    **more,
                }
            ),
            "item_embeddings": pa.table({"item_id": list(catalogue), "text": [[0.5, 1.0]] * len(catalogue)}),
        },
    )


def part_rows(part: Path) -> list[Row]:
    columns = pq.read_table(part, columns=["user_id", "item_id", "timestamp", "label"])
    columns = columns.set_column(2, "timestamp", columns["timestamp"].cast(pa.int64()))
    return [tuple(row.values()) for row in columns.to_pylist()]


def rows_of(log: Log) -> list[Row]:
    return [row for part in log.parts for row in part_rows(part)]


def identity(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, modification time and bytes of every file."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def content(repo: Repo) -> dict[str, Any]:
    """What a reader of the log sees, without what depends on the source's file times."""
    log = read_log(repo)
    manifest = {key: value for key, value in log.manifest.items() if key not in {"fingerprint", "settings"}}
    files = [pq.read_table(file).to_pylist() for file in (*log.parts, log.items, log.embeddings)]
    return {"manifest": manifest, "files": files}


def test_the_same_source_read_again_touches_no_file(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    assert (ingest(repo).new_rows, ingest(repo).unchanged) == (12, True)
    before = identity(repo.log)
    again = ingest(repo)
    assert (again.new_rows, again.rows, again.unchanged) == (0, 12, True)
    assert [report.rows for report in again.tables] == [4, 4, 12]  # what was found is told again
    assert identity(repo.log) == before


def test_a_rewritten_source_with_the_same_rows_adds_no_part(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    ingest(repo)
    part = repo.log / "interactions" / "part-00000.parquet"
    before = identity(part.parent)
    write(tmp_path / "source", FIRST[::-1])
    report = ingest(repo)
    assert (report.new_rows, report.rows, report.unchanged) == (0, 12, False)
    assert list(before) == [part.name]
    assert identity(part.parent) == before


@pytest.mark.parametrize("added", [LATER, LATE], ids=["later rows", "late rows"])
def test_added_rows_become_a_part_of_their_own(tmp_path: Path, added: list[Row]) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    ingest(repo)
    first = identity(repo.log / "interactions")
    write(tmp_path / "source", added + FIRST)
    assert ingest(repo).new_rows == len(added)
    log = read_log(repo)
    assert [sorted(part_rows(part)) for part in log.parts] == [sorted(FIRST), sorted(added)]
    assert first.items() <= identity(repo.log / "interactions").items()
    assert (log.rows, log.last_us) == (len(FIRST + added), max(row[2] for row in FIRST + added))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(arrivals=st.lists(st.lists(st.sampled_from(FIRST + LATER + LATE), min_size=1), min_size=1, max_size=4))
def test_however_rows_arrive_the_log_holds_each_once(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[list[Row]]
) -> None:
    folder = tmp_path_factory.mktemp("arrivals")
    labels = [("u0", "i0", START + 1, 0.0), ("u0", "i0", START + 2, 1.0)]
    repo = fresh_repo(
        folder / "repo",
        write(folder / "source", labels),
        toml={"max_reject_share = 0.01": "max_reject_share = 1.0"},
    )
    seen: set[Row] = set(labels)
    for rows in arrivals:
        write(folder / "source", labels + rows)
        ingest(repo)
        seen |= set(rows)
        assert sorted(rows_of(read_log(repo))) == sorted(seen)


def test_exact_copies_go_to_the_rejects(tmp_path: Path) -> None:
    source = write(tmp_path / "source", FIRST + FIRST[:2])
    repo = fresh_repo(tmp_path / "repo", source, toml={"max_reject_share = 0.01": "max_reject_share = 0.2"})
    assert ingest(repo).rows == 12
    rejects = pq.read_table(repo.rejects / "interactions.parquet")
    assert rejects["reason"].to_pylist() == ["an exact copy of another row"] * 2
    assert rejects["user_id"].to_pylist() == [row[0] for row in FIRST[:2]]


def test_an_item_that_leaves_the_source_stays_and_one_that_changes_is_renewed(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    ingest(repo)
    rows = [row for row in FIRST if row[1] != "i3"]
    write(tmp_path / "source", rows, {"i0": "new", "i1": "old", "i2": "old", "i8": "new"})
    ingest(repo)
    log = read_log(repo)
    items = {row["item_id"]: row["category"] for row in pq.read_table(log.items).to_pylist()}
    assert items == {"i0": "new", "i1": "old", "i2": "old", "i3": "old", "i8": "new"}
    assert pq.read_table(log.embeddings)["item_id"].to_pylist() == sorted(items)
    assert sorted(rows_of(log)) == sorted(FIRST)


def test_an_item_has_one_version_per_moment_though_the_source_gains_updated_at(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    ingest(repo)
    write(tmp_path / "source", FIRST, updated_at=moments([START - DAY] * 4))
    ingest(repo)
    items = pq.read_table(read_log(repo).items).to_pylist()
    versions = [(row["item_id"], row["updated_at"] or row["created_at"]) for row in items]
    assert sorted(versions) == sorted(set(versions))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('feedback = "impressions"', 'feedback = "positives_only"', "source.feedback"),
        ('modalities = ["text"]', 'modalities = ["text", "image"]', "source.modalities"),
        ("conversions = false", "conversions = true", "source.conversions"),
    ],
)
def test_a_log_read_under_other_settings_is_refused(tmp_path: Path, old: str, new: str, key: str) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    ingest(repo)
    before = identity(repo.log)
    (repo.path / "sidkit.toml").write_text((repo.path / "sidkit.toml").read_text().replace(old, new, 1))
    with pytest.raises(SettingsChangedError, match=f"{key}: made with .*Restore the old values") as raised:
        ingest(Repo.open(repo.path))
    assert list(raised.value.changed) == [key]
    assert identity(repo.log) == before


def test_a_source_may_move(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    ingest(repo)
    before = identity(repo.log / "interactions")
    write(tmp_path / "moved", FIRST)
    settings_file = repo.path / "sidkit.toml"
    settings_file.write_text(settings_file.read_text().replace(str(tmp_path / "source"), str(tmp_path / "moved")))
    assert ingest(Repo.open(repo.path)).new_rows == 0
    assert identity(repo.log / "interactions") == before


def test_a_stricter_limit_judges_an_unchanged_source_again(tmp_path: Path) -> None:
    source = write(tmp_path / "source", FIRST + FIRST[:1])
    repo = fresh_repo(tmp_path / "repo", source, toml={"max_reject_share = 0.01": "max_reject_share = 0.2"})
    ingest(repo)
    settings_file = repo.path / "sidkit.toml"
    settings_file.write_text(settings_file.read_text().replace("max_reject_share = 0.2", "max_reject_share = 0.0"))
    with pytest.raises(RejectedRowsError):
        ingest(Repo.open(repo.path))


@pytest.mark.parametrize("earlier", [False, True], ids=["first ingest", "second ingest"])
@pytest.mark.parametrize("step", ["_take_out", "_append", "merge_snapshots", "write_log"])
def test_a_killed_ingest_run_again_gives_the_log_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, earlier: bool
) -> None:
    repos = [fresh_repo(tmp_path / name, write(tmp_path / "source", FIRST)) for name in ("calm", "killed")]
    if earlier:
        for repo in repos:
            ingest(repo)
        write(tmp_path / "source", LATE + FIRST + LATER, {f"i{n}": "new" for n in range(5)})
    calm, killed = repos
    ingest(calm)

    with monkeypatch.context() as patched:
        patched.setattr(MODULE, step, kill)
        with pytest.raises(KeyboardInterrupt):
            ingest(killed)
    if earlier:
        assert sorted(rows_of(read_log(killed))) == sorted(FIRST)
    else:
        with pytest.raises(ArtifactMissingError, match="expected a log in .*; run `sidkit data ingest"):
            read_log(killed)
    ingest(killed)
    assert content(killed) == content(calm)
    listed = {part.name for part in read_log(killed).parts}
    assert {file.name for file in (killed.log / "interactions").iterdir()} == listed


def test_what_a_killed_ingest_had_still_to_remove_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    ingest(repo)
    write(tmp_path / "source", FIRST, {f"i{n}": "new" for n in range(5)})
    with monkeypatch.context() as patched:
        patched.setattr(MODULE, "remove_unlisted", kill)
        with pytest.raises(KeyboardInterrupt):
            ingest(repo)
    assert len(list(repo.log.glob("items-*.parquet"))) == 2
    assert ingest(repo).unchanged
    assert list(repo.log.glob("items-*.parquet")) == [read_log(repo).items]


def test_what_an_unfinished_first_ingest_read_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST, {f"i{n}": "wrong" for n in range(9)}))
    with monkeypatch.context() as patched:
        patched.setattr(MODULE, "write_log", kill)
        with pytest.raises(KeyboardInterrupt):
            ingest(repo)
    write(tmp_path / "source", FIRST)
    ingest(repo)
    assert pq.read_table(read_log(repo).items)["item_id"].to_pylist() == ["i0", "i1", "i2", "i3"]


FULL_DISK = """
import importlib, json, resource, sys
from sidkit.core.errors import StorageError
from sidkit.core.repo import Repo

module = importlib.import_module("sidkit.tables.ingest")
told = []
for step in json.loads(sys.argv[2]):
    original = getattr(module, step)

    def fill_up(*arguments, **named):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        return original(*arguments, **named)

    setattr(module, step, fill_up)
    try:
        module.ingest(Repo.open(sys.argv[1]))
    except StorageError as error:
        told.append([error.path.name, str(error)])
    setattr(module, step, original)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps(told))
"""


def test_a_full_disk_is_named_and_leaves_the_old_log_readable(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    ingest(repo)
    before = identity(repo.log)
    write(tmp_path / "source", FIRST + LATER, {**dict.fromkeys((f"i{n}" for n in range(4)), "old"), "i4": "new"})
    steps = {
        "validate": "staged-items",
        "_append": "part-00001",
        "merge_snapshots": "items-00001",
        "write_log": "manifest",
    }
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(repo.path), json.dumps(list(steps))],
        capture_output=True, text=True, timeout=120, check=True, cwd=tmp_path,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert [Path(name).stem for name, _ in told] == list(steps.values())
    for _, message in told:
        assert "File too large" in message
        assert "free some disk space and run the same command again" in message
    after = identity(repo.log)
    assert [before[name] for name in ("manifest.json", "part-00000.parquet")] == [
        after[name] for name in ("manifest.json", "part-00000.parquet")
    ]
    assert sorted(rows_of(read_log(repo))) == sorted(FIRST)
    assert ingest(repo).new_rows == len(LATER)
    assert not list(repo.data.rglob(".writing-*"))


@pytest.mark.parametrize(("bad", "total", "limit"), [(2, 200, 0.01), (29, 100, 0.29), (0, 100, 0.0)])
def test_rejects_up_to_the_limit_are_let_through(tmp_path: Path, bad: int, total: int, limit: float) -> None:
    rows = [("u", "i1", START + n, 2.0 if n < bad else float(n % 2)) for n in range(total)]
    source = write(tmp_path / "source", rows)
    repo = fresh_repo(tmp_path / "repo", source, toml={"max_reject_share = 0.01": f"max_reject_share = {limit}"})
    assert ingest(repo).rows == total - bad


def test_one_reject_too_many_stops_the_run_after_the_rejects_are_written(tmp_path: Path) -> None:
    rows = [("u", "i1", START + n, float(n % 2)) for n in range(200)]
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", rows))
    ingest(repo)
    before = identity(repo.log)
    write(tmp_path / "source", [*rows[3:], *[(user, item, time, 2.0) for user, item, time, _ in rows[:3]]])
    with pytest.raises(
        RejectedRowsError, match=r"at most 1\.00% rejected rows, got 3 of 200 \(1\.50%\).*label is not 0 or 1"
    ) as told:
        ingest(repo)
    assert (told.value.table, told.value.rejected, told.value.total) == ("interactions", 3, 200)
    assert told.value.reasons == {"label is not 0 or 1": 3}
    assert pq.read_table(repo.rejects / "interactions.parquet")["label"].to_pylist() == [2.0] * 3
    assert identity(repo.log) == before


@pytest.mark.parametrize("name", ["interactions", "items", "item_embeddings"])
def test_an_empty_table_is_refused(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "source", FIRST)
    path = source / f"{name}.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(ContractError, match=f"{name}: expected at least one row"):
        ingest(fresh_repo(tmp_path / "repo", source))


def test_text_labels_are_refused_with_the_remedy(tmp_path: Path) -> None:
    source = write(tmp_path / "source", [("u", "i1", START, "click")])  # type: ignore[list-item]
    with pytest.raises(
        TableSchemaError, match=r"expected 0 or 1 as an integer in column 'label', got string.*== .click"
    ):
        ingest(fresh_repo(tmp_path / "repo", source))


def test_a_listed_part_that_is_gone_is_missed(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    ingest(repo)
    (repo.log / "interactions" / "part-00000.parquet").unlink()
    with pytest.raises(
        ArtifactCorruptError, match=r"part-00000\.parquet: the file is missing.*`sidkit data ingest --rebuild"
    ):
        read_log(repo)
    assert ingest(repo, rebuild=True).rows == read_log(repo).rows == 12


def test_the_ingest_command_tells_what_is_new(
    tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", FIRST))
    told = forked_sidkit("data", "ingest", cwd=elsewhere, SIDKIT_REPO=str(repo.path)).stdout
    assert "12 new rows; the log has 12 rows" in told
    ingest_(repo.path)
    assert "the source is unchanged; the log has 12 rows" in capsys.readouterr().out
