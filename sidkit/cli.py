"""The front door: one Typer app that mounts the commands of the rooms and imports them lazily."""

from __future__ import annotations

import os
import sys

import typer

from sidkit.errors import SidkitError

app = typer.Typer(
    name="sidkit",
    help="Semantic IDs as ordinary features: from a raw click log to an online score.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def build_app() -> typer.Typer:
    """The app with all rooms mounted."""
    from ranking.commands import mount as mount_ranking
    from semantic_ids.commands import mount as mount_codebooks
    from sidkit.commands import mount as mount_ground

    if not app.registered_commands:
        mount_ground(app)
        mount_codebooks(app)
        mount_ranking(app)
    return app


def main() -> None:
    """Run the command line; what the kit refuses ends with one message on stderr and exit code 1."""
    # OpenMP threads that spin while they wait make small models 10 times slower as soon as a neighbour wants a core.
    # It is read when torch, faiss or scikit-learn are loaded, so it has to be said before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        build_app()()
    except SidkitError as error:
        typer.echo(f"sidkit: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
