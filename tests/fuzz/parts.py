"""What was found so far, a line per case in a file per kind: an interrupted run resumes where it stopped."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

from .outcome import Verdict
from .runner import Found

_TESTED = ("sidkit", "semantic_ids", "ranking", "feature_repo", "tests/fuzz")


def commit() -> str:
    """The commit of this checkout, with ``+`` where the tested code or the fuzzer differs from it."""
    folder = Path(__file__).parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "--", *_TESTED) else "")


class Parts:
    """The files ``KIND-SEED.jsonl`` in a folder; without a folder, nothing is stored.

    Parameters
    ----------
    folder : Path, optional
        The folder; it is created.
    seed : int
        The seed of all cases.
    any_commit : bool
        Take cases of other commits, too, instead of trying them again.
    """

    def __init__(self, folder: Path | None, seed: int, *, any_commit: bool = False) -> None:
        self.folder, self.seed, self.any_commit, self.commit = folder, seed, any_commit, commit()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def found(self, kind: str) -> dict[int, tuple[Found, str]]:
        """Case -> what became of it, and the commit; the last line of a case counts."""
        path = self._path(kind)
        if path is None or not path.exists():
            return {}
        known = {}
        for line in path.read_text().splitlines():
            try:
                stored = json.loads(line)
            except ValueError:  # cut off by an interruption
                continue
            if self.any_commit or stored["commit"] == self.commit:
                verdict = Verdict(**stored["verdict"])
                found = Found(kind, stored["case"], verdict, stored["seconds"], stored["again"])
                known[found.index] = found, stored["commit"]
        return known

    def add(self, found: Found) -> None:
        """Store one case."""
        path = self._path(found.kind)
        if path is None:
            return
        line = {
            "case": found.index, "commit": self.commit, "seconds": round(found.seconds, 3), "again": found.again,
            "verdict": asdict(found.verdict),
        }  # fmt: skip
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _path(self, kind: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{kind}-{self.seed}.jsonl"
