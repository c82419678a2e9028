"""What the documents promise is run: the README's commands and the notebook."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import numpy as np
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient

from helpers.builders import FAST_PRESET
from helpers.commands import ask_well
from helpers.places import ROOT, TESTS
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quality.code_metrics import code_quality
from semantic_ids.quantizers import ResidualKMeans
from sidkit.datasets.synthetic import Sizes, write_world

README = (ROOT / "README.md").read_text()


COMMAND = 'subprocess.run([sys.executable, "-m", "sidkit", *map(str, arguments)], capture_output=True, text=True)'
"""How the notebooks run a command."""


def blocks(language: str, heading: str) -> list[str]:
    """Code blocks of a language under a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    commands = [line.split("#")[0].strip() for block in blocks("bash", "Two commands") for line in block.splitlines()]
    assert commands == ["make demo", "make test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"demo", "test", "real"} <= set(targets)


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
    for line in fast.splitlines():
        command = shlex.split(line, comments=True)
        # A process per command would mostly import: the shell runs the first, and those of Feast.
        if told and command[:1] == ["sidkit"]:
            assert not set("$|&;<>*") & set("".join(command)), "a shell is needed"
            told += ask_well(*command[1:]).out
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        told += done.stdout
    assert "the source is valid" in told and "item_sid_fast" in told
    (code,) = blocks("python", "Your own data in five minutes")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(action="ignore"):
        exec(code, {})
    assert printed.getvalue().startswith("[")


def test_every_setting_is_explained_and_every_explained_setting_exists() -> None:
    from sidkit.core.config import Settings

    table = README.split("\n## Settings\n")[1].split("\n## ")[0]
    explained = set()
    for line in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE):
        names = re.findall(r"`([\w.]+)`", line)
        section = names[0].split(".")[0]
        explained |= {f"{section}{name}" if name.startswith(".") else name for name in names}
    existing = {
        f"{section}.{key}"
        for section, kind in Settings.model_fields.items()
        for key in kind.annotation.model_fields  # type: ignore[union-attr]
    }
    assert explained == existing


def test_the_glossary_defines_every_metric_that_codebooks_show_prints() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    quantizer = ResidualKMeans((4, 3), force=True).fit(vectors)
    pairs = ItemPairs(np.array([0, 1]), np.array([2, 3]), np.ones(2, np.float32), np.ones(60, np.int64), end_us=0)
    printed = code_quality(quantizer, vectors, quantizer.encode(vectors), pairs)
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    section = glossary.split("\n## Codebook metrics\n")[1]
    defined = re.findall(r"^\| `(\w+)` \| [^|]*\| [^|]+\|$", section, flags=re.MULTILINE)
    assert sorted(defined) == sorted(printed)
    assert "(docs/glossary.md)" in README and "(docs/glossary.md#codebook-metrics)" in README
    terms = ("Semantic ID", "Codebook", "level", "Arm", "Gate", "GAUC", "OPQ", "InfoNCE", "MBA", "Mined pair", "Floor")
    for term in (*terms, "Promote", "Serving", "Cold", "Hit rate"):
        assert re.search(rf"\*\*[^*]*\b{term}\b[^*]*\*\*", glossary), term


def test_the_template_of_settings_holds_the_defaults() -> None:
    from sidkit.core.config import Settings

    assert Settings.load(ROOT / "feature_repo" / "sidkit.toml") == Settings()


@pytest.mark.filterwarnings("default")  # the kernel's own libraries warn
@pytest.mark.parametrize(
    ("name", "promised"),
    [
        ("01_quickstart", ("the source is valid", "best possible")),
        ("02_leakage", ("possible", "the log agrees", "STOPPED at the first difference", "AFTER the row")),
    ],
)
def test_the_notebooks_run(
    name: str, promised: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDKIT_NOTEBOOK_WORK", str(tmp_path))
    monkeypatch.setenv("SIDKIT_NOTEBOOK_IMPRESSIONS", "8000")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    # Its commands are run in the kernel, without the imports of a process for each.
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    for cell in notebook.cells:
        cell.source = cell.source.replace(COMMAND, "__import__('commands').as_process(arguments)")
    assert any("as_process" in cell.source for cell in notebook.cells)
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert all(text in printed for text in promised), printed
    assert shutil.disk_usage(tmp_path).free > 0
