"""What a relative SQLite path in a repo's settings means: relative to the repo, whatever the working directory is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa


def absolute_url(text: str, folder: Path) -> sa.URL:
    """The URL with a relative SQLite path made absolute against ``folder``, and its folder made; others as they are.

    Raises
    ------
    sqlalchemy.exc.ArgumentError
        When it is no URL.
    """
    url = sa.engine.make_url(text)
    file = sqlite_file(url)
    if file is None or file.is_absolute():
        return url
    path = folder / file
    with suppress(OSError):  # a reader does not need it, and a writer says so
        path.parent.mkdir(parents=True, exist_ok=True)
    return url.set(database=str(path))


def sqlite_file(url: sa.URL) -> Path | None:
    """The file of a SQLite URL; None for another database, one in memory, and one that SQLite itself reads as a URL."""
    file = url.database or ""
    if url.get_backend_name() != "sqlite" or file in {"", ":memory:"} or file.startswith("file:"):
        return None
    return Path(file)
