"""A quantizer, an encoder, a representation, a history, a re-ranker or an adapter is one file and one line of its registry;
nothing else names it.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from helpers.places import ROOT
from ranking.models.histories import HISTORIES, HISTORY_NAMES
from ranking.models.representations import REPRESENTATION_NAMES, REPRESENTATIONS
from ranking.models.rerankers import RERANKER_NAMES, RERANKERS
from ranking.training.adapters import ADAPTER_NAMES, ADAPTERS
from semantic_ids.encoders import ENCODER_NAMES, ENCODERS
from semantic_ids.quantizers import QUANTIZER_NAMES, QUANTIZERS

REGISTRIES = {
    "semantic_ids/quantizers/__init__.py": (QUANTIZERS, QUANTIZER_NAMES),
    "semantic_ids/encoders/__init__.py": (ENCODERS, ENCODER_NAMES),
    "ranking/models/representations/__init__.py": (REPRESENTATIONS, REPRESENTATION_NAMES),
    "ranking/models/histories/__init__.py": (HISTORIES, HISTORY_NAMES),
    "ranking/models/rerankers/__init__.py": (RERANKERS, RERANKER_NAMES),
    "ranking/training/adapters/__init__.py": (ADAPTERS, ADAPTER_NAMES),
}
PARTS = [(registry, name) for registry, (known, _) in REGISTRIES.items() for name in known]
NAMED_ELSEWHERE = {
    "residual_kmeans": "the default of a codebook, and part of rq_opq and rk_fsq",
    "content": "the default and the fallback of a codebook, and a modality",
    "behaviour": "the base of behaviour_mass",
    "collaborative": "hit rates of later clicks are measured of it too",
    "pq": "the base of opq",
    "opq": "part of rq_opq",
    "id": "its dropout is that of other tables of ids",
    "target_attention": "the default history",
    "bidirectional": "the base of shared_gated",
    "rq_opq_gate": "comparisons explain its gate, and it is the base of kept_views",
    "sid": "the base of routed_sid",
}
"""Parts that other files name too, and why; a part that is new here belongs to no other file."""


def class_of(registry: str, name: str) -> type:
    return REGISTRIES[registry][1].find(name)


def names_in(path: Path) -> set[str]:
    """Names, texts and imported names of a file."""
    tree = ast.parse(path.read_text())
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}


SOURCES = {
    path.relative_to(ROOT).as_posix(): names_in(path)
    for package in ("semantic_ids", "ranking", "sidkit")
    for path in sorted((ROOT / package).rglob("*.py"))
}
SURFACE = {"semantic_ids/__init__.py", "ranking/__init__.py"}
"""What the packages export."""
NEW = (
    "psrq",
    "rk_fsq",
    "parallel_aspects",
    "whitened_views",
    "graph_smoothed",
    "kept_views",
    "attribute_graph",
    "group_mean",
    "code_queries",
    "shared_private",
    "behaviour_mass",
    "routed_sid",
)


@pytest.mark.parametrize(
    ("registry", "name"), PARTS, ids=[f"{registry.split('/')[-2]}-{name}" for registry, name in PARTS]
)
def test_every_part_has_a_file_of_its_own(registry: str, name: str) -> None:
    kind = class_of(registry, name)
    own = Path(inspect.getfile(kind)).relative_to(ROOT).as_posix()
    others = [each for known, each in PARTS if known == registry and each != name]
    assert own != registry
    assert own not in {Path(inspect.getfile(class_of(registry, each))).relative_to(ROOT).as_posix() for each in others}


@pytest.mark.parametrize("name", NEW)
def test_a_part_that_was_added_touches_its_file_and_its_registry_only(name: str) -> None:
    registry = next(registry for registry, each in PARTS if each == name)
    kind = class_of(registry, name)
    own = Path(inspect.getfile(kind)).relative_to(ROOT).as_posix()
    naming = {path for path, names in SOURCES.items() if {name, kind.__name__} & names}
    assert registry in naming and naming - {own, registry} == set()


def test_the_list_of_parts_that_other_files_name_is_complete() -> None:
    """A part that is added later is checked too, unless it is listed with a reason."""
    unlisted = []
    for registry, name in PARTS:
        kind = class_of(registry, name)
        own = Path(inspect.getfile(kind)).relative_to(ROOT).as_posix()
        naming = {path for path, names in SOURCES.items() if kind.__name__ in names} - {own, registry} - SURFACE
        if naming and name not in NAMED_ELSEWHERE:
            unlisted.append((name, sorted(naming)))
    assert unlisted == []
