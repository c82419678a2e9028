"""Data sources: one Parquet file per feature table, with the availability time as event and created time."""

from pathlib import Path

from feast import FileSource, PushSource

TABLES = Path(__file__).resolve().parent / "data" / "tables"


def table_source(name: str, description: str) -> FileSource:
    return FileSource(
        name=f"{name}_source",
        path=str(TABLES / f"{name}.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=description,
    )


item_content_source = table_source("item_content", "Attributes and content vectors, one row per change.")
item_stats_source = table_source("item_stats", "Trailing counts per item, one row per change of any count.")
user_history_source = table_source("user_history", "The last positives per user, one row per positive.")
user_stats_source = table_source("user_stats", "Trailing counts per user, one row per change of any count.")

# store.push("user_history_push", rows) writes a user's history to the online store, without waiting for the next build.
user_history_push = PushSource(
    name="user_history_push",
    batch_source=user_history_source,
    description="The last positives of users, pushed when they happen.",
)
