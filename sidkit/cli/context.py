"""The option ``--context``: values that a request brings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sidkit.core.errors import ConfigError

ContextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        help="NAME=VALUE, a value that the request brings; or @FILE with a JSON object of values, or of lists with a value "
        "per item.",
    ),
]


def read_context(stated: Sequence[str] | None) -> dict[str, Any]:
    """Read the values of ``--context``; a value on the command line is text, and converted to the type of its feature.

    Raises
    ------
    ConfigError
        When an option is neither NAME=VALUE nor @FILE, or the file is no JSON object.
    """
    context: dict[str, Any] = {}
    for each in stated or ():
        name, equals, value = each.partition("=")
        if each.startswith("@"):
            context |= _of_file(Path(each[1:]))
        elif equals and name:
            context[name] = value
        else:
            raise ConfigError(
                f"--context: expected NAME=VALUE or @FILE, got {each!r}; write for instance device=mobile"
            )
    return context


def _of_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--context: {path} cannot be read as JSON ({error}); write an object of values") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--context: expected a JSON object in {path}, got {type(values).__name__}; write an object")
    return values
