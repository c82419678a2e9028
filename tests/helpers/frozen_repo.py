"""The frozen repo of an older release, put where a test wants it: moved as a user moves a repo."""

from __future__ import annotations

import json
import tarfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.builders import MOMENT
from helpers.commands import ask_well
from helpers.places import TESTS

FROZEN = TESTS / "frozen" / "v1"
PRESET = FROZEN.parent / "frozen.toml"


def expected() -> dict[str, Any]:
    """What the release that made the repo read from it."""
    found: dict[str, Any] = json.loads((FROZEN / "expected.json").read_text())
    return found


def unpack(folder: Path) -> Path:
    """Unpack repo and source into a folder; returns the repo, whose registry belongs to another folder."""
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


def score(repo: Path) -> dict[str, float]:
    """The scores that ``expected.json`` holds, as they are now."""
    known = expected()
    told = ask_well(
        "score", "--repo", repo, "--user", known["user"], "--items", ",".join(known["items"]), "--at", known["at"],
        "--json",
    )  # fmt: skip
    scores: dict[str, float] = json.loads(told.out)["scores"]
    return scores


def frame(repo: Path, folder: Path) -> list[dict[str, Any]]:
    """The rows of the frame that ``expected.json`` holds, as they are now."""
    rows = [{name: row[name] for name in ("user_id", "item_id", "event_timestamp")} for row in expected()["frame"]]
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("event_timestamp", MOMENT)])
    rows = [{**row, "event_timestamp": datetime.fromisoformat(row["event_timestamp"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "asked.parquet")
    ask_well("frame", "--repo", repo, "--rows", folder / "asked.parquet", "--out", folder / "frame.parquet")
    return [
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
        for row in pq.read_table(folder / "frame.parquet").to_pylist()
    ]


def usable(folder: Path) -> Path:
    """The frozen repo in a folder, moved in, migrated, applied and materialized."""
    repo = unpack(folder)
    move_in(repo)
    for command in ("upgrade", "apply", "materialize"):
        ask_well(command, "--repo", repo)
    return repo
