"""What features are about."""

from feast import Entity, ValueType

item = Entity(
    name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="A thing that is shown and clicked."
)
user = Entity(
    name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="Whoever sees items and clicks."
)
