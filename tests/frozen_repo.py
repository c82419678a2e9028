"""The frozen repo of an older release, put where a test wants it: moved as a user moves a repo."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

FROZEN = Path(__file__).parent / "frozen" / "v1"


def expected() -> dict[str, Any]:
    """What the release that made the repo read from it."""
    found: dict[str, Any] = json.loads((FROZEN / "expected.json").read_text())
    return found


def unpack(folder: Path) -> Path:
    """Unpack repo, source and preset into a folder; returns the repo, whose registry belongs to another folder."""
    with tarfile.open(FROZEN / "repo.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "repo"


def move_in(repo: Path) -> None:
    """Do what the kit asks of the user of a moved repo: its own registry path and source, and no registry yet."""
    yaml, settings = repo / "feature_store.yaml", repo / "sidkit.toml"
    here = next(line for line in yaml.read_text().splitlines() if "sqlite:///" in line)
    yaml.write_text(yaml.read_text().replace(here, f'  path: "sqlite:///{repo}/data/registry.sqlite"'))
    lines = [f'url = "{repo.parent / "source"}"' if line.startswith("url = ") and "catalog" not in line else line
             for line in settings.read_text().splitlines()]  # fmt: skip
    settings.write_text("\n".join(lines) + "\n")
    (repo / "data" / "registry.sqlite").unlink()
