"""Erasure of users from the log and from Parquet files that lie in the repository."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.contract.context import log_types
from sidkit.core.engine import connection, into, literal
from sidkit.core.errors import RepoError
from sidkit.core.files import remove, sha256, written_beside
from sidkit.core.integrity import FILES, PENDING, hashes_of, manifest_of, read_sealed, replaced, write_sealed
from sidkit.core.repo import Repo
from sidkit.tables.keys import key_columns
from sidkit.tables.log import read_log, remove_unlisted, write_log
from sidkit.tables.log_changes import mark_of, number_of, write_removed, write_without_removed

USER = "user_id"
_USERS = "forgotten_users"


def take_from_log(repo: Repo, users: Sequence[str]) -> None:
    """Remove users from the parts of the log and from its snapshots.

    Their rows go to a file of removed rows, as after `sidkit data ingest --remove-vanished`, so that the next build counts
    again what they were counted in; :func:`purge_log` then removes that file.
    """
    log = read_log(repo)
    before, number = log.manifest, int(log.consumed["ingests"])
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        _register(opened, users)
        rows = _rows_of(log.parts)
        opened.execute(
            f"CREATE TEMP TABLE removed AS SELECT *, 'forgotten' AS cause FROM {rows} SEMI JOIN {_USERS} USING ({USER})"
        )
        taken = write_removed(opened, log.folder / f"removed-{number:05d}.parquet")
        types = log_types(repo.settings.features.context)
        parts = write_without_removed(opened, log.folder, before["parts"], number, types) if taken else before["parts"]
        snapshots = dict(before["snapshots"])
        for name, entry in snapshots.items():
            path = repo.log / entry["file"]
            if USER in pq.read_schema(path).names:
                snapshots[name] = _snapshot_without(opened, path, name, entry)
    manifest = {
        **before,
        "ingests": number + bool(taken),
        "parts": parts,
        "removed": [*before.get("removed", []), *([taken] if taken else [])],
        "snapshots": snapshots,
    }
    write_log(repo, manifest)
    remove_unlisted(repo.log, manifest)


def refuse_empty_log(repo: Repo, users: Sequence[str]) -> None:
    """Raise if the log has no other users.

    Raises
    ------
    RepoError
        When it would be empty without them.
    """
    with connection(repo.settings.engine, None) as opened:
        _register(opened, users)
        rows = _rows_of(read_log(repo).parts)
        if opened.execute(f"SELECT 1 FROM {rows} ANTI JOIN {_USERS} USING ({USER}) LIMIT 1").fetchone() is None:
            raise RepoError(
                f"expected other users in the log of {repo.path}, got none besides those to forget, and a log cannot be empty; "
                "delete the repository instead"
            )


def purge_log(repo: Repo, users: Sequence[str]) -> None:
    """Remove users from the files of removed rows, once the tables were built without them."""
    log = read_log(repo)
    entries = []
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        _register(opened, users)
        for entry in log.manifest.get("removed", []):
            path = log.folder / entry["file"]
            if not _count(opened, f"{_rows_of([path])} SEMI JOIN {_USERS} USING ({USER})"):
                entries.append(entry)
                continue
            left = f"{_rows_of([path])} ANTI JOIN {_USERS} USING ({USER})"
            if not (rows := _count(opened, left)):
                continue
            # The number stays in the name: builds compare it with their own.
            path = path.with_name(f"removed-{number_of(entry):05d}-{log.consumed['ingests']:05d}.parquet")
            with written_beside(path) as temporary:
                opened.execute(f"COPY (SELECT * FROM {left}) {into(temporary)}")
            entries.append({**entry, "file": path.name, "rows": rows, "mark": mark_of(opened, _rows_of([path]))})
    manifest = {**log.manifest, "removed": entries}
    write_log(repo, manifest)
    remove_unlisted(repo.log, manifest)


def _snapshot_without(
    opened: duckdb.DuckDBPyConnection, path: Path, name: str, entry: dict[str, str]
) -> dict[str, str]:
    """A snapshot without some users; it gets another number if it had any."""
    if not _count(opened, f"{_rows_of([path])} SEMI JOIN {_USERS} USING ({USER})"):
        return entry
    table = _without(path, USER, _registered(opened))
    written = path.with_name(f"{name}-{number_of(entry) + 1:05d}.parquet")
    with written_beside(written) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return {"file": written.name, "mark": mark_of(opened, _rows_of([written]))}


def parquet_files(root: Path, skip: Sequence[Path] = ()) -> Iterator[Path]:
    """All Parquet files below a folder, sorted, besides those in some folders."""
    for path in sorted(root.rglob("*.parquet")):
        if not any(folder in path.parents for folder in skip):
            yield path


def rows_of_users(path: Path, column: str, users: Sequence[str]) -> dict[str, int]:
    """Rows per user in a file; users without any are left out, and a file without the column has none."""
    if column not in pq.read_schema(path).names:
        return {}
    texts = pc.cast(pq.read_table(path, columns=[column]).column(column), pa.string())
    found = texts.filter(pc.is_in(texts, value_set=pa.array(list(users), pa.string())))
    return {each["values"]: each["counts"] for each in found.value_counts().to_pylist()}


def erase_rows(path: Path, column: str, users: Sequence[str]) -> int:
    """Remove the rows of users from a Parquet file; a manifest that lists it follows. Returns the number of rows removed.

    Schema, metadata and the order of the rows stay. A file that is damaged is left to the command that rebuilds it.
    """
    removed = sum(rows_of_users(path, column, users).values())
    if not removed:
        return 0
    table, manifest = _without(path, column, users), manifest_of(path)
    if manifest is None:
        with written_beside(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return removed
    with replaced(path, manifest) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    stated, name = read_sealed(manifest), path.relative_to(manifest.parent).as_posix()
    stated[FILES] = {**stated[FILES], name: sha256(path)}
    stated[PENDING] = {file: digest for file, digest in stated.get(PENDING, {}).items() if file != name}
    if not stated[PENDING]:
        del stated[PENDING]
    if isinstance(stated.get("rows"), dict) and path.stem in stated["rows"]:
        stated["rows"] = {**stated["rows"], path.stem: table.num_rows}
    write_sealed(manifest, stated)
    return removed


def erase_withdrawn(path: Path, users: Sequence[str]) -> None:
    """Remove users from the list of withdrawn rows (:mod:`sidkit.tables.withdrawn`)."""
    if not path.exists():
        return
    wanted = set(users)
    table = pq.read_table(path)
    pairs = zip(table.column("view").to_pylist(), table.column("key").to_pylist(), strict=True)
    kept = [_user_of(view, key) not in wanted for view, key in pairs]
    if all(kept):
        return
    manifest = path.with_suffix(".json")
    if not any(kept):
        remove(manifest)
        remove(path)
        return
    with replaced(path, manifest) as temporary:
        pq.write_table(table.filter(pa.array(kept)), temporary)
    write_sealed(manifest, {FILES: hashes_of(path.parent, [path.name])})


def _user_of(view: str, key: str) -> str | None:
    import json

    columns = key_columns(view)
    if columns[0] != USER:
        return None
    return str(json.loads(key)[0]) if len(columns) > 1 else key


def _without(path: Path, column: str, users: Sequence[str]) -> pa.Table:
    table = pq.read_table(path)
    texts = pc.cast(table.column(column), pa.string())
    return table.filter(pc.invert(pc.is_in(texts, value_set=pa.array(list(users), pa.string()))))


def _register(opened: duckdb.DuckDBPyConnection, users: Sequence[str]) -> None:
    opened.register("_given", pa.table({USER: pa.array(list(users), pa.string())}))
    opened.execute(f"CREATE TEMP TABLE {_USERS} AS SELECT * FROM _given")
    opened.unregister("_given")


def _registered(opened: duckdb.DuckDBPyConnection) -> list[str]:
    return [str(row[0]) for row in opened.execute(f"SELECT {USER} FROM {_USERS}").fetchall()]


def _rows_of(files: Sequence[Path]) -> str:
    return f"read_parquet([{', '.join(map(literal, files))}])"


def _count(opened: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = opened.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return int(row[0]) if row else 0
