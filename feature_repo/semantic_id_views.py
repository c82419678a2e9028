"""Feature views per published codebook, since codes of different codebooks are not comparable: codes, counts per prefix, and
neighbours of items.

Retired codebooks stay defined until `sidkit codebooks purge`: Feast drops the online table of a view missing here.
"""

from pathlib import Path

from entities import item, sid_prefix, user
from feast import FeatureView, Field
from feast.types import Array, Float32, Int64, String
from sources import pushed, table_source

from semantic_ids.catalog import read_definitions

definitions = read_definitions(Path(__file__).resolve().parent)

semantic_id_views = {
    codebook.name: FeatureView(
        name=codebook.view_name,
        entities=[item],
        schema=[
            Field(name="codes", dtype=Array(Int64), description=f"{codebook.levels} codes, coarse to fine."),
            Field(name="residual_norm", dtype=Float32, description="Norm of the residual after all levels."),
            Field(name="assigned_at_us", dtype=Int64, description="Wall clock of the assignment, microseconds UTC."),
        ],
        source=table_source(codebook.view_name, f"Codes of every item under codebook {codebook.name}."),
        owner=definitions.owner,
        description=f"Semantic IDs: {codebook.summary}. Available whenever the item's content is.",
        tags={**definitions.tags, **codebook.tags},
    )
    for codebook in definitions.codebooks
}


def count_view(codebook, name, entities, events, windows, description):
    return FeatureView(
        name=f"{name}_{codebook.name}",
        entities=entities,
        schema=[Field(name=f"{event}_{window}", dtype=Int64) for window in windows for event in events],
        source=pushed(table_source(f"{name}_{codebook.name}", description)),
        owner=definitions.owner,
        description=f"{description} In (window end - window, window end], available from window end + the availability delay.",
        tags={**definitions.tags, **codebook.tags},
    )


# Statistics of codes: counts of the events of all items with a prefix. Their keys come from the codes of an item.
code_stats_views = {
    codebook.name: count_view(
        codebook,
        "code_stats",
        [sid_prefix],
        ("exposures", "clicks", "conversions"),
        ("1d", "7d", "30d", "all"),
        "Events of all items with a prefix of codes.",
    )
    for codebook in definitions.codebooks
    if codebook.name in definitions.code_stats
}
user_code_stats_views = {
    codebook.name: count_view(
        codebook,
        "user_code_stats",
        [user, sid_prefix],
        ("exposures", "clicks"),
        ("30d", "all"),
        "Events of a user with all items with a prefix of codes.",
    )
    for codebook in definitions.codebooks
    if codebook.name in definitions.code_stats
}
# Nearest items of the items known at the codebook's fit end, for codebooks with [codebook.neighbours].
item_neighbours_views = {
    codebook.name: FeatureView(
        name=f"item_neighbours_{codebook.name}",
        entities=[item],
        schema=[
            field
            for name in definitions.neighbours[codebook.name]
            for field in (
                Field(name=f"{name}_ids", dtype=Array(String), description="Nearest first."),
                Field(name=f"{name}_weights", dtype=Array(Float32), description="Their weights; the sum is 1."),
            )
        ],
        source=table_source(f"item_neighbours_{codebook.name}", "Neighbours of the items known at the fit end."),
        owner=definitions.owner,
        description="Nearest items of items known at the codebook's fit end, available from then on.",
        tags={**definitions.tags, **codebook.tags},
    )
    for codebook in definitions.codebooks
    if codebook.name in definitions.neighbours
}
# Feast collects module attributes, not the values of a dict.
views = (semantic_id_views, code_stats_views, user_code_stats_views, item_neighbours_views)
globals().update({view.name: view for each in views for view in each.values()})
