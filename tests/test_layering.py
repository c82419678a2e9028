"""The house rules that a reader relies on: arrows point one way, and every room's surface is stated."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("sidkit", "semantic_ids", "ranking")
MAY_IMPORT = {
    "sidkit": {"sidkit"},
    "semantic_ids": {"sidkit", "semantic_ids"},
    "ranking": {"sidkit", "semantic_ids", "ranking"},
}


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


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_one_way(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        for module, at_import in imports_of(path):
            top = module.split(".")[0]
            if top not in ROOMS or top in MAY_IMPORT[room]:
                continue
            lazily_from_the_door = path == ROOT / "sidkit" / "cli.py" and not at_import
            assert lazily_from_the_door, f"{path.relative_to(ROOT)} imports {module}"


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
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    left = {name: files_imported(path, modules) - {name} for name, path in modules.items()}
    while floor := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in floor}
    assert not left, f"circles among {sorted(left)}"


def test_the_feature_definitions_import_the_catalogue_and_nothing_else_of_ours() -> None:
    files = sorted((ROOT / "feature_repo").glob("*.py"))
    assert len(files) == 6
    for path in files:
        ours = {module for module, _ in imports_of(path) if module.split(".")[0] in ROOMS}
        assert ours <= {"semantic_ids.catalog"}, path.name


def test_feature_repo_is_no_python_package() -> None:
    assert not list((ROOT / "feature_repo").rglob("__init__.py"))


def test_the_template_holds_every_file_that_a_wheel_ships() -> None:
    import tomllib

    from sidkit.repo import _TEMPLATE_FILES

    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {Path(name).name for name in wheel["force-include"]} == set(_TEMPLATE_FILES)
    there = {path.name for path in (ROOT / "feature_repo").iterdir() if path.is_file()}
    assert set(_TEMPLATE_FILES) <= there


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("sidkit", {"torch", "feast", "faiss", "sklearn"}),
        ("sidkit.tables", {"torch", "feast", "faiss", "sklearn"}),
        ("semantic_ids.catalog", {"torch", "feast", "faiss", "sklearn"}),
        ("semantic_ids.pipeline", {"torch", "feast", "faiss", "sklearn"}),
        ("ranking.presets", {"torch", "feast", "faiss", "sklearn"}),
        ("ranking.training_set", {"torch", "feast", "faiss", "sklearn"}),
    ],
)
def test_heavy_libraries_are_imported_where_they_are_needed_only(module: str, banned: set[str]) -> None:
    script = f"import sys, {module}; print(sorted({banned!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_public_surface_is_pinned() -> None:
    import ranking
    import semantic_ids
    import sidkit
    from ranking.representations import REPRESENTATIONS
    from semantic_ids.encoders import ENCODERS
    from semantic_ids.quantizers import QUANTIZERS

    assert sorted(sidkit.__all__) == ["Repo", "Settings", "SidkitError", "__version__"]
    assert sorted(semantic_ids.__all__) == ["Catalog", "Codebook", "ItemVectors"]
    assert sorted(ranking.__all__) == ["Ranker", "Scorer", "TrainingSet", "build_training_set"]
    for package in (sidkit, semantic_ids, ranking):
        assert all(getattr(package, name) is not None for name in package.__all__)
    assert sorted(ENCODERS) == ["behaviour", "collaborative", "content"]
    assert sorted(QUANTIZERS) == ["opq", "pq", "random", "residual_kmeans", "rq_opq", "rq_vae", "shuffled"]
    assert sorted(REPRESENTATIONS) == ["content", "id", "mba", "ngram", "prefix_ngram", "rq_opq_gate", "sid", "spm"]


def test_nothing_unpickles_and_nothing_is_a_stub() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text()
            for word in (
                "import pickle",
                "pickle.load",
                "torch.load(",
                "joblib",
                "NotImplementedError",
                "TODO",
                "FIXME",
            ):
                assert word not in text, f"{path.relative_to(ROOT)}: {word}"


def test_every_error_is_in_the_drawn_tree() -> None:
    from sidkit import errors

    drawn = errors.__doc__ or ""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SidkitError)]
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.__name__ in drawn, kind.__name__
