"""What a ranker reads: one set of services per codebook, all under the same feature names.

`ctr_<codebook>` is the whole; `_user`, `_item` and `_content` are its parts, for reads that need one side only.
"""

from pathlib import Path

from feast import FeatureService
from item_views import item_content, item_stats
from semantic_id_views import semantic_id_views
from user_views import user_history, user_stats

from semantic_ids.catalog import read_definitions

definitions = read_definitions(Path(__file__).resolve().parent)


def services_of(codebook):
    sid = semantic_id_views[codebook.name].with_name("item_sid")
    parts = {
        "": [item_content, sid, item_stats, user_history, user_stats],
        "_user": [user_history, user_stats],
        "_item": [item_content, sid, item_stats],
        "_content": [item_content, sid],
    }
    what = {"": "Everything", "_user": "The user's side", "_item": "The item's side", "_content": "Content and codes"}
    return [
        FeatureService(
            name=f"{codebook.service_name}{suffix}",
            features=views,
            owner=definitions.owner,
            description=f"{what[suffix]} of a ranker on codebook {codebook.name}.",
            tags={**definitions.tags, **codebook.tags},
        )
        for suffix, views in parts.items()
    ]


globals().update({service.name: service for codebook in definitions.codebooks for service in services_of(codebook)})
