"""The laws that every item representation and every history keeps, as one call each for the author of a plug-in.

The kit's own classes are tested more closely in ``tests/ranking/models``.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.models.histories.base import History, Space
from ranking.models.representations.base import ItemShape, Representation
from ranking.models.spec import ModelSpec
from sidkit.core.errors import PluginError

_SHAPE = ItemShape(vocabulary=12, sizes=(4, 3, 2), content_dim=6, residual_levels=2, numeric_dim=5)
_ITEMS, _ROWS, _LENGTH = 10, 8, 4


def check_representation(kind: type[Representation], spec: ModelSpec | None = None) -> None:
    """Build a representation for ten random items and check what model, training and serving rely on.

    Parameters
    ----------
    kind : type
        A class on :class:`~ranking.models.representations.base.Representation`.
    spec : ModelSpec, optional
        With the options that it reads; by default the defaults.

    Raises
    ------
    PluginError
        At the first law that is broken; it says which.
    """
    spec, who, batch = spec or ModelSpec(), kind.__name__, _batch()
    fitted = kind.fit(_SHAPE, spec, _seen(batch.items))
    part = kind.from_spec(_SHAPE, spec, fitted).eval()
    with torch.no_grad():
        vectors = part(batch.items)
        expected = (_ITEMS, part.dim)
        _law(
            tuple(vectors.shape) == expected, who, f"forward gives float32 {expected} (dim), got {tuple(vectors.shape)}"
        )
        _law(bool(torch.isfinite(vectors).all()), who, "items that are unknown, or have no codes, have finite vectors")
        alone = torch.cat([part(batch.items.take(torch.tensor([place]))) for place in range(_ITEMS)])
        _law(_close(alone, vectors), who, "the vector of an item does not depend on the other items of its batch")
        own, candidates = part.encode(batch)
        right = own.shape == vectors.shape and tuple(candidates.shape) == (_ROWS, part.dim)
        _law(right, who, f"encode gives vectors of the items and of the candidates, [{_ROWS}, dim]")
        matches = part.match(batch.items, batch.candidate, batch.history, batch.mask)
        _law(tuple(matches.shape) == (_ROWS, part.match_dim), who, f"match gives [{_ROWS}, match_dim]")
        again = kind.from_spec(_SHAPE, spec, fitted)
        again.load_state_dict(part.state_dict())
        _law(
            _close(again.eval()(batch.items), vectors),
            who,
            "its state_dict, loaded into a new one, gives the same vectors",
        )
    losses = part.train().auxiliary(batch)
    loss = sum((loss for loss in losses.values()), start=part.encode(batch)[1].square().sum())
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in part.named_parameters()}
    bad = [
        name for name, grad in gradients.items() if grad is not None and not bool(torch.isfinite(_dense(grad)).all())
    ]
    _law(not bad, who, f"gradients are finite, not so of {', '.join(bad)}")


def check_history(kind: type[History], spec: ModelSpec | None = None) -> None:
    """Pool eight random histories and check what the model relies on.

    Parameters
    ----------
    kind : type
        A class on :class:`~ranking.models.histories.base.History`.
    spec : ModelSpec, optional
        With the options that it reads; by default the defaults.

    Raises
    ------
    PluginError
        At the first law that is broken; it says which.
    """
    spec, who, batch = spec or ModelSpec(), kind.__name__, _batch()
    torch.manual_seed(0)
    history = kind(modality_dim=6, behaviour_dim=4, spec=spec).eval()
    rows = [torch.randn(_ITEMS, width) for width in (6, 4)]
    with torch.no_grad():
        pooled = history(*(_space(each, batch) for each in rows), batch)
        expected = (_ROWS, history.dim)
        _law(tuple(pooled.shape) == expected, who, f"forward gives float32 {expected} (dim), got {tuple(pooled.shape)}")
        _law(bool((pooled[~batch.mask.any(dim=1)] == 0).all()), who, "an empty history gives zeros")
        padding = [torch.cat([torch.full((1, each.shape[1]), 9.0), each[1:]]) for each in rows]
        moved = history(*(_space(each, batch) for each in padding), batch)
        _law(_close(moved, pooled), who, "what lies in the padding (item 0, where mask is false) changes nothing")
        first = dataclasses.replace(
            batch,
            **{name: getattr(batch, name)[:1] for name in ("candidate", "history", "mask", "gap_bucket", "numeric")},
        )
        alone = history(*(_space(each, first) for each in rows), first)
        _law(_close(alone, pooled[:1]), who, "a row does not depend on the other rows of its batch")


def _law(kept: bool, who: str, law: str) -> None:
    if not kept:
        raise PluginError(f"{who} breaks a law of its contract: {law}")


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5)


def _dense(grad: Tensor) -> Tensor:
    return grad.to_dense() if grad.is_sparse else grad


def _space(items: Tensor, batch: Batch) -> Space:
    return Space(items[batch.candidate], items)


def _batch() -> Batch:
    """Item 0 is padding, item 1 unknown, item 3 has no codes; the first row's history is full, the last one's empty."""
    torch.manual_seed(0)
    codes = torch.stack([torch.randint(0, size, (_ITEMS,)) for size in _SHAPE.sizes], dim=1)
    codes[[0, 3]] = -1
    content = torch.randn(_ITEMS, _SHAPE.content_dim)
    content[0] = 0
    mask = torch.arange(_LENGTH) < (_LENGTH - torch.arange(_ROWS)).clamp(min=0)[:, None]
    return Batch(
        numeric=torch.randn(_ROWS, _SHAPE.numeric_dim),
        items=ItemBatch(torch.arange(_ITEMS), codes, content),
        candidate=torch.randint(1, _ITEMS, (_ROWS,)),
        history=torch.randint(1, _ITEMS, (_ROWS, _LENGTH)) * mask,
        mask=mask,
        gap_bucket=torch.zeros(_ROWS, _LENGTH, dtype=torch.int64),
        label=torch.rand(_ROWS).round(),
        at_us=torch.arange(_ROWS),
    )


def _seen(items: ItemBatch) -> Seen:
    count = np.arange(_ITEMS)
    return Seen(
        count,
        count,
        items.index.numpy(),
        items.codes.numpy(),
        lambda codes: np.sin(1.0 + codes[:, 2:]).astype(np.float32),
    )
