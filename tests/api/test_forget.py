"""Forgetting users: no byte of them is left, what others contributed stays, and they do not come back."""

from __future__ import annotations

import io
import shutil
import sqlite3
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.attribute_world import attribute_repo, attribute_source, attribute_tables
from helpers.builders import DAY, START, copy_of, fresh_repo, moments, write_tables
from helpers.bytes_of import holders
from helpers.commands import ask_well
from semantic_ids import lifecycle
from semantic_ids.lifecycle import CodebookSpec
from sidkit.core.errors import ArtifactCorruptError, ContractError, OnlineStoreError, RepoError
from sidkit.core.forgotten import begin_forgetting
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, materialize
from sidkit.tables import build_tables, ingest, read_log
from sidkit.tables.labelled_rows import build_labelled_rows

PERSON, LONGER, SHORTER = "person-ffc1e0", "person-ffc1e0b", "person-ffc1e"
"""Whose rows go, and others, whose ids it is a part of and has as a part."""
NAMES = {"u7": PERSON, "u8": LONGER, "u9": SHORTER}
END = START + 41 * DAY
SPEC = CodebookSpec(force=True, sizes=(4, 3, 2), encoder_arguments={"dim": 4}, beam=2)


def world() -> dict[str, pa.Table]:
    """The tables with three distinctive users, and a row of one of them that is rejected."""
    tables = attribute_tables(events=1200)
    for name in ("interactions", "users"):
        ids = [NAMES.get(each, each) for each in tables[name].column("user_id").to_pylist()]
        tables[name] = tables[name].set_column(0, "user_id", pa.array(ids))
    wrong = tables["interactions"].slice(0, 2).set_column(0, "user_id", pa.array([PERSON, LONGER]))
    wrong = wrong.set_column(1, "item_id", pa.array([None, None], pa.string()))
    tables["interactions"] = pa.concat_tables([tables["interactions"], wrong])
    return tables


def without(table: pa.Table, *users: str) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table.column("user_id"), pa.array(users))))


