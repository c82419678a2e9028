"""Configuration of an arm's ranker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ranking.data.coded_inputs import CodedInputs
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.numeric_features import Scaling, feature_names
from ranking.models.numeric_bins import binned, bins_of
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import ArmSpec
from ranking.training.ranker import RankerConfig


def ranker_config(
    arm: str, spec: ArmSpec, shared: ModelSpec, rows: Dataset | DiskDataset, rate: float, served: Mapping[str, Any]
) -> RankerConfig:
    """Build the configuration of an arm's ranker from its training rows.

    ``shared`` is ``ranker.model``, ``rate`` the training rate of positives, and ``served`` the fields of
    :class:`ranking.training.serving_spec.ServingSpec`.
    """
    model = spec.model_spec(shared)
    scaling = Scaling.fit_chunks(rows.feature_chunks(), rate)
    bins = bins_of(rows.schema, model.numeric_bins)
    if any(bins):
        scaling = binned(scaling, rows.feature_chunks(), bins)
    return RankerConfig(
        arm=arm,
        representations=spec.representations,
        model=model,
        numeric=feature_names(rows.schema),
        scaling=scaling,
        inputs=CodedInputs.fit(rows),
        content_dim=rows.items.content.shape[1],
        **served,
    )
