"""Options that every command has: ``-h``, ``-q`` and ``-v``; and ``--version``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.main import get_command

from sidkit.cli.output import VERBOSITY, warnings_on_stderr


def with_warnings(context: typer.Context) -> None:
    """Semantic IDs as ordinary features, from a raw click log to an online score."""
    context.with_resource(warnings_on_stderr())


def _quiet(value: bool) -> None:
    VERBOSITY.quiet = VERBOSITY.quiet or value


def _verbose(value: bool) -> None:
    VERBOSITY.verbose = VERBOSITY.verbose or value


def _version(context: typer.Context, value: bool) -> None:
    if value and not context.resilient_parsing:
        from sidkit import __version__

        typer.echo(f"sidkit {__version__}")
        raise typer.Exit


def _options(
    quiet: Annotated[
        bool,
        typer.Option(
            "-q", "--quiet", callback=_quiet, expose_value=False, help="Print results, warnings and errors only."
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "-v",
            "--verbose",
            callback=_verbose,
            expose_value=False,
            help="Print details, time and memory, and tracebacks of errors.",
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, expose_value=False, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Declare the options, for Typer to create them as it creates those of commands."""


def add_shared_options(app: Any) -> None:
    """Add the options to a command and to all commands below it."""
    typed = typer.Typer(add_completion=False)
    typed.command()(_options)
    *everywhere, version = [option for option in get_command(typed).params if option.name != "help"]
    app.params.append(version)
    _add(app, everywhere)


def _add(command: Any, options: list[Any]) -> None:
    command.context_settings = {**command.context_settings, "help_option_names": ["-h", "--help"]}
    command.params.extend(options)
    for inner in getattr(command, "commands", {}).values():
        _add(inner, options)
