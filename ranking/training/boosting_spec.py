"""Configuration of the gradient-boosting baseline; does not import scikit-learn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from sidkit.core.section import Section

Similarity = Literal["mean", "nearest", "nearest_5", "newest", "newest_5"]


class BoostingSpec(Section):
    """Trees and features of a gbdt arm (``[arms.NAME.boosting]``); ``benchmarks/tune_boosting.py`` chose the defaults."""

    trees: int = Field(default=800, ge=10)
    """Maximum number of trees; the validation AUC selects how many are used, in steps of 10."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Weight of each tree."""
    leaves: int = Field(default=7, ge=2)
    """Maximum number of leaves of a tree."""
    leaf_rows: int = Field(default=40, ge=1)
    """Minimum number of training rows in a leaf."""
    l2: float = Field(default=50.0, ge=0)
    """L2 penalty of the leaves' values."""
    feature_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the features that each split chooses from, drawn at random; below 1 the result depends on the seed."""
    content_axes: int = Field(default=16, ge=0)
    """Number of leading principal axes of the candidate's content vector that are features; 0 uses none."""
    history_axes: int = Field(default=0, ge=0)
    """Number of leading axes of the mean content vector of the history that are features; 0 uses none."""
    similarities: tuple[Similarity, ...] = ("mean", "nearest", "nearest_5", "newest", "newest_5")
    """Cosines of the candidate's content with the history: with the mean of its items, the nearest item, the mean of the five
    highest cosines, the newest item, the mean of the five newest items."""

    @field_validator("similarities")
    @classmethod
    def _similarities_are_distinct(cls, names: tuple[Similarity, ...]) -> tuple[Similarity, ...]:
        if len(set(names)) != len(names):
            raise ValueError(f"expected distinct similarities, got {', '.join(names)}; list each one once")
        return names

    @property
    def is_random(self) -> bool:
        """Whether another seed gives other trees."""
        return self.feature_share < 1
