"""Options and arguments that mean the same in every command, and the groups that several modules add commands to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

DataOption = Annotated[
    str,
    typer.Option(
        help="A folder, a SQLAlchemy URL, synthetic[:strong|weak|none], or a class of your own that writes the tables: "
        "path/to/file.py:Class."
    ),
]
RepoOption = Annotated[Path, typer.Option("--repo", "-r", help="The repo's folder.", envvar="SIDKIT_REPO")]
AsOfOption = Annotated[
    Optional[str],  # noqa: UP045 (Typer reads the annotation)
    typer.Option("--as-of", help="Moment up to which rows are made, ISO-8601 with a zone; default now."),
]
AllowFutureOption = Annotated[
    bool, typer.Option("--allow-future", help="Accept an --as-of after now, where the log is a simulation.")
]

ItemsOption = Annotated[
    Optional[list[str]],  # noqa: UP045 (Typer reads the annotation)
    typer.Option(
        "--items",
        help="Item ids separated by commas, spaces around them do not count; or @FILE, one id per line. Repeatable.",
    ),
]
ItemOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--item", help="One item id, taken as it is, for ids with commas or spaces. Repeatable."),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse (exit 1) ids that are unknown.")]
Preset = Annotated[str, typer.Option(help="A preset's name or the path of a .toml.")]
Name = Annotated[str, typer.Argument(help="The codebook's name.")]

codebooks_app = typer.Typer(
    help="Codebooks: fit, publish, promote, retire, purge, refresh, look up.", no_args_is_help=True
)
data_app = typer.Typer(help="The source: check it, read it, or make a synthetic one.", no_args_is_help=True)
tables_app = typer.Typer(help="The feature tables.", no_args_is_help=True)
ranker_app = typer.Typer(help="Trained rankers.", no_args_is_help=True)
