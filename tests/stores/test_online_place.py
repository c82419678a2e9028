"""Where the online store is, as ``feature_store.yaml`` says; Redis is in tests/services/test_production_run.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidkit.core.repo import FEAST_FILE, Repo, init_repo
from sidkit.stores.online_place import OnlinePlace

PATH = "path: data/online.sqlite"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return init_repo(tmp_path / "repo")


def edited(repo: Repo, old: str, new: str) -> OnlinePlace:
    path = repo.path / FEAST_FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return OnlinePlace.of(repo)


def test_a_new_repository_has_its_rows_in_a_file_and_no_mark(repo: Repo) -> None:
    place = OnlinePlace.of(repo)
    assert (place.files, place.mark) == ((repo.path / "data" / "online.sqlite",), ())
    assert place.holds({"item_stats": 5}), "a file counts by its presence"


def test_another_file_is_another_place(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWS", "rows")
    place = edited(repo, PATH, "path: data/${ROWS}.sqlite")
    assert (place.files, place.mark) == ((repo.path / "data" / "rows.sqlite",), ("data/rows.sqlite",))


def test_of_a_store_that_is_not_known_nothing_is_taken_to_be_there(repo: Repo) -> None:
    place = edited(repo, f"type: sidkit.stores.online.PackedSqliteOnlineStore\n  {PATH}", "type: datastore")
    assert (place.files, place.mark) == ((), ("datastore", ""))
    assert not place.holds({})
