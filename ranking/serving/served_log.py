"""The served log: sampled rows that a service scored, with the features that it read (``data/serving/log``).

Every file is Parquet and complete: it is written beside and renamed. Its metadata (:class:`LogHeader`) state the ranker, the
codebook and how features are computed, so that the same rows can be retrieved point-in-time later, also without the ranker.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.dataset import LabelledRows
from ranking.data.decoded import CONTENT_VECTORS, VectorsOf
from ranking.data.feature_views import string_array
from ranking.data.frame_table import frame_table
from ranking.data.schema import BUILT_IN, FeatureSchema
from ranking.data.targets import CLICKED, Target
from ranking.serving.context import Context, is_list, per_item
from sidkit.core.arrays import Bools, Doubles, Ints, one_chunk
from sidkit.core.errors import ArtifactCorruptError, ServingError
from sidkit.core.files import written_beside

if TYPE_CHECKING:
    from ranking.data.dataset import Dataset
    from sidkit.core.repo import Repo

KEYS = (
    "request_id",
    "event_timestamp",
    "logged_at",
    "user_id",
    "item_id",
    "position",
    "candidates",
    "score",
    "item_known",
    "user_known",
    "context",
)
"""Columns before the features; ``context`` is what the request brought, as JSON, null without."""
INPUT = "input__"
"""Prefix of columns with the context that the ranker reads, before it is encoded."""
_MOMENT = pa.timestamp("us", "UTC")
_METADATA = b"sidkit"
_FORMAT = 1


@dataclass(frozen=True)
class LogHeader:
    """What the rows of a file were scored with.

    Attributes
    ----------
    ranker, ranker_hash, codebook, codebook_hash, service : str
        Versions, and the feature service.
    features_until_us : int
        End of the materialized features when the ranker was loaded, microseconds UTC.
    rate : float
        The positive rate towards which rates are smoothed.
    history_length : int
        Maximum items per history.
    vectors : str
        Whether item vectors are those of the ``"content"``, or ``"decoded"``.
    schema : FeatureSchema
        The features besides the built-in ones.
    target : str
        What scores predict.
    """

    ranker: str
    ranker_hash: str
    codebook: str
    codebook_hash: str
    service: str
    features_until_us: int
    rate: float
    history_length: int
    vectors: VectorsOf = CONTENT_VECTORS
    schema: FeatureSchema = BUILT_IN
    target: Target = CLICKED

    def as_text(self) -> str:
        """As JSON, for the metadata of a file."""
        fields = {name: value for name, value in asdict(self).items() if name != "schema"}
        return json.dumps({**fields, "schema": self.schema.as_json(), "format": _FORMAT}, sort_keys=True)

    @classmethod
    def of_text(cls, text: str) -> LogHeader:
        """Read the text of :meth:`as_text`."""
        fields: dict[str, Any] = json.loads(text)
        schema = FeatureSchema.of_json(fields.pop("schema"))
        del fields["format"]
        return cls(**fields, schema=schema)


@dataclass(frozen=True)
class ServedRows:
    """Rows that were served with one header: the columns of :data:`KEYS`, ``input__*``, and those of
    :func:`ranking.data.frame_table.frame_table`.
    """

    header: LogHeader
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def at_us(self) -> Ints:
        """Times of the requests, ``int64 [rows]`` microseconds UTC."""
        at_us: Ints = self.table.column("event_timestamp").cast(pa.int64()).to_numpy()
        return at_us

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the feature columns."""
        return tuple(name for name in self.table.column_names if name not in KEYS and not name.startswith(INPUT))

    def labelled(self) -> LabelledRows:
        """The rows without labels (0), to be retrieved again."""
        columns = self.table.column_names
        context = _given(self.table.column("context")) | {
            name.removeprefix(INPUT): one_chunk(self.table.column(name)) for name in columns if name.startswith(INPUT)
        }
        return LabelledRows(
            string_array(self.table.column("user_id")),
            string_array(self.table.column("item_id")),
            self.at_us,
            np.zeros(len(self), np.int8),
            context=context or None,
        )

    def take(self, index: Ints) -> ServedRows:
        """Select rows by index."""
        return ServedRows(self.header, self.table.take(pa.array(index)))


def _given(column: pa.ChunkedArray) -> dict[str, pa.Array]:
    """The context of rows by name, from JSON; null where a row has none."""
    rows = [{} if text is None else json.loads(text) for text in column.to_pylist()]
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return {name: pa.array([row.get(name) for row in rows]) for name in names}
    except pa.ArrowException as error:
        raise ServingError(
            f"expected context of one type in all served rows, got others ({error}); audit later rows with --since"
        ) from error


def log_folder(repo: Repo) -> Path:
    """The folder of the served log (``data/serving/log``)."""
    return repo.data / "serving" / "log"


def served_table(
    data: Dataset,
    scores: Doubles,
    known: Bools,
    user_known: bool,
    request_id: str,
    logged_us: int,
    most: int,
    context: Context | None = None,
) -> pa.Table:
    """The best rows of one request as a table.

    Parameters
    ----------
    data : Dataset
        The features of all candidates.
    scores : float64 [candidates]
    known : bool [candidates]
    user_known : bool
    request_id : str
    logged_us : int
        Time of the answer, microseconds UTC.
    most : int
        Number of rows, the best-ranked first.
    context : mapping, optional
        What the request brought: one value for all candidates, or a list of one per candidate.
    """
    order = np.argsort(-scores, kind="stable")[:most]
    best = data.take(order)
    rows = len(order)
    columns: dict[str, Any] = {
        "request_id": pa.array([request_id] * rows, pa.string()),
        "event_timestamp": pa.array(best.rows.at_us).cast(_MOMENT),
        "logged_at": pa.array(np.full(rows, logged_us)).cast(_MOMENT),
        "user_id": pa.array(best.rows.user_ids.tolist(), pa.string()),
        "item_id": pa.array(best.rows.item_ids.tolist(), pa.string()),
        "position": pa.array(np.arange(1, rows + 1), pa.int32()),
        "candidates": pa.array(np.full(rows, len(data)), pa.int32()),
        "score": pa.array(scores[order], pa.float64()),
        "item_known": pa.array(known[order]),
        "user_known": pa.array(np.full(rows, user_known)),
        "context": pa.array(_context_texts(context, len(data), order), pa.string()),
    }
    columns |= {f"{INPUT}{name}": values for name, values in (best.rows.context or {}).items()}
    features = frame_table(best)
    return pa.table({**columns, **dict(zip(features.column_names, features.columns, strict=True))})


