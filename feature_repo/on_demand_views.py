"""On-demand feature views: computed whenever they are read, by the same function in training and serving."""

from pathlib import Path

import numpy as np
import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from user_views import user_history

from semantic_ids.catalog import read_definitions

definitions = read_definitions(Path(__file__).resolve().parent)

# sidkit provides the request input `at_us`; other inputs come from the rows of a training set and the context of a request.
row_time = RequestSource(
    name="row_time",
    schema=[Field(name="at_us", dtype=Int64)],
    description="The time of a training row or a request, microseconds since the epoch, UTC.",
)


# Feast stores the source text of the function: it can use `pd` and `np`, and must import everything else itself.
@on_demand_feature_view(
    sources=[user_history[["timestamps_us"]], row_time],
    schema=[Field(name="hours_since_last_click", dtype=Float64)],
    mode="pandas",
    owner=definitions.owner,
    description="Hours since the newest positive of the user's history.",
    tags=definitions.tags,
)
def user_recency(inputs: pd.DataFrame) -> pd.DataFrame:
    newest = [np.nan if times is None or len(times) == 0 else times[0] for times in inputs["timestamps_us"]]
    return pd.DataFrame({"hours_since_last_click": (inputs["at_us"] - newest) / 3.6e9})
