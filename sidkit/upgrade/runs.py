"""Format 2: stage records, saved frames and saved predictions have hashes; old checkpoints are removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json, remove
from sidkit.core.integrity import MANIFEST, MANIFEST_HASH, hash_of, seal_folder, write_sealed
from sidkit.core.repo import Repo
from sidkit.core.sealed_table import has_hash, read_sealed_table, write_sealed_table


def seal_runs(repo: Repo) -> list[str]:
    """Add hashes to the saved runs of ``sidkit run`` and ``sidkit ranker compare``."""
    done = []
    for run in sorted(repo.runs.glob("*")):
        for frame in (run / "frame", *sorted((run / "frames").glob("*"))):
            if frame.is_dir() and not (frame / MANIFEST).exists():
                seal_folder(frame)
                done.append(f"{frame}: added hashes of its files")
        for folder in (run / "predictions", run / "units"):
            for path in sorted(folder.glob("*.parquet")):
                done += _seal_predictions(path)
        done += _seal_stages(run / "stages.json")  # last, since it lists the predictions
    for checkpoint in sorted(repo.path.glob("artifacts/**/.checkpoint-*.safetensors")):
        remove(checkpoint)
        done.append(f"{checkpoint}: removed; the training starts over")
    return done


def _seal_predictions(path: Path) -> list[str]:
    try:
        if has_hash(path):
            return []
        table, details = read_sealed_table(path, without_hash=True)
    except (ArtifactCorruptError, OSError, pa.ArrowException):
        remove(path)
        return [f"{path}: damaged, removed; the next run rebuilds it"]
    write_sealed_table(path, table, details)
    return [f"{path}: added a hash of its content"]


def _seal_stages(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        stages: Any = read_json(path)
        if MANIFEST_HASH in stages:
            return []
        write_sealed(path, {"stages": {name: _with_hashes(path.parent, stage) for name, stage in stages.items()}})
    except (ArtifactCorruptError, KeyError, TypeError, AttributeError):
        return [f"{path}: damaged, left unchanged; the next run repeats its stages"]
    return [f"{path}: added hashes of the files of {len(stages)} stages"]


def _with_hashes(folder: Path, stage: dict[str, Any]) -> dict[str, Any]:
    """Add hashes of the files in the run's folder to a stage."""
    files = {name: folder / name for name in stage["files"]}
    hashes = {
        name: hash_of(file) if folder.resolve() in file.resolve().parents and file.is_file() else None
        for name, file in files.items()
    }
    return {**stage, "files": hashes}
