"""The command line: all Typer code and nothing else. Heavy imports wait until a command runs."""

from sidkit.cli.app import build_app, main

__all__ = ["build_app", "main"]
