"""What commands print: status lines, results and warnings.

Results go to stdout. Status lines go there too and are left out with ``--quiet``. Warnings go to stderr.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from sidkit.core.errors import SidkitWarning

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Verbosity:
    """The options ``--quiet`` and ``--verbose`` of the running command."""

    quiet: bool = False
    verbose: bool = False


VERBOSITY = Verbosity()


def say(text: str) -> None:
    """Print a status line; nothing with ``--quiet``."""
    if not VERBOSITY.quiet:
        typer.echo(text)


def show(text: str) -> None:
    """Print a result."""
    typer.echo(text)


def show_json(value: Any) -> None:
    """Print one JSON value as the only output."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def json_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame as JSON values; times are ISO 8601 text."""
    records: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", date_format="iso", date_unit="s"))
    return records


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Print every :class:`SidkitWarning` as one line on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", SidkitWarning)
        shown = warnings.showwarning

        def show_warning(message: Warning | str, category: type[Warning], *place: Any, **named: Any) -> None:
            if issubclass(category, SidkitWarning):
                from sidkit.core.redact import scrubbed

                typer.echo(f"warning: {scrubbed(str(message))}", err=True)
            else:
                shown(message, category, *place, **named)

        warnings.showwarning = show_warning
        yield


@contextmanager
def measured() -> Iterator[None]:
    """With ``--verbose``, print time and memory of a command on stderr at its end."""
    started = time.monotonic()
    try:
        yield
    finally:
        if VERBOSITY.verbose:
            from sidkit.core.memory import peak_rss_mb

            typer.echo(f"took {time.monotonic() - started:.1f} s, peak memory {peak_rss_mb():,.0f} MB", err=True)
