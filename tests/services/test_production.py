"""The profile production: the same features as the profile local, also after commands that were killed.

Its sources are folders of days, those of the local twin one file per table.
"""

from __future__ import annotations

import gc
import json
import re
import secrets
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from helpers.builders import DAY, forked_exit, forked_sidkit
from helpers.codebook_builders import AS_OF, CUT, ITEMS, write_source
from helpers.commands import ask
from helpers.life_state import online_rows, registered
from helpers.life_steps import CLICKS, fit
from helpers.own_services import MARK, own_services
from helpers.ports import free_port
from semantic_ids.catalog import Catalog
from sidkit.core.clock import iso
from sidkit.core.repo import Repo
from sidkit.profiles.production import POSTGRES, REDIS

pytestmark = pytest.mark.filterwarnings(
    # Feast leaves the connections of its registry to the garbage collector.
    "ignore:Exception ignored in.*BaseConnection.__del__:pytest.PytestUnraisableExceptionWarning"
)

LIFE: list[tuple[object, ...]] = [
    ("data", "ingest"),
    ("tables", "build", "--as-of", iso(AS_OF)),
    ("apply",),
    ("materialize",),
    fit("old", "rqkmeans"),
    ("codebooks", "publish", "old"),
    ("codebooks", "promote", "old"),
    fit("new", "rqkmeans", CUT + DAY),
    ("codebooks", "publish", "new"),
    ("codebooks", "promote", "new"),
    ("codebooks", "retire", "old"),
    ("codebooks", "purge", "old"),
]
KILLED = {
    ("apply",): (0, 4, 12), ("materialize",): (1, 3), ("codebooks", "publish", "new"): (1, 6, 11),
    ("codebooks", "promote", "new"): (1,), ("codebooks", "purge", "old"): (1, 3),
}  # fmt: skip
"""Points at which a command is killed, one after the other, before it is run undisturbed."""
KILL = "import os; from helpers.service_points import kill_at; kill_at(int(os.environ['KILL_AT'])); "
RUN = "from sidkit.cli import main; main()"


@dataclass(frozen=True)
class Twins:
    """A local repository and one on services, after the same life."""

    local: Repo
    production: Repo
    environment: dict[str, str]
    kills: int
    said: str


@pytest.fixture(scope="module")
def services(postgres_url: str, redis_address: str) -> dict[str, str]:
    """The environment of a production repository: a database, and a user of the Redis server, of its own."""
    return own_services(postgres_url, redis_address)


def made(folder: Path, profile: str) -> Repo:
    """A repository on the source beside it; settings are those of the tests' repositories."""
    from helpers.builders import fresh_repo
    from sidkit.profiles.switch import switch_profile

    repo = fresh_repo(folder / profile, folder / "source", modalities=("text", "image"))
    switch_profile(repo, profile)
    path = repo.path / "feature_store.yaml"
    path.write_text(path.read_text().replace("project: sidkit", "project: shop"))
    return Repo.open(repo.path)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, services: dict[str, str]) -> Iterator[Twins]:
    folder, kills, said = tmp_path_factory.mktemp("twins"), 0, ""
    write_source(folder / "source", ITEMS, clicks=CLICKS)
    repos = {name: made(folder, name) for name in ("local", "production")}
    for name, repo in repos.items():
        environment = services if name == "production" else {}
        for arguments in LIFE:
            line = [*arguments, "--repo", repo.path]
            for point in KILLED.get(tuple(arguments), ()) if name == "production" else ():
                done = forked_exit(KILL + RUN, *line, cwd=folder, KILL_AT=str(point), **environment)
                assert done.returncode in {0, -9}, done.stderr
                kills += done.returncode == -9
                said += done.stdout + done.stderr
            done = forked_sidkit(*line, cwd=folder, **environment)
            said += done.stdout + done.stderr
    with pytest.MonkeyPatch.context() as patched:
        for variable, value in services.items():
            patched.setenv(variable, value)
        yield Twins(repos["local"], repos["production"], services, kills, said)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def online_of(repo: Repo) -> dict[str, list[str]]:
    """All rows of the online store, by view."""
    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    with store._get_provider().online_store.database(store.config).reading() as reading:
        views = [view for view in reading.views() if view.startswith("shop_")]
        return {view: online_rows(reading, view) for view in views}