def _context_texts(context: Context | None, candidates: int, order: Ints) -> list[str | None]:
    """The context of each row as JSON."""
    if not context:
        return [None] * len(order)
    values = per_item(context, candidates)
    if not any(is_list(value) for value in context.values()):
        return [json.dumps({name: each[0] for name, each in values.items()})] * len(order)
    return [json.dumps({name: each[at] for name, each in values.items()}) for at in order.tolist()]


def write_file(path: Path, header: LogHeader, parts: list[pa.Table]) -> int:
    """Write the rows of some requests as one file; returns its size in bytes.

    Raises
    ------
    StorageError
        When the disk refuses the file.
    """
    table = pa.concat_tables(parts).combine_chunks()
    table = table.replace_schema_metadata({_METADATA: header.as_text().encode()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    for left in (2, 1, 0):
        try:
            with written_beside(path) as temporary:
                temporary.write_bytes(buffer.getvalue())
            break
        except FileNotFoundError:  # a command that holds the repository's lock removes temporary files
            if not left:
                raise
    return buffer.tell()


def log_files(folder: Path) -> list[Path]:
    """The files of the log, oldest first."""
    return sorted(folder.glob("served-*.parquet"))


def remove_oldest(folder: Path, most_bytes: int) -> int:
    """Remove the oldest files until all have at most so many bytes together; returns how many were removed.

    Any number of processes may do so at the same time.
    """
    sizes = []
    for path in log_files(folder):
        try:
            sizes.append((path, path.stat().st_size))
        except FileNotFoundError:
            continue
    total, removed = sum(size for _, size in sizes), 0
    for path, size in sizes[:-1]:
        if total <= most_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
        removed += 1
    return removed


def read_log(
    folder: Path,
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    ranker: str | None = None,
    columns: Collection[str] | None = None,
    most: int | None = None,
    seed: int = 0,
) -> tuple[list[ServedRows], int]:
    """Read the served log, or a random sample of its rows; files that the service removes meanwhile are left out.

    Parameters
    ----------
    folder : Path
        See :func:`log_folder`.
    since_us, until_us : int, optional
        Rows whose request was at or after the first, and before the second, microseconds UTC.
    ranker : str, optional
        Rows of this ranker; default: of all.
    columns : collection of str, optional
        Columns to read; default: all.
    most : int, optional
        Number of rows to draw; default: all.
    seed : int
        Random seed of the sample.

    Returns
    -------
    list of ServedRows
        One element per header.
    int
        How many rows there are, drawn or not.

    Raises
    ------
    ArtifactCorruptError
        When a file cannot be read, or is no file of the log.
    """
    wanted = [(path, index) for path in log_files(folder) if len(index := _matching(path, since_us, until_us, ranker))]
    total = sum(len(index) for _, index in wanted)
    if most is not None and most < total:
        drawn = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
        ends = np.cumsum([len(index) for _, index in wanted])
        parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
        starts = [0, *ends[:-1].tolist()]
        wanted = [
            (path, index[part - start])
            for (path, index), part, start in zip(wanted, parts, starts, strict=True)
            if len(part)
        ]
    found: dict[str, list[pa.Table]] = {}
    for path, index in wanted:
        for text, table in _opened(path, columns):
            found.setdefault(text, []).append(table.take(pa.array(index)).replace_schema_metadata(None))
    rows = [
        ServedRows(LogHeader.of_text(text), pa.concat_tables(tables, promote_options="default").combine_chunks())
        for text, tables in found.items()
    ]
    return rows, total


def _matching(path: Path, since_us: int | None, until_us: int | None, ranker: str | None) -> Ints:
    """Numbers of the rows of a file within a time and of a ranker."""
    for text, table in _opened(path, ("event_timestamp",)):
        if ranker is not None and json.loads(text)["ranker"] != ranker:
            break
        at_us = table.column("event_timestamp").cast(pa.int64()).to_numpy()
        first = -np.inf if since_us is None else since_us
        last = np.inf if until_us is None else until_us
        return np.flatnonzero((at_us >= first) & (at_us < last)).astype(np.int64)
    return np.zeros(0, dtype=np.int64)


def _opened(path: Path, columns: Collection[str] | None) -> Iterator[tuple[str, pa.Table]]:
    """The header and the rows of a file; nothing if it was removed."""
    try:
        with pq.ParquetFile(path) as file:
            text = (file.schema_arrow.metadata or {})[_METADATA].decode()
            if (stated := json.loads(text)["format"]) != _FORMAT:
                raise ValueError(f"expected format {_FORMAT}, got {stated}; another release wrote it")
            if missing := [name for name in KEYS if name not in file.schema_arrow.names]:
                raise ValueError(f"expected the column {missing[0]}, got none")
            names = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
            table = file.read(columns=names)
    except FileNotFoundError:
        return
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise ArtifactCorruptError(
            path, f"cannot be read as a part of the served log ({type(error).__name__}: {error})", "remove the file"
        ) from error
    yield text, table
