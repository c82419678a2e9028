"""A database and a user of a Redis server for one repository of the profile production."""

from __future__ import annotations

import secrets

from sidkit.profiles.production import POSTGRES, REDIS

MARK = "s3cret"
"""Part of the passwords: it must be in no file and no output."""


def own_services(postgres_url: str, redis_address: str) -> dict[str, str]:
    """Make both on servers of the tests; returns the environment of the repository."""
    import sqlalchemy as sa
    from redis import Redis

    name = f"test_{secrets.token_hex(6)}"
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE ROLE {name} LOGIN PASSWORD '{MARK}-postgres'"))
        connection.execute(sa.text(f"CREATE DATABASE {name} OWNER {name}"))
    url = engine.url.set(username=name, password=f"{MARK}-postgres", database=name)
    client = Redis.from_url(f"redis://{redis_address}/0")
    client.acl_setuser(name, enabled=True, passwords=[f"+{MARK}-redis"], keys=["*"], categories=["+@all"])
    return {
        POSTGRES: url.render_as_string(hide_password=False),
        REDIS: f"redis://{name}:{MARK}-redis@{redis_address}/0",
    }
