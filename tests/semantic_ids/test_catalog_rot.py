"""A record of the catalogue that changed on disk: one error, and a repair from the artefacts."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers.builders import FinishedJob
from helpers.codebook_builders import CUT, SPEC, built_repo
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog, read_definitions
from semantic_ids.catalog_repair import repair_catalog
from semantic_ids.records import RankerRecord
from sidkit.cli import build_app
from sidkit.core.errors import CatalogCorruptError, CatalogError, LifeCycleError
from sidkit.core.repo import Repo


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Codebooks serving, published, retired, fitted and purged, without a feature store."""
    repo = built_repo(tmp_path_factory.mktemp("sound"))
    catalog = Catalog.open(repo)
    for name, states in {
        "a": ["published", "serving"],
        "b": ["published"],
        "c": ["published", "retired"],
        "d": [],
    }.items():
        lifecycle.fit(repo, name, SPEC, CUT)
        for state in states:
            catalog.define(name)
            catalog.set_state(name, state)
    return repo


@pytest.fixture
def repo(sound: Repo) -> Iterator[Repo]:
    """The repo; its catalogue is put back afterwards."""
    kept = {path: path.read_bytes() for path in (sound.data / "catalog.sqlite", sound.defined)}
    yield sound
    for path in sound.data.glob("catalog.sqlite*"):
        path.unlink()
    for path, data in kept.items():
        path.write_bytes(data)


def change(repo: Repo, statement: str, *values: Any) -> None:
    with contextlib.closing(sqlite3.connect(repo.data / "catalog.sqlite")) as opened, opened:
        assert opened.execute(statement, values).rowcount > 0