def test_commands_that_were_killed_leave_the_features_that_undisturbed_local_ones_leave(twins: Twins) -> None:
    local, production = online_of(twins.local), online_of(twins.production)
    assert list(local) == list(production)
    assert {view: len(rows) for view, rows in local.items() if rows}.keys() >= {
        "shop_item_content", "shop_item_stats", "shop_user_history", "shop_user_stats", "shop_item_sid_new",
    }  # fmt: skip
    different = {view for view in local if local[view] != production[view]}
    assert not different
    assert twins.kills >= 8


def test_catalogue_and_registry_hold_the_same(twins: Twins) -> None:
    catalogues = [
        [{**vars(record), "changed_at_us": 0} for record in Catalog.open(repo).codebooks()]
        for repo in (twins.local, twins.production)
    ]
    assert catalogues[0] == catalogues[1]
    assert {record["name"]: record["state"] for record in catalogues[0]} == {"old": "purged", "new": "serving"}
    found, expected = (
        json.loads(re.sub(r"/(local|production)/", "/", json.dumps(registered(repo), default=str)))
        for repo in (twins.production, twins.local)
    )
    by_day = [path for _, path in found["sources"] if "/data/sources/" in path]
    assert {Path(path).name for path in by_day} >= {"item_content", "item_stats", "user_history", "user_stats"}
    for source in found["sources"]:
        source[1] = re.sub(r"/data/sources/(\w+)", r"/data/tables/\1.parquet", source[1])
    assert found == expected


def test_the_readers_of_both_profiles_give_the_same_arrays(twins: Twins) -> None:
    from ranking.serving.service_reader import ServiceReader
    from sidkit.stores.feast_repo import open_store

    cells = 0
    for service in ("ctr_new_item", "ctr_new_user"):
        keys = {"item_id": [*ITEMS, "nobody"]} if service.endswith("item") else {"user_id": ["u01", "u02", "nobody"]}
        stores = [open_store(repo) for repo in (twins.local, twins.production)]
        local, production = (
            ServiceReader(store, store.get_feature_service(service)).read(keys, at_us=AS_OF) for store in stores
        )
        assert list(local) == list(production)
        for name, view in local.items():
            columns = [column for column in view.plain().column_names if not column.endswith("assigned_at_us")]
            assert production[name].plain().select(columns).equals(view.plain().select(columns)), name
            cells += len(columns) * view.plain().num_rows
    assert cells > 500


def test_training_frames_of_both_profiles_have_the_same_features(twins: Twins) -> None:
    from ranking.data.feature_views import historical_reader
    from sidkit.stores.feast_repo import open_store

    rng = np.random.default_rng(0)
    at_us = np.sort(CUT - 19 * DAY + rng.integers(0, 38 * DAY, 300))
    keys = {"user_id": rng.choice(["u01", "u02", "nobody"], 300), "item_id": rng.choice([*ITEMS, "nothing"], 300)}
    frames = []
    for repo in (twins.local, twins.production):
        store = open_store(repo)
        read = historical_reader(store, store.get_feature_service(Catalog.open(repo).codebook("new").service_name))
        frames.append({name: view.plain() for name, view in read(keys, at_us).items()})
    local, production = frames
    assert list(local) == list(production)
    for name, view in local.items():
        columns = [column for column in view.column_names if not column.endswith("assigned_at_us")]
        assert production[name].select(columns).equals(view.select(columns)), name
    seen = np.array(local["user_history"].column(0).is_valid())
    assert 50 < seen.sum() < 300


