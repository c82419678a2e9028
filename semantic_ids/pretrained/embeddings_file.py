"""Write ``item_embeddings.parquet``: join new vectors with the columns of an existing file and replace it atomically."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.engine import WIDE_GROUP_ROWS, into, literal, quoted
from sidkit.core.errors import ArtifactError, ContractError, TableSchemaError
from sidkit.core.files import remove, written_beside
from sidkit.core.locks import locked_folder

_TABLE = "item_embeddings"
_KEYS = ("item_id", "updated_at")


@contextmanager
def scratch_beside(out: Path) -> Iterator[Path]:
    """Create a hidden, locked scratch folder next to ``out``; leftovers of interrupted runs are removed.

    Raises
    ------
    ArtifactError
        When another run is writing ``out``: the later one would overwrite the other's columns.
    """
    folder = out.with_name(f".writing-{out.stem}")
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder, wait=False) as held:
        if not held:
            raise ArtifactError(
                f"{out} is being written by another run; wait until it ends, then run the command again"
            )
        for leftover in [*folder.iterdir(), *out.parent.glob(f".writing-*-{out.name}")]:
            remove(leftover)
        try:
            yield folder
        finally:
            remove(folder)


def older_columns(path: Path, modalities: Sequence[str]) -> tuple[str, ...]:
    """The columns to carry over from an existing file.

    Raises
    ------
    ContractError
        When the file cannot be read, or would hide Parquet files of a folder of the same name.
    TableSchemaError
        When its keys cannot be used for the join.
    """
    folder = path.with_suffix("")
    if not path.exists() and any(folder.glob("**/*.parquet")):
        raise ContractError(
            _TABLE,
            f"{folder} contains Parquet files of this table, which {path.name} would hide; choose another output path",
        )
    if not path.exists():
        return ()
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(
            _TABLE, f"{path} cannot be read as Parquet ({error}); restore it, or delete it to start from scratch"
        ) from error
    if "item_id" not in schema.names:
        raise TableSchemaError(_TABLE, f"{path} has no column 'item_id'; its columns are {', '.join(schema.names)}")
    if "updated_at" in schema.names:
        kind = schema.field("updated_at").type
        if pa.types.is_timestamp(kind) and kind.tz is None:
            raise TableSchemaError(
                _TABLE,
                f"column 'updated_at' of {path} must be timestamp[us, UTC], got naive timestamps. For example: "
                'df["updated_at"] = df["updated_at"].dt.tz_localize("UTC") if the clock was UTC',
            )
    return tuple(name for name in schema.names if name not in {*_KEYS, *modalities})


def write_embeddings(
    opened: duckdb.DuckDBPyConnection, new: Path, out: Path, modalities: Sequence[str], older: Sequence[str]
) -> int:
    """Join the new vectors with the columns of the existing file and replace it.

    For an item version that only one side has, the other side's vector is taken as of its ``updated_at``: that of the
    latest version not after it. A row without ``updated_at`` is valid from the item's creation.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        A connection of :func:`sidkit.core.engine.connection`.
    new : Path
        Parquet with ``item_id``, optionally ``updated_at``, and one list column per modality; the first row per key is
        used.
    out : Path
        ``item_embeddings.parquet``.
    modalities, older : sequence of str
        The new vector columns, and the result of :func:`older_columns`.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    StorageError
        When writing fails; ``out`` is then unchanged.
    """
    sides = {"new_": (new, modalities)} | ({"old_": (out, older)} if older else {})
    dated = False
    for name, (path, _) in sides.items():
        has_moment = "updated_at" in pq.read_schema(path).names
        dated |= has_moment
        moment = "updated_at::TIMESTAMPTZ" if has_moment else "NULL::TIMESTAMPTZ"
        rows = f"read_parquet({literal(path)}, file_row_number = true)"
        opened.execute(
            f"""CREATE OR REPLACE TEMP VIEW {name} AS
            SELECT * REPLACE (item_id::VARCHAR AS item_id), {moment} AS moment,
                   coalesce({moment}, '-infinity'::TIMESTAMPTZ) AS since
            FROM {rows} WHERE file_row_number IN (
                SELECT min(file_row_number) FROM {rows} GROUP BY item_id, {moment}
            )"""
        )
    keys = " UNION ".join(f"SELECT item_id, moment, since FROM {name}" for name in sides)
    joins = "\n".join(
        f"ASOF LEFT JOIN {name} ON keys.item_id = {name}.item_id AND keys.since >= {name}.since" for name in sides
    )
    columns = [f"{name}.{quoted(column)}" for name, (_, chosen) in sides.items() for column in chosen]
    head = ["keys.item_id AS item_id", *(["keys.moment AS updated_at"] if dated else [])]
    with written_beside(out) as temporary:
        opened.execute(
            f"""COPY (
                SELECT {", ".join([*head, *columns])} FROM ({keys}) AS keys {joins}
                ORDER BY keys.item_id, keys.since
            ) {into(temporary, rows=WIDE_GROUP_ROWS)}"""
        )
        return int(pq.read_metadata(temporary).num_rows)
