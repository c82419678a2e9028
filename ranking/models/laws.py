"""Contract checks of item representations and histories, for authors of plug-ins.

The built-in classes have additional tests in ``tests/ranking/models``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ranking.data.batch import Batch, ItemBatch, Seen
from ranking.data.numeric_features import feature_names
from ranking.models.histories.base import History, Space
from ranking.models.parts import Part, forced_off, listening, parts_in
from ranking.models.representations.base import ItemShape, Representation
from ranking.models.spec import ModelSpec, with_weight
from sidkit.core.laws import require

_SHAPE = ItemShape(vocabulary=12, sizes=(4, 3, 2), content_dim=6, residual_levels=2, numeric_dim=len(feature_names()))
_ITEMS, _ROWS, _LENGTH = 10, 8, 4


def check_representation(kind: type[Representation], spec: ModelSpec | None = None) -> None:
    """Build a representation for ten random items and check the contract.

    Parameters
    ----------
    kind : type
        Subclass of :class:`~ranking.models.representations.base.Representation`.
    spec : ModelSpec, optional
        Options of the model; default: ``ModelSpec()``.

    Raises
    ------
    PluginError
        When the class violates the contract; the message names the first violated requirement.
    """
    spec, name, batch = spec or ModelSpec(), kind.__name__, _batch()
    fitted = kind.fit(_SHAPE, spec, _seen(batch.items))
    part = kind.from_spec(_SHAPE, spec, fitted).eval()
    with torch.no_grad():
        vectors = part(batch.items)
        expected = (_ITEMS, part.dim)
        require(
            tuple(vectors.shape) == expected,
            name,
            f"forward must return float32 {expected} (dim), got {tuple(vectors.shape)}",
        )
        require(
            bool(torch.isfinite(vectors).all()), name, "unknown items and items without codes must have finite vectors"
        )
        alone = torch.cat([part(batch.items.take(torch.tensor([index]))) for index in range(_ITEMS)])
        require(_close(alone, vectors), name, "the vector of an item must not depend on the other items of its batch")
        items, candidates = part.encode(batch)
        valid = items.shape == vectors.shape and tuple(candidates.shape) == (_ROWS, part.dim)
        require(
            valid, name, f"encode must return vectors of the items [{_ITEMS}, dim] and of the candidates [{_ROWS}, dim]"
        )
        matches = part.match(batch.items, batch.candidate, batch.history, batch.mask)
        require(
            tuple(matches.shape) == (_ROWS, part.match_dim),
            name,
            f"match must return [{_ROWS}, match_dim], got {tuple(matches.shape)}",
        )
        restored = kind.from_spec(_SHAPE, spec, fitted)
        restored.load_state_dict(part.state_dict())
        require(
            _close(restored.eval()(batch.items), vectors),
            name,
            "a new object with the same state_dict must give the same vectors",
        )
        _check_parts(part, name, lambda: torch.cat(part.encode(batch)))
    _check_losses(kind, spec, fitted, batch)
    losses = part.train().auxiliary(batch)
    loss = sum((loss for loss in losses.values()), start=part.encode(batch)[1].square().sum())
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in part.named_parameters()}
    bad = [
        name for name, grad in gradients.items() if grad is not None and not bool(torch.isfinite(_dense(grad)).all())
    ]
    require(not bad, name, f"gradients must be finite, got infinite or NaN values for {', '.join(bad)}")


def check_history(kind: type[History], spec: ModelSpec | None = None) -> None:
    """Pool eight random histories and check the contract.

    Parameters
    ----------
    kind : type
        Subclass of :class:`~ranking.models.histories.base.History`.
    spec : ModelSpec, optional
        Options of the model; default: ``ModelSpec()``.

    Raises
    ------
    PluginError
        When the class violates the contract; the message names the first violated requirement.
    """
    spec, name, batch = spec or ModelSpec(), kind.__name__, _batch()
    torch.manual_seed(0)
    history = kind(modality_dim=6, behaviour_dim=4, spec=spec).eval()
    rows = [torch.randn(_ITEMS, width) for width in (6, 4)]
    with torch.no_grad():
        pooled = history(*(_space(vectors, batch) for vectors in rows), batch)
        expected = (_ROWS, history.dim)
        require(
            tuple(pooled.shape) == expected,
            name,
            f"forward must return float32 {expected} (dim), got {tuple(pooled.shape)}",
        )
        require(bool((pooled[~batch.mask.any(dim=1)] == 0).all()), name, "an empty history must give zeros")
        padding = [torch.cat([torch.full((1, vectors.shape[1]), 9.0), vectors[1:]]) for vectors in rows]
        repadded = history(*(_space(vectors, batch) for vectors in padding), batch)
        require(_close(repadded, pooled), name, "padding (item 0, where mask is false) must not change the result")
        first = dataclasses.replace(
            batch,
            **{name: getattr(batch, name)[:1] for name in ("candidate", "history", "mask", "gap_bucket", "numeric")},
        )
        alone = history(*(_space(vectors, first) for vectors in rows), first)
        require(_close(alone, pooled[:1]), name, "the result of a row must not depend on the other rows of its batch")
        _check_parts(history, name, lambda: history(*(_space(vectors, batch) for vectors in rows), batch))


def _check_parts(module: nn.Module, name: str, output: Callable[[], Tensor]) -> None:
    """Check that every part of a module can be forced off, and that nothing of it remains afterwards."""
    state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    before = output()
    for part in parts_in(module, name):
        for value in part.off_values:
            with forced_off(part, value):
                off = output()
                if part.kind == "attention":
                    _check_uniform(part, name, output)
            require(bool(torch.isfinite(off).all()), name, f"vectors must be finite with {part.name} forced off")
            same = all(torch.equal(state[key], tensor) for key, tensor in module.state_dict().items())
            require(
                same and torch.equal(output(), before),
                name,
                f"forcing {part.name} off must not change the state afterwards",
            )


def _check_uniform(part: Part, name: str, output: Callable[[], Tensor]) -> None:
    observed: list[tuple[Tensor, Tensor]] = []
    with listening(part, lambda weights, mask: observed.append((weights, mask))):
        output()
    require(bool(observed), name, f"{part.name} must pass its weights to observe")
    for weights, mask in observed:
        uniform = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        require(
            _close(weights, uniform[:, None].expand_as(weights)), name, f"{part.name} must be uniform while it is off"
        )


def _check_losses(kind: type[Representation], spec: ModelSpec, fitted: dict[str, Tensor], batch: Batch) -> None:
    """Check that each declared loss has no effect when its weight is 0."""
    for loss, key in kind.losses(spec).items():
        without = kind.from_spec(_SHAPE, with_weight(spec, key, 0.0), fitted).train()
        value = without.auxiliary(batch).get(loss)
        require(
            value is None or bool((value == 0).all()),
            kind.__name__,
            f"the loss {loss} must be 0 or absent if {key} is 0",
        )


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, atol=1e-5)


def _dense(grad: Tensor) -> Tensor:
    return grad.to_dense() if grad.is_sparse else grad


def _space(items: Tensor, batch: Batch) -> Space:
    return Space(items[batch.candidate], items)


def _batch() -> Batch:
    """Make a batch: item 0 is padding, 1 is unknown, 3 has no codes; the first history is full, the last one empty."""
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
        items.content.numpy(),
    )
