"""A repo under Feast, in process: apply, materialize, read; from any working directory and beside other repos."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from helpers.builders import copy_of, fresh_repo, reseal
from helpers.pit_oracle import cells, feast_store
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from sidkit.core.clock import from_us, to_us
from sidkit.core.errors import CatalogError, ConfigError, RepoError
from sidkit.core.repo import Repo
from sidkit.datasets.synthetic import Sizes, write_world
from sidkit.stores.feast_repo import apply_repo, materialize, open_store
from sidkit.stores.registry_cache import refreshed_once
from sidkit.tables import build_tables, ingest, read_build
from sidkit.tables.builder import TABLES

SPEC = lifecycle.CodebookSpec(force=True, sizes=(4, 4))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    feast_store(tmp_path_factory.mktemp("import"), "duckdb")
    folder = tmp_path_factory.mktemp("world") / "source"
    write_world(folder, "strong", Sizes(2500, users=30, items=40))
    return folder


def built(path: Path, source: Path, **settings: Any) -> Repo:
    """A repo whose tables are built up to the end of the log."""
    repo = fresh_repo(path, source, **settings)
    ingest(repo)
    end = pq.read_table(source / "interactions.parquet")["timestamp"].to_pandas().max()
    build_tables(repo, to_us(end.to_pydatetime()) + 120_000_000)
    return repo


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Repo:
    """A repo with one published codebook and a full online store; tests only read it."""
    repo = built(tmp_path_factory.mktemp("published") / "repo", source, modalities=("text", "image"), conversions=True)
    as_of_us = read_build(repo)["as_of_us"]
    lifecycle.fit(repo, "one", SPEC, as_of_us)
    lifecycle.publish(repo, "one")
    materialize(repo, as_of_us)
    return repo


@pytest.fixture
def own_copy(published: Repo, tmp_path: Path) -> Repo:
    """A copy that a test may change, with a registry of its own."""
    return copy_of(published, tmp_path / "copy")


def online_tables(repo: Repo) -> dict[str, int]:
    """Rows per table of the online store."""
    with contextlib.closing(sqlite3.connect(repo.data / "online.sqlite")) as opened:
        names = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: opened.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


def definitions(repo: Repo) -> dict[str, str]:
    """What the registry holds, without the moments at which Feast wrote it."""
    store = open_store(repo)
    told = {}
    for listed in (store.list_entities(), store.list_feature_views(), store.list_feature_services()):
        for thing in listed:
            spec = thing.to_proto().spec
            if hasattr(spec, "batch_source"):
                spec.batch_source.ClearField("meta")
            for part in getattr(spec, "features", []):
                if hasattr(part, "batch_source"):
                    part.batch_source.ClearField("meta")
            told[f"{type(thing).__name__} {thing.name}"] = str(spec)
    return told


def all_keys(repo: Repo) -> dict[str, list[str]]:
    """Every item with every fourth user beside it, and one of each that nobody knows."""
    content = pq.read_table(repo.tables / "item_content.parquet")["item_id"].unique().to_pylist()
    users = pq.read_table(repo.tables / "user_stats.parquet")["user_id"].unique().to_pylist()
    pairs = [(item, user) for number, item in enumerate(content) for user in users[number % 4 :: 4]]
    pairs += [("no such item", users[0]), (content[0], "no such user")]
    return {"item_id": [item for item, _ in pairs], "user_id": [user for _, user in pairs]}


def historical(repo: Repo, at_us: int, keys: dict[str, list[str]], service: str = "ctr_one") -> dict[str, list[Any]]:
    store = open_store(repo)
    frame = pd.DataFrame({**keys, "event_timestamp": pd.Timestamp(from_us(at_us))})
    frame["row"], frame["at_us"] = range(len(frame)), at_us  # Feast's own store loses the order
    job = store.get_historical_features(frame, store.get_feature_service(service), full_feature_names=True)
    table = job.to_arrow().sort_by("row")
    return cells(table, sorted(set(table.column_names) - set(frame.columns)))


def online(repo: Repo, keys: dict[str, list[str]], service: str = "ctr_one") -> dict[str, list[Any]]:
    store = open_store(repo)
    timed = {**keys, "at_us": [read_build(repo)["as_of_us"]] * len(keys["user_id"])}
    answer = store.get_online_features(store.get_feature_service(service), timed, full_feature_names=True).to_arrow()
    return cells(answer, sorted(set(answer.column_names) - set(timed)))


def test_online_values_are_the_historical_ones_of_that_moment(published: Repo) -> None:
    keys = all_keys(published)
    found = online(published, keys)
    assert found == historical(published, read_build(published)["as_of_us"], keys)
    for name in ("item_content__text", "item_sid__codes", "item_stats__clicks_all", "user_history__item_ids"):
        assert sum(value is not None for value in found[name]) > len(keys["item_id"]) // 2, name


def test_materializing_as_of_an_earlier_moment_gives_that_moments_values(source: Path, tmp_path: Path) -> None:
    repo = built(tmp_path / "repo", source)
    apply_repo(repo)
    at = pq.read_table(repo.tables / "user_stats.parquet")["event_timestamp"].cast("int64").to_pylist()
    moment = sorted(at)[len(at) // 2]  # a row lies exactly there
    rows = materialize(repo, moment)
    store = open_store(repo)
    for view, key in (("user_stats", "user_id"), ("user_history", "user_id"), ("item_stats", "item_id")):
        keys = pq.read_table(repo.tables / f"{view}.parquet")[key].unique().to_pylist()
        refs = [f"{view}:{feature.name}" for feature in store.get_feature_view(view).features]
        frame = pd.DataFrame({key: keys, "event_timestamp": pd.Timestamp(from_us(moment)), "row": range(len(keys))})
        expected = cells(store.get_historical_features(frame, refs).to_arrow().sort_by("row"))
        del expected["event_timestamp"], expected["row"]
        found = cells(store.get_online_features(refs, {key: keys}).to_arrow(), list(expected))
        assert found == expected, view
        known = [any(value is not None for value in row) for row in zip(*list(expected.values())[1:], strict=True)]
        assert rows[view] == sum(known) < len(keys)


def test_a_later_materialization_brings_what_a_late_event_rebuilt_before_the_last_end(
    own_copy: Repo,
) -> None:
    as_of_us = read_build(own_copy)["as_of_us"]
    path = own_copy.tables / "user_stats.parquet"
    table = pq.read_table(path)
    doubled = table.set_column(
        table.column_names.index("exposures_all"),
        "exposures_all",
        [[2 * count for count in table["exposures_all"].to_pylist()]],
    )
    keys = {"user_id": table["user_id"].unique().to_pylist()}
    before = online(own_copy, keys, "ctr_one_user")["user_stats__exposures_all"]
    pq.write_table(doubled, path)
    reseal(path)
    materialize(own_copy, as_of_us)
    assert online(own_copy, keys, "ctr_one_user")["user_stats__exposures_all"] == [2 * count for count in before]


def test_every_view_and_service_has_an_owner_a_description_and_tags(published: Repo) -> None:
    store = open_store(published)
    things = [*store.list_feature_views(), *store.list_feature_services()]
    assert {thing.name for thing in things} == {
        *TABLES, "item_sid_one", "ctr_one", "ctr_one_user", "ctr_one_item", "ctr_one_content",
        "code_stats_one", "user_code_stats_one", "codes_one",
    }  # fmt: skip
    record = Catalog.open(published).codebook("one")
    for thing in things:
        assert thing.owner, thing.name
        assert thing.description, thing.name
        assert {"availability_delay_seconds", "settings_hash"} <= set(thing.tags), thing.name
        if "one" in thing.name:
            assert thing.tags["codebook_hash"] == record.content_hash
    for thing in [*store.list_entities(), *store.list_data_sources()]:
        assert thing.description or thing.name == "__dummy", thing.name


def test_services_of_two_codebooks_give_the_same_feature_names(own_copy: Repo) -> None:
    lifecycle.fit(own_copy, "two", SPEC.model_copy(update={"sizes": (8, 2)}), read_build(own_copy)["as_of_us"])
    lifecycle.publish(own_copy, "two")
    keys = all_keys(own_copy)
    one, two = online(own_copy, keys), online(own_copy, keys, "ctr_two")
    assert list(one) == list(two)
    assert one["item_sid__codes"] != two["item_sid__codes"]
    assert {name for name in one if one[name] != two[name]} <= {"item_sid__codes", "item_sid__residual_norm"}
    assert "item_sid__assigned_at_us" not in one  # a wall clock is no feature


def test_applying_again_changes_nothing(own_copy: Repo) -> None:
    keys = all_keys(own_copy)
    before = definitions(own_copy), online_tables(own_copy), online(own_copy, keys)
    printed = apply_repo(own_copy)
    assert "Removing" not in printed and "Created" not in printed and "Updated" not in printed
    assert (definitions(own_copy), online_tables(own_copy), online(own_copy, keys)) == before


def test_two_repos_in_one_process_do_not_mix(source: Path, tmp_path: Path) -> None:
    one = built(tmp_path / "one", source, modalities=("text",))
    two = built(tmp_path / "two", source, modalities=("text", "image"))
    lifecycle.fit(two, "only_two", SPEC, read_build(two)["as_of_us"])
    lifecycle.publish(two, "only_two")
    for repo in (one, two, one):
        apply_repo(repo)
    told = {}
    for repo in (one, two):
        store = open_store(repo)
        told[repo.path.name] = {feature.name for feature in store.get_feature_view("item_content").features}
        for view in store.list_feature_views():
            assert view.batch_source.path.startswith(f"{repo.path}/"), view.name
        assert materialize(repo, read_build(repo)["as_of_us"])["item_content"] == 40
    assert told["two"] - told["one"] == {"image"}
    assert {view.name for view in open_store(one).list_feature_views()} == set(TABLES)
    assert {view.name for view in open_store(two).list_feature_views()} == {
        *TABLES, "item_sid_only_two", "code_stats_only_two", "user_code_stats_only_two",
    }  # fmt: skip
    assert not any("item_sid" in name for name in online_tables(one))


@pytest.fixture
def foreign_modules(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Modules of the same names as the definitions, some loaded, all of them in the working directory."""
    loaded = {name: ModuleType(name) for name in ("entities", "sources")}
    for name in ("entities", "sources", "services", "item_views"):
        (elsewhere / f"{name}.py").write_text(f"raise RuntimeError('the wrong {name} was imported')\n")
    for name, module in loaded.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend("")
    monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.syspath_prepend(str(elsewhere / "feature_repo"))
    return loaded


