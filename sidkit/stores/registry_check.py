"""Detection of damage in the registry: Feast stores no checksums, so sidkit records one per object.

``data/tmp/registry.seen`` (JSON) has, per object of a SQLite registry, the time of Feast's last write and the SHA-256 of its
bytes. An object with the same time but other bytes is damaged. The file is a cache: if it is deleted or incomplete, it is
ignored and recorded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from sidkit.core.errors import RegistryDamagedError
from sidkit.core.repo import FEAST_FILE, Repo
from sidkit.stores.quiet_import import quiet_feast

_OBJECTS = {
    "projects": "project",
    "entities": "entity",
    "data_sources": "data_source",
    "feature_views": "feature_view",
    "on_demand_feature_views": "feature_view",
    "feature_services": "feature_service",
}
_SETTLED_SECONDS = 2  # Feast's times are whole seconds: an object may be written again with the same time

Seen = dict[str, tuple[int, str]]
"""Object -> (time of Feast's last write in seconds UTC, SHA-256)."""


def refuse_damaged_registry(repo: Repo) -> None:
    """Raise if a SQLite registry is damaged; other registries are not checked.

    Raises
    ------
    RegistryDamagedError
        When an object changed without a write by Feast, or SQLite cannot read the file.
    """
    path = registry_file(repo)
    if path is None or not path.is_file():
        return
    cache = _memory(repo)
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as opened:
            problem, now = _read(opened)
    except sqlite3.OperationalError as error:
        if "malformed" not in str(error) and "decode" not in str(error):
            return  # locked or not readable: Feast itself reports it
        problem, now = str(error), {}
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        problem, now = str(error), {}
    remembered = _remembered(cache)
    problem = problem or _changed(remembered, now)
    if problem:
        raise RegistryDamagedError(path, problem, repo.path)
    settled = {name: seen for name, seen in now.items() if seen[0] < time.time() - _SETTLED_SECONDS}
    if settled != remembered:
        with contextlib.suppress(OSError):  # a read-only folder
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(settled, indent=1), encoding="utf-8")


def set_damaged_registry_aside(repo: Repo) -> None:
    """Rename a damaged registry to ``<name>.damaged``, so that an apply rebuilds it."""
    try:
        refuse_damaged_registry(repo)
    except RegistryDamagedError as error:
        error.path.replace(f"{error.path}.damaged")
        for suffix in ("-wal", "-shm", "-journal"):
            Path(f"{error.path}{suffix}").unlink(missing_ok=True)
        _memory(repo).unlink(missing_ok=True)


def registry_file(repo: Repo) -> Path | None:
    """The file of a SQLite registry, or None for other registries."""
    quiet_feast()
    from feast.repo_config import load_repo_config

    registry = load_repo_config(repo.path, repo.path / FEAST_FILE).registry
    try:
        url = sa.engine.make_url(str(getattr(registry, "path", "")))
    except sa.exc.ArgumentError:
        return None
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _read(opened: sqlite3.Connection) -> tuple[str, Seen]:
    [state] = opened.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        return str(state).replace("\n", " "), {}
    existing = {name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    objects: Seen = {}
    for table in sorted(existing & _OBJECTS.keys()):
        kind = _OBJECTS[table]
        columns = f"{kind}_name, project_id, last_updated_timestamp, {kind}_proto"
        for name, project, written, proto in opened.execute(f"SELECT {columns} FROM {table}"):
            if not isinstance(proto, bytes) or not isinstance(written, int) or not _parses(table, proto):
                return f"{kind} {name} cannot be read", {}
            objects[f"{kind} {name}@{project}"] = (written, hashlib.sha256(proto).hexdigest())
    return "", objects


def _parses(table: str, proto: bytes) -> bool:
    from feast.protos.feast.core import (
        DataSource_pb2,
        Entity_pb2,
        FeatureService_pb2,
        FeatureView_pb2,
        OnDemandFeatureView_pb2,
        Project_pb2,
    )
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    message: Any = {
        "projects": Project_pb2.Project,
        "entities": Entity_pb2.Entity,
        "data_sources": DataSource_pb2.DataSource,
        "feature_views": FeatureView_pb2.FeatureView,
        "on_demand_feature_views": OnDemandFeatureView_pb2.OnDemandFeatureView,
        "feature_services": FeatureService_pb2.FeatureService,
    }[table]
    try:
        message.FromString(proto)
    except (DecodeError, UnicodeDecodeError):
        return False
    return True


def _changed(remembered: Seen, now: Seen) -> str:
    """Describe the first damaged object, or return an empty text."""
    for name, (written, digest) in now.items():
        if name in remembered and remembered[name][0] == written and remembered[name][1] != digest:
            return f"{name.partition('@')[0]} does not match what Feast wrote"
    missing = {seen for name, seen in remembered.items() if name not in now}
    for name, seen in now.items():
        if name not in remembered and seen in missing:
            return f"{name.partition('@')[0]} was renamed without a write by Feast"
    return ""


def _memory(repo: Repo) -> Path:
    return repo.data / "tmp" / "registry.seen"


def _remembered(cache: Path) -> Seen:
    try:
        stored = json.loads(cache.read_text(encoding="utf-8"))
        return {str(name): (int(written), str(digest)) for name, (written, digest) in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
