"""One feature view per published codebook, since codes of different codebooks are not comparable.

Retired codebooks stay defined until `sidkit codebooks purge`: Feast drops the online table of a view missing here.
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
# Feast collects module attributes, not the values of a dict.
globals().update({view.name: view for view in semantic_id_views.values()})
