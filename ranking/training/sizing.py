"""Sizing of arms to a common parameter budget, so that no arm wins by having more parameters."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import nn

from ranking.data.batches import Vocabulary
from ranking.models.ctr_model import Fitted
from ranking.models.spec import SizedBy
from ranking.training.ranker import RankerConfig, make_model

_LARGEST = 1 << 20


@dataclass(frozen=True)
class Budget:
    """Target number of parameters, and the model key that is adjusted to meet it."""

    parameters: int
    sized_by: SizedBy


def parameters_of(config: RankerConfig, vocabulary: Vocabulary, fitted: Fitted | None = None) -> int:
    """Count the parameters of a configuration's model without allocating weights."""
    with torch.device("meta"):
        model = make_model(config, vocabulary, fitted)
    return sum(parameter.numel() for parameter in model.parameters())


def table_parameters(model: nn.Module) -> int:
    """Count the parameters in embedding tables, without counting shared ones twice."""
    tables = {
        id(parameter): parameter.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    return sum(tables.values())


def sized(config: RankerConfig, vocabulary: Vocabulary, fitted: Fitted, budget: Budget) -> RankerConfig:
    """Return the configuration at the size closest to the budget; ties go to the smaller size.

    Parameters
    ----------
    config : RankerConfig
        Configuration of any size; only ``budget.sized_by`` is changed.
    vocabulary : Vocabulary
        Vocabulary of the training rows.
    fitted : mapping
        Fitted state of the representations; independent of the size.
    budget : Budget
        The parameter budget.
    """

    def at(size: int) -> RankerConfig:
        return dataclasses.replace(config, model=config.model.model_copy(update={budget.sized_by: size}))

    @functools.cache
    def excess(size: int) -> int:
        return parameters_of(at(size), vocabulary, fitted) - budget.parameters

    low, high = 1, 1
    while excess(high) < 0 and high < _LARGEST:
        low, high = high, 2 * high
    # Parameters increase with size: excess(low) < 0 <= excess(high), unless size 1 exceeds or _LARGEST misses the budget.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return at(min((low, high), key=lambda size: (abs(excess(size)), size)))
