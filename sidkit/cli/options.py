"""Options and arguments shared by commands, and the command groups that several modules add to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

RepoOption = Annotated[Path, typer.Option("--repo", "-r", help="Path of the repository.", envvar="SIDKIT_REPO")]
AsOfOption = Annotated[
    Optional[str],  # noqa: UP045 (Typer reads the annotation)
    typer.Option("--as-of", help="Compute rows up to this time, ISO 8601 with a zone; default: now."),
]
AllowFutureOption = Annotated[
    bool, typer.Option("--allow-future", help="Accept an --as-of in the future, for simulated logs.")
]

ItemsOption = Annotated[
    Optional[list[str]],  # noqa: UP045 (Typer reads the annotation)
    typer.Option(
        "--items",
        help="Comma-separated item ids (spaces around them are ignored), or @FILE with one id per line. Repeatable.",
    ),
]
ItemOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--item", help="One item id, used verbatim, for ids with commas or spaces. Repeatable."),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit 1 if any id is unknown.")]
Preset = Annotated[str, typer.Option(help="Preset name or path of a .toml file.")]
Name = Annotated[str, typer.Argument(help="Codebook name.")]

codebooks_app = typer.Typer(
    help="Codebooks: fit, publish, promote, retire, purge, refresh, look up.", no_args_is_help=True
)
data_app = typer.Typer(help="Source data: check, ingest, embed, or generate a synthetic set.", no_args_is_help=True)
tables_app = typer.Typer(help="Feature tables and labelled rows.", no_args_is_help=True)
ranker_app = typer.Typer(help="Rankers: list, promote, evaluate, compare.", no_args_is_help=True)
