"""Format 2: records of stages, kept frames and kept predictions hold hashes; checkpoints of unfinished trainings go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json, remove
from sidkit.core.integrity import MANIFEST, MANIFEST_HASH, hash_of, seal_folder, write_sealed
from sidkit.core.repo import Repo
from sidkit.core.sealed_table import has_hash, read_kept_table, write_kept_table


def seal_runs(repo: Repo) -> list[str]:
    """Add hashes to what ``sidkit run`` and ``sidkit ranker compare`` keep."""
    done = []
    for run in sorted(repo.runs.glob("*")):
        for frame in (run / "frame", *sorted((run / "frames").glob("*"))):
            if frame.is_dir() and not (frame / MANIFEST).exists():
                seal_folder(frame)
                done.append(f"{frame}: hashes of its files")
        for folder in (run / "predictions", run / "units"):
            for path in sorted(folder.glob("*.parquet")):
                done += _seal_predictions(path)
        done += _seal_stages(run / "stages.json")  # last: it lists the predictions
    for checkpoint in sorted(repo.path.glob("artifacts/**/.checkpoint-*.safetensors")):
        remove(checkpoint)
        done.append(f"{checkpoint}: removed; that training begins anew")
    return done


def _seal_predictions(path: Path) -> list[str]:
    try:
        if has_hash(path):
            return []
        table, details = read_kept_table(path, without_hash=True)
    except (ArtifactCorruptError, OSError, pa.ArrowException):
        remove(path)
        return [f"{path}: was damaged and is removed; the next run makes it anew"]
    write_kept_table(path, table, details)
    return [f"{path}: a hash of itself"]


def _seal_stages(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        stages: Any = read_json(path)
        if MANIFEST_HASH in stages:
            return []
        write_sealed(path, {"stages": {name: _with_hashes(path.parent, stage) for name, stage in stages.items()}})
    except (ArtifactCorruptError, KeyError, TypeError, AttributeError):
        return [f"{path}: is damaged and was left as it is; the next run does its stages again"]
    return [f"{path}: hashes of the files of {len(stages)} stages"]


def _with_hashes(folder: Path, stage: dict[str, Any]) -> dict[str, Any]:
    """A stage with the hashes of the files that lie in the run's own folder."""
    files = {name: folder / name for name in stage["files"]}
    own = {
        name: hash_of(file) if folder.resolve() in file.resolve().parents and file.is_file() else None
        for name, file in files.items()
    }
    return {**stage, "files": own}