CHANGES = {
    "state": "UPDATE sidkit_codebooks SET state = 'retired' WHERE name = 'a'",
    "no state": "UPDATE sidkit_codebooks SET state = 'servinf' WHERE name = 'a'",
    "defined": "UPDATE sidkit_codebooks SET defined = 0 WHERE name = 'a'",
    "name": "UPDATE sidkit_codebooks SET name = 'q' WHERE name = 'a'",
    "window": "UPDATE sidkit_codebooks SET fit_end_us = fit_end_us + 1024 WHERE name = 'a'",
    "hash": "UPDATE sidkit_codebooks SET content_hash = 'f' || substr(content_hash, 2) WHERE name = 'a'",
    "sizes": "UPDATE sidkit_codebooks SET sizes = '9x4' WHERE name = 'a'",
    "time": "UPDATE sidkit_codebooks SET changed_at_us = changed_at_us | 576460752303423488 WHERE name = 'a'",
    "bytes": "UPDATE sidkit_codebooks SET quantizer = x'00ff' WHERE name = 'a'",
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_record_is_one_error_and_comes_back_exactly_as_it_was(repo: Repo, what: str) -> None:
    before = Catalog.open(repo).codebooks()
    change(repo, CHANGES[what])
    name = "q" if what == "name" else "a"
    for use in (Catalog.open, lambda repo: read_definitions(repo.path)):
        with pytest.raises(
            CatalogCorruptError, match=rf"record of codebook '{name}' does not match its checksum.*nothing was app"
        ):
            use(repo)
    done = CliRunner().invoke(build_app(), ["codebooks", "list", "--repo", str(repo.path)])
    assert done.exit_code == 1
    assert isinstance(done.exception, CatalogCorruptError)
    done = CliRunner().invoke(build_app(), ["codebooks", "repair", "--repo", str(repo.path)])
    assert done.exit_code == 0, done.output
    assert "codebook a: serving, verified by its hash" in done.output
    assert Catalog.open(repo).codebooks() == before
    assert repair_catalog(repo) == []


def test_a_state_is_not_changed_on_top_of_damage(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    change(repo, CHANGES["window"])
    with pytest.raises(CatalogCorruptError):
        catalog.set_state("a", "retired")
    with pytest.raises(CatalogCorruptError):
        catalog.set_state("b", "serving")  # takes the place of a


@pytest.mark.parametrize("harm", ["garbage", "empty", "gone", "cut"])
def test_a_catalogue_that_is_lost_is_made_anew_from_the_artefacts(repo: Repo, harm: str) -> None:
    before = {record.name: record for record in Catalog.open(repo).codebooks()}
    path = repo.data / "catalog.sqlite"
    data = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes({"garbage": b"no database " * 999, "empty": b"", "cut": data[: len(data) // 2]}[harm])
    with pytest.raises(CatalogError):
        Catalog.open(repo)
    done = repair_catalog(repo)
    assert [record.exact for record in done] == [False] * 4
    after = {record.name: record for record in Catalog.open(repo).codebooks()}
    assert {name: record.state for name, record in after.items()} == {
        "a": "published", "b": "published", "c": "published", "d": "fitted",
    }  # fmt: skip
    for name, record in after.items():
        assert (record.content_hash, record.sizes, record.fit_start_us, record.fit_end_us, record.defined) == (
            before[name].content_hash, before[name].sizes, before[name].fit_start_us, before[name].fit_end_us,
            before[name].defined,
        )  # fmt: skip
    assert (path.with_name("catalog.sqlite.damaged")).exists() == (harm in {"garbage", "cut"})


def test_no_flipped_bit_of_the_file_gives_another_record(repo: Repo) -> None:
    path, draw = repo.data / "catalog.sqlite", random.Random(0)
    data, before = path.read_bytes(), Catalog.open(repo).codebooks()
    found = 0
    for _ in range(120):
        flipped = bytearray(data)
        # Half of the flips go where the records lie, which is a small part of the file.
        place = data.index(b"serving") if draw.random() < 0.5 else 0
        flipped[place + draw.randrange(200 if place else len(data) - place)] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        Path(f"{path}-journal").unlink(missing_ok=True)
        with contextlib.suppress(CatalogError):
            assert Catalog.open(repo, create=False).codebooks() == before
            continue
        found += 1
    assert found > 20


def test_a_catalogue_of_the_release_before_gets_its_check_values(repo: Repo) -> None:
    before = Catalog.open(repo).codebooks()
    for table in ("sidkit_codebooks", "sidkit_rankers"):
        with contextlib.closing(sqlite3.connect(repo.data / "catalog.sqlite")) as opened, opened:
            opened.execute(f"ALTER TABLE {table} DROP COLUMN row_hash")
    assert Catalog.open(repo, create=False).codebooks() == before, "reading changes nothing"
    with contextlib.closing(sqlite3.connect(repo.data / "catalog.sqlite")) as opened:
        assert "row_hash" not in [column[1] for column in opened.execute("PRAGMA table_info(sidkit_codebooks)")]
    assert Catalog.open(repo).codebooks() == before
    change(repo, CHANGES["window"])
    with pytest.raises(CatalogCorruptError):
        Catalog.open(repo, create=False)


def test_a_purged_name_stays_used(repo: Repo, tmp_path: Path) -> None:
    Catalog.open(repo).set_state("c", "purged")
    shutil.move(repo.codebooks / "c", tmp_path / "c")
    change(repo, "UPDATE sidkit_codebooks SET state = 'purgee' WHERE name = 'c'")
    [done] = repair_catalog(repo)
    assert (done.name, done.state, done.exact) == ("c", "purged", True)
    with pytest.raises(LifeCycleError, match="never overwritten"):
        Catalog.open(repo).begin_fit("c", "q", "e", (2,))
    shutil.move(tmp_path / "c", repo.codebooks / "c")


def test_lost_records_of_trained_rankers_are_recreated_from_their_configurations(
    finished: FinishedJob, tmp_path: Path
) -> None:
    lost = Repo(shutil.copytree(finished.repo.path, tmp_path / "repo"))

    def rankers(repo: Repo) -> list[RankerRecord]:
        return [replace(record, changed_at_us=0) for record in Catalog.open(repo).rankers()]

    before = [replace(record, state="fitted") for record in rankers(finished.repo)]
    assert before
    (lost.data / "catalog.sqlite").unlink()
    repair_catalog(lost)
    assert rankers(lost) == before