def grown(folder: Path, tables: dict[str, pa.Table]) -> Repo:
    """A repo with all that commands make of a source."""
    repo = attribute_repo(folder / "repo", write_tables(folder / "source", tables))
    ingest(repo)
    build_tables(repo, END)
    lifecycle.fit(repo, "codes", SPEC, START + 30 * DAY)
    lifecycle.publish(repo, "codes")
    apply_repo(repo)
    materialize(repo, END)
    return repo


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The person is in every place."""
    repo = grown(tmp_path_factory.mktemp("before"), world())
    build_labelled_rows(repo)
    users = pa.array([PERSON, LONGER, "u1"])
    logged = pa.table({"request_id": ["1", "2", "3"], "user_id": users, "score": [0.1, 0.2, 0.3]})
    write_tables(repo.data / "serving" / "log", {"part-1": logged})
    write_tables(repo.runs / "fast" / "frame", {"rows": pa.table({"user_id": users})})
    (repo.runs / "fast" / "frame" / "arrays.bin").write_bytes(b"histories")
    write_tables(repo.runs / "fast" / "predictions", {"id": pa.table({"score": [0.1, 0.2, 0.3]})})
    buffer = io.BytesIO()
    np.savez(buffer, user_ids=np.array([PERSON, "u1"]), scores=np.zeros(2))
    (repo.data / "serving" / "golden_r_1.npz").write_bytes(buffer.getvalue())
    assert len(holders(repo.path, PERSON)) > 10
    return repo


@pytest.fixture(scope="module")
def after(before: Repo, tmp_path_factory: pytest.TempPathFactory) -> tuple[Repo, Any]:
    repo = copy_of(before, tmp_path_factory.mktemp("after") / "repo")
    shutil.copy(before.data / "registry.sqlite", repo.data / "registry.sqlite")
    sidkit.open(repo.path).relocate()
    return repo, sidkit.open(repo.path).forget(PERSON)


def test_no_byte_of_a_forgotten_user_is_left(after: tuple[Repo, Any]) -> None:
    repo, _ = after
    found = holders(repo.path, PERSON)
    # What is left is the longer id, in each of these files.
    for name in found:
        for cell in cells(repo.path / name):
            assert cell != PERSON, name
    for path in repo.path.rglob("*"):
        if path.is_file() and path.suffix != ".parquet":
            raw = path.read_bytes()
            assert raw.count(PERSON.encode()) == raw.count(LONGER.encode()), path
    assert not list(repo.data.glob("online.sqlite-wal")) or not (repo.data / "online.sqlite-wal").stat().st_size


def cells(path: Path) -> list[Any]:
    if path.suffix != ".parquet":
        return []
    table = pq.read_table(path)
    return [cell for name in table.column_names for cell in table.column(name).to_pylist()]


def all_cells(root: Path) -> list[Any]:
    return [cell for path in root.rglob("*.parquet") for cell in cells(path)]


def test_what_others_contributed_is_as_if_the_user_had_never_been(after: tuple[Repo, Any], tmp_path: Path) -> None:
    repo, _ = after
    tables = world()
    for name in ("interactions", "users"):
        tables[name] = without(tables[name], PERSON)
    other = grown(tmp_path, tables)
    assert rows_of(read_log(repo).parts) == rows_of(read_log(other).parts)
    names = sorted(path.name for path in other.tables.glob("*.parquet"))
    assert names == sorted(path.name for path in repo.tables.glob("*.parquet"))
    counted = [name for name in names if not name.startswith("item_sid")]  # these have the time of the wall clock
    assert "item_stats.parquet" in counted and "user_code_stats_codes.parquet" in counted
    for name in counted:
        assert rows_of([repo.tables / name]) == rows_of([other.tables / name]), name
    assert online_rows(repo) == online_rows(other)


def rows_of(paths: Any) -> list[str]:
    return sorted(str(row) for path in paths for row in pq.read_table(path).to_pylist())


def online_rows(repo: Repo) -> dict[str, list[tuple[bytes, bytes]]]:
    with sqlite3.connect(repo.data / "online.sqlite") as opened:
        tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE name GLOB 'packed:*_*'")]
        counted = [name for name in tables if "item_sid" not in name]
        return {name: opened.execute(f'SELECT * FROM "{name}" ORDER BY key').fetchall() for name in counted}


def test_the_report_says_what_was_removed_and_what_learned_from_it(after: tuple[Repo, Any], before: Repo) -> None:
    _, report = after
    count = world()["interactions"].column("user_id").to_pylist().count(PERSON) - 1
    assert report.users == 1 and not report.finished
    assert report.rows["data/log/interactions"] == count and report.rows["data/rejects/interactions.parquet"] == 1
    assert report.rows["data/serving/log"] == 1 and report.rows["data/online.sqlite"] > 3
    assert report.removed == (
        "artifacts/runs/fast/frame", "artifacts/runs/fast/predictions", "data/serving/golden_r_1.npz"
    )  # fmt: skip
    assert report.retrain == ()  # a codebook of content alone did not learn from clicks
    assert any("source.url" in line for line in report.left)


def test_artefacts_that_learned_from_a_user_are_listed(before: Repo, tmp_path: Path) -> None:
    repo = copy_of(before, tmp_path / "repo")
    events = [row for row in world()["interactions"].to_pylist() if row["user_id"] == PERSON]
    at = sorted(int(row["timestamp"].timestamp() * 1e6) for row in events)
    for name, window in {"seen": (at[1], at[3]), "unseen": (at[-1] + 1, at[-1] + DAY)}.items():
        made = {"fit_start_us": window[0], "fit_end_us": window[1]}
        from sidkit.core.artifact import write_artifact

        write_artifact(repo.rankers / name, made, lambda folder: (folder / "x").write_text("x") and None)
    report = sidkit.open(repo.path).forget([PERSON])
    assert [(each.kind, each.name, each.rows) for each in report.retrain] == [("ranker", "seen", 2)]
    assert "sidkit run" in report.retrain[0].remedy


def test_the_forgotten_do_not_come_back_with_the_next_ingest(after: tuple[Repo, Any], tmp_path: Path) -> None:
    repo = copy_of(after[0], tmp_path / "repo")
    tables = world()
    late = tables["interactions"].slice(0, 3).set_column(0, "user_id", pa.array([PERSON, LONGER, "new"]))
    late = late.set_column(2, "timestamp", moments([END + 1, END + 2, END + 3]))
    tables["interactions"] = pa.concat_tables([tables["interactions"], late])
    source = write_tables(tmp_path / "source", tables)
    text = (repo.path / "sidkit.toml").read_text()
    (repo.path / "sidkit.toml").write_text(text.replace(repo.settings.source.url, str(source)))
    project = sidkit.open(repo.path)
    report = project.ingest()
    theirs = tables["interactions"].column("user_id").to_pylist().count(PERSON)
    described = tables["users"].column("user_id").to_pylist().count(PERSON)
    assert report.forgotten == theirs + described and report.new_rows == 2 and report.vanished == 0
    assert project.ingest().forgotten == report.forgotten  # an unchanged source says it again
    project.build("2020-04-01T00:00:00Z")
    assert PERSON not in all_cells(repo.path)
    told = ask_well("data", "check", source, "--repo", repo.path).out
    assert f"{report.forgotten:,} of forgotten users left out" in told
    assert "forgotten users" in ask_well("data", "ingest", "--repo", repo.path, "--rebuild").out
    assert PERSON not in all_cells(repo.path)


def test_forgetting_again_changes_nothing_and_unknown_users_are_refused(
    after: tuple[Repo, Any], tmp_path: Path
) -> None:
    repo = copy_of(after[0], tmp_path / "repo")
    project = sidkit.open(repo.path)
    log = read_log(repo).manifest
    assert project.forget(PERSON).rows == {} and read_log(repo).manifest == log
    with pytest.raises(RepoError, match=r"got 'nobody', 'person', of whom no file has a row; nothing was removed"):
        project.forget(["u1", "nobody", "person"])
    assert "u1" in rows_users(repo)
    assert project.forget(["nobody"], allow_unknown=True).users == 1
    assert project.forget(["nobody"]).users == 1  # known as forgotten from now on
    with pytest.raises(RepoError, match="expected users to forget, got none, and nothing is unfinished"):
        project.forget()
    with pytest.raises(RepoError, match=r"expected user ids as text or integers, got 1.5 \(float\)"):
        project.forget([1.5])  # type: ignore[list-item]


def rows_users(repo: Repo) -> set[str]:
    return {user for path in read_log(repo).parts for user in pq.read_table(path).column("user_id").to_pylist()}


def test_an_interrupted_call_is_finished_before_anything_else(before: Repo, tmp_path: Path) -> None:
    repo = copy_of(before, tmp_path / "repo")
    project = sidkit.open(repo.path)
    begin_forgetting(repo.path, {"users": [PERSON], "rows": {"data/log/interactions": 7}, "retrain": [], "caches": []})
    with pytest.raises(
        RepoError, match=r"`sidkit forget` was interrupted.*run `(sidkit forget --repo [^`]+)`"
    ) as refused:
        project.ingest()
    remedy = str(refused.value).split("`")[3].split()
    told = ask_well(*remedy[1:]).out
    assert "finished what an interrupted call began" in told
    assert PERSON not in rows_users(repo) and not (repo.path / "forgotten" / "pending.json").exists()
    assert project.ingest().forgotten == 0  # the source is unchanged since the ingest before


def test_a_reader_of_the_online_store_is_waited_for_and_a_writer_refused(before: Repo, tmp_path: Path) -> None:
    repo = copy_of(before, tmp_path / "repo")
    yaml = (repo.path / "feature_store.yaml").read_text()
    (repo.path / "feature_store.yaml").write_text(
        yaml.replace("path: data/online.sqlite", "path: data/online.sqlite\n  patience_seconds: 0.1")
    )
    holder = sqlite3.connect(repo.data / "online.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(OnlineStoreError, match=r"another process holds it.*run `sidkit forget` again"):
        sidkit.open(repo.path).forget(PERSON)
    holder.execute("ROLLBACK")
    assert sidkit.open(repo.path).forget().finished
    assert PERSON.encode() not in (repo.data / "online.sqlite").read_bytes().replace(LONGER.encode(), b"")


def test_numbers_are_the_ids_that_the_contract_makes_of_them(tmp_path: Path) -> None:
    tables = attribute_tables(events=400)
    numbers = [int(each[1:]) for each in tables["interactions"].column("user_id").to_pylist()]
    tables["interactions"] = tables["interactions"].set_column(0, "user_id", pa.array(numbers))
    del tables["users"]
    repo = fresh_repo(tmp_path / "repo", write_tables(tmp_path / "source", tables))
    ingest(repo)
    build_tables(repo, END)
    (tmp_path / "users.txt").write_text("7\n\n 12 \n")
    told = ask_well("forget", "--repo", repo.path, "--user", 1, "--users-file", tmp_path / "users.txt").out
    assert "3 users forgotten" in told
    assert rows_users(repo) == {str(each) for each in numbers} - {"1", "7", "12"}


def test_a_source_of_tables_in_memory_loses_the_rows_too(tmp_path: Path) -> None:
    tables = world()
    clicks = tables["interactions"].rename_columns(["visitor", *tables["interactions"].column_names[1:]])
    project = sidkit.init(
        tmp_path / "repo", interactions=clicks, items=tables["items"], users=tables["users"],
        item_embeddings=tables["item_embeddings"], source={"columns": {"user_id": "visitor"}}
    )  # fmt: skip
    project.ingest()
    report = project.forget([PERSON])
    assert report.rows["source/interactions/000000.parquet"] > 1 and report.rows["source/users.parquet"] >= 1
    assert PERSON not in all_cells(project.path)
    assert project.ingest().new_rows == 0
    assert [line for line in report.left if "source" in line] == []


def test_the_last_users_of_a_log_are_not_removed(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", attribute_source(tmp_path / "source"))
    ingest(repo)
    with pytest.raises(RepoError, match="delete the repository instead"):
        sidkit.open(repo.path).forget(sorted(rows_users(repo)))
    sidkit.open(repo.path).ingest()  # nothing is half done


def test_a_source_of_forgotten_users_alone_is_refused(tmp_path: Path) -> None:
    repo = fresh_repo(tmp_path / "repo", attribute_source(tmp_path / "source"))
    ingest(repo)
    project = sidkit.open(repo.path)
    project.forget("u1")
    tables = attribute_tables()
    only = tables["interactions"].filter(pc.equal(tables["interactions"].column("user_id"), "u1"))
    attribute_source(tmp_path / "source", interactions=only)
    with pytest.raises(ContractError, match="expected rows of users who are not forgotten, got only"):
        project.ingest()


def test_the_keyed_hashes_are_private_and_a_lost_key_is_noticed(after: tuple[Repo, Any], tmp_path: Path) -> None:
    repo = copy_of(after[0], tmp_path / "repo")
    folder = repo.path / "forgotten"
    assert sorted(path.name for path in folder.iterdir()) == ["key", "users.json"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    key = (folder / "key").read_bytes()
    for content, problem in ((b"0" * 32, "not the key of the hashes"), (None, "missing")):
        (folder / "key").unlink()
        if content is not None:
            (folder / "key").write_bytes(content)
        with pytest.raises(ArtifactCorruptError, match=rf"{problem}.*restore the folder from a backup"):
            ingest(repo)
        (folder / "key").write_bytes(key)
    ingest(repo)
