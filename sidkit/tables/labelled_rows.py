"""The labelled rows for training and evaluation of rankers: ``data/rows.parquet``.

For a log of impressions they are its rows. For a log of positives they are the positives and their sampled negatives;
sampled rows never enter counts or histories. A :class:`RowSample` selects part of the rows for a file of its own: only the
negatives of selected rows are drawn, and a row's negatives are the same in every file.

Columns: ``user_id``, ``item_id``, ``event_timestamp``, ``label`` int8, ``request_id`` (may be null),
``sampled`` bool, ``had_before`` bool (the user had a positive with this item, as known at the row's time), and ``converted``
int8 if the log has conversions (null where unknown; 0 for sampled rows). The columns of ``[features.context]`` follow, in the
types of their kinds; a sampled negative has the context of its positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from sidkit.contract.attribute_values import shape_of, value_sql
from sidkit.contract.context import further_columns
from sidkit.contract.events import LOG_TYPES
from sidkit.core.config import content_hash
from sidkit.core.engine import connection, into, literal, quoted, set_variables, working_on
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.feature_settings import AttributeKind
from sidkit.core.integrity import hashes_of, read_verified, replaced, say_discarded, write_sealed
from sidkit.core.repo import Repo
from sidkit.datasets.negatives import Catalogue, Drawn, Positives, Serving, draw_negatives, row_keys
from sidkit.datasets.user_sample import thin_by_user
from sidkit.tables.log import Log, read_log

_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class SampledWindow:
    """Rows in ``[from_us, until_us)`` (microseconds UTC), sampled by user to about ``most`` rows (None: all)."""

    from_us: int
    until_us: int
    most: int | None = None


@dataclass(frozen=True)
class RowSample:
    """A selection of the labelled rows, by non-overlapping windows, for the file ``path``."""

    path: Path
    windows: tuple[SampledWindow, ...]


@dataclass(frozen=True)
class RowsReport:
    """Number of labelled rows in ``path`` and how many of them are sampled negatives.

    ``available`` is the number of rows that each window has before sampling by user (approximate: a positive without enough
    eligible items has fewer negatives). ``far``, ``other_touch`` and ``missing`` measure how well negatives match; see
    :class:`sidkit.datasets.negatives.Drawn`.
    """

    path: Path
    rows: int
    sampled: int
    unchanged: bool
    available: tuple[int, ...] = ()
    far: int = 0
    other_touch: int = 0
    missing: int = 0


def log_moments(repo: Repo, until_us: int | None = None) -> npt.NDArray[np.int64]:
    """Times of all rows of the log up to ``until_us``, ``int64 [rows]`` microseconds UTC, ascending.

    Sampled negatives have the time of their positive, so shares of these times are shares of the labelled rows.
    """
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        _open_log(opened, read_log(repo), until_us)
        columns = opened.execute("SELECT epoch_us(timestamp) AS moment_us FROM log ORDER BY 1").fetchnumpy()
    moments: npt.NDArray[np.int64] = columns["moment_us"].astype(np.int64)
    return moments


def rows_per_event(repo: Repo) -> int:
    """Number of labelled rows per event of the log."""
    positives_only = repo.settings.source.feedback == "positives_only"
    return 1 + repo.settings.negatives.per_positive if positives_only else 1


def build_labelled_rows(repo: Repo, sample: RowSample | None = None, until_us: int | None = None) -> RowsReport:
    """Write ``data/rows.parquet``, or the file of a sample, unless it is up to date.

    Events after ``until_us`` (microseconds UTC) are excluded: a replay has no features for them.
    """
    log = read_log(repo)
    path = sample.path if sample is not None else repo.labelled_rows
    sidecar = path.with_suffix(".json")
    settings = repo.settings
    positives_only = settings.source.feedback == "positives_only"
    inputs = content_hash(
        {
            "log": log.mark if positives_only else log.mark["parts"],
            "negatives": settings.negatives.model_dump(),
            "time": [settings.time.delay_us, settings.time.cadence_us, settings.time.history_length],
            "method": 2,  # version of the sampling method
            "sample": [asdict(window) for window in sample.windows] if sample is not None else None,
            **({} if until_us is None else {"until_us": until_us}),
            **({"conversions": True} if settings.source.conversions else {}),
            **({"context": dict(settings.features.context)} if settings.features.context else {}),
        }
    )
    if path.exists() and sidecar.exists():
        try:
            before = read_verified(sidecar)
        except ArtifactCorruptError as error:
            say_discarded(error.path, error.problem)
        else:
            if before["inputs"] == inputs:
                return _report(path, before, unchanged=True)
    with connection(settings.engine, repo.data / "tmp" / "duckdb") as opened:
        set_variables(opened, {"delay_us": settings.time.delay_us})
        _open_log(opened, log, until_us)
        context = _context(opened, settings.features.context)
        further = [*(["converted::TINYINT AS converted"] if settings.source.conversions else []), *context]
        available = _choose(opened, sample, rows_per_event(repo), further)
        drawn = _add_negatives(opened, repo, log) if positives_only else None
        _write(opened, path)
        counted = opened.execute("SELECT count(*), count(*) FILTER (sampled) FROM labelled").fetchone() or (0, 0)
    details = {"inputs": inputs, "rows": counted[0], "sampled": counted[1], "available": available}
    details |= {name: getattr(drawn, name, 0) for name in ("far", "other_touch", "missing")}
    write_sealed(sidecar, {**details, "files": hashes_of(path.parent, [path.name])})
    return _report(path, details, unchanged=False)


def _report(path: Path, details: dict[str, Any], *, unchanged: bool) -> RowsReport:
    known = {name: details.get(name, 0) for name in ("rows", "sampled", "far", "other_touch", "missing")}
    return RowsReport(path=path, unchanged=unchanged, available=tuple(details.get("available", ())), **known)


def _open_log(opened: duckdb.DuckDBPyConnection, log: Log, until_us: int | None) -> None:
    listed = ", ".join(literal(part) for part in log.parts)
    bounded = "true" if until_us is None else f"epoch_us(timestamp) <= {until_us}"
    opened.execute(f"CREATE TEMP VIEW log AS SELECT * FROM read_parquet([{listed}]) WHERE {bounded}")


def _context(opened: duckdb.DuckDBPyConnection, context: Mapping[str, AttributeKind]) -> list[str]:
    """SQL for the context columns; those that the log has anyway (``query``) are converted here."""
    carried = further_columns(context)
    columns = []
    for name, kind in context.items():
        shape = {} if name in carried else shape_of(opened, "log", name, kind, LOG_TYPES[name])
        value = quoted(name) if name in carried else value_sql(quoted(name), kind, LOG_TYPES[name], shape)
        columns.append(f"{value} AS {quoted(name)}")
    return columns


def _choose(
    opened: duckdb.DuckDBPyConnection, sample: RowSample | None, each: int, further: Sequence[str]
) -> list[int]:
    """Create the table ``labelled`` with all rows of the log; ``_wanted`` marks those of the sample."""
    base = "user_id, item_id, timestamp AS event_timestamp, label, request_id, false AS sampled"
    rows = ", ".join([base, *further])
    if sample is None:
        opened.execute(f"CREATE TEMP TABLE labelled AS SELECT {rows}, true AS _wanted FROM log")
        return []
    available = []
    opened.execute("CREATE TEMP TABLE selected (user_id VARCHAR, from_us BIGINT, until_us BIGINT)")
    for window in sample.windows:
        bounds = {"from_us": window.from_us, "until_us": window.until_us}
        users = opened.execute(
            "SELECT user_id FROM log WHERE epoch_us(timestamp) >= $from_us AND epoch_us(timestamp) < $until_us", bounds
        ).fetchnumpy()["user_id"]
        available.append(each * len(users))
        some = thin_by_user(users, None if window.most is None else max(window.most // each, 1))
        opened.register("thinned", pa.table({"user_id": pa.array(pd.unique(users[some]), pa.string())}))
        opened.execute("INSERT INTO selected SELECT user_id, $from_us, $until_us FROM thinned", bounds)
        opened.unregister("thinned")
    opened.execute(f"""
        CREATE TEMP TABLE labelled AS
        SELECT {rows}, EXISTS (
            SELECT 1 FROM selected
            WHERE selected.user_id = log.user_id
                AND epoch_us(timestamp) >= selected.from_us AND epoch_us(timestamp) < selected.until_us
        ) AS _wanted
        FROM log
    """)
    return available


@working_on("writing the labelled rows")
def _add_negatives(opened: duckdb.DuckDBPyConnection, repo: Repo, log: Log) -> Drawn:
    # Without request ids, positives of one user at one time form one request (a basket, a page).
    opened.execute("""
        UPDATE labelled SET request_id = user_id || '@' || epoch_us(event_timestamp)::VARCHAR WHERE request_id IS NULL
    """)
    removed = "removed_at" in {
        row[0] for row in opened.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(log.items)})").fetchall()
    }
    items = opened.execute(f"""
        SELECT item_id, min(epoch_us(created_at)) AS created_us,
               {"coalesce(max(epoch_us(removed_at)), " + str(_FAR) + ")" if removed else str(_FAR)} AS removed_us
        FROM read_parquet({literal(log.items)}) GROUP BY item_id ORDER BY item_id
    """).df()
    names = list(repo.settings.features.context)
    context = "".join(f", {quoted(name)}" for name in names)
    table = opened.execute(f"""
        SELECT user_id, item_id, request_id, epoch_us(event_timestamp) AS _moment_us, _wanted{context} FROM labelled
        ORDER BY event_timestamp, user_id, request_id, item_id
    """).to_arrow_table()
    rows = table.drop_columns(names).to_pandas()
    item = pd.Index(items["item_id"]).get_indexer(pd.Index(rows["item_id"]))
    known = item >= 0  # items missing from the catalogue have no age to match
    rows, item = rows[known].reset_index(drop=True), item[known].astype(np.int64)
    carried = table.select(names).filter(pa.array(known))
    wanted = np.flatnonzero(rows["_wanted"].to_numpy())
    time = repo.settings.time
    drawn = draw_negatives(
        Positives(
            user=pd.factorize(rows["user_id"])[0].astype(np.int64),
            item=item,
            request=pd.factorize(rows["request_id"])[0].astype(np.int64),
            moment_us=rows["_moment_us"].to_numpy(np.int64),
            key=row_keys(rows["user_id"], rows["item_id"], rows["request_id"], rows["_moment_us"]),
        ),
        Catalogue(
            items["created_us"].to_numpy(np.int64), items["removed_us"].to_numpy(np.int64), row_keys(items["item_id"])
        ),
        repo.settings.negatives,
        Serving(time.delay_us, time.cadence_us, time.history_length),
        wanted,
    )
    filled = drawn.items >= 0
    row, _ = np.nonzero(filled)
    tables = {
        "negatives": pa.table({"_row": wanted[row], "_item": drawn.items[filled]}),
        "positives": pa.table(
            {
                "_row": np.arange(len(rows)),
                **{name: pa.array(rows[name]) for name in ("user_id", "_moment_us", "request_id")},
                **{name: carried[name] for name in names},
            }
        ),
        "catalogue": pa.table({"_item": np.arange(len(items)), "item_id": pa.array(items["item_id"])}),
    }
    for name, table in tables.items():
        opened.register(name, table)
    converted = ", 0::TINYINT AS converted" if repo.settings.source.conversions else ""
    opened.execute(f"""
        INSERT INTO labelled BY NAME
        SELECT user_id, item_id, make_timestamptz(_moment_us) AS event_timestamp, 0::TINYINT AS label, request_id,
               true AS sampled, true AS _wanted{converted}{context}
        FROM negatives INNER JOIN positives USING (_row) INNER JOIN catalogue USING (_item)
    """)
    for name in tables:
        opened.unregister(name)
    return drawn


@working_on("writing the labelled rows")
def _write(opened: duckdb.DuckDBPyConnection, path: Path) -> None:
    opened.execute("DELETE FROM labelled WHERE NOT _wanted")
    with replaced(path, path.with_suffix(".json")) as temporary:
        opened.execute(f"""
            COPY (
                SELECT labelled.* EXCLUDE (_wanted), coalesce(
                    epoch_us(event_timestamp) >= _first_us + getvariable('delay_us'), false
                ) AS had_before
                FROM labelled LEFT JOIN (
                    SELECT user_id, item_id, min(epoch_us(timestamp)) AS _first_us FROM log WHERE label = 1 GROUP BY ALL
                ) AS touched USING (user_id, item_id)
                ORDER BY event_timestamp, user_id, request_id NULLS FIRST, sampled, item_id, label
            ) {into(temporary)}
        """)