def surroundings() -> tuple[Path, list[str], dict[str, Any], bool]:
    definitions = ("entities", "sources", "item_views", "user_views", "semantic_id_views", "services")
    loaded = {name: sys.modules.get(name) for name in definitions}
    return Path.cwd(), list(sys.path), loaded, sys.dont_write_bytecode


def test_applying_leaves_working_directory_path_and_modules_as_they_were(
    own_copy: Repo, foreign_modules: dict[str, ModuleType], elsewhere: Path
) -> None:
    before = surroundings()
    files = sorted(elsewhere.rglob("*"))
    apply_repo(own_copy)
    materialize(own_copy, read_build(own_copy)["as_of_us"])
    assert surroundings() == before
    assert sys.modules["entities"] is foreign_modules["entities"]
    assert sorted(elsewhere.rglob("*")) == files
    assert not list(own_copy.path.glob("**/__pycache__"))


def test_definitions_that_fail_leave_everything_as_it_was(own_copy: Repo, foreign_modules: object) -> None:
    before = surroundings(), definitions(own_copy), online_tables(own_copy)
    (own_copy.path / "user_views.py").write_text("import no_such_module\n")
    with pytest.raises(RepoError, match=r"could not apply .*no_such_module"):
        apply_repo(own_copy)
    assert (surroundings(), definitions(own_copy), online_tables(own_copy)) == before


