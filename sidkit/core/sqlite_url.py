"""SQLite URLs in a repository's settings: relative paths are relative to the repository."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa


def absolute_url(text: str, folder: Path) -> sa.URL:
    """Resolve a relative SQLite path against ``folder`` and create its parent; other URLs are unchanged.

    Raises
    ------
    sqlalchemy.exc.ArgumentError
        When it is not a URL.
    """
    url = sa.engine.make_url(text)
    file = sqlite_file(url)
    if file is None or file.is_absolute():
        return url
    path = folder / file
    with suppress(OSError):  # not needed for reading; a writer reports the failure
        path.parent.mkdir(parents=True, exist_ok=True)
    return url.set(database=str(path))


def sqlite_file(url: sa.URL) -> Path | None:
    """File of a SQLite URL; None for other databases, in-memory ones and ``file:`` URIs."""
    file = url.database or ""
    if url.get_backend_name() != "sqlite" or file in {"", ":memory:"} or file.startswith("file:"):
        return None
    return Path(file)
