"""Results of Spark as Arrow tables, which the heap of its driver does not hold.

``toArrow()`` and ``toPandas()`` collect a result on the heap of the driver's Java process before Python gets it. Here the tasks
write its parts as Parquet, and Arrow reads them. For the feature views of a frame, rows refer to feature rows by index, and
lists are written once per feature row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.arrays import Ints
from sidkit.core.files import remove
from sidkit.core.temporary import temporary_folder
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.spark_join import CREATED, ROW, TIME, JoinedView, JoinPlan

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ROW_GROUP_BYTES = 16 << 20
"""Bytes that each task holds on the heap before it writes them; Spark's default is 128 MB."""


@contextmanager
def result_folder(session: SparkSession, repo: Path) -> Iterator[Path]:
    """A folder that all executors can write to: a temporary one in local mode, else one in the repository, which they share."""
    if str(session.sparkContext.master).startswith("local"):
        with temporary_folder() as folder:
            yield folder
        return
    folder = repo.resolve() / "data" / "tmp" / f"spark-{uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def collected(frame: DataFrame, folder: Path) -> pa.Table:
    """All rows of a Spark frame.

    Parameters
    ----------
    frame : DataFrame
        Times are in UTC.
    folder : Path
        A folder that does not exist; its parts are written there.
    """
    from pyspark.sql.types import NullType

    if any(isinstance(column.dataType, NullType) for column in frame.schema):
        return frame.toArrow()  # Parquet has no such columns
    writing = frame.write.option("compression", "snappy").option("parquet.block.size", str(_ROW_GROUP_BYTES))
    writing.parquet(str(folder))
    parts = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([pq.ParquetFile(part).read() for part in parts])


def views_of(session: SparkSession, plan: JoinPlan, rows: pa.Table, folder: Path) -> list[ViewRows]:
    """Per view of a join, what some rows see of it.

    Parameters
    ----------
    session : SparkSession
        The session of the plan.
    plan : JoinPlan
        Its relation of entity rows is replaced by ``rows``.
    rows : pyarrow.Table
        Join keys and the column of times.
    folder : Path
        For the rows and the results; the caller removes it.
    """
    given = folder / "rows.parquet"
    keys = list(dict.fromkeys(key for view in plan.views for key in view.keys))
    numbered = rows.select([*keys, plan.time]).append_column(ROW, pa.array(np.arange(len(rows))))
    pq.write_table(numbered, given, compression="snappy")
    relation = f"sidkit_rows_{uuid4().hex}"
    session.read.parquet(str(given)).createOrReplaceTempView(relation)
    try:
        return [_view_rows(session, view, relation, plan.time, len(rows), folder / view.name) for view in plan.views]
    finally:
        session.catalog.dropTempView(relation)


def _view_rows(session: SparkSession, view: JoinedView, relation: str, time: str, count: int, folder: Path) -> ViewRows:
    kinds = dict(session.sql(f"SELECT {', '.join(view.features)} FROM ({view.versions})").dtypes)
    if not any(kind.startswith(("array", "map", "struct")) for kind in kinds.values()):
        seen = view.as_of(relation, [ROW, *view.keys], time, [TIME, *view.features])
        found = _in_order(
            collected(session.sql(f"SELECT {', '.join([ROW, TIME, *view.features])} FROM ({seen})"), folder)
        )
        index = np.where(found.column(TIME).is_valid().to_numpy(), np.arange(count), -1)
        return ViewRows(view.name, index, found.select(list(view.features)))
    identity = [*view.keys, TIME, CREATED]
    seen = session.sql(view.as_of(relation, [ROW, *view.keys], time, [TIME, CREATED]))
    found = _in_order(collected(seen, folder))
    used = f"{relation}_{view.name}"
    again = session.read.schema(seen.schema).parquet(str(folder))
    again.where(f"{TIME} IS NOT NULL").select(*identity).distinct().createOrReplaceTempView(used)
    try:
        distinct = collected(session.sql(view.distinct(used)), folder.with_name(f"{folder.name}-distinct"))
    finally:
        session.catalog.dropTempView(used)
    return ViewRows(view.name, _places(found, distinct, identity), distinct.select(list(view.features)))


def _in_order(found: pa.Table) -> pa.Table:
    return found.take(np.argsort(found.column(ROW).to_numpy()))


def _places(found: pa.Table, distinct: pa.Table, identity: list[str]) -> Ints:
    """The position in ``distinct`` of each row's keys and times; -1 for rows without a time."""
    import pandas as pd

    seen: Any = found.select(identity).to_pandas()
    known: Any = distinct.select(identity).to_pandas().assign(__place=np.arange(len(distinct)))
    placed = pd.merge(seen, known, how="left", on=identity)["__place"]  # missing created times are equal
    places = placed.fillna(-1).to_numpy().astype(np.int64)
    return np.where(found.column(TIME).is_valid().to_numpy(), places, -1)
