"""Item representations: how an item becomes a vector inside the ranker. One file and one line here each.

To add one: write a file with a class on :class:`ranking.models.representations.base.Representation` and name it below. It must
give ``from_spec`` and ``forward``; it may override ``encode`` (a candidate vector that sees its row), ``fit`` (state learned
from the training rows, kept in the artefact), ``auxiliary`` (losses of its own, already weighted) and ``match``. Its options
are fields of :class:`ranking.models.spec.ModelSpec`. Everything else follows: presets may name it, the model, training,
artefacts and serving use it through the contract alone, and ``tests/ranking/models/test_representation_laws.py`` checks it.

The registry names the classes without importing them, so that a preset can be read without torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from sidkit.core.errors import ConfigError

if TYPE_CHECKING:
    from ranking.models.representations.base import Representation

REPRESENTATIONS = {
    "id": "ranking.models.representations.id:IdRepresentation",
    "content": "ranking.models.representations.content:ContentRepresentation",
    "prefix_ngram": "ranking.models.representations.prefix_ngram:PrefixNgramRepresentation",
    "sid": "ranking.models.representations.sid:SidRepresentation",
    "ngram": "ranking.models.representations.ngram:NgramRepresentation",
    "spm": "ranking.models.representations.spm:SpmRepresentation",
    "mba": "ranking.models.representations.mba:MbaRepresentation",
    "rq_opq_gate": "ranking.models.representations.rq_opq_gate:RqOpqGateRepresentation",
}

BEHAVIOUR = frozenset({"id", "rq_opq_gate"})
"""Representations that know an item by its id. All others know it by its content or by codes of it: the modality space."""

WITHOUT_CODES = frozenset({"id", "content"})
"""Representations that read no codes."""

__all__ = ["BEHAVIOUR", "REPRESENTATIONS", "WITHOUT_CODES", "check_representations", "representation"]


def representation(name: str) -> type[Representation]:
    """The class of a representation.

    Raises
    ------
    KeyError
        When there is none of that name.
    """
    module, _, kind = REPRESENTATIONS[name].partition(":")
    return cast("type[Representation]", getattr(importlib.import_module(module), kind))


def check_representations(names: Sequence[str], history: str) -> None:
    """Refuse representations that do not exist, or that a kind of history cannot be built on.

    Raises
    ------
    ConfigError
        Saying what is missing and what there is.
    """
    unknown = [name for name in names if name not in REPRESENTATIONS]
    if unknown or not names:
        raise ConfigError(f"no item representation {unknown}; there are {', '.join(REPRESENTATIONS)}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"item representation {', '.join(repeated)} came twice; name each once")
    if history == "bidirectional" and len({name in BEHAVIOUR for name in names}) < 2:
        missing = "behaviour" if not BEHAVIOUR & set(names) else "modality"
        fit = [name for name in REPRESENTATIONS if (name in BEHAVIOUR) == (missing == "behaviour")]
        raise ConfigError(
            f'history = "bidirectional" compares two spaces and {", ".join(names)} has no {missing} space; add one of '
            f"{', '.join(fit)}, or use another history"
        )
