"""What a relative SQLite path in a repo's settings means: relative to the repo, whatever the working directory is."""

from __future__ import annotations

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
    file = url.database or ""
    if url.get_backend_name() != "sqlite" or file.startswith("/") or file in {"", ":memory:"}:
        return url
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return url.set(database=str(path))
