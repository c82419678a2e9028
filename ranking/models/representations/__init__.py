"""Item representations: how an item becomes a vector inside the ranker. One file and one line here each.

To add one: write a file with a class on :class:`ranking.models.representations.base.Representation` and name it below. It must
give ``from_spec`` and ``forward``; it may override ``encode`` (a candidate vector that sees its row), ``fit`` (state learned
from the training rows, kept in the artefact), ``auxiliary`` (losses of its own, already weighted) and ``match``. Its options
are fields of :class:`ranking.models.spec.ModelSpec`. Everything else follows: presets may name it, the model, training,
artefacts and serving use it through the contract alone, and ``tests/ranking/models/test_representation_laws.py`` checks it.

A class of a user's own needs no line here: a preset names it as a plug-in (:mod:`sidkit.core.plugins`), and its options are
``[ranker.model.options]``.

The registry names the classes without importing them, so that a preset can be read without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sidkit.core.errors import ConfigError
from sidkit.core.plugins import Registry

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

REPRESENTATION_NAMES: Registry[Representation] = Registry(
    "item representation",
    "sidkit.representations",
    "ranking.models.representations.base:Representation",
    REPRESENTATIONS,
)
"""What ``representations`` of an arm may name: the above, and plug-ins."""

BEHAVIOUR = frozenset({"id", "rq_opq_gate"})
"""Built-in representations that know an item by its id. All others know it by its content or by codes of it: the modality
space. Of a plug-in its class says so (``knows_ids``)."""

WITHOUT_CODES = frozenset({"id", "content"})
"""Built-in representations that read no codes. Of a plug-in its class says so (``reads_codes``)."""

__all__ = [
    "BEHAVIOUR",
    "REPRESENTATIONS",
    "REPRESENTATION_NAMES",
    "WITHOUT_CODES",
    "check_representations",
    "knows_ids",
    "reads_codes",
    "representation",
]


def representation(name: str) -> type[Representation]:
    """The class of a representation.

    Raises
    ------
    ConfigError
        When there is none of that name.
    """
    return REPRESENTATION_NAMES.find(name)


def knows_ids(name: str) -> bool:
    """Whether a representation knows an item by its id: it then belongs to the behaviour space."""
    return name in BEHAVIOUR if name in REPRESENTATIONS else representation(name).knows_ids


def reads_codes(name: str) -> bool:
    """Whether a representation reads codes."""
    return name not in WITHOUT_CODES if name in REPRESENTATIONS else representation(name).reads_codes


def check_representations(names: Sequence[str], history: str) -> None:
    """Refuse representations that do not exist, or that a kind of history cannot be built on.

    Raises
    ------
    ConfigError
        Saying what is missing and what there is.
    """
    unknown = [name for name in names if name not in REPRESENTATIONS and REPRESENTATION_NAMES.plugin(name) is None]
    if unknown or not names:
        raise ConfigError(f"no item representation {unknown}; there are {', '.join(REPRESENTATIONS)}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"item representation {', '.join(repeated)} came twice; name each once")
    if history == "bidirectional" and len({knows_ids(name) for name in names}) < 2:
        missing = "behaviour" if not any(map(knows_ids, names)) else "modality"
        fit = [name for name in REPRESENTATIONS if (name in BEHAVIOUR) == (missing == "behaviour")]
        raise ConfigError(
            f'history = "bidirectional" compares two spaces and {", ".join(names)} has no {missing} space; add one of '
            f"{', '.join(fit)}, or use another history"
        )
