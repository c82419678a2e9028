"""The stages of a job: done once, kept, and done again only when their inputs changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidkit.config import content_hash
from sidkit.files import read_json, write_json


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
        self._done: dict[str, Any] = read_json(path) if path.exists() else {}
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
        if there and there["inputs"] == mark and all(file.exists() for file in files):
            self._announce(name, there["rows"], there["seconds"], True)
            return StageResult(there["rows"], there["facts"], files)
        if self._done.pop(name, None):
            # From here on the files may be half new: what was recorded of them is no longer true.
            write_json(self._path, self._done)
        began = time.monotonic()
        result = work()
        seconds = round(time.monotonic() - began, 3)
        self._done[name] = {
            "inputs": mark,
            "rows": result.rows,
            "seconds": seconds,
            "facts": result.facts,
            "files": [os.path.relpath(file, self._path.parent) for file in result.files],
        }
        write_json(self._path, self._done)
        self._announce(name, result.rows, seconds, False)
        return result

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
