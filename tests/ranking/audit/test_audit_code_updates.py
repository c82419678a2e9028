"""Tables of code statistics that were built in steps agree with the reference, whatever arrived late, twice or not at all."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import DAY, complete, fresh_repo, moments, set_world, write_world_source
from helpers.hand_codes import HandMade
from oracle.logs import LAST, World, random_world
from ranking.audit.reference import log_reference
from semantic_ids.catalog import table_path
from sidkit.core.artifact import write_artifact
from sidkit.core.code_stats import code_stats_view, user_code_stats_view
from sidkit.core.integrity import hashes_of, write_sealed
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest, read_build
from sidkit.tables.code_stats import CodeCounts, count_codes

Version = tuple[str, int, tuple[int, ...] | None, int]
"""Item, time from which serving reads its codes, codes, time of the assignment."""


def write_codes(repo: Repo, versions: list[Version]) -> None:
    items, times_us, codes, assigned = zip(*versions, strict=True)
    path = table_path(repo, "hand")
    table = {"item_id": items, "event_timestamp": moments(times_us), "assigned_at_us": pa.array(assigned, pa.int64())}
    pq.write_table(pa.table({**table, "codes": pa.array(codes, pa.list_(pa.int64()))}), path)
    write_sealed(path.with_suffix(".json"), {"files": hashes_of(path.parent, [path.name])})


def compare(repo: Repo, world: World, queries: list[tuple[str, str, int]], depths: tuple[int, ...]) -> int:
    """Compare the newest row of each query's prefixes with the reference; returns the number of counts above 0."""
    rows: dict[tuple[str, ...], list[tuple[int, dict[str, Any]]]] = {}
    for view in (code_stats_view("hand"), user_code_stats_view("hand")):
        table = pq.read_table(repo.tables / f"{view}.parquet")
        times_us = table["event_timestamp"].cast(pa.int64()).to_pylist()
        for row, us in zip(table.to_pylist(), times_us, strict=True):
            key = (view, row["sid_prefix"], *([row["user_id"]] if "user_id" in row else []))
            rows.setdefault(key, []).append((us, row))
    for each in rows.values():
        assert len({us for us, _ in each}) == len(each)
    users, items, at_us = zip(*queries, strict=True)
    keys = np.array(users, dtype=object), np.array(items, dtype=object), np.array(at_us, dtype=np.int64)
    codebook: Any = HandMade(world.modalities)
    positive = 0
    with log_reference(repo, codebook) as reference:
        cells = reference.by_code.plain_cells(*keys)
        for (user, item, at), cell in zip(queries, cells, strict=True):
            codes = reference.by_code.codes(item, at)
            for name, value in cell.items():
                alias, _, column = name.partition("__")
                depth = int(alias.rpartition("_d")[2])
                assert depth in depths
                prefix = "hand/" + "-".join(map(str, codes[:depth])) if codes else ""
                of_both = alias.startswith("user_")
                view = user_code_stats_view("hand") if of_both else code_stats_view("hand")
                known = [each for each in rows.get((view, prefix, *([user] if of_both else [])), []) if each[0] <= at]
                stored = max(known, key=lambda each: each[0])[1][column] if known else None
                assert stored == value, (name, user, item, at)
                positive += bool(value)
    return positive


@pytest.mark.parametrize("seed", range(6))
def test_tables_built_in_steps_are_those_of_the_log(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    world = complete(random_world(draw, n_users=8, n_items=12, n_events=250, n_queries=60))
    times_us = sorted(event.timestamp for event in world.events)
    middle_us = times_us[len(times_us) // 2]
    # At first: most events up to the middle, and some that the second source no longer has.
    first = [event for event in world.events if event.timestamp <= middle_us and draw.random() < 0.85]
    kept = [event for event in world.events if event not in first or draw.random() < 0.95]
    sentinels = world.events[-2:]
    made = fresh_repo(tmp_path / "repo", tmp_path / "source", modalities=("text", "image"))
    made = set_world(made.path, tmp_path / "source", replace(world, events=[*first, *sentinels]))
    ingest(made)
    counts = CodeCounts(
        "hand", "hash", draw.choice(((1, 2, 3), (1, 3), (2,))), draw.choice((3600, 7000)), draw.choice((86_400, 3600))
    )
    least = world.settings.cadence // 1_000_000
    counts = replace(
        counts,
        cadence_seconds=max(counts.cadence_seconds, least),
        user_cadence_seconds=max(counts.user_cadence_seconds, least),
    )
    stats = {key: value for key, value in counts.stated().items() if not key.startswith("codebook")}
    described = {"kind": "codebook", "name": "hand", "stats": stats}
    write_artifact(made.codebooks / "hand", described, lambda folder: (folder / "x").write_text("x") and None)

    items = sorted({event.item_id for event in world.events})
    taken = {(item, times_us[0] - DAY) for item in items}
    versions: list[Version] = [(item, us, codes_of(draw), 1) for item, us in sorted(taken)]
    late: list[Version] = []
    for item, us in sorted({(draw.choice(items), draw.choice(times_us) + draw.choice((-1, 0, 1))) for _ in range(30)}):
        if (item, us) not in taken:
            (versions if us <= middle_us and draw.random() < 0.8 else late).append((item, us, codes_of(draw), 1))
    last_us = LAST + 60 * DAY
    total = 0
    steps = (
        (middle_us, None, versions),
        (middle_us + DAY // 3, kept, versions),
        (last_us, None, [*versions, *(replace_assignment(each) for each in late)]),
    )
    for as_of_us, events, codes in steps:
        if events is not None:
            write_world_source(tmp_path / "source", replace(world, events=[*events, *sentinels]))
            ingest(made)
        build_tables(made, as_of_us)
        write_codes(made, codes)
        count_codes(made, counts, read_build(made))
        around = [event for event in world.events if event.timestamp < as_of_us]
        queries = [query for query in world.queries if query[2] <= as_of_us]
        queries += [
            (event.user_id, draw.choice(items), min(event.timestamp + draw.choice((0, DAY, 31 * DAY)), as_of_us))
            for event in draw.sample(around, min(60, len(around)))
        ]
        total += compare(made, world, queries, counts.depths)
    assert total > 100


def codes_of(draw: random.Random) -> tuple[int, ...] | None:
    return None if draw.random() < 0.15 else tuple(draw.randint(0, 1) for _ in range(3))


def replace_assignment(version: Version) -> Version:
    """The version as assigned later, to a time that may be long past."""
    return (*version[:3], 2)
