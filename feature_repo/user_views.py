"""Feature views of users: recent positives, trailing counts and, with [features], attributes and counts per value."""

from pathlib import Path

from entities import item, user
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Array, Int64, String
from sources import attribute_fields, pushed, table_source, user_history_push, user_stats_push

from semantic_ids.catalog import read_definitions

definitions = read_definitions(Path(__file__).resolve().parent)

user_history = FeatureView(
    name="user_history",
    entities=[user],
    schema=[
        Field(name="item_ids", dtype=Array(String), description="Newest first; ties in time by item id."),
        Field(name="timestamps_us", dtype=Array(Int64), description="Microseconds since the epoch, UTC."),
    ],
    source=user_history_push,
    owner=definitions.owner,
    description="The last positives, available from event + the availability delay.",
    tags=definitions.tags,
)

counts = [
    Field(name=f"{event}_{window}", dtype=Int64)
    for window in ("1d", "7d", "30d", "all")
    for event in ("exposures", "clicks")
]
user_stats = FeatureView(
    name="user_stats",
    entities=[user],
    schema=counts,
    source=user_stats_push,
    owner=definitions.owner,
    description="Events in (window end - window, window end], available from window end + the availability delay.",
    tags=definitions.tags,
)

if definitions.features.users:
    user_attributes = FeatureView(
        name="user_attributes",
        entities=[user],
        schema=attribute_fields(definitions.features.users),
        source=table_source("user_attributes", "Attributes of users, one row per version."),
        owner=definitions.owner,
        description="Attributes in [features.users], available from update or creation + the availability delay.",
        tags=definitions.tags,
    )

values = {
    attribute: item
    if attribute == "item_id"
    else Entity(
        name=f"item_{attribute}",
        join_keys=[attribute],
        value_type=ValueType.STRING,
        description=f"A value of the item attribute {attribute}.",
    )
    for attribute in definitions.features.affinity
}
affinity_views = {
    attribute: FeatureView(
        name=f"user_{attribute}_stats",
        entities=[user, value],
        schema=counts,
        source=pushed(table_source(f"user_{attribute}_stats", f"Trailing counts per user and {attribute}.")),
        owner=definitions.owner,
        description=f"Counts of user_stats per {attribute} of the items, available like those.",
        tags=definitions.tags,
    )
    for attribute, value in values.items()
}
# Feast collects module attributes, not the values of a dict.
globals().update({each.name: each for each in (*values.values(), *affinity_views.values())})