def test_definitions_that_feast_refuses_are_reported_with_what_it_said(own_copy: Repo) -> None:
    path = own_copy.path / "entities.py"
    path.write_text(f"{path.read_text()}\nfrom feast import Project\nother = Project(name='other')\n")
    with pytest.raises(RepoError, match="Project object name should match"):
        apply_repo(own_copy)


def execute(database: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as opened, opened:
        opened.execute(statement)


def _toml(repo: Repo, old: str, new: str) -> None:
    path = repo.path / "sidkit.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def _catalog(repo: Repo) -> Path:
    return repo.data / "catalog.sqlite"


def _make_a_folder(repo: Repo) -> None:
    _catalog(repo).unlink()
    _catalog(repo).mkdir()


DAMAGES: dict[str, Callable[[Repo], object]] = {
    "deleted": lambda repo: _catalog(repo).unlink(),
    "emptied": lambda repo: _catalog(repo).write_bytes(b""),
    "a folder": _make_a_folder,
    "without rows": lambda repo: execute(_catalog(repo), "DELETE FROM sidkit_codebooks"),
    "without its table": lambda repo: execute(_catalog(repo), "DROP TABLE sidkit_codebooks"),
    "of another release": lambda repo: execute(_catalog(repo), "ALTER TABLE sidkit_codebooks DROP COLUMN defined"),
    "no database": lambda repo: _catalog(repo).write_bytes(b"no database at all " * 99),
    "cut short": lambda repo: _catalog(repo).write_bytes(_catalog(repo).read_bytes()[:5000]),
    "elsewhere": lambda repo: _toml(repo, "data/catalog.sqlite", "data/other.sqlite"),
    "in a missing folder": lambda repo: _toml(repo, "sqlite:///data/catalog", "sqlite:////no/such/folder/catalog"),
    "behind a driver that is not there": lambda repo: _toml(repo, "sqlite:///data", "postgresql+nosuch://host"),
    "no URL": lambda repo: _toml(repo, "sqlite:///data/catalog.sqlite", "catalog dot sqlite"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_sound_catalogue_nothing_is_applied(own_copy: Repo, damage: str) -> None:
    before = definitions(own_copy), online_tables(own_copy)
    assert any("item_sid_one" in name for name in online_tables(own_copy))
    DAMAGES[damage](own_copy)
    with pytest.raises(CatalogError, match=r"(?s)catalogue at .*nothing was applied.*correct catalog\.url"):
        apply_repo(own_copy)
    assert (definitions(own_copy), online_tables(own_copy)) == before


def test_a_catalogue_of_yesterday_drops_no_online_table(own_copy: Repo) -> None:
    before = definitions(own_copy), online_tables(own_copy)
    execute(_catalog(own_copy), "UPDATE sidkit_codebooks SET state = 'fitted', defined = 0")
    with contextlib.suppress(CatalogError):
        apply_repo(own_copy)
    assert (definitions(own_copy), online_tables(own_copy)) == before


def test_applying_a_copy_of_a_repo_leaves_the_original_alone(own_copy: Repo, tmp_path: Path) -> None:
    before = definitions(own_copy), online_tables(own_copy)
    shutil.copytree(own_copy.path, tmp_path / "twin")
    with contextlib.suppress(CatalogError, ConfigError, RepoError):
        apply_repo(Repo.open(tmp_path / "twin"))
    assert (definitions(own_copy), online_tables(own_copy)) == before


@pytest.mark.parametrize("text", ["[catalog\n", "[catalog]\nurl = 3\n", "[cat]\nurl = ''\n"])
def test_without_sound_settings_nothing_is_applied(own_copy: Repo, text: str) -> None:
    before = definitions(own_copy), online_tables(own_copy)
    (own_copy.path / "sidkit.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"sidkit\.toml"):
        apply_repo(own_copy)
    assert (definitions(own_copy), online_tables(own_copy)) == before


def test_a_retired_codebook_stays_defined_until_it_is_purged(own_copy: Repo) -> None:
    keys = all_keys(own_copy)
    before = online(own_copy, keys)
    lifecycle.retire(own_copy, "one")
    apply_repo(own_copy)
    assert online(own_copy, keys) == before
    lifecycle.purge(own_copy, "one")
    store = open_store(own_copy)
    assert {view.name for view in store.list_feature_views()} == set(TABLES)
    assert store.list_feature_services() == []
    assert not any("item_sid" in name for name in online_tables(own_copy))
    assert {name for name in online_tables(own_copy) if "item_content" in name}
    assert not list(own_copy.path.rglob("*one*"))
    apply_repo(own_copy)


@pytest.mark.own_store("offline", "this test switches it")
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning:ibis")
def test_feasts_own_offline_store_gives_the_same_values_on_the_same_repo(own_copy: Repo) -> None:
    # The deprecation is ibis calling DuckDB; only Feast's own store goes through it.
    keys = all_keys(own_copy)
    at_us = read_build(own_copy)["as_of_us"]
    ours = {moment: historical(own_copy, moment, keys) for moment in (at_us, at_us - 20 * 86_400_000_000)}
    online_before = online(own_copy, keys)
    path = own_copy.path / "feature_store.yaml"
    path.write_text(path.read_text().replace("sidkit.stores.offline.AsofDuckDBOfflineStore", "duckdb"))
    for name in online_tables(own_copy):
        execute(own_copy.data / "online.sqlite", f'DELETE FROM "{name}"')
    apply_repo(own_copy)
    store = open_store(own_copy)
    assert type(store._get_provider().offline_store).__name__ == "DuckDBOfflineStore"
    assert online(own_copy, keys) != online_before
    materialize(own_copy, at_us)
    assert online(own_copy, keys) == online_before
    for moment, expected in ours.items():
        frame = pd.DataFrame({**keys, "event_timestamp": pd.Timestamp(from_us(moment))})
        frame["row"], frame["at_us"] = range(len(frame)), moment
        job = store.get_historical_features(frame, store.get_feature_service("ctr_one"), full_feature_names=True)
        assert cells(job.to_arrow().sort_by("row"), list(expected)) == expected
    assert ours[at_us] != ours[at_us - 20 * 86_400_000_000]


def test_an_apply_reads_the_registry_a_few_times_and_not_once_per_object(
    published: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast.infra.registry.sql import SqlRegistry

    reads: list[str] = []
    by_feast = SqlRegistry.proto
    monkeypatch.setattr(SqlRegistry, "proto", lambda registry: reads.append("read") or by_feast(registry))
    repo = copy_of(published, tmp_path / "copy")
    applied, store = len(reads), open_store(repo)
    reads.clear()
    materialize(repo, read_build(repo)["as_of_us"])
    lists = (store.list_data_sources, store.list_feature_views, store.list_entities, store.list_feature_services)
    assert sum(len(listed()) for listed in lists) > 15
    assert applied <= 6
    assert len(reads) <= 4


def test_a_registry_whose_objects_could_not_be_written_still_refreshes_itself(published: Repo, tmp_path: Path) -> None:
    store = open_store(copy_of(published, tmp_path / "copy"))
    registry, name = store.registry, store.list_feature_views()[0].name
    view = store.get_feature_view(name)
    view.tags = {"seen": "yes"}

    def write_and_fail() -> None:
        with refreshed_once(registry):
            registry.apply_feature_view(view, store.project)
            assert "seen" not in store.get_feature_view(name, allow_registry_cache=True).tags
            raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        write_and_fail()
    assert store.get_feature_view(name, allow_registry_cache=True).tags["seen"] == "yes"
    view.tags = {"seen": "again"}
    registry.apply_feature_view(view, store.project)  # outside of the block, after each object
    assert store.get_feature_view(name, allow_registry_cache=True).tags["seen"] == "again"
