"""`sidkit profile`: the stores, the registry and the engine of a repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.options import ArtifactsOption, JsonOption, RepoOption
from sidkit.cli.output import say, show, show_json

if TYPE_CHECKING:
    from sidkit.api import Project

profile_app = typer.Typer(help="Show and switch the stores, the registry and the engine.", no_args_is_help=True)


@profile_app.command("show")
def show_(repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """List the profiles, and the one of the repository.

    Names the sections and settings that differ from it.
    """
    from dataclasses import asdict

    import sidkit
    from sidkit.profiles import PROFILES

    state = sidkit.open(repo).profile()
    if json_:
        show_json({**asdict(state), "profiles": {name: profile.summary for name, profile in PROFILES.items()}})
        return
    for name, profile in PROFILES.items():
        show(f"{'*' if name == state.name else ' '} {name}: {profile.summary}")
    if state.changed:
        show(f"changed: {', '.join(state.changed)}")


@profile_app.command()
def switch(
    name: Annotated[str, typer.Argument(help="A profile that `sidkit profile show` lists.")],
    repo: RepoOption = Path(),
    replace_edited: Annotated[
        bool, typer.Option("--replace-edited", help="Also replace values that were edited by hand.")
    ] = False,
    artifacts: ArtifactsOption = None,
) -> None:
    """Change the stores, the registry and the engine.

    Writes feature_store.yaml and sidkit.toml; data stay. The printed commands fill the new stores.
    """
    import sidkit
    from sidkit.profiles.switch import NEXT

    project = sidkit.open(repo)
    changes = project.switch_profile(name, replace_edited=replace_edited, artifacts=artifacts)
    for line in changes:
        say(line)
    say(
        f"{project.path}: profile {name}; next: {', '.join(NEXT)}" if changes else f"{project.path}: has {name} already"
    )
    say_unshared(project)


def say_unshared(project: Project) -> None:
    """Say that artefacts are not shared, where the profile is for several machines."""
    if (text := project.unshared_artifacts()) is not None:
        say(text)
