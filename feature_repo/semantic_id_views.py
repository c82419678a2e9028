"""One feature view per published codebook: code 17 of one codebook is not code 17 of another.

Retired codebooks stay defined until `sidkit codebooks purge`: a view that is missing here loses its online table.
"""

from pathlib import Path

from entities import item
from feast import FeatureView, Field
from feast.types import Array, Float32, Int64
from sources import table_source

from semantic_ids.catalog import read_definitions

definitions = read_definitions(Path(__file__).resolve().parent)

semantic_id_views = {
    codebook.name: FeatureView(
        name=codebook.view_name,
        entities=[item],
        schema=[
            Field(name="codes", dtype=Array(Int64), description=f"{codebook.levels} codes, coarse to fine."),
            Field(name="residual_norm", dtype=Float32, description="Length of what the codes leave unexplained."),
            Field(name="assigned_at_us", dtype=Int64, description="Wall clock of the assignment, microseconds UTC."),
        ],
        source=table_source(codebook.view_name, f"Codes of every item under codebook {codebook.name}."),
        owner=definitions.owner,
        description=f"Semantic ids: {codebook.summary}. Readable whenever the item's content is.",
        tags={**definitions.tags, **codebook.tags},
    )
    for codebook in definitions.codebooks
}
# Feast collects module attributes, not what lies in a dict.
globals().update({view.name: view for view in semantic_id_views.values()})
