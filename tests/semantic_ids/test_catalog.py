"""The catalogue of versions: names, states, and what happens when it cannot be trusted."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.builders import fresh_repo
from semantic_ids.catalog import Catalog, read_definitions
from semantic_ids.records import CodebookRecord
from sidkit.core.errors import (
    CatalogLostError,
    CatalogUnreachableError,
    ConfigError,
    LifeCycleError,
    UnknownVersionError,
)
from sidkit.core.repo import Repo

DEFAULT_URL = "sqlite:///data/catalog.sqlite"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return fresh_repo(tmp_path / "repo", "", modalities=("text", "image"))


@pytest.fixture(params=["file", "postgres"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Repo:
    """A repository whose catalogue is a file, or a schema of its own in Postgres."""
    return made_on(request.param, request, tmp_path / "repo")


def made_on(kind: str, request: pytest.FixtureRequest, path: Path) -> Repo:
    if kind == "file":
        return fresh_repo(path, "", modalities=("text", "image"))
    url, name = request.getfixturevalue("postgres_url"), f"test_{secrets.token_hex(6)}"
    return fresh_repo(
        path, "", modalities=("text", "image"), toml={f'"{DEFAULT_URL}"': f'"{url}"\ndb_schema = "{name}"'}
    )


def with_url(path: Path, url: str) -> Repo:
    return fresh_repo(path, "", toml={DEFAULT_URL: url})


def add(catalog: Catalog, name: str, state: str = "fitted") -> None:
    """A codebook that went through its life up to a state."""
    catalog.begin_fit(name, "residual_kmeans", "content", (8, 4))
    if state == "fitting":
        return
    catalog.end_fit(name, content_hash=f"hash of {name}", sizes=(8, 4), fit_start_us=10, fit_end_us=20)
    if state in {"published", "serving", "retired"}:
        catalog.define(name)
        catalog.set_state(name, "published")
    if state not in {"fitted", "published"}:
        catalog.set_state(name, state)


def add_ranker(catalog: Catalog, name: str, content_hash: str = "h") -> None:
    catalog.add_ranker(name, content_hash=content_hash, codebook="a", service="ctr_a", arm="id", fit_end_us=30)


def states(catalog: Catalog) -> dict[str, str]:
    return {record.name: record.state for record in catalog.codebooks()}


@pytest.mark.parametrize(
    "name",
    ["", "A", "1a", "_a", "a-b", "a b", "a.b", "ä", "a/b", "../a", "a\n", "a" * 64, "item__A", "a'--", ".writing-1-a"],
)
def test_a_name_that_cannot_be_a_feature_views_is_refused(repo: Repo, name: str) -> None:
    catalog = Catalog.open(repo)
    with pytest.raises(ConfigError, match="cannot name a codebook"):
        catalog.begin_fit(name, "q", "e", (2,))
    assert catalog.codebooks() == []


@pytest.mark.parametrize("name", ["a", "a" * 63, "rqkmeans_3f9a01", "v2"])
def test_a_name_of_lower_case_letters_digits_and_underscores_is_taken(repo: Repo, name: str) -> None:
    catalog = Catalog.open(repo)
    add(catalog, name)
    assert catalog.codebook(name).view_name == f"item_sid_{name}"
    assert catalog.codebook(name).service_name == f"ctr_{name}"


def test_no_two_names_share_a_service(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    taken: set[str] = set()
    for name in ("a", "a_user", "a_item", "a_content"):
        try:
            catalog.begin_fit(name, "q", "e", (2,))
        except ConfigError:
            continue
        service = catalog.codebook(name).service_name
        services = {service, f"{service}_user", f"{service}_item", f"{service}_content"}
        assert not taken & services
        taken |= services


def test_a_record_says_what_was_committed(either: Repo) -> None:
    add(Catalog.open(either), "a")
    record = Catalog.open(either).codebook("a")
    assert (record.state, record.defined, record.content_hash) == ("fitted", False, "hash of a")
    assert (record.sizes, record.levels, record.fit_start_us, record.fit_end_us) == ((8, 4), 2, 10, 20)
    assert record.tags["sizes"] == "8x4"
    assert record.tags["fit_end"] == "1970-01-01T00:00:00.000020+00:00"
    assert record.changed_at_us > 1_600_000_000_000_000


@pytest.mark.parametrize("state", ["fitted", "published", "serving", "retired", "purged"])
def test_a_name_that_was_fitted_once_is_never_used_again(either: Repo, state: str) -> None:
    catalog = Catalog.open(either)
    add(catalog, "a", state)
    before = catalog.codebook("a")
    with pytest.raises(LifeCycleError, match=f"a is '{state}'.*never overwritten; fit under a new name"):
        catalog.begin_fit("a", "other", "other", (2,))
    assert catalog.codebook("a") == before


def test_a_fit_that_never_ended_can_begin_again_with_other_arguments(either: Repo) -> None:
    catalog = Catalog.open(either)
    add(catalog, "a", "fitting")
    catalog.begin_fit("a", "other", "content", (4, 4, 4))
    assert catalog.codebook("a").quantizer == "other"
    assert catalog.codebook("a").sizes == (4, 4, 4)


@pytest.mark.parametrize("kind", ["file", "postgres"])
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.sampled_from("abc"), max_size=6))
def test_the_codebook_that_was_promoted_last_is_the_only_one_that_serves(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, kind: str, order: list[str]
) -> None:
    catalog = Catalog.open(made_on(kind, request, tmp_path_factory.mktemp("catalog") / "repo"))
    for name in "abc":
        add(catalog, name, "published")
        add_ranker(catalog, name)
    for name in order:
        catalog.set_state(name, "serving")
        catalog.set_ranker_state(name, "serving")
    for name in "abc":
        serves = order[-1:] == [name]
        assert catalog.codebook(name).state == ("serving" if serves else "published")
        assert catalog.ranker(name).state == ("serving" if serves else "fitted")
    if order:
        assert catalog.serving_codebook().name == catalog.serving_ranker().name == order[-1]


def test_the_only_published_codebook_is_the_default_and_of_two_none_is(either: Repo) -> None:
    catalog = Catalog.open(either)
    with pytest.raises(UnknownVersionError, match="none yet"):
        catalog.serving_codebook()
    add(catalog, "a", "published")
    add(catalog, "c", "fitted")
    assert catalog.serving_codebook().name == "a"
    add(catalog, "b", "published")
    with pytest.raises(UnknownVersionError, match="available: a, b"):
        catalog.serving_codebook()
    catalog.set_state("b", "serving")
    assert catalog.serving_codebook().name == "b"


def test_what_is_not_known_is_named_with_what_is(either: Repo) -> None:
    catalog = Catalog.open(either)
    add(catalog, "a")
    add_ranker(catalog, "r")
    for asked, known in ((catalog.codebook, "a"), (catalog.ranker, "r")):
        with pytest.raises(UnknownVersionError, match=rf"'nope'; available: {known}\.") as caught:
            asked("nope")
        assert (caught.value.name, caught.value.known) == ("nope", [known])
    with pytest.raises(UnknownVersionError):
        catalog.serving_ranker()


@pytest.mark.parametrize("step", ["set_state", "set_ranker_state", "define", "end_fit"])
def test_a_step_of_a_version_that_there_is_not_is_refused_and_changes_nothing(either: Repo, step: str) -> None:
    catalog = Catalog.open(either)
    add(catalog, "a", "serving")
    add_ranker(catalog, "r")
    catalog.set_ranker_state("r", "serving")
    steps: dict[str, Callable[[], None]] = {
        "set_state": lambda: catalog.set_state("nope", "serving"),
        "set_ranker_state": lambda: catalog.set_ranker_state("nope", "serving"),
        "define": lambda: catalog.define("nope"),
        "end_fit": lambda: catalog.end_fit("nope", content_hash="h", sizes=(2,), fit_start_us=0, fit_end_us=1),
    }
    with pytest.raises(UnknownVersionError, match="nope"):
        steps[step]()
    assert (catalog.codebook("a").state, catalog.ranker("r").state) == ("serving", "serving")


def test_a_ranker_is_never_overwritten_and_the_same_again_changes_nothing(either: Repo) -> None:
    catalog = Catalog.open(either)
    add_ranker(catalog, "r")
    catalog.set_ranker_state("r", "serving")
    before = catalog.ranker("r")
    add_ranker(catalog, "r")
    assert catalog.ranker("r") == before
    with pytest.raises(LifeCycleError, match="a ranker is never overwritten"):
        add_ranker(catalog, "r", content_hash="other")
    assert catalog.rankers() == [before]


def test_codebooks_are_listed_oldest_fit_first_purged_ones_too(either: Repo) -> None:
    catalog = Catalog.open(either)
    for name, end in (("c", 5), ("a", 9), ("b", 5)):
        catalog.begin_fit(name, "q", "e", (2,))
        catalog.end_fit(name, content_hash=name, sizes=(2,), fit_start_us=0, fit_end_us=end)
    catalog.set_state("b", "purged")
    assert [record.name for record in catalog.codebooks()] == ["b", "c", "a"]


def test_definitions_hold_a_codebook_from_its_definition_until_it_is_purged(either: Repo) -> None:
    catalog = Catalog.open(either)

    def defined() -> list[str]:
        return [record.name for record in read_definitions(either.path).codebooks]

    add(catalog, "a", "fitted")
    assert defined() == []
    catalog.define("a")
    assert defined() == ["a"]
    for state in ("published", "serving", "published", "retired"):
        catalog.set_state("a", state)
        assert defined() == ["a"]
    catalog.set_state("a", "purged")
    assert defined() == []


def test_definitions_tell_modalities_owner_and_the_settings_that_decide_features(either: Repo) -> None:
    definitions = read_definitions(either.path)
    assert definitions.modalities == ("text", "image")
    assert definitions.owner == "sidkit"
    assert definitions.tags["availability_delay_seconds"] == "60"
    toml = either.path / "sidkit.toml"
    toml.write_text(toml.read_text().replace("history_length = 50", "history_length = 51"))
    assert read_definitions(either.path).tags["settings_hash"] != definitions.tags["settings_hash"]


@pytest.mark.parametrize(
    ("url", "file"),
    [
        (DEFAULT_URL, "data/catalog.sqlite"),
        ("sqlite:///versions.db", "versions.db"),
        ("sqlite:///some/where/new.db?timeout=5", "some/where/new.db"),
        ("sqlite+pysqlite:///data/catalog.sqlite", "data/catalog.sqlite"),
    ],
)
def test_a_relative_url_is_relative_to_the_repo(tmp_path: Path, elsewhere: Path, url: str, file: str) -> None:
    (elsewhere / "data").mkdir()
    repo = with_url(tmp_path / "repo", url)
    add(Catalog.open(repo), "a")
    assert (repo.path / file).is_file()
    assert [path.name for path in elsewhere.rglob("*") if path.is_file()] == ["entities.py"]
    assert states(Catalog.open(repo)) == {"a": "fitted"}


def test_an_absolute_url_can_lie_outside_the_repo(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    repo = with_url(tmp_path / "repo", f"sqlite:///{tmp_path}/shared/catalog.sqlite")
    add(Catalog.open(repo), "a")
    assert (tmp_path / "shared" / "catalog.sqlite").is_file()
    assert not (repo.data / "catalog.sqlite").exists()
    assert states(Catalog.open(repo)) == {"a": "fitted"}


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////no/such/folder/catalog.sqlite",
        "postgresql://user:secret@localhost:1/catalog",
        "nosuchdatabase://user:secret@localhost/catalog",
        "postgresql://user:secret@localhost:port/catalog",
        "postgresql:/user:secret@localhost/catalog",
    ],
)
def test_a_database_that_does_not_answer_is_told_without_its_password(tmp_path: Path, url: str) -> None:
    repo = with_url(tmp_path / "repo", url)
    for reading in (Catalog.open, lambda repo: read_definitions(repo.path)):
        with pytest.raises(CatalogUnreachableError, match=r"nothing was applied.*catalog\.url") as caught:
            reading(repo)
        assert "secret" not in str(caught.value)
        assert "secret" not in caught.value.url


def corrupt(path: Path) -> None:
    path.write_bytes(b"this is no database, " * 400)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lose_a_column(path: Path) -> None:
    with sqlite3.connect(path) as opened:
        opened.execute("ALTER TABLE sidkit_codebooks DROP COLUMN defined")
    opened.close()


@pytest.mark.parametrize("harm", [corrupt, become_a_folder, lose_a_column])
def test_a_database_that_cannot_be_read_is_unreachable(repo: Repo, harm: Callable[[Path], None]) -> None:
    add(Catalog.open(repo), "a", "published")
    harm(repo.data / "catalog.sqlite")
    for reading in (Catalog.open, lambda repo: read_definitions(repo.path)):
        with pytest.raises(CatalogUnreachableError, match=r"catalog\.sqlite"):
            reading(repo)


@pytest.mark.parametrize(
    "use",
    [
        lambda catalog: catalog.codebooks(),
        lambda catalog: catalog.codebook("a"),
        lambda catalog: catalog.rankers(),
        lambda catalog: catalog.set_state("a", "serving"),
    ],
    ids=["codebooks", "codebook", "rankers", "set_state"],
)
def test_a_database_that_fails_while_it_is_open_is_unreachable(repo: Repo, use: Callable[[Catalog], Any]) -> None:
    catalog = Catalog.open(repo)
    add(catalog, "a", "published")
    corrupt(repo.data / "catalog.sqlite")
    with pytest.raises(CatalogUnreachableError):
        use(catalog)


def delete_file(path: Path) -> None:
    path.unlink()


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def drop_tables(path: Path) -> None:
    with sqlite3.connect(path) as opened:
        opened.execute("DROP TABLE sidkit_codebooks")
    opened.close()


def delete_rows(path: Path) -> None:
    with sqlite3.connect(path) as opened:
        opened.execute("DELETE FROM sidkit_codebooks")
    opened.close()


def forget_one(path: Path) -> None:
    with sqlite3.connect(path) as opened:
        opened.execute("DELETE FROM sidkit_codebooks WHERE name = 'a'")
    opened.close()


LOSSES = [delete_file, empty_file, drop_tables, delete_rows, forget_one]


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("remains", ["artifacts/codebooks/a", "data/tables/item_sid_a.parquet"])
def test_a_catalogue_that_forgot_what_the_disk_holds_is_lost(
    repo: Repo, lose: Callable[[Path], None], remains: str
) -> None:
    catalog = Catalog.open(repo)
    add(catalog, "a", "published")
    add(catalog, "b", "fitted")
    if remains.endswith(".parquet"):
        (repo.path / remains).parent.mkdir(parents=True, exist_ok=True)
        (repo.path / remains).write_bytes(b"codes")
    else:
        (repo.path / remains).mkdir(parents=True)
    kept = (repo.data / "catalog.sqlite").read_bytes()
    lose(repo.data / "catalog.sqlite")
    # Definitions first: a catalogue that was opened for writing has made its tables again, and is as lost.
    for reading in (lambda repo: read_definitions(repo.path), Catalog.open, lambda repo: read_definitions(repo.path)):
        with pytest.raises(
            CatalogLostError, match="a missing from the catalogue at .*, but their files still exist"
        ) as caught:
            reading(repo)
        assert caught.value.names == ["a"]
    (repo.data / "catalog.sqlite").write_bytes(kept)
    assert [record.name for record in read_definitions(repo.path).codebooks] == ["a"]


def test_a_fresh_repo_has_an_empty_catalogue_and_reading_it_makes_no_tables(either: Repo) -> None:
    assert read_definitions(either.path).codebooks == ()
    catalog = Catalog.open(either, create=False)
    assert catalog.codebooks() == catalog.rankers() == []


def test_what_a_killed_writer_left_is_not_taken_for_a_lost_codebook(repo: Repo) -> None:
    (repo.codebooks / ".writing-7-a").mkdir(parents=True)
    repo.tables.mkdir(parents=True, exist_ok=True)
    (repo.tables / ".writing-7-item_sid_a.parquet").write_bytes(b"half")
    assert Catalog.open(repo).codebooks() == []


def test_a_reader_beside_a_writer_does_not_take_the_new_codebook_for_one_that_the_catalogue_lost(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_then_written(catalog: Catalog) -> list[CodebookRecord]:
        monkeypatch.undo()
        found = catalog.codebooks()
        add(Catalog.open(repo), "new", "published")
        (repo.codebooks / "new").mkdir(parents=True)
        return found

    monkeypatch.setattr(Catalog, "codebooks", read_then_written)
    assert states(Catalog.open(repo)) == {"new": "published"}
