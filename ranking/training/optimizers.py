"""Optimizers: AdamW, or AdamW plus row-wise Adagrad for embedding tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ranking.models.attention import RecencyBiases
from ranking.models.coded_layers import CategoryTable
from ranking.models.representations.base import CodeTable, Table
from ranking.training.spec import TrainingSpec


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator per table row, for sparse gradients.

    The cost is proportional to the rows that a batch looks up, not to the table, and other rows are neither updated nor
    decayed. The root mean square of a row's step is at most the learning rate, and steps shrink as the row's gradients
    accumulate. Under Adam, whose moving averages decay, a rare row takes a large step at each update.

    Parameters
    ----------
    tables : iterable of nn.Parameter, or of dict
        ``float32 [rows, dim]`` with sparse gradients; or groups of them, with their own settings.
    lr : float
        Learning rate.
    weight_decay : float
        Decoupled weight decay, ``weight -= lr * weight_decay * weight``, of the rows that a batch looked up.
    eps : float
        Added to the square root of the accumulator.
    """

    def __init__(
        self,
        tables: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
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
    """Make the optimizers of a model's layers, id tables and code tables; row-wise Adagrad enables sparse gradients on the
    tables. Tables of categories and recency biases, which have few rows, train like layers.
    """
    sparse = spec.table_optimiser == "rowwise_adagrad"
    rate_of_codes = spec.code_table_learning_rate or spec.table_learning_rate
    tables: dict[tuple[bool, float], list[nn.Parameter]] = {}
    known: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and not isinstance(module, CategoryTable | RecencyBiases):
            (parameter,) = module.parameters()
            if id(parameter) in known:
                continue
            known.add(id(parameter))
            if isinstance(module, Table):
                module.sparse = sparse
            rate = rate_of_codes if isinstance(module, CodeTable) else spec.table_learning_rate
            tables.setdefault((sparse and isinstance(module, Table), rate), []).append(parameter)
    layers = [parameter for parameter in model.parameters() if id(parameter) not in known]
    rowwise, dense = (
        [
            {"params": parameters, "lr": rate, "weight_decay": spec.table_weight_decay}
            for (by_row, rate), parameters in tables.items()
            if by_row == wanted
        ]
        for wanted in (True, False)
    )
    groups = [*dense, {"params": layers, "lr": spec.learning_rate, "weight_decay": spec.weight_decay}]
    adam = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
    if not rowwise:
        return [adam]
    return [adam, RowwiseAdagrad(rowwise, spec.table_learning_rate, spec.table_weight_decay)]
