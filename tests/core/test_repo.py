"""A repo: how it is begun, opened and locked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

import sidkit.core.repo
from helpers.builders import forked_sidkit as run_sidkit
from sidkit.cli.repos import init
from sidkit.core.errors import RepoError, RepoLockedError
from sidkit.core.files import written_beside
from sidkit.core.repo import Repo, init_repo, remove_half_written_repo, template_folder
from sidkit.core.sqlite_url import sqlite_file

TEMPLATE = {
    "feature_store.yaml", "sidkit.toml", ".feastignore", "entities.py", "sources.py", "item_views.py", "user_views.py",
    "semantic_id_views.py", "on_demand_views.py", "services.py",
}  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("there", [False, True])
def test_a_fresh_repo_holds_the_template_and_its_own_settings(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "deep" / "repo"
    if there:
        folder.mkdir(parents=True)
    repo = init_repo(
        folder, source_url="/data/log", modalities=("text", "image"), feedback="positives_only", conversions=True
    )
    assert set(contents(folder)) == TEMPLATE | {"data/format.json"}
    source = Repo.open(folder).settings.source
    assert (source.url, source.modalities) == ("/data/log", ("text", "image"))
    assert (source.feedback, source.conversions) == ("positives_only", True)
    assert repo == Repo.open(folder)


@pytest.mark.parametrize(
    "url", ['/data/"quoted"/log', r"C:\data\new", "postgresql://me:p#ss@host/db?a=b", "/data/ü # 1"]
)
def test_any_source_url_survives_the_settings_file(tmp_path: Path, url: str) -> None:
    repo = init_repo(tmp_path / "repo", source_url=url)
    assert repo.settings.source.url == url
    assert "# a folder of Parquet, CSV" in (repo.path / "sidkit.toml").read_text()  # the comments stay


@pytest.mark.parametrize("name", ["repo", "my repo", "repo's", "ünï", "repo #2", "a: b"])
def test_feast_finds_the_registry_inside_the_repo_whatever_its_name(tmp_path: Path, name: str) -> None:
    from feast.repo_config import load_repo_config

    from sidkit.stores.registry_path import resolve_registry_against_repo

    repo = init_repo(tmp_path / name)
    assert str(tmp_path) not in (repo.path / "feature_store.yaml").read_text()
    resolve_registry_against_repo()
    config = load_repo_config(repo.path, repo.path / "feature_store.yaml")
    assert sqlite_file(make_url(config.registry.path)) == repo.data / "registry.sqlite"


def test_init_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RepoError, match="expected a new or empty folder"):
            init(path)
    assert contents(tmp_path) == {"notes.txt": "mine"}
    init_repo(tmp_path / "repo", source_url="/data/log")
    before = contents(tmp_path / "repo")
    with pytest.raises(RepoError, match="expected a new or empty folder"):
        init(tmp_path / "repo")
    assert contents(tmp_path / "repo") == before


@pytest.mark.parametrize("files", [0, 1, 4, 8])
def test_a_killed_init_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    left = iter(range(files))

    @contextmanager
    def killed(path: Path) -> Iterator[Path]:
        if next(left, None) is None:
            path.with_name(f".writing-1-{path.name}").write_text("half")
            raise KeyboardInterrupt
        with written_beside(path) as temporary:
            yield temporary

    with monkeypatch.context() as patched:
        patched.setattr(sidkit.core.repo, "written_beside", killed)
        with pytest.raises(KeyboardInterrupt):
            init(tmp_path / "repo")
    assert not (tmp_path / "repo" / "sidkit.toml").exists()
    with pytest.raises(RepoError, match=r"is not a sidkit repository: .* is missing.*sidkit init"):
        Repo.open(tmp_path / "repo")
    init(tmp_path / "repo")
    assert set(contents(tmp_path / "repo")) == TEMPLATE | {"data/format.json"}


def test_a_killed_init_can_be_repeated_with_data(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    (folder / "data").mkdir(parents=True)
    shutil.copy(template_folder() / "entities.py", folder)
    created = sidkit.init(folder, "synthetic", impressions=3_000)
    assert created.settings.source.url == str(folder / "data" / "source")
    assert (folder / "data" / "source" / "interactions.parquet").exists()
    with pytest.raises(RepoError, match="is a sidkit repository already"):
        sidkit.init(folder, "synthetic", impressions=3_000)


def test_a_feast_repo_of_the_users_own_is_never_taken_for_a_killed_init(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "feature_store.yaml").write_text("project: mine\n")
    (tmp_path / "entities.py").write_text("my_entity = 1\n")
    before = contents(tmp_path)
    with pytest.raises(RepoError, match="expected a new or empty folder"):
        init(tmp_path)
    assert contents(tmp_path) == before
    remove_half_written_repo(tmp_path)
    assert contents(tmp_path) == before


def test_half_a_repo_with_work_in_it_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "registry.db").write_text("mine")
    (tmp_path / "entities.py").write_text((template_folder() / "entities.py").read_text())
    remove_half_written_repo(tmp_path)
    remove_half_written_repo(tmp_path / "nowhere")
    assert set(contents(tmp_path)) == {"data/registry.db", "entities.py"}


def test_a_folder_that_is_no_repo_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        RepoError, match=r"feature_store\.yaml is missing. Pass its path with --repo, or .*`sidkit init"
    ):
        Repo.open(tmp_path)
    (tmp_path / "feature_store.yaml").write_text("project: mine\n")
    with pytest.raises(RepoError, match=r"sidkit\.toml is missing"):
        Repo.open(tmp_path)


def test_a_repo_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init_repo(tmp_path / "repo")
    monkeypatch.chdir(tmp_path)
    assert Repo.open("repo").path == tmp_path / "repo"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Repo.open("~/repo").path == tmp_path / "repo"


def test_a_second_command_is_refused_at_once_with_the_holders_pid(tmp_path: Path, elsewhere: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    with repo.locked():
        with pytest.raises(RepoLockedError, match=f"pid {os.getpid()}:") as raised, repo.locked():
            pytest.fail("two writers")
        assert raised.value.path == repo.path
        done = run_sidkit("data", "ingest", "--repo", repo.path, cwd=elsewhere, expect=1)
        assert done.stderr.startswith(f"sidkit: {repo.path} is locked by another sidkit command (pid {os.getpid()}:")
        assert "Wait for it to finish, or stop it" in done.stderr
    with repo.locked():
        pass


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    with pytest.raises(ValueError, match="bug"), repo.locked():
        raise ValueError("bug")
    with repo.locked():
        pass


HOLDER = """
import sys, time
from sidkit.core.files import written_beside
from sidkit.core.repo import Repo
repo = Repo.open(sys.argv[1])
with repo.locked(), written_beside(repo.data / "tables" / "half.parquet") as temporary:
    temporary.write_text("half")
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_holder_frees_the_lock_and_its_leftovers_go(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    (repo.tables).mkdir()
    (repo.tables / "whole.parquet").write_text("whole")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(repo.path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(RepoLockedError, match=f"pid {holder.pid}:"), repo.locked():
                pytest.fail("two writers")
        finally:
            holder.send_signal(signal.SIGKILL)
    assert len(list(repo.tables.iterdir())) == 2
    with repo.locked():
        assert [file.name for file in repo.tables.iterdir()] == ["whole.parquet"]
