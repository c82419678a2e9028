"""Entities: items, users and prefixes of codes."""

from feast import Entity, ValueType

item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.STRING,
    description="An item that can be shown and clicked.",
)
user = Entity(
    name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="A user who sees and clicks items."
)
sid_prefix = Entity(
    name="sid_prefix",
    join_keys=["sid_prefix"],
    value_type=ValueType.STRING,
    description="All items that share the first codes under a codebook: <codebook>/<code>-<code>-...",
)
