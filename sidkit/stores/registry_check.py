"""Rot in the registry: Feast keeps no check values, so the kit remembers what each object was.

``data/tmp/registry.seen`` holds, per object of a SQLite registry, when Feast last wrote it and the SHA-256 of its bytes (JSON).
An object that Feast has not written since and whose bytes differ is damaged. The file is a cache: one that is deleted or half
written is ignored, and what the registry holds then is remembered anew.
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

_OBJECTS = {
    "projects": "project",
    "entities": "entity",
    "data_sources": "data_source",
    "feature_views": "feature_view",
    "feature_services": "feature_service",
}
_SETTLED_SECONDS = 2  # Feast counts whole seconds: what it wrote just now, it may write again under the same time

Seen = dict[str, tuple[int, str]]
"""Object -> when Feast wrote it (seconds UTC), SHA-256."""


def refuse_damaged_registry(repo: Repo) -> None:
    """Refuse a SQLite registry that is not what Feast wrote; other registries are not looked at.

    Raises
    ------
    RegistryDamagedError
        When an object changed that Feast did not write, or SQLite cannot read the file.
    """
    path = registry_file(repo)
    if path is None or not path.is_file():
        return
    memory = _memory(repo)
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as opened:
            problem, now = _read(opened)
    except sqlite3.OperationalError as error:
        if "malformed" not in str(error) and "decode" not in str(error):
            return  # locked, or a file that cannot be opened: Feast itself will say so
        problem, now = str(error), {}
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        problem, now = str(error), {}
    remembered = _remembered(memory)
    problem = problem or _changed(remembered, now)
    if problem:
        raise RegistryDamagedError(path, problem, repo.path)
    settled = {name: seen for name, seen in now.items() if seen[0] < time.time() - _SETTLED_SECONDS}
    if settled != remembered:
        with contextlib.suppress(OSError):  # a folder that cannot be written is only read
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(json.dumps(settled, indent=1), encoding="utf-8")


def set_damaged_registry_aside(repo: Repo) -> None:
    """Rename a damaged registry to ``<name>.damaged``, so that an apply makes it anew."""
    try:
        refuse_damaged_registry(repo)
    except RegistryDamagedError as error:
        error.path.replace(f"{error.path}.damaged")
        for suffix in ("-wal", "-shm", "-journal"):
            Path(f"{error.path}{suffix}").unlink(missing_ok=True)
        _memory(repo).unlink(missing_ok=True)


def registry_file(repo: Repo) -> Path | None:
    """The file of a SQLite registry, None where it is another kind."""
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
    there = {name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    found: Seen = {}
    for table in sorted(there & _OBJECTS.keys()):
        kind = _OBJECTS[table]
        columns = f"{kind}_name, project_id, last_updated_timestamp, {kind}_proto"
        for name, project, written, proto in opened.execute(f"SELECT {columns} FROM {table}"):
            if not isinstance(proto, bytes) or not isinstance(written, int) or not _parses(kind, proto):
                return f"{kind} {name} cannot be read", {}
            found[f"{kind} {name}@{project}"] = (written, hashlib.sha256(proto).hexdigest())
    return "", found


def _parses(kind: str, proto: bytes) -> bool:
    from feast.protos.feast.core import DataSource_pb2, Entity_pb2, FeatureService_pb2, FeatureView_pb2, Project_pb2
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    message: Any = {
        "project": Project_pb2.Project,
        "entity": Entity_pb2.Entity,
        "data_source": DataSource_pb2.DataSource,
        "feature_view": FeatureView_pb2.FeatureView,
        "feature_service": FeatureService_pb2.FeatureService,
    }[kind]
    try:
        message.FromString(proto)
    except (DecodeError, UnicodeDecodeError):
        return False
    return True


def _changed(remembered: Seen, now: Seen) -> str:
    """Which object is not what it was."""
    for name, (written, digest) in now.items():
        if name in remembered and remembered[name][0] == written and remembered[name][1] != digest:
            return f"{name.partition('@')[0]} is not what Feast wrote"
    gone = {seen for name, seen in remembered.items() if name not in now}
    for name, seen in now.items():
        if name not in remembered and seen in gone:
            return f"{name.partition('@')[0]} had another name when Feast wrote it"
    return ""


def _memory(repo: Repo) -> Path:
    return repo.data / "tmp" / "registry.seen"


def _remembered(memory: Path) -> Seen:
    try:
        told = json.loads(memory.read_text(encoding="utf-8"))
        return {str(name): (int(written), str(digest)) for name, (written, digest) in told.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