def test_no_file_and_no_output_has_a_password(twins: Twins) -> None:
    assert MARK not in twins.said
    held = [path for path in twins.production.path.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]
    assert held == []


def test_nothing_of_registry_catalogue_and_online_store_is_in_the_repository(twins: Twins) -> None:
    assert [path.name for path in twins.production.path.rglob("*.sqlite")] == []


def test_the_doctor_finds_nothing_and_then_damage_and_materialize_mends_it(twins: Twins) -> None:
    from redis import Redis

    line = ("--repo", twins.production.path)
    assert ask("doctor", *line).code == 0
    client, before = Redis.from_url(twins.environment[REDIS]), online_of(twins.production)
    key = "packed:{shop_item_stats}:rows"
    [field, *_] = client.hkeys(key)
    row = client.hget(key, field)
    client.hset(key, field, row[:5] + bytes([row[5] ^ 1]) + row[6:])
    answer = ask("doctor", *line)
    assert answer.code == 1 and "1 rows do not match their checksum" in answer.out + answer.err
    answer = ask("materialize", *line)
    assert answer.code == 0 and "1 damaged rows of packed:shop_item_stats were removed" in answer.out + answer.err
    assert online_of(twins.production) == before
    assert ask("doctor", *line).code == 0


@pytest.mark.parametrize("service", [POSTGRES, REDIS])
def test_the_doctor_names_a_service_that_does_not_answer(
    twins: Twins, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = {
        POSTGRES: f"postgresql+psycopg://me:{MARK}@127.0.0.1:{free_port()}/x",
        REDIS: f"redis://:{MARK}@127.0.0.1:{free_port()}/0",
    }
    monkeypatch.setenv(service, address[service])
    answer = ask("doctor", "--repo", twins.production.path)
    shown = answer.out + answer.err
    what = {POSTGRES: "the registry's database cannot be reached", REDIS: "cannot be reached"}[service]
    assert answer.code == 1 and what in " ".join(shown.split())
    assert MARK not in shown
    for command in (("apply",), ("materialize",)):
        answer = ask(*command, "--repo", twins.production.path)
        assert answer.code == 1 and "cannot be re" in " ".join((answer.out + answer.err).split())
        assert MARK not in answer.out + answer.err and "Traceback" not in answer.err


@pytest.mark.parametrize("service", [POSTGRES, REDIS])
def test_a_variable_that_is_not_set_is_named(twins: Twins, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(service)
    answer = ask("doctor", "--repo", twins.production.path)
    assert answer.code == 1 and f"the environment variable {service} is not set" in answer.out + answer.err
    answer = ask("materialize", "--repo", twins.production.path)
    assert answer.code == 1 and service in answer.out + answer.err and "not set" not in answer.out


def test_a_user_of_the_server_without_permissions_is_told_so(
    twins: Twins, redis_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis import Redis

    name = f"reader_{secrets.token_hex(4)}"
    client = Redis.from_url(f"redis://{redis_address}/0")
    client.acl_setuser(name, enabled=True, passwords=[f"+{MARK}"], keys=["*"], categories=["+@read", "+@connection"])
    monkeypatch.setenv(REDIS, f"redis://{name}:{MARK}@{redis_address}/0")
    answer = ask("materialize", "--repo", twins.production.path)
    assert answer.code == 1 and "does not allow the user a command" in " ".join((answer.out + answer.err).split())


def test_forgetting_a_user_leaves_no_key_of_them_on_the_server(twins: Twins) -> None:
    from redis import Redis

    for repo in (twins.local, twins.production):
        answer = ask("forget", "--user", "u03", "--repo", repo.path)
        assert answer.code == 0, answer
    assert "snapshots and append-only files of redis://" in " ".join((answer.out + answer.err).split())
    client = Redis.from_url(twins.environment[REDIS])
    held = [key for name in client.scan_iter("packed:{shop_user*}:rows") for key in client.hkeys(name)]
    assert held and not [key for key in held if b"u03" in key]
    assert online_of(twins.local) == online_of(twins.production)
