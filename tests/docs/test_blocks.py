"""Every code block of the documentation runs: Python and commands in order, settings and presets through their models.

A block with a title is a file; it is written before the blocks below it run.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from helpers import published_files
from helpers.commands import ask_well
from helpers.documents import Block, blocks_of, check_command, in_process, run_python, words
from helpers.places import EXAMPLES, ROOT
from ranking.pipeline.presets import Preset, load_preset
from sidkit.core.config import Settings, validated
from sidkit.datasets.synthetic import Sizes, write_world

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GUIDES = ("start", "how-to")
"""Folders whose commands are run; those of other pages are parsed."""
TOO_LONG = (
    "sidkit ranker compare", "sidkit run --data movielens:", "sidkit serve", "sidkit init my_spark_repo",
    "sidkit profile switch spark",
)  # fmt: skip
"""Commands of guides that take minutes, do not end, or need Spark: parsed only."""
MAY_FIND = "sidkit monitor"
"""A command that may end with code 3, because it found something."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source, a repository on which `sidkit run` finished, published files, and the examples."""
    folder = tmp_path_factory.mktemp("docs")
    write_world(folder / "my_data", "strong", Sizes(3_000), seed=1)
    ask_well("run", "--data", folder / "my_data", "--repo", folder / "my_repo")
    (folder / "demo").symlink_to("my_repo")
    published_files.movielens_1m(folder / "ml-1m")
    published_files.yambda(folder / "yambda")
    shutil.copytree(EXAMPLES, folder / "examples")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_blocks_of_a_page_run(page: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(page)
    known = {"bash", "figure", "python", "text", "toml", "yaml"}
    assert {block.language for block in blocks} <= known
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend("")
    runs_commands = page.relative_to(DOCS).parts[0] in GUIDES
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text)
        if block.language == "toml":
            check_toml(block)
        elif block.language == "python" and not block.title:
            run_python(compile(block.text, block.place, "exec"), namespace)
        elif block.language == "bash":
            for line in block.commands:
                check_command(line)
                if runs_commands and line.startswith(("sidkit ", "feast ")) and not line.startswith(TOO_LONG):
                    named = line.replace(" NAME", f" {serving()}") if " NAME" in line else line
                    in_process(*words(named), codes=(0, 3) if line.startswith(MAY_FIND) else (0,))


def serving() -> str:
    """The serving codebook of the prepared repository."""
    from semantic_ids.catalog import Catalog
    from sidkit.core.repo import Repo

    return Catalog.open(Repo.open(Path("my_repo"))).serving_codebook().name


def check_toml(block: Block) -> None:
    """Load settings or a preset; a titled block is a whole preset."""
    if block.title:
        load_preset(block.title)
        return
    values = tomllib.loads(block.text)
    if values.keys() <= Settings.model_fields.keys():
        validated(Settings, values, block.place)
    else:
        validated(Preset, {"arms": {"id": {"representations": ["id"]}}, **values}, block.place)


def test_every_guide_has_a_block_that_runs() -> None:
    guides = [page for page in PAGES if page.relative_to(DOCS).parts[0] in GUIDES]
    assert len(guides) > 10
    assert all({"bash", "python"} & {block.language for block in blocks_of(page)} for page in guides)


def test_a_wrong_command_is_reported() -> None:
    for line in (
        "sidkit fly",
        "sidkit run --data x --repo y --fly 1",
        "make nothing",
        "python benchmarks/arms.py --fly",
        "feast fly",
    ):
        with pytest.raises(Exception, match=r"."):
            check_command(line)
