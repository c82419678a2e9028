"""Let a relative SQLite path of the SQL registry mean "relative to the repo", whatever the working directory is.

Feast hands ``registry.path`` to SQLAlchemy as it stands, so ``sqlite:///data/registry.sqlite`` names another file from
every working directory: ``feast -c repo apply`` (which changes into the repo) and ``feast -c repo materialize`` (which
does not) use two registries. Feast has no plug-in point for registries, so the one property that every registry is made
from is wrapped; only relative SQLite paths of repos with a known folder are touched. Repos written by ``sidkit init``
hold an absolute path and do not depend on this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PREFIX = "sqlite:///"


def resolve_registry_against_repo() -> None:
    """Wrap ``RepoConfig.registry`` once."""
    from feast.repo_config import RepoConfig

    original = RepoConfig.registry
    if getattr(original.fget, "_sidkit", False):
        return

    def registry(config: RepoConfig) -> Any:
        found = original.fget(config)
        path = getattr(found, "path", None)
        if isinstance(path, str) and config.repo_path and getattr(found, "registry_type", "") == "sql":
            found.path = _absolute(path, Path(config.repo_path))
        return found

    registry._sidkit = True  # type: ignore[attr-defined]
    RepoConfig.registry = property(registry)


def _absolute(url: str, repo: Path) -> str:
    relative = url.removeprefix(_PREFIX)
    if not url.startswith(_PREFIX) or relative.startswith("/") or relative in {"", ":memory:"}:
        return url
    path = repo.resolve() / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"{_PREFIX}{path}"
