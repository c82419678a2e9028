"""The house rules that a reader relies on: arrows point one way, and every room's surface is stated."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from helpers.places import ROOT

PACKAGES = ("sidkit", "semantic_ids", "ranking")
GROUND = {"sidkit.core", "sidkit.presets"}
DATA = GROUND | {"sidkit.contract", "sidkit.datasets", "sidkit.tables"}
CODES = {
    "semantic_ids",
    "semantic_ids.pairs",
    "semantic_ids.encoders",
    "semantic_ids.quantizers",
    "semantic_ids.quality",
}
BELOW_RANKING = DATA | {"sidkit.stores"} | CODES
MAY_IMPORT = {
    "sidkit.core": set(),
    "sidkit.presets": {"sidkit.core"},
    "sidkit.reports": {"sidkit.core"},
    "sidkit.profiles": {"sidkit.core"},
    "sidkit.contract": GROUND,
    "sidkit.datasets": GROUND | {"sidkit.contract"},
    "sidkit.tables": GROUND | {"sidkit.contract", "sidkit.datasets"},
    "sidkit.stores": DATA,
    "sidkit.upgrade": DATA | {"sidkit.stores"},
    "semantic_ids.pairs": DATA | {"semantic_ids"},
    "semantic_ids.encoders": DATA | {"semantic_ids", "semantic_ids.pairs"},
    "semantic_ids.quantizers": DATA | {"semantic_ids", "semantic_ids.pairs"},
    "semantic_ids.quality": DATA | CODES,
    "semantic_ids": DATA | CODES | {"sidkit.stores"},
    "semantic_ids.report": DATA | CODES | {"sidkit.reports"},
    "semantic_ids.pretrained": GROUND | {"sidkit.contract"},
    "ranking.data": BELOW_RANKING,
    "ranking.models": GROUND | {"ranking.data"},
    "ranking.evaluation": GROUND | {"ranking.data"},
    "ranking.training": GROUND | CODES | {"ranking.data", "ranking.models", "ranking.evaluation"},
    "ranking.serving": BELOW_RANKING | {"ranking.data", "ranking.models", "ranking.training"},
    "sidkit.serve": BELOW_RANKING | {"ranking.data", "ranking.evaluation", "ranking.training", "ranking.serving"},
    "ranking.pipeline": BELOW_RANKING
    | {"sidkit.reports", "semantic_ids.report", "ranking.data", "ranking.training", "ranking.evaluation"},
    "ranking.audit": BELOW_RANKING | {"ranking.data"},
    "ranking.monitoring": BELOW_RANKING
    | {
        "sidkit.reports",
        "ranking.data",
        "ranking.training",
        "ranking.evaluation",
        "ranking.serving",
        "ranking.pipeline",
    },
    "ranking.experiments": BELOW_RANKING
    | {
        "sidkit.reports",
        "ranking.data",
        "ranking.models",
        "ranking.evaluation",
        "ranking.training",
        "ranking.pipeline",
    },
}
MAY_IMPORT["sidkit.api"] = set(MAY_IMPORT)
"""Every room and the rooms below it; a room may import itself. Above all of them are ``sidkit.api`` and ``sidkit.cli``, and
beside them the three packages' ``__init__``, which name what is public."""


def room_of(module: str) -> str | None:
    """The room of a module of ours: the longest that it lies in; None of what lies in none."""
    parts = module.split(".")
    return next((name for end in range(len(parts), 0, -1) if (name := ".".join(parts[:end])) in MAY_IMPORT), None)


