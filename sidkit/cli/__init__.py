"""The command line: all Typer code of the kit, and nothing else. It imports next to nothing until a command runs."""

from sidkit.cli.app import build_app, main

__all__ = ["build_app", "main"]
