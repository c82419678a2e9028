"""Feature services of rankers: one set per codebook, all with the same feature names.

`ctr_<codebook>` has all features; `_user`, `_item` and `_content` are parts of it, for reads of one side only.
"""

from pathlib import Path

from feast import FeatureService
from item_views import item_content, item_stats
from semantic_id_views import semantic_id_views
from user_views import user_history, user_stats

from semantic_ids.catalog import read_definitions

definitions = read_definitions(Path(__file__).resolve().parent)


def services_of(codebook):
    # Not assigned_at_us: the wall clock of the assignment says when a code was computed, not anything about the item.
    sid = semantic_id_views[codebook.name].with_name("item_sid")[["codes", "residual_norm"]]
    parts = {
        "": [item_content, sid, item_stats, user_history, user_stats],
        "_user": [user_history, user_stats],
        "_item": [item_content, sid, item_stats],
        "_content": [item_content, sid],
    }
    part_of = {"": "All", "_user": "User", "_item": "Item", "_content": "Content and code"}
    return [
        FeatureService(
            name=f"{codebook.service_name}{suffix}",
            features=views,
            owner=definitions.owner,
            description=f"{part_of[suffix]} features of a ranker on codebook {codebook.name}.",
            tags={**definitions.tags, **codebook.tags},
        )
        for suffix, views in parts.items()
    ]


globals().update({service.name: service for codebook in definitions.codebooks for service in services_of(codebook)})
