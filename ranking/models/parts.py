"""Parts of a model that can be forced off in evaluation: attentions, embedding tables, gates and auxiliary losses.

An attention derives from :class:`Attention`, and a gate passes its values through a :class:`Gate`; embedding tables need no
declaration. :func:`parts_in` lists the parts of any module, and :func:`forced_off` replaces the effect of one of them for
the duration of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sidkit.core.errors import EvaluationError

Kind = Literal["attention", "table", "gate"]
"""Kinds of parts that a module contains; auxiliary losses act in training only, see ``Representation.losses``."""
Listener = Callable[[Tensor, Tensor], None]
"""Receives attention weights ``float32 [rows, heads, length]`` and the mask ``bool [rows, length]`` of the valid items."""
GateListener = Callable[[Tensor], None]
"""Receives the values of a gate, of any shape."""
RECENCY = "recency"


class Attention(nn.Module):
    """Base class of attentions over a history.

    A subclass returns uniform weights over the valid items while :attr:`is_off`, and passes its weights to :meth:`observe`.
    """

    forced: float | None = None
    listener: Listener | None = None

    @property
    def is_off(self) -> bool:
        """Whether to pool by the mean; always false in training."""
        return self.forced is not None and not self.training

    def observe(self, weights: Tensor, mask: Tensor) -> None:
        """Report weights ``float32 [rows, heads, length]`` and the mask ``bool [rows, length]`` of the valid items."""
        if self.listener is not None:
            self.listener(weights, mask)


class Gate(nn.Module):
    """Passes the values of a gate through, or replaces them by a constant in evaluation. It has no parameters.

    Parameters
    ----------
    per_row : bool
        Whether it has one value per row of a batch; measurements then list its mean by the candidate's interactions.
    """

    forced: float | None = None
    listener: GateListener | None = None

    def __init__(self, per_row: bool = False) -> None:
        super().__init__()
        self.per_row = per_row

    def forward(self, values: Tensor) -> Tensor:
        """Map ``float32`` gate values of any shape to the same shape."""
        if self.listener is not None:
            self.listener(values)
        if self.forced is None or self.training:
            return values
        return torch.full_like(values, self.forced)


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a model.

    ``role`` is equal for parts of two arms that do the same, such as the id tables of two representations; it is the name
    unless the module declares another one.
    """

    name: str
    kind: Kind
    role: str
    module: nn.Module

    @property
    def off_values(self) -> tuple[float, ...]:
        """The values that the part is forced to: 0 and 1 for a gate, else one, for mean pooling or a table of zeros."""
        return (0.0, 1.0) if self.kind == "gate" else (0.0,)


class DeclaresRoles(nn.Module):
    """Base class of modules that give their parts the role of parts of other modules."""

    part_roles: ClassVar[Mapping[str, str]] = {}
    """Path of a part within the module -> its role, for parts that another module has under another name."""


def parts_in(module: nn.Module, label: str) -> tuple[Part, ...]:
    """List the attentions, embedding tables and gates of a module; those that share weights once.

    Parameters
    ----------
    module : nn.Module
        A representation, a history, or any other module.
    label : str
        Its name, the prefix of the names of its parts.
    """
    roles = module.part_roles if isinstance(module, DeclaresRoles) else {}
    parts: list[Part] = []
    known: set[int] = set()
    attentions = [path for path, each in module.named_modules() if isinstance(each, Attention)]
    for path, each in module.named_modules():
        kind = _kind_of(each)
        if kind is None:
            continue
        if isinstance(each, nn.Embedding | nn.EmbeddingBag):
            if id(each.weight) in known:
                continue
            known.add(id(each.weight))
        name = f"{label}.{path}" if path else label
        within = any(path.startswith(f"{attention}.") or not attention for attention in attentions)
        role = RECENCY if within and path.rpartition(".")[2] == RECENCY else name
        parts.append(Part(name, kind, roles.get(path, role), each))
    return tuple(parts)


@contextmanager
def forced_off(part: Part, value: float = 0.0) -> Iterator[None]:
    """Replace the effect of a part within a block: mean pooling for an attention, zeros for a table, ``value`` for a gate.

    The part is restored bit by bit at the end of the block, also after an exception. Training is not affected by a forced
    attention or gate, and a model in training mode is refused.

    Raises
    ------
    EvaluationError
        When the part is in training mode.
    """
    module = part.module
    if module.training:
        raise EvaluationError(
            f"expected a model in evaluation mode to force {part.name} off, got one in training mode; call eval() first"
        )
    if isinstance(module, Attention | Gate):
        before = module.forced
        module.forced = value
        try:
            yield
        finally:
            module.forced = before
        return
    if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
        raise TypeError(f"expected an attention, a gate or an embedding table, got {type(module).__name__}")
    weight = module.weight.data
    # One zero, expanded: a table of millions of rows is not copied.
    module.weight.data = weight.new_zeros(()).expand_as(weight)
    try:
        yield
    finally:
        module.weight.data = weight


@contextmanager
def listening(part: Part, listener: Listener) -> Iterator[None]:
    """Pass the weights of an attention to a listener within a block."""
    if not isinstance(part.module, Attention):
        raise TypeError(f"expected an attention, got the {part.kind} {part.name}")
    before = part.module.listener
    part.module.listener = listener
    try:
        yield
    finally:
        part.module.listener = before


@contextmanager
def observing(gate: Gate, listener: GateListener) -> Iterator[None]:
    """Pass the values of a gate to a listener within a block."""
    before = gate.listener
    gate.listener = listener
    try:
        yield
    finally:
        gate.listener = before


def _kind_of(module: nn.Module) -> Kind | None:
    if isinstance(module, Attention):
        return "attention"
    if isinstance(module, Gate):
        return "gate"
    return "table" if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None
