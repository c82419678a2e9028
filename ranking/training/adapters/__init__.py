"""Adapters: small corrections of a frozen scorer's logits, refitted on recent rows. Register a new one here.

An arm's ``adapter``, and ``sidkit ranker adapt --adapter``, may also name a plug-in (:mod:`sidkit.core.plugins`), a subclass of
:class:`ranking.training.adapters.base.Adapter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidkit.core.plugins import Registry

if TYPE_CHECKING:
    from ranking.training.adapters.base import Adapter

ADAPTERS = {
    "bias": "ranking.training.adapters.bias:BiasAdapter",
    "gate": "ranking.training.adapters.gate:GateAdapter",
}

ADAPTER_NAMES: Registry[Adapter] = Registry(
    "adapter", "sidkit.adapters", "ranking.training.adapters.base:Adapter", ADAPTERS
)
"""What an arm's ``adapter`` may name: the above, and plug-ins."""

__all__ = ["ADAPTERS", "ADAPTER_NAMES"]
