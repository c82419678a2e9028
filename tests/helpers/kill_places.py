"""Where kills are tried: a repository of the profile local or production, whose state is kept and restored."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers.kill_points import Points

LIVE = "live"


def copy(there: Path, path: Path) -> None:
    """Replace a folder by a copy of another one."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(there, path)


class KillPlace:
    """A repository of the profile ``local`` in a folder: all of its state is files.

    Parameters
    ----------
    folder : Path
        The repository is its ``repo``; states are kept beside it.
    """

    profile = "local"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "repo"

    def prepare(self) -> None:
        """Change a new repository of the profile local into one of this profile."""

    def keep(self, name: str) -> None:
        """Keep the present state under a name."""
        copy(self.path, self.folder / name)

    def restore(self, name: str) -> None:
        """Bring a state back."""
        copy(self.folder / name, self.path)

    def points(self, at: int | None = None) -> Points:
        """What counts the points of a run, and kills it at one."""
        return Points(self.path, at)

    def state(self) -> dict[str, Any]:
        """Everything that a reader can see."""
        from helpers.life_state import state
        from sidkit.core.repo import Repo

        return state(Repo.open(self.path))

    def applies_at_once(self) -> bool:
        """Whether `feast apply` can read the definitions."""
        return (self.path / "data" / "catalog.sqlite").exists()


class ServicePlace(KillPlace):
    """A repository of the profile ``production``: its state is files, a Postgres database, and the keys of a Redis server.

    The two environment variables of the profile are set in this process, which its forks inherit.

    Parameters
    ----------
    folder : Path
        See :class:`KillPlace`.
    postgres_url : str
        A database of a server on which databases may be made.
    redis_address : str
        Host and port of a server that nothing else uses.
    """

    profile = "production"

    def __init__(self, folder: Path, postgres_url: str, redis_address: str) -> None:
        import sqlalchemy as sa

        from sidkit.profiles.production import POSTGRES, REDIS

        super().__init__(folder)
        self._server = sa.make_url(postgres_url)
        self._redis_url = f"redis://{redis_address}/0"
        self._keys: dict[str, list[tuple[bytes, bytes]]] = {}
        live = self._server.set(database=LIVE)
        os.environ[POSTGRES], os.environ[REDIS] = live.render_as_string(hide_password=False), self._redis_url
        self._sql(f"CREATE DATABASE {LIVE}")

    def prepare(self) -> None:
        """See :meth:`KillPlace.prepare`; without days, whose writes are killed in test_day_partitions.py."""
        from sidkit.core.repo import SETTINGS_FILE, Repo
        from sidkit.profiles.switch import switch_profile

        switch_profile(Repo.open(self.path), self.profile)
        settings = self.path / SETTINGS_FILE
        text = settings.read_text()
        assert 'partitions = "day"' in text
        settings.write_text(text.replace('partitions = "day"', 'partitions = "none"'))

    def keep(self, name: str) -> None:
        """See :meth:`KillPlace.keep`."""
        super().keep(name)
        self._copy_database(LIVE, name)
        with self._redis() as client:
            self._keys[name] = [(key, client.dump(key)) for key in sorted(client.scan_iter())]

    def restore(self, name: str) -> None:
        """See :meth:`KillPlace.restore`."""
        super().restore(name)
        self._copy_database(name, LIVE)
        with self._redis() as client, client.pipeline() as sent:
            sent.flushdb()
            for key, held in self._keys[name]:
                sent.restore(key, 0, held)
            sent.execute()

    def points(self, at: int | None = None) -> Points:
        """See :meth:`KillPlace.points`."""
        from helpers.service_points import ServicePoints

        return ServicePoints(self.path, at, self._changes)

    def state(self) -> dict[str, Any]:
        """See :meth:`KillPlace.state`."""
        from helpers.life_state import online_of, registered
        from sidkit.core.repo import Repo
        from sidkit.stores.online.redis_database import PackedRedis

        found = super().state()
        database = PackedRedis(self._redis_url, "packed", 5.0)
        with database.reading() as reading:
            found["online"] = dict(online_of(reading))
        database.close()
        with self._redis() as client:
            found["keys"] = sorted(key.decode() for key in client.scan_iter())
            outdated = [key for key in found["keys"] if key.endswith(":outdated")]
            found["outdated"] = {key: sorted(map(str, client.smembers(key))) for key in outdated}
        if self._has_registry():
            found["registry"] = registered(Repo.open(self.path))
        return found

    def applies_at_once(self) -> bool:
        """See :meth:`KillPlace.applies_at_once`."""
        return True

    def _changes(self) -> dict[str, tuple[int, ...]]:
        """What grows with every change: transactions of Postgres that wrote, and changed keys of Redis."""
        statement = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
        with self._redis() as client:
            dirty = client.info("persistence")["rdb_changes_since_last_save"]
        return {"postgres": (int(self._sql(statement)[0][0]),), "redis": (int(dirty),)}

    def _has_registry(self) -> bool:
        import sqlalchemy as sa

        engine = sa.create_engine(self._server.set(database=LIVE), poolclass=sa.pool.NullPool)
        return bool(sa.inspect(engine).has_table("feature_views"))

    def _copy_database(self, original: str, name: str) -> None:
        # What killed and ended clients left open is closed: a template must have no connections.
        self._sql(
            f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)',
            f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{original}'",
            f'CREATE DATABASE "{name}" TEMPLATE "{original}"',
        )

    def _sql(self, *statements: str) -> list[Any]:
        import sqlalchemy as sa

        engine = sa.create_engine(self._server, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            for statement in statements:
                found = connection.execute(sa.text(statement))
                rows = list(found) if found.returns_rows else []
        return rows

    @contextlib.contextmanager
    def _redis(self) -> Iterator[Any]:
        from redis import Redis

        client = Redis.from_url(self._redis_url)
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def place_of(profile: str, folder: Path) -> Iterator[KillPlace]:
    """The place of a profile; the servers that it needs run until the end."""
    if profile != ServicePlace.profile:
        yield KillPlace(folder)
        return
    from helpers.online_builders import redis_server
    from helpers.postgres import postgres_server

    with (
        tempfile.TemporaryDirectory(prefix="sidkit-redis-") as redis_folder,
        postgres_server() as url,
        redis_server(Path(redis_folder)) as address,
    ):
        yield ServicePlace(folder, url, address)


def begun(place: KillPlace, begin: Callable[[Path], object]) -> None:
    """Make the repository of a place, in a process of its own."""
    from helpers.life_state import forked

    def make() -> None:
        begin(place.folder)
        place.prepare()

    assert (told := forked(place.folder, make)) is None, told["error"]
