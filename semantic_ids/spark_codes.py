"""Codes of content rows on Spark: the codebook's files are broadcast, and each worker loads them once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from semantic_ids.codebook import Codebook, load_codebook
from semantic_ids.coded_rows import coded_rows
from sidkit.core.engine import working_on
from sidkit.core.files import remove
from sidkit.core.repo import Repo
from sidkit.tables.engines.spark import spark_session
from sidkit.tables.engines.spark_errors import spark_errors

if TYPE_CHECKING:
    from pyspark.broadcast import Broadcast

_SCHEMA = "item_id string, event_timestamp timestamp, codes array<bigint>, residual_norm float"
_loaded: dict[int, Codebook] = {}
"""Codebooks of a worker process by the number of their broadcast."""


def assign_on_spark(
    repo: Repo, folder: Path, modalities: Sequence[str], content: Path, known: Path | None, parts: Path
) -> list[Path]:
    """Assign codes to the rows of a table of content, and write them to a folder.

    Parameters
    ----------
    repo : Repo
        Its ``feature_store.yaml`` has Spark's settings.
    folder : Path
        Folder of the codebook.
    modalities : sequence of str
        The vector columns that its encoder reads.
    content : Path
        A table like ``item_content``.
    known : Path or None
        A table like ``item_sid_<codebook>``, whose rows have codes already.
    parts : Path
        A new folder for the result.

    Returns
    -------
    list of Path
        Parquet files with ``item_id``, ``event_timestamp``, ``codes`` (list of int64) and ``residual_norm`` (float32); the
        last two are null for rows without content.

    Raises
    ------
    MissingExtraError, EngineError
        When pyspark is missing, Spark does not start, or a worker fails.
    """
    keys = ["item_id", "event_timestamp"]
    remove(parts)
    with spark_errors(), working_on("assigning codes"):
        session = spark_session(repo)
        rows = session.read.parquet(str(content)).select(*keys, *modalities)
        if known is not None:
            rows = rows.join(session.read.parquet(str(known)).select(*keys), keys, "left_anti")
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        broadcast = session.sparkContext.broadcast(files)
        try:
            rows.mapInArrow(partial(_codes_of, broadcast), _SCHEMA).write.parquet(str(parts))
        finally:
            broadcast.destroy()
    return sorted(parts.glob("part-*.parquet"))


def _codes_of(files: Broadcast[dict[str, bytes]], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    codebook = _codebook(files)
    for batch in batches:
        yield from coded_rows(pa.Table.from_batches([batch]), codebook).to_batches()


def _codebook(files: Any) -> Codebook:
    if files.value is not None and id(files.value) not in _loaded:
        _loaded.clear()
        with TemporaryDirectory() as folder:
            for name, content in files.value.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            _loaded[id(files.value)] = load_codebook(Path(folder))
    return _loaded[id(files.value)]
