"""Optimizers: AdamW, or AdamW plus row-wise Adagrad for embedding tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ranking.models.coded_layers import CategoryTable
from ranking.models.representations.base import Table
from ranking.training.spec import TrainingSpec


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator per table row, for sparse gradients.

    The cost is proportional to the rows that a batch looks up, not to the table, and other rows are neither updated nor
    decayed. The root mean square of a row's step is at most the learning rate, and steps shrink as the row's gradients
    accumulate. Under Adam, whose moving averages decay, a rare row takes a large step at each update.

    Parameters
    ----------
    tables : iterable of nn.Parameter
        ``float32 [rows, dim]`` with sparse gradients.
    lr : float
        Learning rate.
    weight_decay : float
        Decoupled weight decay, ``weight -= lr * weight_decay * weight``, of the rows that a batch looked up.
    eps : float
        Added to the square root of the accumulator.
    """

    def __init__(self, tables: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, eps: float = 1e-8) -> None:
        super().__init__(tables, {"lr": lr, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
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
                updated = total.index_select(0, rows) + values.square().mean(dim=1)
                total.index_copy_(0, rows, updated)
                update = values / (updated.sqrt() + group["eps"])[:, None]
                update += group["weight_decay"] * table.index_select(0, rows)
                table.index_add_(0, rows, update, alpha=-group["lr"])


def make_optimizers(model: nn.Module, spec: TrainingSpec) -> list[torch.optim.Optimizer]:
    """Make the optimizers of a model's layers and tables; row-wise Adagrad enables sparse gradients on the tables."""
    sparse = spec.table_optimiser == "rowwise_adagrad"
    rowwise: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    known: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and not isinstance(module, CategoryTable):
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
