"""``production``: an online store on Redis, registry and catalogue in Postgres; tables, by day, and training on one machine.

Secrets are in two environment variables. Feast reads them for ``feature_store.yaml``, sidkit for ``sidkit.toml``. Artefacts are
shared at the URL that ``sidkit init`` or ``sidkit profile switch`` is given.
"""

from __future__ import annotations

from sidkit.profiles.base import Profile
from sidkit.profiles.local import LOCAL

POSTGRES, REDIS = "SIDKIT_POSTGRES_URL", "SIDKIT_REDIS_URL"

PRODUCTION = Profile(
    name="production",
    summary="DuckDB tables and training frames, sources by day, a packed online store on Redis, registry and catalogue in "
    "Postgres, artefacts at a shared URL",
    sections={
        **LOCAL.sections,
        "registry": f"""registry:
  registry_type: sql
  path: ${{{POSTGRES}}}  # postgresql+psycopg://USER:PASSWORD@HOST/DATABASE
  cache_ttl_seconds: 60
  sqlalchemy_config_kwargs:
    pool_pre_ping: true  # a connection that the database closed is opened again
""",
        "online_store": f"""online_store:
  type: sidkit.stores.online.PackedRedisOnlineStore
  url: ${{{REDIS}}}  # redis://USER:PASSWORD@HOST:6379/0, or rediss:// for TLS
""",
    },
    settings={"catalog": {"url": f"env:{POSTGRES}", "db_schema": "sidkit"}, "engine": {"partitions": "day"}},
    modules=("redis", "psycopg"),
    variables=(POSTGRES, REDIS),
    shares_artifacts=True,
)
