"""What the commands of codebooks share: their group, and arguments that mean the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

Preset = Annotated[str, typer.Option(help="A preset's name or the path of a .toml.")]
Name = Annotated[str, typer.Argument(help="The codebook's name.")]

codebooks_app = typer.Typer(
    help="Codebooks: fit, publish, promote, retire, purge, refresh, look up.", no_args_is_help=True
)
