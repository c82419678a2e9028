"""How far training moved the embedding tables of a model from their initial weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.models.ctr_model import CtrModel
from ranking.models.parts import Part
from ranking.training.liveness import TableChange


class TableTrace:
    """The initial weights of a model's tables, in main memory. It costs one copy of the tables and nothing per step.

    Parameters
    ----------
    model : CtrModel
        The untrained model.
    """

    def __init__(self, model: CtrModel) -> None:
        self._starts = {part.name: _weight(part).detach().cpu().clone() for part in _tables(model)}

    def changes(self, model: CtrModel, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, TableChange]:
        """Compare a trained model's tables with the start, by name of the part.

        Parameters
        ----------
        model : CtrModel
            The same model, trained.
        optimizers : sequence of Optimizer
            The optimizers of the training; their state tells which rows had a gradient.
        """
        return {
            part.name: _change(self._starts[part.name], _weight(part), updated_rows(_weight(part), optimizers))
            for part in _tables(model)
        }


def updated_rows(table: nn.Parameter, optimizers: Sequence[torch.optim.Optimizer]) -> Tensor:
    """Mask ``bool [rows]`` of the rows that had a gradient other than 0 in training, on the CPU."""
    for optimizer in optimizers:
        state = optimizer.state.get(table, {})
        for key in ("exp_avg_sq", "sum"):
            if key in state:
                squares: Tensor = state[key]
                return (squares.reshape(len(table), -1) > 0).any(dim=1).cpu()
    return torch.zeros(len(table), dtype=torch.bool)


def _change(start: Tensor, weight: nn.Parameter, updated: Tensor) -> TableChange:
    rows = updated if bool(updated.any()) else torch.ones_like(updated)
    before, after = start[rows].double(), weight.detach().cpu()[rows].double()
    return TableChange(size=_rms(after), start=_rms(before), change=_rms(after - before))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def _tables(model: CtrModel) -> list[Part]:
    return [part for part in model.evaluated_parts() if part.kind == "table"]


def _weight(part: Part) -> nn.Parameter:
    weight = part.module.weight
    assert isinstance(weight, nn.Parameter)
    return weight
