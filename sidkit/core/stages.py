"""Resumable stages of a job: a stage runs again only if its inputs changed or its files are missing or damaged.

The record is one JSON file with a hash of its own content. It lists the files in the run's folder with their SHA-256; files
elsewhere in the repository have their own manifests. A damaged record or run file is discarded and rebuilt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidkit.core.artifact import read_manifest
from sidkit.core.config import content_hash
from sidkit.core.errors import ArtifactCorruptError, ArtifactError
from sidkit.core.integrity import MANIFEST, checked, hash_of, read_sealed, read_verified, say_discarded, write_sealed
from sidkit.core.progress import SILENT, Progress, StageDone

_STAGES = "stages"


@dataclass(frozen=True)
class StageResult:
    """Result of a stage: number of rows, small JSON facts for later stages, and the files it must have left."""

    rows: int
    facts: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


class Stages:
    """Runs stages and records the finished ones in one JSON file.

    Parameters
    ----------
    path : Path
        The record; written atomically after each stage.
    progress : Progress
        Receives the start of each stage that runs, and the end of all.
    """

    def __init__(self, path: Path, progress: Progress = SILENT) -> None:
        self._path = path
        self._progress = progress
        self._done = _recorded(path)
        self._ran: list[str] = []

    def run(
        self,
        name: str,
        inputs: Any,
        work: Callable[[], StageResult],
        still_there: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> StageResult:
        """Run a stage, or reuse its result if it ran on the same inputs and its files are intact.

        Parameters
        ----------
        name : str
            Unique in the job.
        inputs : JSON value
            Everything that determines the result.
        work : callable
            Does the work; must be safe to kill and call again.
        still_there : callable, optional
            Given the facts of the finished stage, whether what it left elsewhere than in files is still there; default: yes.
        """
        mark = content_hash(inputs)
        previous = self._done.get(name)
        self._ran.append(name)
        # Relative to the record, so that a repository can be moved.
        files = tuple(self._path.parent / file for file in previous["files"]) if previous else ()
        reusable = previous and previous["inputs"] == mark and self._whole(previous["files"])
        if previous and reusable and (still_there is None or still_there(previous["facts"])):
            self._progress.stage_finished(StageDone(name, previous["rows"], previous["seconds"], reused=True))
            return StageResult(previous["rows"], previous["facts"], files)
        if self._done.pop(name, None):
            # From here on the files may be partly rewritten, so the old entry must not stay.
            self._write()
        self._progress.stage_started(name)
        began = time.monotonic()
        result = work()
        seconds = round(time.monotonic() - began, 3)
        self._done[name] = {
            "inputs": mark,
            "rows": result.rows,
            "seconds": seconds,
            "facts": result.facts,
            "files": {os.path.relpath(file, self._path.parent): self._hash(file) for file in result.files},
        }
        self._write()
        self._progress.stage_finished(StageDone(name, result.rows, seconds, reused=False))
        return result

    def _write(self) -> None:
        write_sealed(self._path, {_STAGES: self._done})

    def _hash(self, file: Path) -> str | None:
        """Hash to record for a file of the run's folder; None if it has its own manifest."""
        in_run_folder = self._path.parent.resolve() in file.resolve().parents
        return hash_of(file) if in_run_folder and file.is_file() else None

    def _whole(self, files: Mapping[str, str | None]) -> bool:
        """Whether the files of a stage exist and are unchanged."""
        for name, expected in files.items():
            file = self._path.parent / name
            if not file.exists():
                return False
            if expected is not None and hash_of(file) != expected:
                say_discarded(file.resolve(), "the file does not match its SHA-256 in the stage record")
                return False
            try:
                _verify(file)
            except ArtifactCorruptError as error:
                if self._path.parent.resolve() in file.resolve().parents:
                    say_discarded(error.path, error.problem)
                return False
            except ArtifactError:
                return False
        return True

    def facts(self, name: str) -> dict[str, Any]:
        """The facts of a finished stage."""
        facts: dict[str, Any] = self._done[name]["facts"]
        return facts

    def report(self) -> Sequence[dict[str, Any]]:
        """Name, rows and seconds of the finished stages of this run, in order; a reused stage shows its original seconds."""
        return [
            {"name": name, "rows": self._done[name]["rows"], "seconds": self._done[name]["seconds"]}
            for name in self._ran
            if name in self._done
        ]


def read_facts(path: Path, stage: str) -> dict[str, Any]:
    """Read the facts of a finished stage from a record.

    Raises
    ------
    ArtifactCorruptError
        When the record is damaged or lacks the stage.
    """
    done = read_sealed(path).get(_STAGES, {})
    if stage not in done:
        raise ArtifactCorruptError(path, f"it has no finished stage {stage!r}")
    facts: dict[str, Any] = done[stage]["facts"]
    return facts


def _recorded(path: Path) -> dict[str, Any]:
    """The finished stages of a record; empty if it is damaged, so that all stages run again."""
    if not path.exists():
        return {}
    try:
        done: dict[str, Any] = read_sealed(path)[_STAGES]
    except (ArtifactCorruptError, KeyError) as error:
        say_discarded(path, error.problem if isinstance(error, ArtifactCorruptError) else "it has no stages")
        return {}
    return done


def _verify(file: Path) -> None:
    """Verify a file or folder against the manifest that lists it."""
    file = file.resolve()
    if file.is_dir():
        read_verified(file / MANIFEST)
    elif file.name == MANIFEST and file.parent.parent.parent.name == "artifacts":
        read_manifest(file.parent)
    else:
        checked(file)
