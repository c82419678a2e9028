"""The catalogue in Postgres: what several processes and a shared database add to test_catalog.py."""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from test_catalog import DEFAULT_URL, add, add_ranker, states

from helpers.builders import fresh_repo
from helpers.postgres import PASSWORD
from semantic_ids.catalog import Catalog
from semantic_ids.catalog_repair import repair_catalog
from semantic_ids.catalog_tables import CatalogTables
from sidkit.core.errors import (
    CatalogCorruptError,
    CatalogUnreachableError,
    ConfigError,
    LifeCycleError,
    MissingExtraError,
)
from sidkit.core.repo import Repo


def stated(path: Path, url: str, schema: str) -> Repo:
    return fresh_repo(path, "", toml={f'"{DEFAULT_URL}"': f'"{url}"\ndb_schema = "{schema}"'})


@pytest.fixture
def schema() -> str:
    return f"test_{secrets.token_hex(6)}"


@pytest.fixture
def repo(tmp_path: Path, postgres_url: str, schema: str) -> Repo:
    return stated(tmp_path / "repo", postgres_url, schema)


@pytest.fixture
def sql(postgres_url: str) -> Callable[..., list[Any]]:
    """Runs a statement as another program would."""
    engine = sa.create_engine(postgres_url, poolclass=sa.pool.NullPool)

    def run(statement: str) -> list[Any]:
        with engine.begin() as connection:
            found = connection.execute(sa.text(statement))
            return list(found) if found.returns_rows else []

    return run


