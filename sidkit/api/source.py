"""The source of a project that was created from tables in memory: Parquet files in the folder ``source`` of the repository.

Interactions are appended as parts. A new row of ``items``, ``item_embeddings`` or ``users`` replaces the row of the same
item or user, unless the table has ``updated_at``: then it is a further version.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.api.tables import TableLike, to_arrow
from sidkit.contract.column_mapping import mapped_columns
from sidkit.contract.schemas import EMBEDDINGS, INTERACTIONS, ITEMS, OPTIONAL_TABLES, TABLES, USERS
from sidkit.core.errors import ConfigError, ContractError
from sidkit.core.files import written_beside
from sidkit.core.repo import Repo

FOLDER = "source"
KEYS = {ITEMS.name: "item_id", EMBEDDINGS.name: "item_id", USERS.name: "user_id"}
"""Table -> column that identifies its rows."""


def source_folder(repo_path: Path) -> Path:
    """Folder of the tables of a project that was created from tables in memory."""
    return repo_path / FOLDER


def write_source(folder: Path, tables: Mapping[str, TableLike | None]) -> None:
    """Write the tables to a new folder; vectors and users may be missing.

    Raises
    ------
    ConfigError
        When a required table is missing.
    ContractError
        When a table cannot be converted, or has no rows.
    """
    missing = [table.name for table in (INTERACTIONS, ITEMS) if tables.get(table.name) is None]
    if missing:
        raise ConfigError(
            f"expected interactions= and items= together, got none for {', '.join(missing)}; pass both, and item_embeddings= "
            "with vectors if there are any, or data= with a folder or a URL (`sidkit data embed` computes the vectors of items "
            "in a folder)"
        )
    converted = {name: to_arrow(table, name) for name, table in tables.items() if table is not None}
    for name, table in converted.items():
        if not len(table):
            raise ContractError(name, "expected at least one row, got none; pass the rows of the table")
    for name, table in converted.items():
        part = folder / name / _part(0) if name == INTERACTIONS.name else folder / f"{name}.parquet"
        part.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, part, compression="zstd")


def add_to_source(repo: Repo, tables: Mapping[str, TableLike | None]) -> None:
    """Add rows to the source of a project; see the module's docstring. Hold the repository's lock.

    Raises
    ------
    ConfigError
        When the project was not created from tables in memory.
    ContractError
        When a table cannot be converted, or its columns differ from those of the earlier rows.
    """
    known = (*TABLES, *OPTIONAL_TABLES)
    given = {table.name: tables[table.name] for table in known if tables.get(table.name) is not None}
    folder = source_folder(repo.path)
    if given and Path(repo.settings.source.url) != folder:
        raise ConfigError(
            f"expected tables in memory only for a project that was created from them, got {', '.join(given)} for a project "
            f"with the source {repo.settings.source.url!r}; add the rows there and call ingest() without tables"
        )
    converted = {name: to_arrow(table, name) for name, table in given.items() if table is not None}
    for name, table in converted.items():
        _check_columns(folder, name, table)
    for name, table in converted.items():
        if name == INTERACTIONS.name:
            number = max((int(path.stem) for path in (folder / name).glob("*.parquet")), default=-1) + 1
            _write(table, folder / name / _part(number))
        else:
            path = folder / f"{name}.parquet"
            columns = repo.settings.source.columns
            _write(_merged(pq.read_table(path), table, columns, name) if path.exists() else table, path)


def _check_columns(folder: Path, name: str, table: pa.Table) -> None:
    path = next((folder / name).glob("*.parquet")) if name == INTERACTIONS.name else folder / f"{name}.parquet"
    if not path.exists():
        return  # the first rows of an optional table
    before, now = set(pq.read_schema(path).names), set(table.column_names)
    if before != now:
        raise ContractError(
            name,
            f"expected the columns of the earlier rows ({', '.join(sorted(before))}), got different ones: "
            f"{', '.join(sorted(before ^ now))}; add missing columns with nulls, or drop the others",
        )


def _merged(old: pa.Table, new: pa.Table, columns: Mapping[str, str | dict[str, str]], name: str) -> pa.Table:
    """The rows of both tables; without ``updated_at``, new rows replace old ones of the same key."""
    new = new.select(old.column_names)
    table = next(each for each in (*TABLES, *OPTIONAL_TABLES) if each.name == name)
    mapping = mapped_columns(table, columns, old.column_names)
    key = mapping.get(KEYS[name], KEYS[name])
    if mapping.get("updated_at", "updated_at") not in old.column_names:
        ids = pc.cast(new.column(key), pa.string())
        old = old.filter(pc.invert(pc.is_in(pc.cast(old.column(key), pa.string()), ids.combine_chunks())))
    return pa.concat_tables([old, new], promote_options="permissive")


def _write(table: pa.Table, path: Path) -> None:
    with written_beside(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _part(number: int) -> str:
    return f"{number:06d}.parquet"


def tables_of(
    interactions: TableLike | None, items: TableLike | None, item_embeddings: TableLike | None, users: TableLike | None
) -> dict[str, TableLike | None]:
    """The tables by their names in the contract."""
    return {INTERACTIONS.name: interactions, ITEMS.name: items, EMBEDDINGS.name: item_embeddings, USERS.name: users}
