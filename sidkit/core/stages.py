"""The stages of a job: done once, kept, and done again only when their inputs changed or their files are damaged.

The record is one JSON file with a hash of its own content. Files of the run's own folder are listed with their SHA-256; what
lies elsewhere in the repo has a manifest of its own. A record or a file of the run that is damaged is discarded and made again.
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

_STAGES = "stages"


@dataclass(frozen=True)
class StageResult:
    """What a stage gave: rows it handled, small JSON facts for later stages, and the files that must still be there."""

    rows: int
    facts: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


class Stages:
    """A record of finished stages in one JSON file.

    Parameters
    ----------
    path : Path
        The file; written after each stage, in one rename.
    announce : callable
        Called with (name, rows, seconds, kept) when a stage is done or was found done.
    """

    def __init__(self, path: Path, announce: Callable[[str, int, float, bool], None]) -> None:
        self._path = path
        self._announce = announce
        self._done = _recorded(path)
        self._ran: list[str] = []

    def run(self, name: str, inputs: Any, work: Callable[[], StageResult]) -> StageResult:
        """Do a stage, or keep it when it was done on the same inputs and its files are there.

        Parameters
        ----------
        name : str
            Unique in the job.
        inputs : JSON value
            Everything that decides the result.
        work : callable
            Does it; it must be safe to be killed and called again.
        """
        mark = content_hash(inputs)
        there = self._done.get(name)
        self._ran.append(name)
        # Relative to the record, so that a repo can be moved.
        files = tuple(self._path.parent / file for file in there["files"]) if there else ()
        if there and there["inputs"] == mark and self._whole(there["files"]):
            self._announce(name, there["rows"], there["seconds"], True)
            return StageResult(there["rows"], there["facts"], files)
        if self._done.pop(name, None):
            # From here on the files may be half new: what was recorded of them is no longer true.
            self._write()
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
        self._announce(name, result.rows, seconds, False)
        return result

    def _write(self) -> None:
        write_sealed(self._path, {_STAGES: self._done})

    def _hash(self, file: Path) -> str | None:
        """What the record holds of a file: nothing where a manifest of its own does."""
        own = self._path.parent.resolve() in file.resolve().parents
        return hash_of(file) if own and file.is_file() else None

    def _whole(self, files: Mapping[str, str | None]) -> bool:
        """Whether the files of a stage are there and are what they were."""
        for name, expected in files.items():
            file = self._path.parent / name
            if not file.exists():
                return False
            if expected is not None and hash_of(file) != expected:
                say_discarded(file.resolve(), "the file differs from its SHA-256 in the record of the stages")
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
        """Name, rows and seconds of the stages of this run, in order; a kept stage shows what it once took."""
        return [
            {"name": name, "rows": self._done[name]["rows"], "seconds": self._done[name]["seconds"]}
            for name in self._ran
        ]


def read_facts(path: Path, stage: str) -> dict[str, Any]:
    """The facts that a finished stage left in a record.

    Raises
    ------
    ArtifactCorruptError
        When the record is damaged or has no such stage.
    """
    done = read_sealed(path).get(_STAGES, {})
    if stage not in done:
        raise ArtifactCorruptError(path, f"it records no finished stage {stage!r}")
    facts: dict[str, Any] = done[stage]["facts"]
    return facts


def _recorded(path: Path) -> dict[str, Any]:
    """The finished stages of a record; none where it is damaged, so that all are done again."""
    if not path.exists():
        return {}
    try:
        done: dict[str, Any] = read_sealed(path)[_STAGES]
    except (ArtifactCorruptError, KeyError) as error:
        say_discarded(path, error.problem if isinstance(error, ArtifactCorruptError) else "it records no stages")
        return {}
    return done


def _verify(file: Path) -> None:
    """Compare what lies at a path with the manifest that lists it."""
    file = file.resolve()
    if file.is_dir():
        read_verified(file / MANIFEST)
    elif file.name == MANIFEST and file.parent.parent.parent.name == "artifacts":
        read_manifest(file.parent)
    else:
        checked(file)
