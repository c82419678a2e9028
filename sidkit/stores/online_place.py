"""Where the online store of a repository has its rows, and whether rows that were written are still there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from sidkit.core.repo import FEAST_FILE, Repo

_NEW = "data/online.sqlite"
_IN_FILES = {"PackedSqliteOnlineStore": _NEW, "sqlite": "data/online.db"}
"""Stores in a file, and their default paths."""
_ON_REDIS = "PackedRedisOnlineStore"


@dataclass(frozen=True)
class OnlinePlace:
    """The online store that ``feature_store.yaml`` names.

    Parameters
    ----------
    repo : Repo
        The repository.
    kind : str
        Last part of the store's ``type``.
    path : str
        Of a store in a file: the file, relative to the repository or absolute; empty for others.
    """

    repo: Repo
    kind: str
    path: str

    @classmethod
    def of(cls, repo: Repo) -> OnlinePlace:
        """Read it, without Feast; environment variables are expanded, as Feast does."""
        text = os.path.expandvars((repo.path / FEAST_FILE).read_text(encoding="utf-8"))
        stated = yaml.safe_load(text).get("online_store")
        options = stated if isinstance(stated, dict) else {"type": stated}
        kind = str(options.get("type")).rsplit(".", maxsplit=1)[-1]
        return cls(repo, kind, str(options.get("path") or _IN_FILES[kind]) if kind in _IN_FILES else "")

    @property
    def files(self) -> tuple[Path, ...]:
        """The file that has the rows, if one does."""
        return (self.repo.path / self.path,) if self.path else ()

    @property
    def mark(self) -> tuple[str, ...]:
        """What tells this place from others, without secrets; empty for the file that a new repository has."""
        if self.path:
            return () if self.path == _NEW else (self.path,)
        return (self.kind, self._server() or "")

    def holds(self, rows: Mapping[str, int]) -> bool:
        """Whether every view is there that rows were written to.

        A view of a Redis server is one key: it is lost or kept as a whole. Of a file only its presence counts, which
        :attr:`files` has. False for other stores, of which nothing is known.

        Parameters
        ----------
        rows : mapping
            View -> number of rows that were written.

        Raises
        ------
        OnlineStoreError
            When the server does not answer.
        """
        if self.path:
            return True
        if self.kind != _ON_REDIS:
            return False
        from sidkit.stores.feast_repo import open_store
        from sidkit.stores.online.redis_erase import online_server
        from sidkit.stores.online.store import view_id

        store = open_store(self.repo)
        server = online_server(store)
        known = {view.name: view for view in (*store.list_feature_views(), *store.list_stream_feature_views())}
        written = {name for name, count in rows.items() if count}
        if server is None or not written <= known.keys():
            return False
        with server.database.reading() as reading:
            return not any(reading.is_empty(view_id(store.config, known[name])) for name in written)

    def _server(self) -> str | None:
        from sidkit.stores.feast_repo import open_store
        from sidkit.stores.online.redis_erase import online_server

        server = online_server(open_store(self.repo)) if self.kind == _ON_REDIS else None
        return None if server is None else server.database.place
