"""A slow apply whose definitions were read before a codebook was published or purged drops nothing and brings nothing back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.builders import copy_of
from helpers.codebook_builders import CUT, ITEMS, SPEC, built_repo, online, publish, registered
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from sidkit.core.errors import DefinitionsError, RepoLockedError
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, imported_as_feast_does
from sidkit.stores.quiet_import import quiet_feast

SCRIPT = "from sidkit.stores.quiet_import import quiet_feast; quiet_feast(); from feast.cli.cli import cli; cli()"
FEAST = [sys.executable, "-c", SCRIPT]
"""The command `feast`, imported in half the time; test_feast_cli.py runs the installed one."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Codebook a is published, b is fitted, c is retired."""
    repo = built_repo(tmp_path_factory.mktemp("published"))
    publish(repo, "a", "c")
    lifecycle.fit(repo, "b", SPEC, CUT)
    lifecycle.promote(repo, "a")
    lifecycle.retire(repo, "c")
    return repo


@pytest.fixture
def repo(published: Repo, tmp_path: Path) -> Repo:
    return copy_of(published, tmp_path / "repo")


def feast_apply(repo: Repo, between: Callable[[], object]) -> None:
    """What ``feast apply`` does, with something that happens between its reading and its applying."""
    quiet_feast()
    from feast import repo_operations
    from feast.repo_config import load_repo_config

    parse, parsed = repo_operations.parse_repo, []

    def parse_slowly(folder: Path) -> object:
        contents = parse(folder)
        parsed.append(folder)
        if len(parsed) == 1:
            between()
        return contents

    with pytest.MonkeyPatch.context() as patch, imported_as_feast_does(repo.path):
        patch.setattr(repo_operations, "parse_repo", parse_slowly)
        config = load_repo_config(repo.path, repo.path / "feature_store.yaml")
        repo_operations.apply_total(config, repo.path, skip_source_validation=True)


def test_a_codebook_that_is_published_while_an_apply_reads_keeps_view_services_and_online_rows(repo: Repo) -> None:
    feast_apply(repo, lambda: lifecycle.publish(repo, "b"))
    views, services = registered(repo)
    assert views >= {"item_sid_a", "item_sid_b", "item_sid_c"}
    assert services >= {"ctr_b", "ctr_b_user", "ctr_b_item", "ctr_b_content"}
    assert Catalog.open(repo).codebook("b").state == "published"
    found = online(repo, "b", ITEMS)
    assert sum(codes is not None for codes in found.values()) > len(ITEMS) // 2


def test_a_codebook_that_is_purged_while_an_apply_reads_does_not_come_back(repo: Repo) -> None:
    from sidkit.stores.feast_repo import open_store

    feast_apply(repo, lambda: lifecycle.purge(repo, "c"))
    views, services = registered(repo)
    assert "item_sid_c" not in views
    assert not {name for name in services if name.startswith("ctr_c")}
    store = open_store(repo)
    with store._get_provider().online_store.file(store.config).reading() as reading:
        assert not [name for name in reading.views() if name.endswith("item_sid_c")]
        assert [name for name in reading.views() if name.endswith("item_sid_a")]


def test_the_feast_command_itself_waits_for_nobody_and_loses_nothing(repo: Repo, tmp_path: Path) -> None:
    # Feast imports files by name: this one comes last, so the catalogue was read before it.
    (repo.path / "zz_slow.py").write_text(
        "import pathlib, time\nfolder = pathlib.Path(__file__).parent / 'data'\n(folder / 'read').touch()\n"
        "while not (folder / 'go').exists():\n    time.sleep(0.02)\n"
    )
    running = subprocess.Popen(
        [*FEAST, "-c", repo.path, "apply"], cwd=tmp_path, env=os.environ, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while not (repo.data / "read").exists():
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.02)
    slow = (repo.path / "zz_slow.py").rename(tmp_path / "zz_slow.py")
    lifecycle.publish(repo, "b")
    (repo.data / "go").touch()
    shutil.move(slow, repo.path / "zz_slow.py")
    said = running.communicate()[0]
    assert running.returncode == 0, said
    assert registered(repo)[0] >= {"item_sid_a", "item_sid_b"}
    assert any(codes is not None for codes in online(repo, "b", ITEMS).values())


def test_definitions_that_leave_a_published_codebook_out_are_refused_and_nothing_is_dropped(repo: Repo) -> None:
    before = registered(repo)
    path = repo.path / "semantic_id_views.py"
    path.write_text(path.read_text().replace("for codebook in definitions.codebooks", "for codebook in ()"))
    (repo.path / "services.py").write_text("")
    with pytest.raises(DefinitionsError, match="item_sid_a is missing, but the catalogue defines it"):
        feast_apply(repo, lambda: None)
    with pytest.raises(DefinitionsError, match="item_sid_a is missing"):
        apply_repo(repo)
    assert registered(repo) == before
    assert any(codes is not None for codes in online(repo, "a", ITEMS).values())


def test_the_online_store_drops_no_table_of_a_codebook_that_the_catalogue_defines(repo: Repo) -> None:
    from sidkit.stores.feast_repo import open_store

    apply_repo(repo)  # the definitions were read in this process
    store = open_store(repo)
    view = store.get_feature_view("item_sid_a")
    with pytest.raises(DefinitionsError, match=r"item_sid_a would be dropped.*Run `sidkit apply`, then `sidkit mat"):
        store.apply([], objects_to_delete=[view], partial=False)
    apply_repo(repo)
    assert "item_sid_a" in registered(repo)[0]
    assert any(codes is not None for codes in online(repo, "a", ITEMS).values())


def test_an_apply_beside_another_command_is_refused_and_a_step_takes_the_lock_of_its_thread(repo: Repo) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with repo.locked():
            held.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    try:
        for step in (lambda: feast_apply(repo, lambda: None), lambda: lifecycle.publish(repo, "b")):
            with pytest.raises(RepoLockedError):
                step()
    finally:
        done.set()
        other.join()
    with repo.locked():
        lifecycle.publish(repo, "b")
