"""Item representations: map an item to a vector inside the ranker.

To add one, subclass :class:`ranking.models.representations.base.Representation` in a new file and register it below. It must
implement ``from_spec`` and ``forward``; it may override ``encode`` (a candidate vector that depends on its row), ``fit``
(state fitted on the training rows and saved in the artefact), ``auxiliary`` (weighted losses) and ``match``. Its options are
fields of :class:`ranking.models.spec.ModelSpec`. Presets can then use its name; the model, training, artefacts and serving
depend on the base class only, and ``tests/ranking/models/test_representation_laws.py`` tests it.

A plug-in needs no line here: a preset names it (:mod:`sidkit.core.plugins`), and its options are
``[ranker.model.options]``.

The registry refers to classes by path without importing them, so that presets can be read without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ranking.models.histories import BOTH_SPACES
from sidkit.core.errors import ConfigError
from sidkit.core.plugins import Registry

if TYPE_CHECKING:
    from ranking.models.representations.base import Representation

REPRESENTATIONS = {
    "id": "ranking.models.representations.id:IdRepresentation",
    "graph_smoothed": "ranking.models.representations.graph_smoothed:GraphSmoothedRepresentation",
    "content": "ranking.models.representations.content:ContentRepresentation",
    "prefix_ngram": "ranking.models.representations.prefix_ngram:PrefixNgramRepresentation",
    "sid": "ranking.models.representations.sid:SidRepresentation",
    "routed_sid": "ranking.models.representations.routed_sid:RoutedSidRepresentation",
    "ngram": "ranking.models.representations.ngram:NgramRepresentation",
    "spm": "ranking.models.representations.spm:SpmRepresentation",
    "mba": "ranking.models.representations.mba:MbaRepresentation",
    "code_queries": "ranking.models.representations.code_queries:CodeQueriesRepresentation",
    "rq_opq_gate": "ranking.models.representations.rq_opq_gate:RqOpqGateRepresentation",
    "group_mean": "ranking.models.representations.group_mean:GroupMeanRepresentation",
    "kept_views": "ranking.models.representations.kept_views:KeptViewsRepresentation",
}

REPRESENTATION_NAMES: Registry[Representation] = Registry(
    "item representation",
    "sidkit.representations",
    "ranking.models.representations.base:Representation",
    REPRESENTATIONS,
)
"""What ``representations`` of an arm may name: the above, and plug-ins."""

BEHAVIOUR = frozenset({"id", "graph_smoothed", "rq_opq_gate", "kept_views", "group_mean"})
"""Built-in representations that use the item id (behaviour space). All others use content or codes (modality space). A plug-in
states its space in the class attribute ``knows_ids``."""

WITHOUT_CODES = frozenset({"id", "graph_smoothed", "content"})
"""Built-in representations that do not use codes. A plug-in states this in the class attribute ``reads_codes``."""

__all__ = [
    "BEHAVIOUR",
    "REPRESENTATIONS",
    "REPRESENTATION_NAMES",
    "WITHOUT_CODES",
    "check_representations",
    "knows_ids",
    "reads_codes",
    "representation",
    "short_names",
]


def representation(name: str) -> type[Representation]:
    """Get the class of a representation by name.

    Raises
    ------
    ConfigError
        When the name is unknown.
    """
    return REPRESENTATION_NAMES.find(name)


def knows_ids(name: str) -> bool:
    """Whether a representation knows an item by its id: it then belongs to the behaviour space."""
    return name in BEHAVIOUR if name in REPRESENTATIONS else representation(name).knows_ids


def reads_codes(name: str) -> bool:
    """Whether a representation reads codes."""
    return name not in WITHOUT_CODES if name in REPRESENTATIONS else representation(name).reads_codes


def check_representations(names: Sequence[str], history: str) -> None:
    """Check that the representations exist and suit the history.

    Raises
    ------
    ConfigError
        When a name is unknown or repeated, or the history needs another representation.
    """
    unknown = [name for name in names if name not in REPRESENTATIONS and REPRESENTATION_NAMES.plugin(name) is None]
    if unknown or not names:
        raise ConfigError(
            f"expected item representations out of {', '.join(REPRESENTATIONS)}, got "
            f"{'unknown ' + ', '.join(map(repr, unknown)) if unknown else 'none'}"
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"item representation {', '.join(repeated)} is listed more than once; list each once")
    if history in BOTH_SPACES and len({knows_ids(name) for name in names}) < 2:
        missing = "behaviour" if not any(map(knows_ids, names)) else "modality"
        fit = [name for name in REPRESENTATIONS if (name in BEHAVIOUR) == (missing == "behaviour")]
        raise ConfigError(
            f'history = "{history}" needs a representation in the {missing} space, got {", ".join(names)}; add one of '
            f"{', '.join(fit)}, or use another history"
        )


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """Short names of representations or histories: a plug-in's class, or its whole reference if two classes have one name."""
    short = [name.rpartition(":")[2].partition("@")[0] for name in names]
    return tuple(name if short.count(each) > 1 else each for name, each in zip(names, short, strict=True))
