"""Feature services of rankers: one set per codebook, all with the same feature names.

`ctr_<codebook>` has all features; the others are parts of it, for reads of one side only: `_user`, `_item`, `_content` (items
of a history) and, if needed, `_context` (own views with other keys or request inputs). `_by_<attribute>` has the counts per
user and value of an attribute, which are read with the values of the candidates.

`codes_<codebook>` has the statistics of codes, with one alias and one key per depth of prefixes: read the codes of the items
first, then the statistics by their prefixes.
"""

from pathlib import Path

import item_views
import user_views
from feast import FeatureService
from item_views import item_content, item_stats
from on_demand_views import user_recency  # noqa: F401  (own views that features.extra of sidkit.toml names: import them here)
from semantic_id_views import code_stats_views, semantic_id_views, user_code_stats_views
from user_views import user_history, user_stats

from semantic_ids.catalog import read_definitions

definitions = read_definitions(Path(__file__).resolve().parent)

own = definitions.own_views(globals())
item_attributes = vars(item_views).get("item_attributes")  # only with attributes in sidkit.toml
user_attributes = vars(user_views).get("user_attributes")
affinity_views = vars(user_views).get("affinity_views", {})


def services_of(codebook):
    # Not assigned_at_us: the wall clock of the assignment says when a code was computed, not anything about the item.
    sid = semantic_id_views[codebook.name][["codes", "residual_norm"]].with_name("item_sid")
    user = [*filter(None, (user_history, user_stats, user_attributes)), *own["user"]]
    item = [*filter(None, (item_content, sid, item_stats, item_attributes)), *own["item"]]
    parts = {
        "": ("All", [*item, *user, *own["context"]]),
        "_user": ("User", user),
        "_item": ("Item", item),
        "_content": ("Content and code", list(filter(None, (item_content, sid, item_attributes)))),
        "_context": ("Context", own["context"]),
        **{f"_by_{attribute}": (f"User x {attribute}", [view]) for attribute, view in affinity_views.items()},
    }
    return [
        FeatureService(
            name=f"{codebook.service_name}{suffix}",
            features=views,
            owner=definitions.owner,
            description=f"{title} features of a ranker on codebook {codebook.name}.",
            tags={**definitions.tags, **codebook.tags},
        )
        for suffix, (title, views) in parts.items()
        if views
    ]


def codes_service(codebook):
    views = {
        "code_stats": code_stats_views[codebook.name],
        "user_code_stats": user_code_stats_views[codebook.name],
    }
    return FeatureService(
        name=f"codes_{codebook.name}",
        features=[
            view.with_name(f"{name}_d{depth}").with_join_key_map({"sid_prefix": f"sid_prefix_{depth}"})
            for depth in definitions.code_stats[codebook.name].depths
            for name, view in views.items()
        ],
        owner=definitions.owner,
        description=f"Statistics of the codes of codebook {codebook.name}.",
        tags={**definitions.tags, **codebook.tags},
    )


globals().update({service.name: service for codebook in definitions.codebooks for service in services_of(codebook)})
globals().update(
    {f"codes_{each.name}": codes_service(each) for each in definitions.codebooks if each.name in code_stats_views}
)
