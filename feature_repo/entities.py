"""Entities: items and users."""

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
