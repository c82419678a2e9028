"""A Dockerfile read into instructions, and its steps run without Docker, in a folder in place of the root.

``python -m helpers.dockerfile examples/deploy/Dockerfile REPO`` (``make deploy``) copies and installs what the file copies
and installs, starts its command on a repository, and waits for its health check.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "CMD"}
SUPERUSER = ("useradd", "chown")
"""Programs of steps that need the superuser: left out."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name, and the rest of the line."""

    name: str
    text: str

    @property
    def array(self) -> list[str]:
        """The words of ``CMD ["a", "b"]``, also within HEALTHCHECK."""
        found: list[str] = json.loads(self.text[self.text.index("[") :])
        return found


def instructions(path: Path) -> list[Instruction]:
    """The instructions of a file, in order."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    found = [Instruction(*line.split(maxsplit=1)) for line in joined]
    unknown = {each.name for each in found} - KNOWN
    assert not unknown, f"{path}: instructions that are not known: {unknown}"
    return found


def last(found: Sequence[Instruction], name: str) -> Instruction:
    """The last instruction of a name, which is the one that counts."""
    return [each for each in found if each.name == name][-1]


@dataclass
class Built:
    """The steps run in a folder."""

    root: Path
    context: Path
    here: str = "/"
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def moved(self, text: str) -> str:
        """A text with the absolute paths of the file below the folder."""
        return re.sub(r"(?<![\w.:/])/(opt|src|repo)\b", rf"{self.root}/\1", text)

    def run(self, step: Instruction) -> None:
        """Run one step."""
        if step.name == "WORKDIR":
            self.here = step.text
            Path(self.moved(step.text)).mkdir(parents=True, exist_ok=True)
        elif step.name == "COPY" and not step.text.startswith("--from"):
            *sources, to = step.text.split()
            target = Path(self.moved(self.here)) / to
            for source in sources:
                self._copy(self.context / source, target, into=len(sources) > 1 or to.endswith("/"))
        elif step.name == "RUN" and not any(word in shlex.split(step.text) for word in SUPERUSER):
            script = self.moved(step.text).replace("python -m venv", f"{sys.executable} -m venv")
            subprocess.run(["bash", "-euc", script], cwd=self.moved(self.here), env=self.environment, check=True)
        elif step.name == "ENV":
            for pair in shlex.split(self.moved(step.text.replace("$PATH", self.environment["PATH"]))):
                name, _, value = pair.partition("=")
                self.environment[name] = value

    @staticmethod
    def _copy(source: Path, target: Path, *, into: bool) -> None:
        assert source.exists(), f"{source}: copied by the Dockerfile, but absent"
        if source.is_dir():
            left_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=left_out)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / source.name if into else target)


def main(path: Path, repo: Path) -> None:
    """Run all steps, start the command on a repository, and wait for the health check."""
    with tempfile.TemporaryDirectory() as folder:
        built = Built(Path(folder), path.parent.parent.parent)
        steps = instructions(path)
        for step in steps:
            sys.stdout.write(f"{step.name} {step.text}\n")
            built.run(step)
        (Path(folder) / "repo").symlink_to(repo.resolve())
        built.environment["SIDKIT_SERVE_TOKEN"] = secrets.token_hex(16)
        words = [built.moved(each) for each in last(steps, "CMD").array]
        health = last(steps, "HEALTHCHECK").array
        program = shutil.which(words[0], path=built.environment["PATH"])
        assert program is not None and program.startswith(folder), f"{words[0]} is not that of the image: {program}"
        process = subprocess.Popen([program, *words[1:]], env=built.environment, cwd=folder)
        try:
            end = time.monotonic() + 300
            while subprocess.run(health, env=built.environment, check=False, capture_output=True).returncode:
                assert process.poll() is None and time.monotonic() < end, "the health check did not succeed"
                time.sleep(1)
            with urllib.request.urlopen("http://127.0.0.1:8000/") as page:  # its files are in the wheel
                assert b"<title>sidkit</title>" in page.read()
            sys.stdout.write("healthy\n")
        finally:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0, process.returncode


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
