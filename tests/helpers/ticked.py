"""A small repo with every table that follows events, and what its online store has."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.builders import DAY, START, copy_of, fresh_repo, moments, write_tables
from semantic_ids import lifecycle
from semantic_ids.lifecycle import CodebookSpec
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest, read_log

AS_OF = START + 40 * DAY
SPEC = CodebookSpec(
    force=True, sizes=(3, 2), encoder_arguments={"dim": 4}, beam=1, stats={"user_cadence_seconds": 3600}
)
ITEMS = [f"i{number:02d}" for number in range(24)]
FOLLOWING = ("user_history", "item_stats", "user_stats", "user_category_stats", "user_item_id_stats",
             "code_stats_a", "user_code_stats_a")  # fmt: skip
TYPES = {
    "user_id": pa.string(), "item_id": pa.string(), "label": pa.int8(), "request_id": pa.string(), "converted": pa.int8(),
    "query": pa.string(),
}  # fmt: skip


@dataclass(frozen=True)
class Click:
    """One event; its key is all but the label, the conversion and the query."""

    user: str
    item: str
    at: int
    label: int = 1
    converted: int | None = 0
    query: str | None = None
    request: str | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        return self.user, self.item, self.at, self.request


def merged(first: Click, second: Click) -> Click:
    """Positives win, else what the first one knows."""
    bought = [each.converted for each in (first, second) if each.converted is not None]
    query = first.query if first.query is not None else second.query
    return replace(first, label=max(first.label, second.label), converted=max(bought, default=None), query=query)


def vector(item: str) -> list[float]:
    return [float(value) for value in np.random.default_rng(int(item[1:])).normal(size=6).astype("f4")]


def rows_of(clicks: Sequence[Click]) -> pa.Table:
    columns = zip(*((c.user, c.item, c.label, c.request, c.converted, c.query) for c in clicks), strict=True)
    table = {name: pa.array(column, TYPES[name]) for name, column in zip(TYPES, columns, strict=True)}
    return pa.table({**table, "timestamp": moments([click.at for click in clicks])})


def write_source(folder: Path, clicks: Sequence[Click], items: Sequence[str] = ITEMS) -> Path:
    return write_tables(
        folder,
        {
            "interactions": rows_of(clicks),
            "items": items_rows(items),
            "item_embeddings": pa.table({"item_id": items, "text": [vector(item) for item in items]}),
        },
    )


def items_rows(items: Sequence[str], created: int = START - DAY) -> pa.Table:
    return pa.table(
        {
            "item_id": items,
            "created_at": moments([created] * len(items)),
            "category": pa.array([f"c{int(item[1:]) % 3}" for item in items]),
            "price": pa.array([float(item[1:]) for item in items], pa.float32()),
        }
    )


def drawn(seed: int, count: int, first: int, last: int) -> list[Click]:
    draw = np.random.default_rng(seed)
    return [
        Click(
            f"u{draw.integers(6)}", f"i{draw.integers(24):02d}", int(draw.integers(first, last) // 1_000 * 1_000),
            int(draw.random() < 0.5), int(draw.random() < 0.2),
        )
        for _ in range(count)
    ]  # fmt: skip


def started(folder: Path, clicks: Sequence[Click]) -> Repo:
    """A repo that was built, published and materialized as of ``AS_OF``."""
    from sidkit.stores.feast_repo import materialize

    repo = fresh_repo(
        folder / "repo", write_source(folder / "source", clicks), modalities=("text",), conversions=True,
        features='[features.items]\ncategory = "category"\nprice = "number"',
        toml={
            "availability_delay_seconds = 60": "availability_delay_seconds = 1",
            "max_reject_share = 0.01": "max_reject_share = 1.0",
            "[features]\n": '[features]\naffinity = ["category", "item_id"]\n',
        },
    )  # fmt: skip
    ingest(repo)
    build_tables(repo, AS_OF)
    lifecycle.fit(repo, "a", SPEC, AS_OF)
    lifecycle.publish(repo, "a")
    materialize(repo, AS_OF)
    return repo


def rebuilt(repo: Repo, path: Path, as_of_us: int) -> Repo:
    """A copy whose tables are built from scratch and whose online store is new."""
    from sidkit.stores.feast_repo import apply_repo, materialize

    shutil.rmtree(path, ignore_errors=True)
    copy = copy_of(repo, path)
    for file in (path / "data").glob("online*"):
        file.unlink()
    shutil.rmtree(path / "data" / "events", ignore_errors=True)
    apply_repo(copy)
    build_tables(copy, as_of_us, rebuild=True)
    lifecycle.refresh(copy)
    materialize(copy, as_of_us)
    return copy


def online(repo: Repo, views: Sequence[str] = FOLLOWING) -> dict[str, dict[bytes, tuple[Any, ...]]]:
    """View -> key -> (event time in microseconds, values): every row of the online store."""
    from sidkit.stores.feast_repo import open_store
    from sidkit.stores.online.arrow import to_arrow
    from sidkit.stores.online.codec import layout_number, unpack
    from sidkit.stores.online.store import view_id

    store = open_store(repo)
    found: dict[str, dict[bytes, tuple[Any, ...]]] = {}
    with store._get_provider().online_store.file(store.config).reading() as reading:
        for name in views:
            view = view_id(store.config, store.get_feature_view(name))
            keys = list(reading.keys(view))
            layouts, rows = reading.layouts(view), reading.timed_rows(view, keys)
            found[name] = {}
            for key, (row, at) in zip(keys, rows, strict=True):
                assert row is not None
                layout = layouts[layout_number(row)]
                names = [each for each in layout.names if each != "assigned_at_us"]
                cells = unpack(layout, [row], names)
                found[name][key] = (at, {each: to_arrow(cells[each]).to_pylist()[0] for each in names})
    return found


def logged(repo: Repo) -> dict[tuple[Any, ...], Click]:
    """The events of the log."""
    rows = [row for part in read_log(repo).parts for row in pq.read_table(part).to_pylist()]
    clicks = [
        Click(
            row["user_id"], row["item_id"], int(row["timestamp"].timestamp() * 1e6 + 0.5), row["label"], row["converted"],
            row["query"], row["request_id"],
        )
        for row in rows
    ]  # fmt: skip
    found = {click.key: click for click in clicks}
    assert len(found) == len(clicks)
    return found


def assert_same(found: Mapping[str, Mapping[bytes, Any]], expected: Mapping[str, Mapping[bytes, Any]]) -> int:
    """All cells are the same; returns their number."""
    cells = 0
    for view, rows in expected.items():
        assert sorted(found[view]) == sorted(rows), view
        for key, row in rows.items():
            assert found[view][key] == row, (view, key)
            cells += len(row[1]) + 1
    return cells