def at_once(*calls: Callable[[], object]) -> list[BaseException]:
    """Run calls in threads that start together; returns what they raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        start.wait()
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - it is returned
            raised.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_many_processes_may_open_a_new_catalogue_at_once(repo: Repo) -> None:
    assert at_once(*[lambda: Catalog.open(repo)] * 6) == []
    assert Catalog.open(repo).codebooks() == []


def test_one_codebook_serves_whoever_promotes_at_once(repo: Repo) -> None:
    names = ["a", "b", "c", "d"]
    catalog = Catalog.open(repo)
    for name in names:
        add(catalog, name, "published")
    for _ in range(5):
        assert at_once(*[lambda name=name: catalog.set_state(name, "serving") for name in names]) == []
        assert sorted(states(catalog).values()) == ["published"] * 3 + ["serving"]


def test_fits_and_rankers_of_many_processes_are_all_recorded(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    calls = [lambda name=name: add(catalog, name) for name in "abcd"]
    calls += [lambda name=name: add_ranker(catalog, name) for name in "wxyz"]
    assert at_once(*calls) == []
    assert states(catalog) == dict.fromkeys("abcd", "fitted")
    assert [record.name for record in catalog.rankers()] == list("wxyz")


def test_a_name_is_fitted_once_whoever_fits_it_at_once(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    raised = at_once(*[lambda: add(catalog, "a")] * 3)
    assert all(isinstance(error, LifeCycleError) for error in raised)
    assert states(catalog) == {"a": "fitted"}
    assert catalog.codebook("a").content_hash == "hash of a"


def test_a_ranker_that_another_process_added_meanwhile_is_not_overwritten(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.open(repo)
    rankers = Catalog.rankers

    def and_then_added(asked: Catalog) -> Any:
        found = rankers(asked)
        monkeypatch.undo()
        add_ranker(asked, "r")
        return found

    monkeypatch.setattr(Catalog, "rankers", and_then_added)
    with pytest.raises(LifeCycleError, match="another writer added it meanwhile"):
        add_ranker(catalog, "r", content_hash="other")
    assert catalog.ranker("r").content_hash == "h"


def test_repositories_have_schemas_of_their_own(
    tmp_path: Path, repo: Repo, postgres_url: str, schema: str, sql: Callable[..., list[Any]]
) -> None:
    other = stated(tmp_path / "other", postgres_url, f"{schema}_b")
    add(Catalog.open(repo), "a")
    add(Catalog.open(other), "b", "published")
    assert (states(Catalog.open(repo)), states(Catalog.open(other))) == ({"a": "fitted"}, {"b": "published"})
    query = "SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_name LIKE 'sidkit%'"
    assert (
        {f"{schema}", f"{schema}_b"}
        <= {name for (name,) in sql(query)}
        <= {name for (name,) in sql("SELECT nspname FROM pg_namespace WHERE nspname <> 'public'")}
    )


def test_a_change_whose_connection_breaks_leaves_the_record_as_it_was(
    repo: Repo, sql: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.open(repo)
    add(catalog, "a", "published")
    add(catalog, "b", "serving")
    change = CatalogTables._change

    def and_broken(tables: CatalogTables, connection: sa.Connection, *rest: Any) -> None:
        change(tables, connection, *rest)
        process = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
        sql(f"SELECT pg_terminate_backend({process})")

    with monkeypatch.context() as patched:
        patched.setattr(CatalogTables, "_change", and_broken)
        with pytest.raises(CatalogUnreachableError):
            catalog.set_state("a", "serving")
    assert states(catalog) == {"a": "published", "b": "serving"}
    catalog.set_state("a", "serving")
    assert states(catalog) == {"a": "serving", "b": "published"}


def test_a_record_that_was_changed_by_hand_is_noticed_and_repaired(
    repo: Repo, schema: str, sql: Callable[..., list[Any]]
) -> None:
    catalog = Catalog.open(repo)
    add(catalog, "a", "published")
    before = catalog.codebook("a")
    sql(f"UPDATE {schema}.sidkit_codebooks SET state = 'serving'")
    with pytest.raises(CatalogCorruptError, match="the record of codebook 'a' does not match its checksum"):
        Catalog.open(repo)
    [done] = repair_catalog(repo)
    assert done.exact
    assert Catalog.open(repo).codebook("a") == before


def test_a_role_that_may_only_read_opens_the_catalogue(
    tmp_path: Path, repo: Repo, postgres_url: str, schema: str, sql: Callable[..., list[Any]]
) -> None:
    add(Catalog.open(repo), "a", "published")
    sql(f"CREATE ROLE {schema}_reader LOGIN PASSWORD 'reading'")
    sql(f"GRANT USAGE ON SCHEMA {schema} TO {schema}_reader")
    sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {schema}_reader")
    url = sa.engine.make_url(postgres_url).set(username=f"{schema}_reader", password="reading")
    reading = Catalog.open(stated(tmp_path / "reader", url.render_as_string(hide_password=False), schema))
    assert states(reading) == {"a": "published"}
    with pytest.raises(CatalogUnreachableError, match="permission denied") as raised:
        reading.set_state("a", "serving")
    assert "reading@" not in str(raised.value)


def test_a_refused_password_is_not_shown(tmp_path: Path, postgres_url: str) -> None:
    wrong = postgres_url.replace("open%20sesame", "wrong%20one")
    with pytest.raises(CatalogUnreachableError, match="password authentication failed") as raised:
        Catalog.open(stated(tmp_path / "repo", wrong, "x"))
    assert not [secret for secret in (PASSWORD, "wrong%20one", "wrong one") if secret in str(raised.value)]


def test_a_url_without_a_driver_has_the_installed_one(tmp_path: Path, postgres_url: str, schema: str) -> None:
    bare = postgres_url.replace("postgresql+psycopg://", "postgresql://")
    add(Catalog.open(stated(tmp_path / "repo", bare, schema)), "a")
    assert states(Catalog.open(stated(tmp_path / "again", postgres_url, schema))) == {"a": "fitted"}


def test_a_url_from_the_environment_is_in_no_file(
    tmp_path: Path, postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDKIT_TEST_CATALOG", postgres_url)
    repo = stated(tmp_path / "repo", "env:SIDKIT_TEST_CATALOG", schema)
    add(Catalog.open(repo), "a", "published")
    written = [path for path in repo.path.rglob("*") if path.is_file() and b"sesame" in path.read_bytes()]
    assert written == []
    assert repair_catalog(repo) == []


def test_without_the_driver_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    repo = stated(tmp_path / "repo", "postgresql://127.0.0.1:1/x", "a")
    with pytest.raises(MissingExtraError, match=r"a catalogue in Postgres needs psycopg.*'sidkit\[postgres\]'"):
        Catalog.open(repo)


def test_a_schema_needs_postgres(tmp_path: Path) -> None:
    repo = stated(tmp_path / "repo", DEFAULT_URL, "a")
    with pytest.raises(
        ConfigError, match="expected no catalog.db_schema in sidkit.toml for a catalogue in sqlite, got 'a'"
    ):
        Catalog.open(repo)


@pytest.mark.parametrize("schema", ["A", "a b", "a;b", "1a", "a" * 64])
def test_a_schema_has_a_plain_name(tmp_path: Path, schema: str) -> None:
    with pytest.raises(ConfigError, match="db_schema"):
        _ = stated(tmp_path / "repo", DEFAULT_URL, schema).settings
