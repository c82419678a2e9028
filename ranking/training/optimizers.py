"""Optimizers: AdamW, or AdamW plus row-wise Adagrad for embedding tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ranking.models.representations.base import Table
from ranking.training.spec import TrainingSpec


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator per table row, for sparse gradients.

    Costs grow with the rows that a batch looks up, not with the table, and an untouched row neither moves nor decays. No step
    of a row is longer (as a root mean square) than the learning rate, and steps shrink as a row's evidence grows: Adam's
    averages forget, so that under it a rare row jumps anew each time.

    Parameters
    ----------
    tables : iterable of nn.Parameter
        ``float32 [rows, dim]`` with sparse gradients.
    lr : float
        Learning rate.
    weight_decay : float
        Decoupled decay, ``weight -= lr * weight_decay * weight``, of the rows that a batch looked up.
    eps : float
        Added to the root of the accumulator.
    """

    def __init__(self, tables: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, eps: float = 1e-8) -> None:
        super().__init__(tables, {"lr": lr, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                gradient = table.grad.coalesce()
                rows, values = gradient.indices()[0], gradient.values()
                state: dict[str, Tensor] = self.state[table]
                if not state:
                    state["sum"] = torch.zeros(len(table), device=table.device)
                total = state["sum"]
                reached = total.index_select(0, rows) + values.square().mean(dim=1)
                total.index_copy_(0, rows, reached)
                move = values / (reached.sqrt() + group["eps"])[:, None]
                move += group["weight_decay"] * table.index_select(0, rows)
                table.index_add_(0, rows, move, alpha=-group["lr"])


def make_optimizers(model: nn.Module, spec: TrainingSpec) -> list[torch.optim.Optimizer]:
    """The optimizers of a model's layers and tables; sparse ones switch the tables' gradients to sparse."""
    sparse = spec.table_optimiser == "rowwise_adagrad"
    rowwise: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    known: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            (parameter,) = module.parameters()
            known.add(id(parameter))
            if isinstance(module, Table):
                module.sparse = sparse
            (rowwise if sparse and isinstance(module, Table) else tables).append(parameter)
    layers = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [
        {"params": tables, "lr": spec.table_learning_rate, "weight_decay": spec.table_weight_decay},
        {"params": layers, "lr": spec.learning_rate, "weight_decay": spec.weight_decay},
    ]
    adam = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
    if not rowwise:
        return [adam]
    return [adam, RowwiseAdagrad(rowwise, spec.table_learning_rate, spec.table_weight_decay)]
