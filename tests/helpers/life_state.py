"""What a life of commands left in a repo, but for the times at which things were done; and commands in forked processes."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from helpers.kill_points import lasting_files
from semantic_ids.catalog import Catalog
from sidkit.core.artifact import read_manifest
from sidkit.core.engine import literal
from sidkit.core.repo import Repo

WALL_CLOCK = "assigned_at_us"
_VARIES = re.compile(
    r'"generation": \d+|("[^"]+": )?"[0-9a-f]{64}"|"manifest_hash": "[0-9a-f]{16}"|"assignments": \{[^}]*\}|"\d{10,}"'
)
"""How often the tables were built anew (a rebuild that is asked for twice counts twice), hashes of files and of days' rows,
which hold the wall clock, when codes were assigned, and keyed hashes of users, whose key is drawn."""
IMPORTED_ONCE = (
    "torch._dynamo", "faiss", "safetensors.numpy", "safetensors.torch", "feast.repo_operations",
    "sidkit.stores.online.sqlite_store", "sidkit.stores.online.compute_engine", "feast.infra.compute_engines.local.compute",
    "feast.infra.registry.sql", "ibis.backends.duckdb", "polars", "pandas", "rich.console", "rich.progress", "rich.table",
    "sklearn.cluster",
    "feast.infra.passthrough_provider", "feast.infra.compute_engines.backends.polars_backend",
    "feast.diff.apply_progress", "sqlalchemy.dialects.sqlite", "sidkit.presets", "sidkit.stores.offline.store",
    "semantic_ids.lifecycle", "semantic_ids.pretrained", "semantic_ids.report", "semantic_ids.collisions",
    "sidkit.tables.labelled_rows", "sidkit.contract",
)  # fmt: skip


IMPORTED_FOR_SERVICES = (
    "redis",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sidkit.stores.online.redis_store",
)


def import_rooms(further: Sequence[str] = ()) -> None:
    """Import all that commands import while they run, so that a fork begins where its own work begins."""
    import importlib

    from sidkit.cli.app import _command
    from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStore
    from sidkit.stores.quiet_import import quiet_feast

    quiet_feast()
    for name in (*IMPORTED_ONCE, *further):
        importlib.import_module(name)
    _command()
    # The first online store of a process lets the garbage collector off what was imported: here it does so for all forks.
    PackedSqliteOnlineStore()


def command(arguments: Sequence[object], told: Path) -> int:
    """Be the process of ``sidkit ARGUMENTS``: its exit status; what it prints goes to a file."""
    from sidkit.cli import main

    sys.argv = ["sidkit", *map(str, arguments)]
    with told.open("w") as printed, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            return 2
        finally:
            _end()
    return 0


def _end() -> None:
    """Close the online store as the end of a process does, which moves its write-ahead log into the file."""
    from sidkit.stores.online.sqlite_file import PackedFile

    for found in gc.get_objects():
        if type(found) is PackedFile:
            found.close()


def state(repo: Repo) -> dict[str, Any]:
    """What lies in the repo; two repos whose states are equal cannot be told apart by any reader."""
    catalog = Catalog.open(repo)
    return {
        "catalogue": [{**vars(record), "changed_at_us": 0} for record in (*catalog.codebooks(), *catalog.rankers())],
        "artefacts": {
            path.relative_to(repo.path).as_posix(): read_manifest(path)["content_hash"]
            for folder in (repo.codebooks, repo.rankers)
            for path in sorted(folder.glob("*"))
        },
        "tables": _tables(repo),
        "notes": {
            path.relative_to(repo.path).as_posix(): _VARIES.sub("", path.read_text())
            for pattern in ("*.json", "*.html", "*.toml", "*.yaml")
            for path in sorted(repo.path.rglob(pattern))
            if "artifacts" not in path.parts
        },
        "registry": _registry(repo),
        "online": dict(_online_tables(repo)),
        "cache": {path.name: _vectors(path) for path in sorted(repo.path.rglob("embedding_cache/*.sqlite"))},
        "files": sorted(path for path in lasting_files(repo.path) if not path.endswith("-wal")),
        "leftovers": sorted(path.name for path in repo.path.rglob(".writing-*")),
    }


def _tables(repo: Repo) -> dict[str, str]:
    with duckdb.connect(config={"threads": 1}) as opened:
        return {
            path.relative_to(repo.path).as_posix(): _rows(opened, path) for path in sorted(repo.path.rglob("*.parquet"))
        }


def _rows(opened: duckdb.DuckDBPyConnection, path: Path) -> str:
    columns = pq.read_schema(path).names
    chosen = ", ".join(f'"{name}"' for name in columns if name != WALL_CLOCK)
    found = opened.execute(
        f"SELECT count(*), sum(hash(held)::HUGEINT) FROM (SELECT {chosen} FROM read_parquet({literal(path)})) AS held"
    ).fetchone()
    return f"{','.join(columns)}: {found}"


def _registry(repo: Repo) -> dict[str, Any]:
    return registered(repo) if (repo.data / "registry.sqlite").exists() else {}


def registered(repo: Repo) -> dict[str, Any]:
    """What the registry of a repo holds, wherever it is."""
    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    return {
        "entities": sorted((entity.name, entity.join_key) for entity in store.list_entities()),
        "sources": sorted((source.name, str(getattr(source, "path", ""))) for source in store.list_data_sources()),
        "views": sorted(
            (
                view.name, sorted(view.tags.items()), [(field.name, str(field.dtype)) for field in view.features],
                str(view.most_recent_end_time),
            )
            for view in store.list_feature_views()
        ),
        "services": sorted(
            (svc.name, sorted(svc.tags.items()), sorted((p.name, p.name_alias) for p in svc.feature_view_projections))
            for svc in store.list_feature_services()
        ),
    }  # fmt: skip


def _online_tables(repo: Repo) -> Iterator[tuple[str, list[str]]]:
    from sidkit.stores.online.sqlite_file import PackedFile

    if not (repo.data / "online.sqlite").exists():
        return
    file = PackedFile(repo.data / "online.sqlite", 1.0)
    with file.reading() as reading:
        yield from online_of(reading)
    file.close()


def online_of(reading: Any) -> Iterator[tuple[str, list[str]]]:
    """Every view of a packed store, with its layouts and rows."""
    for view in reading.views():
        layouts = [f"{number}: {layout}" for number, layout in reading.layouts(view).items()]
        yield view, [*layouts, *online_rows(reading, view)]


def online_rows(reading: Any, view: str) -> list[str]:
    """Key, time and features of every row of a view in a packed store, without the features that hold the wall clock."""
    from sidkit.stores.online.arrow import to_arrow
    from sidkit.stores.online.codec import layout_number, unpack

    keys, layouts = list(reading.keys(view)), reading.layouts(view)
    held = []
    for key, (row, event_us) in zip(keys, reading.timed_rows(view, keys), strict=True):
        assert row is not None
        layout = layouts[layout_number(row)]
        cells = unpack(layout, [row], [name for name in layout.names if name != WALL_CLOCK])
        held.append(str((key, event_us, {name: to_arrow(cell).to_pylist() for name, cell in cells.items()})))
    return held


def _vectors(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as opened:
        return sorted(map(str, opened.execute("SELECT * FROM vectors").fetchall()))


def differences(expected: dict[str, Any], got: dict[str, Any]) -> list[str]:
    """In words, where two states differ."""
    if "error" in got:
        return [got["error"]]
    return [
        f"{part}: {str(was)[:2000]} became {str(now)[:2000]}"
        for part in expected
        if expected[part] != got[part]
        for was, now in [_apart(expected[part], got[part])]
    ]


def _apart(was: Any, now: Any) -> tuple[Any, Any]:
    """Of two mappings, the entries in which they differ."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return was, now
    names = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)]
    return {name: was.get(name) for name in names}, {name: now.get(name) for name in names}


def forked(folder: Path, work: Callable[[], Any]) -> Any:
    """What the work returns as JSON, done in a child; ``"killed"`` where the child was."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            answer.write_text(json.dumps(work(), default=str))
        except BaseException:  # noqa: BLE001
            answer.write_text(json.dumps({"error": traceback.format_exc()}))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return json.loads(answer.read_text())
