"""Data sources: one Parquet file, or folder of days, per feature table; the availability time is event and created time."""

from functools import partial
from pathlib import Path

from feast import Field, FileSource, PushSource
from feast.data_source import DataSource
from feast.types import Array, Bool, Float32, Float64, Int64, String

from semantic_ids.catalog import read_definitions

definitions = read_definitions(Path(__file__).resolve().parent)
DATA = Path(__file__).resolve().parent / "data"
BY_DAY = definitions.partitions == "day"


# Types of the kinds of [features] in sidkit.toml; dates are microseconds since the epoch, UTC.
ATTRIBUTE_TYPES = {
    "category": String,
    "categories": Array(String),
    "number": Float64,
    "flag": Bool,
    "date": Int64,
    "vector": Array(Float32),
}


def attribute_fields(columns: dict[str, str]) -> list[Field]:
    return [Field(name=name, dtype=ATTRIBUTE_TYPES[kind], tags={"kind": kind}) for name, kind in columns.items()]


# Feast's Spark store reads Spark's sources only; both kinds read the same file.
def table_source(name: str, description: str) -> DataSource:
    source = FileSource
    if definitions.tables == "spark":
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

        source = partial(SparkSource, file_format="parquet", date_partition_column="event_date" if BY_DAY else "")
    return source(
        name=f"{name}_source",
        path=str(DATA / "sources" / name if BY_DAY else DATA / "tables" / f"{name}.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=description,
    )


item_content_source = table_source("item_content", "Attributes and content vectors, one row per change.")
item_stats_source = table_source("item_stats", "Trailing counts per item, one row per change of any count.")
user_history_source = table_source("user_history", "The last positives per user, one row per positive.")
user_stats_source = table_source("user_stats", "Trailing counts per user, one row per change of any count.")


# store.push("user_history_push", rows) writes rows to the online store, without waiting for the next build: `sidkit events`.
def pushed(source: DataSource) -> PushSource:
    return PushSource(
        name=f"{source.name.removesuffix('_source')}_push", batch_source=source, description=source.description
    )


item_stats_push = pushed(item_stats_source)
user_history_push = pushed(user_history_source)
user_stats_push = pushed(user_stats_source)
