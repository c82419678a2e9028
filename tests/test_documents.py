"""What the documents promise is run: the README's commands and the notebook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient

from builders import FAST_PRESET
from sidkit.datasets.synthetic import Sizes, write_world

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, heading: str) -> list[str]:
    """Code blocks of a language under a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    commands = [line.split("#")[0].strip() for block in blocks("bash", "Two commands") for line in block.splitlines()]
    assert commands == ["make demo", "make test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"demo", "test", "real"} <= set(targets)


def test_the_commands_for_your_own_data_work_as_written(tmp_path: Path) -> None:
    write_world(tmp_path / "my_data", "strong", Sizes(24_000), seed=1)
    log = pq.read_table(tmp_path / "my_data" / "interactions.parquet")
    rows = log.slice(20_000, 100).rename_columns({"timestamp": "event_timestamp"})
    pq.write_table(rows, tmp_path / "rows.parquet")
    # The commands of the clone's environment, and a preset that trains for seconds instead of minutes.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "\n".join(blocks("bash", "Your own data in five minutes"))
    fast = script.replace("--repo my_repo   ", f"--repo my_repo --preset {FAST_PRESET}", 1)
    assert "sidkit run" in fast and str(FAST_PRESET) in fast
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", fast],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "the contract holds" in done.stdout and "item_sid_fast" in done.stdout
    (code,) = blocks("python", "Your own data in five minutes")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("[")


def test_every_setting_is_explained_and_every_explained_setting_exists() -> None:
    from sidkit.config import Settings

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


def test_the_template_of_settings_holds_the_defaults() -> None:
    from sidkit.config import Settings

    assert Settings.load(ROOT / "feature_repo" / "sidkit.toml") == Settings()


@pytest.mark.filterwarnings("default")  # the kernel's own libraries warn
@pytest.mark.parametrize(
    ("name", "promised"),
    [
        ("01_quickstart", ("the contract holds", "best possible")),
        ("02_leakage", ("possible", "the log agrees", "STOPPED at the first difference", "AFTER the row")),
    ],
)
def test_the_notebooks_run(
    name: str, promised: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIDKIT_NOTEBOOK_WORK", str(tmp_path))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert all(text in printed for text in promised), printed
    assert shutil.disk_usage(tmp_path).free > 0
