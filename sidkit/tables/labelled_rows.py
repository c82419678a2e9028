"""The labelled rows that rankers train and are judged on: ``data/rows.parquet``.

On a log of impressions they are its rows. On a log of positives they are the positives and the negatives sampled for
them; sampled rows never enter counts or histories.

Columns: ``user_id``, ``item_id``, ``event_timestamp``, ``label`` int8, ``request_id`` (null where there are none),
``sampled`` bool, ``had_before`` bool (the user had a positive with this item, as known at the row's moment).
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from sidkit.config import content_hash
from sidkit.datasets.negatives import Catalogue, Positives, draw_negatives, row_keys
from sidkit.engine import connection, literal, set_variables
from sidkit.errors import ArtifactCorruptError
from sidkit.integrity import hashes_of, read_verified, replaced, say_discarded, write_sealed
from sidkit.repo import Repo
from sidkit.tables.ingest import Log, read_log

_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class RowsReport:
    """How many labelled rows there are, and how many of them are sampled negatives."""

    rows: int
    sampled: int
    unchanged: bool


def build_labelled_rows(repo: Repo, until_us: int | None = None) -> RowsReport:
    """Write ``data/rows.parquet``; nothing is done when log and settings are those of the last time.

    Events after ``until_us`` (microseconds UTC) are left out: a replay has no features for them.
    """
    log = read_log(repo)
    sidecar = repo.labelled_rows.with_suffix(".json")
    positives_only = repo.settings.source.feedback == "positives_only"
    inputs = content_hash(
        {
            "log": log.mark if positives_only else log.mark["parts"],
            "negatives": repo.settings.negatives.model_dump(),
            "delay_us": repo.settings.time.delay_us,
            **({} if until_us is None else {"until_us": until_us}),
        }
    )
    if repo.labelled_rows.exists() and sidecar.exists():
        try:
            before = read_verified(sidecar)
        except ArtifactCorruptError as error:
            say_discarded(error.path, error.problem)
        else:
            if before["inputs"] == inputs:
                return RowsReport(before["rows"], before["sampled"], unchanged=True)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        set_variables(opened, {"delay_us": repo.settings.time.delay_us})
        listed = ", ".join(literal(part) for part in log.parts)
        bounded = "true" if until_us is None else f"epoch_us(timestamp) <= {until_us}"
        opened.execute(f"CREATE TEMP VIEW log AS SELECT * FROM read_parquet([{listed}]) WHERE {bounded}")
        opened.execute("""
            CREATE TEMP TABLE labelled AS
            SELECT user_id, item_id, timestamp AS event_timestamp, label, request_id, false AS sampled FROM log
        """)
        if positives_only:
            _add_negatives(opened, repo, log)
        _write(opened, repo)
        counted = opened.execute("SELECT count(*), count(*) FILTER (sampled) FROM labelled").fetchone() or (0, 0)
    files = hashes_of(repo.data, [repo.labelled_rows.name])
    write_sealed(sidecar, {"inputs": inputs, "rows": counted[0], "sampled": counted[1], "files": files})
    return RowsReport(counted[0], counted[1], unchanged=False)


def _add_negatives(opened: duckdb.DuckDBPyConnection, repo: Repo, log: Log) -> None:
    # Where the log names no requests, the positives of one user at one moment are one (a basket, a page).
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
    rows = opened.execute("""
        SELECT user_id, item_id, request_id, epoch_us(event_timestamp) AS moment_us FROM labelled
        ORDER BY event_timestamp, user_id, request_id, item_id
    """).df()
    place = pd.Index(items["item_id"])
    item = place.get_indexer(pd.Index(rows["item_id"]))
    known = item >= 0  # items that the catalogue lacks have no age to match
    rows, item = rows[known].reset_index(drop=True), item[known].astype(np.int64)
    drawn = draw_negatives(
        Positives(
            user=pd.factorize(rows["user_id"])[0].astype(np.int64),
            item=item,
            request=pd.factorize(rows["request_id"])[0].astype(np.int64),
            moment_us=rows["moment_us"].to_numpy(np.int64),
            key=row_keys(rows["user_id"], rows["item_id"], rows["request_id"], rows["moment_us"]),
        ),
        Catalogue(items["created_us"].to_numpy(np.int64), items["removed_us"].to_numpy(np.int64)),
        repo.settings.negatives,
        repo.settings.time.delay_us,
    )
    row, _ = np.nonzero(drawn >= 0)
    negatives = pa.table(
        {
            "user_id": pa.array(rows["user_id"].to_numpy()[row]),
            "item_id": pa.array(items["item_id"].to_numpy()[drawn[drawn >= 0]]),
            "moment_us": pa.array(rows["moment_us"].to_numpy()[row]),
            "request_id": pa.array(rows["request_id"].to_numpy()[row]),
        }
    )
    opened.register("negatives", negatives)
    opened.execute("""
        INSERT INTO labelled
        SELECT user_id, item_id, make_timestamptz(moment_us), 0::TINYINT, request_id, true FROM negatives
    """)
    opened.unregister("negatives")


def _write(opened: duckdb.DuckDBPyConnection, repo: Repo) -> None:
    with replaced(repo.labelled_rows, repo.labelled_rows.with_suffix(".json")) as temporary:
        opened.execute(f"""
            COPY (
                SELECT labelled.*, coalesce(
                    epoch_us(event_timestamp) >= first_us + getvariable('delay_us'), false
                ) AS had_before
                FROM labelled LEFT JOIN (
                    SELECT user_id, item_id, min(epoch_us(timestamp)) AS first_us FROM log WHERE label = 1 GROUP BY ALL
                ) AS touched USING (user_id, item_id)
                ORDER BY event_timestamp, user_id, request_id NULLS FIRST, sampled, item_id, label
            ) TO {literal(temporary)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)
        """)
