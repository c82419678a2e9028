"""Catalogue, registry and online store that do not agree, and rot in the registry: doctor, promote and audit say so."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from helpers.builders import copy_of
from helpers.codebook_builders import AS_OF, ITEMS, built_repo, online, publish, registered
from ranking.audit.artifacts import audit_artifacts
from semantic_ids import lifecycle
from sidkit.cli import build_app
from sidkit.core.errors import LifeCycleError, OnlineStoreError, RepoError
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, materialize, open_store
from sidkit.stores.registry_check import refuse_damaged_registry
from sidkit.stores.repo_doctor import examine_repo

TABLE = '"packed:sidkit_item_sid_a"'


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    repo = built_repo(tmp_path_factory.mktemp("published"))
    assert examine_repo(repo) == [], "nothing was applied yet"
    publish(repo, "a")
    materialize(repo, AS_OF)
    return repo


@pytest.fixture
def repo(published: Repo, tmp_path: Path) -> Repo:
    return copy_of(published, tmp_path / "repo")


def run(repo: Repo, *command: str) -> Any:
    return CliRunner().invoke(build_app(), [*command, "--repo", str(repo.path)])


def in_sqlite(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as opened, opened:
        for statement in statements:
            opened.execute(statement)


def drop_view(repo: Repo) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo.path))
    for service in store.list_feature_services():
        store.delete_feature_service(service.name)
    store.registry.delete_feature_view("item_sid_a", store.project)


def drop_table(repo: Repo) -> None:
    in_sqlite(
        repo.data / "online.sqlite", f"DROP TABLE {TABLE}", "DELETE FROM \"packed:layouts\" WHERE view LIKE '%sid_a'"
    )


FAULTS: dict[str, tuple[Callable[[Repo], None], str, bool]] = {
    "a view that the registry lacks": (
        drop_view,
        "feature view item_sid_a: it is defined, but missing from the registry",
        True,
    ),
    "an online table that is missing": (drop_table, "feature view item_sid_a: it has no online table", True),
    "an online table without rows": (
        lambda repo: in_sqlite(repo.data / "online.sqlite", f"DELETE FROM {TABLE}"),
        "feature view item_sid_a: its online table is empty",
        True,
    ),
    "no registry": (
        lambda repo: (repo.data / "registry.sqlite").unlink(),
        "registry.sqlite: the registry is missing",
        True,
    ),
    "no online store": (lambda repo: (repo.data / "online.sqlite").unlink(), "the online store is missing", True),
    "a definition that was edited": (
        lambda repo: edit(repo, "item_views.py", "schema=[", 'schema=[Field(name="extra", dtype=Float32),'),
        "feature view item_content: the registry differs from the definition in features",
        False,
    ),
}


def edit(repo: Repo, name: str, old: str, new: str) -> None:
    path = repo.path / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_published_repo_has_no_problem(published: Repo) -> None:
    assert examine_repo(published) == []
    assert audit_artifacts(published).problems == ()
    lifecycle.promote(published, "a")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_agree_is_found_by_doctor_audit_and_promote_and_its_remedy_works(repo: Repo, fault: str) -> None:
    harm, message, unreadable = FAULTS[fault]
    harm(repo)
    done = run(repo, "doctor")
    assert done.exit_code == 1
    assert message in done.output
    assert "Run `sidkit apply`" in done.output
    assert bool(audit_artifacts(repo).problems) == unreadable
    if unreadable:
        with pytest.raises(
            LifeCycleError, match="its features cannot be read .*Run `sidkit apply`, then `sidkit materialize`"
        ):
            lifecycle.promote(repo, "a")
    else:
        lifecycle.promote(repo, "a")
        return  # a feature that no table has cannot be materialized
    for command in ("apply", "materialize"):
        assert run(repo, command).exit_code == 0
    assert examine_repo(repo) == []
    lifecycle.promote(repo, "a")
    assert any(codes is not None for codes in online(repo, "a", ITEMS).values())


def test_a_view_that_nobody_defines_any_more_is_found(repo: Repo) -> None:
    edit(repo, "semantic_id_views.py", "name=codebook.view_name", 'name=f"{codebook.view_name}_new"')
    messages = [str(problem) for problem in examine_repo(repo)]
    assert any("feature view item_sid_a: it is in the registry, but not defined" in message for message in messages)
    assert any(
        "feature view item_sid_a_new: it is defined, but missing from the registry" in message for message in messages
    )


def test_a_damaged_row_is_found_by_doctor_and_made_anew_by_materialize(repo: Repo) -> None:
    before = online(repo, "a", ITEMS)
    damaged = next(key for key, codes in before.items() if codes is not None)
    in_sqlite(
        repo.data / "online.sqlite",
        f"UPDATE {TABLE} SET row = CAST(substr(row, 1, 3) || x'7f' || substr(row, 5) AS BLOB) "
        f"WHERE instr(key, x'{damaged.encode().hex()}')",
    )
    done = run(repo, "doctor")
    assert done.exit_code == 1
    assert "packed:sidkit_item_sid_a: 1 rows do not match their checksum. Run `sidkit materialize`" in done.output
    with pytest.raises(
        OnlineStoreError, match=rf"packed:sidkit_item_sid_a; run `sidkit materialize --repo {repo.path}`"
    ):
        online(repo, "a", ITEMS)
    done = run(repo, "materialize")
    assert done.exit_code == 0
    assert "1 damaged rows of packed:sidkit_item_sid_a were removed and are rebuilt" in done.output
    assert online(repo, "a", ITEMS) == before
    (repo.data / "online.sqlite").write_bytes(b"no database " * 999)
    done = run(repo, "materialize")
    assert done.exit_code == 0
    assert "could not be read and is rebuilt" in done.output
    assert online(repo, "a", ITEMS) == before


def settle(repo: Repo) -> None:
    """Let the registry look as if it was written a while ago, and be seen."""
    path = repo.data / "registry.sqlite"
    for table in ("entities", "data_sources", "feature_views", "feature_services", "projects"):
        in_sqlite(path, f"UPDATE {table} SET last_updated_timestamp = last_updated_timestamp - 60")
    refuse_damaged_registry(repo)


ROTS = {
    "a feature's name": "UPDATE feature_views SET feature_view_proto = ? WHERE feature_view_name = 'item_sid_a'",
    "an object's name": "UPDATE feature_services SET feature_service_name = 'ctr_q' WHERE feature_service_name = 'ctr_a'",
    "no message": "UPDATE entities SET entity_proto = x'0aff'",
}


@pytest.mark.parametrize("rot", ROTS)
def test_a_registry_that_feast_did_not_write_is_one_error_and_apply_makes_it_anew(repo: Repo, rot: str) -> None:
    settle(repo)
    before = registered(repo), online(repo, "a", ITEMS)
    statement = ROTS[rot]
    with contextlib.closing(sqlite3.connect(repo.data / "registry.sqlite")) as opened, opened:
        if "?" in statement:
            [(proto,)] = opened.execute(
                "SELECT feature_view_proto FROM feature_views WHERE feature_view_name = 'item_sid_a'"
            ).fetchall()
            opened.execute(statement, (proto.replace(b"codes", b"coves"),))
        else:
            opened.execute(statement)
    with pytest.raises(RepoError, match=rf"registry\.sqlite is damaged .*; run `sidkit apply --repo {repo.path}`"):
        open_store(repo)
    done = run(repo, "doctor")
    assert done.exit_code == 1
    assert "Run `sidkit apply`" in done.output
    assert run(repo, "apply").exit_code == 0
    assert (registered(repo), online(repo, "a", ITEMS)) == before
    assert examine_repo(repo) == []


@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: b"no database " * 999])
def test_a_registry_that_sqlite_cannot_read_is_one_error(repo: Repo, harm: Callable[[bytes], bytes]) -> None:
    path = repo.data / "registry.sqlite"
    before = registered(repo)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(RepoError, match=r"registry\.sqlite is damaged"):
        open_store(repo)
    apply_repo(repo)
    assert registered(repo) == before
    assert Path(f"{path}.damaged").exists()


def test_what_feast_writes_itself_is_no_damage(repo: Repo) -> None:
    settle(repo)
    store = open_store(repo)
    store.apply([store.get_entity("item"), store.get_feature_view("item_stats")])
    materialize(repo, AS_OF)
    store = open_store(repo)
    store.delete_feature_service("ctr_a_user")
    refuse_damaged_registry(repo)
    (repo.data / "tmp" / "registry.seen").write_text("no json")
    refuse_damaged_registry(repo)
    (repo.data / "tmp" / "registry.seen").unlink()
    refuse_damaged_registry(repo)
