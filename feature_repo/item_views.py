"""Feature views of items: content, trailing counts and, if [features.items] lists any, attributes."""

from pathlib import Path

from entities import item
from feast import FeatureView, Field
from feast.types import Array, Float32, Int64, String
from sources import attribute_fields, item_content_source, item_stats_push, table_source

from semantic_ids.catalog import read_definitions

definitions = read_definitions(Path(__file__).resolve().parent)

item_content = FeatureView(
    name="item_content",
    entities=[item],
    schema=[
        *(Field(name=modality, dtype=Array(Float32)) for modality in definitions.modalities),
        Field(name="category", dtype=String),
        Field(name="price", dtype=Float32),
        Field(name="created_at_us", dtype=Int64, description="Creation, microseconds since the epoch, UTC."),
    ],
    source=item_content_source,
    owner=definitions.owner,
    description="Content vectors and attributes, available from creation or update + the availability delay.",
    tags=definitions.tags,
)

item_stats = FeatureView(
    name="item_stats",
    entities=[item],
    schema=[
        Field(name=f"{event}_{window}", dtype=Int64)
        for window in ("1d", "7d", "30d", "all")
        for event in ("exposures", "clicks", "conversions")
    ],
    source=item_stats_push,
    owner=definitions.owner,
    description="Events in (window end - window, window end], available from window end + the availability delay.",
    tags=definitions.tags,
)

if definitions.features.items:
    item_attributes = FeatureView(
        name="item_attributes",
        entities=[item],
        schema=attribute_fields(definitions.features.items),
        source=table_source("item_attributes", "Attributes of items, one row per version."),
        owner=definitions.owner,
        description="Attributes in [features.items], available from creation or update + the availability delay.",
        tags=definitions.tags,
    )
