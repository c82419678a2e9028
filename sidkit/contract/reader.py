"""Sources of the tables: a folder of files or a SQLAlchemy URL, both read in chunks."""

from __future__ import annotations

from pathlib import Path

from sidkit.contract.folder_source import FolderRelations
from sidkit.contract.mapped_source import MappedSource
from sidkit.contract.schemas import INTERACTIONS, ITEMS
from sidkit.contract.source import Relations
from sidkit.contract.sql_source import SqlRelations
from sidkit.core.config import FROM_ENVIRONMENT, SourceSettings, resolved_url
from sidkit.core.errors import ContractError
from sidkit.core.files import typed_path
from sidkit.core.redact import looks_like_url, redacted


def open_source(
    url: str, settings: SourceSettings | None = None, required: tuple[str, ...] = (INTERACTIONS.name, ITEMS.name)
) -> MappedSource:
    """Open a source of tables.

    Parameters
    ----------
    url : str
        A folder, a SQLAlchemy URL such as ``postgresql+psycopg://host/db``, or ``env:NAME`` for either. The returned
        source's ``url`` is this text; a variable's value is never stored.
    settings : SourceSettings, optional
        How the tables, columns and values of the source are read; default: as the contract has them.
    required : tuple of str
        Tables without which the source is refused at once; others when they are read.

    Raises
    ------
    MissingTableError
        When a required table is missing.
    ContractError
        When the URL is empty or cannot be opened.
    ConfigError
        When the environment variable is not set, or the settings name an unknown table.
    """
    opened = MappedSource(_relations(resolved_url(url)), settings or SourceSettings(), url)
    for table in required:
        opened.require(table)
    return opened


def _relations(url: str) -> Relations:
    if not url:
        raise ContractError(
            "source", "expected a source, got none; set source.url in sidkit.toml to a folder or a SQLAlchemy URL"
        )
    if "://" in url:
        return SqlRelations(url)
    folder = typed_path(url)
    if not folder.is_dir():
        shown = redacted(url) if looks_like_url(url) else folder
        relative = not looks_like_url(url) and not Path(url).expanduser().is_absolute()
        where = ", relative to the current directory (in sidkit.toml, ./NAME is in the repository)" if relative else ""
        raise ContractError(
            "source", f"expected a folder of files or a SQLAlchemy URL, got {shown}; check the path{where}"
        )
    return FolderRelations(folder)


def located(url: str) -> str:
    """A source that a user typed, as settings store it: a path relative to the current directory becomes absolute.

    Symbolic links are kept, since a link may name the newest of several exports. ``env:NAME`` and the URLs of servers are
    returned as they are.
    """
    if url.startswith(FROM_ENVIRONMENT):
        return url
    if "://" in url:
        return _located_sqlite(url)
    typed_path(url)  # refuses what cannot be a path
    path = Path(url).expanduser()
    return str(path.resolve() if ".." in path.parts else path.absolute())


def _located_sqlite(url: str) -> str:
    """The URL with an absolute path, if it is that of an SQLite file; else the text as it is."""
    import sqlalchemy as sa

    from sidkit.core.sqlite_url import sqlite_file

    try:
        parsed = sa.engine.make_url(url)
        file = sqlite_file(parsed)
    except (sa.exc.SQLAlchemyError, ImportError, ValueError):
        return url  # opening it reports the error
    if file is None or file.is_absolute():
        return url
    return parsed.set(database=str(file.absolute())).render_as_string(hide_password=False)


def same_source(one: str, other: str) -> bool:
    """Whether two sources, as written in settings, are the same folder or URL."""
    return one == other or _place(resolved_url(one)) == _place(resolved_url(other))


def _place(url: str) -> str:
    return located(url) if "://" in url else str(typed_path(url))
