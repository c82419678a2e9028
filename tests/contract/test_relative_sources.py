"""A source that is typed relative to the current directory is read from there, whichever directory later commands run in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.contract_builders import good, sqlite
from helpers.published_files import movielens_1m
from sidkit.contract import located
from sidkit.core.errors import ConfigError, ContractError, SidkitWarning
from sidkit.datasets.data_repo import create_repo, refuse_other_data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the source ``world``, a link to it, and the database ``world.db``."""
    folder = tmp_path / "first"
    (folder / "world").mkdir(parents=True)
    for name, table in good().items():
        pq.write_table(table, folder / "world" / f"{name}.parquet")
    (folder / "newest").symlink_to("world")
    sqlite(folder / "world.db", good())
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "data", ["world", "./world", "newest", "../first/world", "sqlite:///world.db", "sqlite:///./world.db"]
)
def test_a_relative_source_is_found_from_every_directory(
    folder: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = sidkit.init("big", data)
    stored = (folder / "big" / "sidkit.toml").read_text()
    for elsewhere in (folder / "big", folder.parent):
        monkeypatch.chdir(elsewhere)
        assert sidkit.open(folder / "big").ingest() is not None, stored
    monkeypatch.chdir(folder)
    refuse_other_data(project.repo, data)
    refuse_other_data(project.repo, str(folder / "world") if "://" not in data else f"sqlite:///{folder / 'world.db'}")


def test_a_source_of_the_same_name_elsewhere_is_another_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = create_repo("big", "./world")
    other = folder.parent / "second"
    shutil.copytree(folder / "world", other / "world")
    monkeypatch.chdir(other)
    with pytest.raises(ConfigError, match="was created for"):
        refuse_other_data(repo, "./world")


def test_a_published_data_set_in_a_relative_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    movielens_1m(folder / "ml")
    with pytest.warns(SidkitWarning, match="without a date"):
        sidkit.init("big", "movielens:ml")
    monkeypatch.chdir(folder.parent)
    assert sidkit.open(folder / "big").ingest() is not None


def test_a_link_is_stored_as_a_link(folder: Path) -> None:
    sidkit.init("big", "newest")
    assert f'url = "{folder / "newest"}"' in (folder / "big" / "sidkit.toml").read_text()


@pytest.mark.parametrize(
    "url", ["env:WORLD", "postgresql+psycopg://user:secret@host/db", "sqlite://", "sqlite:////x/y.db"]
)
def test_other_sources_are_stored_as_they_are(url: str) -> None:
    assert located(url) == url


def test_a_relative_path_in_the_settings_says_what_it_is_relative_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = sidkit.init("big", "world")
    settings = folder / "big" / "sidkit.toml"
    settings.write_text(settings.read_text().replace(f'"{folder / "world"}"', '"world"'))
    monkeypatch.chdir(folder / "big")
    with pytest.raises(ContractError, match=r"relative to the current directory \(in sidkit.toml, \./NAME"):
        sidkit.open(project.path).ingest()
