"""The catalogue's database: a SQLite file, or a schema of a Postgres database that other programs may share."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from sidkit.core.config import CatalogSettings, resolved_url
from sidkit.core.errors import ConfigError
from sidkit.core.extras import require
from sidkit.core.sqlite_url import absolute_url

POSTGRES = "postgresql"
_CONNECT_SECONDS = 10


def catalog_url(settings: CatalogSettings, folder: Path) -> sa.URL:
    """The database's URL, with the driver that sidkit installs for Postgres.

    Parameters
    ----------
    settings : CatalogSettings
        The section ``[catalog]``.
    folder : Path
        The repository, for relative SQLite paths.

    Raises
    ------
    sqlalchemy.exc.ArgumentError
        When it is not a URL.
    """
    url = absolute_url(resolved_url(settings.url), folder)
    return url.set(drivername=f"{POSTGRES}+psycopg") if url.drivername == POSTGRES else url


def catalog_engine(settings: CatalogSettings, url: sa.URL) -> sa.Engine:
    """The engine of a catalogue.

    Raises
    ------
    ConfigError
        When the database has no schemas, but one is named.
    MissingExtraError
        When the driver of Postgres is not installed.
    """
    backend = url.get_backend_name()
    if settings.db_schema and backend != POSTGRES:
        raise ConfigError(
            f"expected no catalog.db_schema in sidkit.toml for a catalogue in {backend}, got {settings.db_schema!r}; remove "
            "it, or set catalog.url to a Postgres database"
        )
    if backend == "sqlite":
        return sa.create_engine(url)
    if url.drivername == f"{POSTGRES}+psycopg":
        require("psycopg", purpose="a catalogue in Postgres")
    arguments: dict[str, str | int] = {}
    if backend == POSTGRES:
        arguments["connect_timeout"] = int(str(url.query.get("connect_timeout", _CONNECT_SECONDS)))
        if settings.db_schema:  # every name without a schema is looked up in it
            stated = url.query.get("options", "")
            options = stated if isinstance(stated, str) else " ".join(stated)
            arguments["options"] = f"{options} -csearch_path={settings.db_schema}".strip()
    # A connection per transaction: none is left to a forked process, and none is open between the steps of a life cycle.
    return sa.create_engine(url, connect_args=arguments, poolclass=sa.pool.NullPool)
