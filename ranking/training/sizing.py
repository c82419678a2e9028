"""The size that brings an arm to a comparison's budget of parameters, so that none wins by having more."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch

from ranking.data.batches import Vocabulary
from ranking.models.ctr_model import Fitted
from ranking.models.spec import SizedBy
from ranking.training.ranker import RankerConfig, make_model

_LARGEST = 1 << 20


@dataclass(frozen=True)
class Budget:
    """How many parameters an arm should have, and the key of its model by which it gets there."""

    parameters: int
    sized_by: SizedBy


def parameters_of(config: RankerConfig, vocabulary: Vocabulary, fitted: Fitted | None = None) -> int:
    """Parameters of a configuration's model; no weight is made."""
    with torch.device("meta"):
        model = make_model(config, vocabulary, fitted)
    return sum(parameter.numel() for parameter in model.parameters())


def sized(config: RankerConfig, vocabulary: Vocabulary, fitted: Fitted, budget: Budget) -> RankerConfig:
    """The configuration at the size whose parameters come nearest to the budget; the smaller of two that are as near.

    Parameters
    ----------
    config : RankerConfig
        With any size; all else stays.
    vocabulary : Vocabulary
        Of the training rows.
    fitted : mapping
        Of the representations; it does not depend on the size.
    budget : Budget
        To be met.
    """

    def at(size: int) -> RankerConfig:
        return dataclasses.replace(config, model=config.model.model_copy(update={budget.sized_by: size}))

    @functools.cache
    def excess(size: int) -> int:
        return parameters_of(at(size), vocabulary, fitted) - budget.parameters

    low, high = 1, 1
    while excess(high) < 0 and high < _LARGEST:
        low, high = high, 2 * high
    # Parameters grow with the size: excess(low) < 0 <= excess(high), unless 1 is too many or no size is enough.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return at(min((low, high), key=lambda size: (abs(excess(size)), size)))
