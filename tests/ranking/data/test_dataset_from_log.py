"""Every cell of a training frame against a brute-force oracle in plain Python."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from helpers.builders import DAY, complete, fresh_repo, one_thread, set_world
from oracle.features import EmbeddingVersion, Event, ItemVersion, Oracle
from oracle.features import Settings as OracleSettings
from oracle.logs import LAST, World, random_world, worlds
from ranking.pipeline.prepare import end_of_log, prepare_repo
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, open_store
from sidkit.tables import build_tables, ingest, read_log

PROOF = bool(os.environ.get("SIDKIT_PROOF"))
"""`make proof` asks for more worlds and rows."""
REAL_SETS = ("ml_latest_small", "uci_online_retail", "xwines_slim")
REAL_ROWS = 10_000 if PROOF else 2_000
FEATURES = {
    "item_content": ("category", "price", "created_at_us"),
    "item_stats": tuple(
        f"{what}_{w}" for w in ("1d", "7d", "30d", "all") for what in ("exposures", "clicks", "conversions")
    ),
    "user_stats": tuple(f"{what}_{w}" for w in ("1d", "7d", "30d", "all") for what in ("exposures", "clicks")),
    "user_history": ("item_ids", "timestamps_us"),
}


def features(modalities: Sequence[str]) -> list[str]:
    named = {**FEATURES, "item_content": (*FEATURES["item_content"], *modalities)}
    return [f"{view}:{name}" for view, names in named.items() for name in names]


def frame_of(repo: Repo, queries: Sequence[tuple[str, str, int]], modalities: Sequence[str]) -> list[dict[str, Any]]:
    entities = pd.DataFrame(queries, columns=["user_id", "item_id", "event_timestamp"])
    entities["event_timestamp"] = pd.to_datetime(entities["event_timestamp"], unit="us", utc=True)
    entities["row"] = range(len(entities))  # Feast's own store loses the order
    job = open_store(repo).get_historical_features(entities, features=features(modalities), full_feature_names=True)
    rows: list[dict[str, Any]] = job.to_arrow().sort_by("row").to_pylist()
    return rows


def disagreements(oracle: Oracle, frame: list[dict[str, Any]], queries: Sequence[tuple[str, str, int]]) -> list[str]:
    """Cells in which frame and oracle differ, as text."""
    found = []
    for row, (user, item, at) in zip(frame, queries, strict=True):
        expected = {
            "item_content": oracle.item_content(item, at),
            "item_stats": oracle.item_stats(item, at),
            "user_stats": oracle.user_stats(user, at),
            "user_history": oracle.user_history(user, at),
        }
        for cell, value in row.items():
            view, _, name = cell.partition("__")
            if view in expected:
                wanted = (expected[view] or {}).get(name)
                if wanted != value:
                    found.append(f"{cell} of {user}, {item} at {at}: frame {value!r}, oracle {wanted!r}")
    return found


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repo that is applied once; each example puts its own world under it."""
    folder = tmp_path_factory.mktemp("frame")
    repo = fresh_repo(folder / "repo", folder / "source", modalities=("text", "image"))
    apply_repo(repo)
    return repo.path


def check(repo_path: Path, world: World) -> None:
    world = complete(world)
    repo = set_world(repo_path, repo_path.parent / "source", world)
    ingest(repo)
    build_tables(repo, LAST + 60 * DAY)
    oracle = Oracle(world.settings, world.events, world.items, world.embeddings, world.modalities)
    asked = [query for query in world.queries if query[2] <= LAST + 60 * DAY] or [("u90", "i90", LAST)]
    frame = frame_of(repo, asked, world.modalities)
    assert disagreements(oracle, frame, asked) == []


@given(world=worlds(min_events=1, orphans=True))
@settings(max_examples=400 if PROOF else 25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_cell_of_small_adversarial_worlds_agrees_with_the_oracle(applied: Path, world: World) -> None:
    check(applied, world)


@pytest.mark.parametrize("seed", range(20 if PROOF else 2))
def test_every_cell_of_larger_random_worlds_agrees_with_the_oracle(applied: Path, seed: int) -> None:
    check(applied, random_world(random.Random(seed), n_users=30, n_items=40, n_events=3000, n_queries=3000))


def beginning_of(source: Path, folder: Path, rows: int = 20_000) -> Path:
    """The first events of a set, with all of its items."""
    folder.mkdir()
    for table in ("interactions", "items", "item_embeddings"):
        held = pq.read_table(source / f"{table}.parquet")
        if table == "interactions":
            held = held.sort_by("timestamp").slice(0, rows)
        pq.write_table(held, folder / f"{table}.parquet")
    return folder


@pytest.mark.parametrize("real_source", REAL_SETS if PROOF else REAL_SETS[:1], indirect=True)
def test_random_rows_of_each_real_set_agree_with_the_oracle(real_source: Path, tmp_path: Path) -> None:
    repo = prepare_repo(
        str(real_source if PROOF else beginning_of(real_source, tmp_path / "source")), tmp_path / "repo"
    )
    one_thread(repo)
    ingest(repo)
    build_tables(repo, end_of_log(repo))
    apply_repo(repo)
    log = read_log(repo)
    with duckdb.connect() as opened:
        events = opened.execute(
            f"SELECT user_id, item_id, epoch_us(timestamp), label::INT FROM read_parquet({[str(part) for part in log.parts]})"
        ).fetchall()
        items = opened.execute(f"SELECT item_id, epoch_us(created_at) FROM '{log.items}'").fetchall()
    columns = set(pq.read_schema(log.items).names)
    described = (
        pq.read_table(log.items).select(["item_id", *columns & {"category", "price"}]).to_pandas().set_index("item_id")
    )
    vectors = pq.read_table(log.embeddings)
    modalities = repo.settings.source.modalities
    matrix = {row["item_id"]: {name: row[name] for name in modalities} for row in vectors.to_pylist()}
    time = repo.settings.time
    oracle = Oracle(
        OracleSettings(
            delay=time.delay_us, cadence=time.cadence_us, history_length=time.history_length,
            positives_only=repo.settings.source.feedback == "positives_only", has_conversions=False,
        ),
        [Event(*event) for event in events],
        [
            ItemVersion(name, created, None, None, _or_none(described, name, "category"), _or_none(described, name, "price"))
            for name, created in items
        ],
        [EmbeddingVersion(name, None, held) for name, held in matrix.items()],
        modalities,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    drawn = rng.choice(len(events), REAL_ROWS)
    # The row's own moment, and moments around it at which something is about to become readable.
    offsets = rng.choice(
        [0, 0, 0, 1, time.delay_us - 1, time.delay_us, time.delay_us + time.cadence_us, DAY], REAL_ROWS
    )
    queries = [
        (events[row][0], events[row][1], min(events[row][2] + int(offset), end_of_log(repo)))
        for row, offset in zip(drawn, offsets, strict=True)
    ]
    assert disagreements(oracle, frame_of(repo, queries, modalities), queries) == []


def _or_none(described: pd.DataFrame, name: str, column: str) -> Any:
    if column not in described:
        return None
    value = described.at[name, column]
    return None if pd.isna(value) else value
