"""A small repo for tests of codebooks: its items, its cut-off, and what its tables, registry and online store hold."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from helpers.builders import DAY, START, embeddings_table, fresh_repo, interactions_table, items_table, write_tables
from oracle.features import EmbeddingVersion, Event, ItemVersion
from semantic_ids import lifecycle
from semantic_ids.catalog import table_path
from semantic_ids.lifecycle import CodebookSpec
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest

DELAY = 60_000_000
CUT = START + 20 * DAY
AS_OF = START + 40 * DAY
SPEC = CodebookSpec(force=True, sizes=(8, 6, 4), encoder_arguments={"dim": 6}, beam=2)
ITEMS = {f"i{number:03d}": START + number * DAY // 2 for number in range(60)}
BARE = ("i007", "i059")
"""Items without any vector; every fourth of the others has no image."""
ASKED = (*list(ITEMS)[::7], *BARE)
"""Items that are read from the online store."""


def write_source(
    folder: Path,
    items: Mapping[str, int],
    bare: Collection[str] = BARE,
    edition: Mapping[str, int] | None = None,
    clicks: Sequence[Event] = (),
) -> Path:
    """Items with their creation times; a vector depends on the item's name and its edition alone."""
    embeddings = []
    for item in sorted(set(items) - set(bare)):
        seed = zlib.crc32(item.encode())
        vector = np.random.default_rng([seed, (edition or {}).get(item, 0)]).normal(size=10).astype("f4").tolist()
        vectors = {"text": tuple(vector[:6]), "image": tuple(vector[6:]) if seed % 4 else None}
        embeddings.append(EmbeddingVersion(item, None, vectors))
    versions = [ItemVersion(item, created, None, None, "c", 1.0) for item, created in items.items()]
    first = min(items)
    events = [Event("u1", first, START + 30 * DAY, 1), Event("u2", first, START + 31 * DAY, 0), *clicks]
    return write_tables(
        folder,
        {
            "interactions": interactions_table(events),
            "items": items_table(versions),
            "item_embeddings": embeddings_table(embeddings, ("text", "image")),
        },
    )


def build(repo: Repo, as_of_us: int = AS_OF, *, rebuild: bool = False) -> Repo:
    ingest(repo)
    build_tables(repo, as_of_us, rebuild=rebuild)
    return repo


def built_repo(folder: Path, items: Mapping[str, int] = ITEMS, **source: Any) -> Repo:
    write_source(folder / "source", items, **source)
    return build(fresh_repo(folder / "repo", folder / "source", modalities=("text", "image")))


def bring(repo: Repo, items: Mapping[str, int], as_of_us: int = AS_OF, *, rebuild: bool = False, **source: Any) -> None:
    """Let the source become another and the tables follow."""
    write_source(repo.path.parent / "source", items, **source)
    build(repo, as_of_us, rebuild=rebuild)


def publish(repo: Repo, *names: str) -> None:
    for name in names:
        lifecycle.fit(repo, name, SPEC, CUT)
        lifecycle.publish(repo, name)


def rows(repo: Repo, name: str) -> dict[tuple[str, Any], dict[str, Any]]:
    """A codebook's table by item and moment."""
    listed = pq.read_table(table_path(repo, name)).to_pylist()
    keyed = {(row["item_id"], row["event_timestamp"]): row for row in listed}
    assert len(keyed) == len(listed)
    return keyed


def with_codes(repo: Repo, name: str) -> dict[tuple[str, Any], list[int]]:
    return {key: row["codes"] for key, row in rows(repo, name).items() if row["codes"] is not None}


def online(repo: Repo, name: str, items: Collection[str]) -> dict[str, list[int] | None]:
    """What serving reads for a codebook, under the feature name that all codebooks share."""
    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    asked = store.get_online_features(
        features=store.get_feature_service(f"ctr_{name}_content"),
        entity_rows=[{"item_id": item} for item in items],
        full_feature_names=True,
    ).to_dict()
    return dict(zip(asked["item_id"], asked["item_sid__codes"], strict=True))


def registered(repo: Repo) -> tuple[set[str], set[str]]:
    """The registry's feature views and services."""
    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    return {view.name for view in store.list_feature_views()}, {svc.name for svc in store.list_feature_services()}


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder, *folder.iterdir())}
