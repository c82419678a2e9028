"""What a repository needs from outside its folder: environment variables, the database of the registry, an online server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
import yaml

from sidkit.core.config import resolved_url
from sidkit.core.errors import ArtifactError, ConfigError, OnlineStoreError, RepoError
from sidkit.core.redact import redacted, scrubbed
from sidkit.core.repo import FEAST_FILE, Repo
from sidkit.core.shared_artifacts import CODEBOOKS, SharedArtifacts
from sidkit.stores.doctor import Problem
from sidkit.stores.quiet_import import quiet_feast

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def unset_variables(repo: Repo) -> list[str]:
    """Environment variables that ``feature_store.yaml`` uses and that are not set; Feast would use their names as text."""
    text = (repo.path / FEAST_FILE).read_text(encoding="utf-8")
    if "$" not in text:
        return []
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        return []  # Feast names the error
    return [name for name in dict.fromkeys(_variables(values)) if not os.environ.get(name)]


def refuse_unset_variables(repo: Repo) -> None:
    """Raise if an environment variable is missing.

    Raises
    ------
    ConfigError
        Which ones.
    """
    if missing := unset_variables(repo):
        raise ConfigError(
            f"expected the environment variables {', '.join(missing)}, which {repo.path / FEAST_FILE} uses, got none; set them "
            "(for instance with `export`), so that no file holds their secrets"
        )


@contextmanager
def registry_errors(repo: Repo) -> Iterator[None]:
    """Translate errors of the registry's database, inside the block.

    Raises
    ------
    RepoError
        When it cannot be reached, or refuses the work.
    """
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        if isinstance(error, sa.exc.DBAPIError) and error.statement:
            raise  # the database answers, and refuses a statement
        raise RepoError(
            f"the registry of {repo.path} cannot be reached ({scrubbed(error)}): start its database, or correct registry.path "
            f"in {FEAST_FILE} or the environment variable that it names"
        ) from None


def examine_services(repo: Repo) -> list[Problem]:
    """Problems of what a repository needs from outside; nothing that is in its folder is read."""
    missing = unset_variables(repo)
    if missing:
        return [
            Problem("unset-variable", FEAST_FILE, f"the environment variable {name} is not set", "Set it.")
            for name in missing
        ]
    quiet_feast()
    from feast.repo_config import load_repo_config

    config = load_repo_config(repo.path, repo.path / FEAST_FILE)
    return [*_of_registry(config), *_of_online(config), *_of_artifacts(repo)]


def _of_registry(config: Any) -> Iterator[Problem]:
    path = str(getattr(config.registry, "path", ""))
    if "://" not in path or path.startswith("sqlite") or getattr(config.registry, "registry_type", "") != "sql":
        return
    options = dict(getattr(config.registry, "sqlalchemy_config_kwargs", {}))
    try:
        with sa.create_engine(path, **options | {"poolclass": sa.pool.NullPool}).connect():
            return
    except (sa.exc.SQLAlchemyError, ImportError, TypeError) as error:
        yield Problem(
            "registry",
            redacted(path),
            f"the registry's database cannot be reached ({scrubbed(error, path).splitlines()[0]})",
            f"Start it, or correct registry.path in {FEAST_FILE}.",
        )


def _of_online(config: Any) -> Iterator[Problem]:
    from sidkit.stores.online.redis_store import PackedRedisOnlineStore, PackedRedisOnlineStoreConfig

    if not isinstance(config.online_store, PackedRedisOnlineStoreConfig):
        return
    try:
        server = PackedRedisOnlineStore().database(config)
        for problem, remedy in server.problems():
            yield Problem("online-store", server.place, problem, remedy, warning=True)
    except OnlineStoreError as error:
        yield Problem("online-store", redacted(config.online_store.url), str(error), "Then run `sidkit doctor` again.")


def _of_artifacts(repo: Repo) -> Iterator[Problem]:
    """A shared folder of artefacts that cannot be listed, though local copies can still be used, or that is not stated."""
    try:
        if (shared := SharedArtifacts.of(repo)) is not None:
            shared.root.names(CODEBOOKS)
        elif not resolved_url(repo.settings.catalog.url).startswith("sqlite"):
            yield Problem(
                "artifacts", "artifacts.url",
                "machines can share the catalogue, but not the artefacts that it names: those stay in this folder",
                "If other machines use this catalogue, set it to a URL such as s3://bucket/prefix or file:///mnt/shared "
                "(`sidkit profile switch production --artifacts URL`), then run `sidkit artifacts push`.", warning=True,
            )  # fmt: skip
    except (ArtifactError, ConfigError) as error:
        yield Problem("artifacts", "artifacts.url", str(error), "Then run `sidkit doctor` again.", warning=True)


def _variables(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        for value in values.values():
            yield from _variables(value)
    elif isinstance(values, list):
        for value in values:
            yield from _variables(value)
    elif isinstance(values, str):
        for match in _VARIABLE.finditer(values):
            yield match[1] or match[2]
