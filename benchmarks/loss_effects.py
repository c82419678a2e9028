"""What auxiliary losses do to a model: their values, and their gradients on embedding tables relative to the click loss's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ranking.data.batch import Batch
from ranking.models.ctr_model import CtrModel
from ranking.models.representations.opq_neighbours import cell_keys
from ranking.models.representations.rq_opq_gate import RqOpqGateRepresentation
from ranking.models.spec import ModelSpec
from ranking.training.ranker import Ranker, make_model

BATCHES = 4


def model_with(ranker: Ranker, spec: ModelSpec, state: Mapping[str, torch.Tensor]) -> CtrModel:
    """A model with the weights ``state`` and the losses of ``spec``."""
    config = dataclasses.replace(ranker.config, model=spec)
    model = make_model(config, ranker.vocabulary, fitted_of(ranker))
    model.load_state_dict(dict(state))
    return model


def fitted_of(ranker: Ranker) -> dict[str, dict[str, torch.Tensor]]:
    """The fitted state of the representations of a ranker."""
    return {
        name: {key.removeprefix("fitted_"): each for key, each in part.named_buffers() if key.startswith("fitted_")}
        for name, part in zip(ranker.config.representations, ranker.model.parts, strict=True)
    }


def first_batches(ranker: Ranker, train: Any, rows: int) -> list[Batch]:
    """The first batches of a shuffled epoch."""
    batches = ranker.batches(train)
    batches.learn_matches(ranker.model.matches)
    found = []
    for batch in batches.batches(rows, torch.Generator().manual_seed(0)):
        found.append(batch)
        if len(found) == BATCHES:
            break
    batches.forget_matches()
    return found


def loss_facts(model: CtrModel, spec: ModelSpec, batches: Sequence[Batch]) -> dict[str, dict[str, float]]:
    """Per loss: its mean ``value`` without the weight, and ``gradient``, the norm of its weighted gradient on the embedding
    tables that it reaches, divided by that of the click loss on the same tables.
    """
    model.train()
    weights = {}
    for name, module in [*zip(model.names, model.parts, strict=True), (model.history_name, model.history)]:
        weights |= {f"{name}.{loss}": getattr(spec, key) for loss, key in module.losses(spec).items()}
    tables = [part.module.weight for part in model.evaluated_parts() if part.kind == "table"]
    found: dict[str, list[tuple[float, float]]] = {}
    for number, batch in enumerate(batches):
        torch.manual_seed(number)
        click = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
        auxiliary = model.auxiliary(batch)
        of_click = torch.autograd.grad(click, tables, retain_graph=True, allow_unused=True)
        for name, loss in auxiliary.items():
            own = torch.autograd.grad(loss, tables, retain_graph=True, allow_unused=True)
            pairs = [
                (each, main) for each, main in zip(own, of_click, strict=True) if each is not None and main is not None
            ]
            norms = [np.sqrt(sum(float(each[at].square().sum()) for each in pairs)) for at in (0, 1)]
            found.setdefault(name, []).append((float(loss.detach()) / weights[name], norms[0] / max(norms[1], 1e-30)))
    model.eval()
    return {
        name: {
            "value": float(np.mean([each[0] for each in values])),
            "gradient": float(np.mean([each[1] for each in values])),
        }
        for name, values in found.items()
    }


def contrast_batches(model: CtrModel, batches: Sequence[Batch], most: int) -> dict[str, float] | None:
    """What batches hold for the contrast of ``rq_opq_gate``: distinct candidates with codes and the share of them that has a
    positive; negatives per anchor, and how many of those share its first RQ code, or all of them.
    """
    part = next((each for each in model.parts if isinstance(each, RqOpqGateRepresentation)), None)
    if part is None or not part.has_opq:
        return None
    found = []
    for batch in batches:
        places = torch.unique(batch.candidate)
        codes = batch.items.take(places).codes
        codes = codes[(codes >= 0).all(dim=1)]
        keys = cell_keys(codes, part.residual_levels, part.sizes)
        late = torch.full((len(keys),), torch.iinfo(torch.int64).max)
        _, near, has = part.positives(keys, late)
        negative = ((keys[:, None, None] == torch.cat([keys[:, None], near], dim=1)[None]).any(dim=2)).T.logical_not()
        share = min(1.0, most / max(1, len(keys)))
        rq = codes[:, : part.residual_levels]
        first = negative & (rq[:, None, 0] == rq[None, :, 0])
        whole = negative & (rq[:, None] == rq[None]).all(dim=2)
        rows = [each[has].sum(dim=1).float().mean() * share for each in (negative, first, whole)]
        found.append([len(keys), float(has.float().mean()), *map(float, rows)])
    names = ("candidates", "with_positive", "negatives", "same_first_code", "same_codes")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))
