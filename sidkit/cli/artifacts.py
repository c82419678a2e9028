"""`sidkit artifacts`: codebooks, rankers and reports on a file system that several machines share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.options import JsonOption, RepoOption
from sidkit.cli.output import say, show, show_json

if TYPE_CHECKING:
    from sidkit.core.shared_artifacts import Shared

artifacts_app = typer.Typer(help="Share codebooks, rankers and reports between machines.", no_args_is_help=True)


@artifacts_app.command("list")
def list_(repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """List what the shared folder has."""
    import sidkit

    found = sidkit.open(repo).list_artifacts()
    if json_:
        show_json([{"kind": kind, "name": name, "versions": versions} for kind, name, versions in found])
        return
    for kind, name, versions in found:
        show(f"{kind}/{name}: {versions} version{'' if versions == 1 else 's'}")


@artifacts_app.command()
def push(repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """Upload what the shared folder lacks.

    Running it again uploads nothing. Commands that make an artefact upload it by themselves.
    """
    import sidkit

    _show(sidkit.open(repo).push_artifacts(), "uploaded", json_)


@artifacts_app.command()
def pull(repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """Download the artefacts of the catalogue.

    Files are verified, and damaged ones replaced. Commands that use an artefact download it by themselves.
    """
    import sidkit

    _show(sidkit.open(repo).pull_artifacts(), "downloaded", json_)


@artifacts_app.command()
def sweep(
    repo: RepoOption = Path(),
    older_than_hours: Annotated[
        float, typer.Option("--older-than-hours", help="Age of the files that are removed, at least 24.")
    ] = 24,
    json_: JsonOption = False,
) -> None:
    """Remove what interrupted uploads and purged codebooks left."""
    from dataclasses import asdict

    import sidkit

    swept = sidkit.open(repo).sweep_artifacts(older_than_hours)
    if json_:
        show_json(asdict(swept))
        return
    say(f"removed {swept.removed} files ({swept.size / 1e6:.1f} MB); {swept.young} are too young")


def _show(done: list[Shared], verb: str, json_: bool) -> None:
    from dataclasses import asdict

    if json_:
        show_json([asdict(each) for each in done])
        return
    for each in done:
        say(f"{verb} {each.kind}/{each.name}: {each.files} files, {each.size / 1e6:.1f} MB")
    if not done:
        say(f"nothing to be {verb}")