@cache
def imports_of(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported when the file is) of every import in a file."""
    tree = ast.parse(path.read_text())
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node not in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append((node.module, node not in inner))
    return found


def module_of(path: Path) -> str:
    """The dotted name of a file of ours."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def own_files() -> tuple[Path, ...]:
    """All files of the three packages."""
    return tuple(sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")))


def test_every_file_lies_in_a_room() -> None:
    free = {module_of(path) for path in own_files() if room_of(module_of(path)) is None}
    command_line = {name for name in free if name == "sidkit.cli" or name.startswith("sidkit.cli.")}
    assert free - command_line == {"sidkit", "sidkit.__main__", "ranking"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_arrows_point_down(room: str) -> None:
    for path in own_files():
        if room_of(module_of(path)) != room or module_of(path) == "semantic_ids":
            continue
        for module, _ in imports_of(path):
            if module.split(".")[0] in PACKAGES and module != "sidkit":
                assert room_of(module) in MAY_IMPORT[room] | {room}, f"{path.relative_to(ROOT)} imports {module}"


def test_the_rooms_have_an_order() -> None:
    # The files at the top of semantic_ids are of several floors: vectors below, fitting and the catalogue above.
    left = {room: below - {room, "semantic_ids"} for room, below in MAY_IMPORT.items() if room != "semantic_ids"}
    while floor := {room for room, below in left.items() if not below & left.keys()}:
        left = {room: below for room, below in left.items() if room not in floor}
    assert not left


def test_the_offline_store_does_not_know_the_online_store() -> None:
    for path in (ROOT / "sidkit" / "stores" / "offline").glob("*.py"):
        assert not [module for module, _ in imports_of(path) if module.startswith("sidkit.stores.online")], path.name


def test_only_the_command_line_speaks_typer_and_rich() -> None:
    for path in own_files():
        if "cli" not in path.relative_to(ROOT).parts and path != ROOT / "sidkit" / "api" / "progress.py":
            spoken = {module.split(".")[0] for module, _ in imports_of(path)} & {"typer", "rich"}
            assert not spoken, f"{path.relative_to(ROOT)} imports {', '.join(spoken)}"


def files_imported(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of ours that a file imports, for types only or in a function too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & modules.keys() or {node.module}
    return found & modules.keys()


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {module_of(path): path for path in own_files()}
    left = {name: files_imported(path, modules) - {name} for name, path in modules.items()}
    while floor := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in floor}
    assert not left, f"circles among {sorted(left)}"


def test_the_feature_definitions_import_the_catalogue_and_nothing_else_of_ours() -> None:
    files = sorted((ROOT / "feature_repo").glob("*.py"))
    assert len(files) == 7
    for path in files:
        ours = {module for module, _ in imports_of(path) if module.split(".")[0] in PACKAGES}
        assert ours <= {"semantic_ids.catalog"}, path.name


def test_feature_repo_is_no_python_package() -> None:
    assert not list((ROOT / "feature_repo").rglob("__init__.py"))


def test_the_template_holds_every_file_that_a_wheel_ships() -> None:
    import tomllib

    from sidkit.core.repo import _TEMPLATE_FILES

    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {Path(name).name for name in wheel["force-include"]} == set(_TEMPLATE_FILES)
    there = {path.name for path in (ROOT / "feature_repo").iterdir() if path.is_file()}
    assert set(_TEMPLATE_FILES) <= there


LIGHT = (
    "sidkit", "sidkit.tables", "semantic_ids.catalog", "semantic_ids.lifecycle", "ranking.pipeline.presets",
    "ranking.data.dataset",
)  # fmt: skip


@pytest.fixture(scope="module")
def heavy() -> dict[str, list[str]]:
    """The heavy libraries that are there after each module was imported, all in one fresh process."""
    script = (
        "import importlib, json, sys; heavy = {'torch', 'feast', 'faiss', 'sklearn'}\n"
        "for name in sys.argv[1:]: importlib.import_module(name); print(json.dumps([name, sorted(heavy & set(sys.modules))]))"
    )
    done = subprocess.run([sys.executable, "-c", script, *LIGHT], capture_output=True, text=True, check=True, cwd=ROOT)
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", LIGHT)
def test_heavy_libraries_are_imported_where_they_are_needed_only(heavy: dict[str, list[str]], module: str) -> None:
    assert heavy[module] == []


def test_feast_is_imported_without_torch_and_still_finds_it() -> None:
    script = (
        "import sys; from sidkit.stores.quiet_import import quiet_feast; quiet_feast(); before = 'torch' in sys.modules; "
        "from feast.online_response import get_torch; print(before, get_torch().Tensor.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "Tensor"]


def test_the_public_surface_is_pinned() -> None:
    import ranking
    import semantic_ids
    import sidkit
    from ranking.models.representations import REPRESENTATIONS
    from semantic_ids.encoders import ENCODERS
    from semantic_ids.quantizers import QUANTIZERS

    names = ["Project", "Repo", "Settings", "SidkitError", "SidkitWarning", "__version__", "init", "open"]
    assert sorted(sidkit.__all__) == names
    assert sorted(semantic_ids.__all__) == [
        "BehaviourEncoder",
        "Catalog",
        "Codebook",
        "CollaborativeEncoder",
        "ContentEncoder",
        "ItemPairs",
        "ItemVectors",
        "OptimizedProductQuantizer",
        "ProductQuantizer",
        "RQVAE",
        "ResidualKMeans",
        "ResidualOPQ",
        "load_codebook",
        "prefix_keys",
    ]
    assert sorted(ranking.__all__) == ["Dataset", "ExternalRanker", "Ranker", "Scorer", "TorchInputs", "build_dataset"]
    for package in (sidkit, semantic_ids, ranking):
        assert all(getattr(package, name) is not None for name in package.__all__)
    assert sorted(ENCODERS) == [
        "attribute_graph",
        "behaviour",
        "behaviour_mass",
        "collaborative",
        "content",
        "whitened_views",
    ]
    assert sorted(QUANTIZERS) == [
        "opq",
        "parallel_aspects",
        "pq",
        "psrq",
        "residual_kmeans",
        "rk_fsq",
        "rq_opq",
        "rq_vae",
        "shared_private",
    ]
    assert sorted(REPRESENTATIONS) == [
        "code_queries",
        "content",
        "graph_smoothed",
        "group_mean",
        "id",
        "kept_views",
        "mba",
        "ngram",
        "prefix_ngram",
        "routed_sid",
        "rq_opq_gate",
        "sid",
        "spm",
    ]


def test_nothing_unpickles_and_nothing_is_a_stub() -> None:
    words = ("import pickle", "pickle.load", "torch.load(", "joblib", "NotImplementedError", "TODO", "FIXME")
    for path in own_files():
        text = path.read_text()
        for word in words:
            assert word not in text, f"{path.relative_to(ROOT)}: {word}"


def test_every_error_is_in_the_drawn_tree() -> None:
    from sidkit.core import errors

    drawn = errors.__doc__ or ""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SidkitError)]
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.__name__ in drawn, kind.__name__
