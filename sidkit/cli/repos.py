"""Commands on a whole repository: init, doctor, apply, relocate, upgrade, materialize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import AllowFutureOption, ArtifactsOption, JsonOption, RepoOption, SettingsOption
from sidkit.cli.output import say, show, show_json
from sidkit.cli.profiles import say_unshared


def init(
    folder: Annotated[Path, typer.Argument(help="New or empty folder.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of files, a SQLAlchemy URL, synthetic[:strong|weak|none|clustered], or a published data "
            "set as NAME:PATH."
        ),
    ] = None,
    settings: SettingsOption = None,
    impressions: Annotated[int, typer.Option(help="Number of impressions of a generated data set.")] = 200_000,
    profile: Annotated[str, typer.Option(help="Stores and engine: see `sidkit profile show`.")] = "local",
    artifacts: ArtifactsOption = None,
) -> None:
    """Create a repository.

    With --data, the settings of the source are inferred from the data.
    """
    import sidkit

    project = sidkit.init(
        folder, data, settings_file=settings, impressions=impressions, profile=profile, artifacts=artifacts
    )
    say(f"created a sidkit repository in {project.path}; its settings are in {project.path / 'sidkit.toml'}")
    say_unshared(project)


def doctor(repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """Check the definitions and stores of a repository.

    Lists what Feast would silently mishandle, and differences between registry, catalogue and stores. Exits with code 1 if
    there is a problem; findings in feature views of your own are warnings.
    """
    from dataclasses import asdict

    import sidkit

    project = sidkit.open(repo)
    problems = project.doctor()
    if json_:
        show_json({"repo": str(project.path), "problems": [asdict(problem) for problem in problems]})
    else:
        for problem in problems:
            show(f"- {problem}")
        count = sum(not problem.warning for problem in problems)
        say(f"{project.path}: {count or 'no'} problem{'' if count == 1 else 's'}")
    if any(not problem.warning for problem in problems):
        raise typer.Exit(1)


def apply(repo: RepoOption = Path()) -> None:
    """Register the definitions, from any folder.

    Does what `feast apply` does.
    """
    import sidkit

    say(sidkit.open(repo).apply())


def relocate(repo: RepoOption = Path()) -> None:
    """Rewrite the paths of a copied or moved repository.

    It no longer refers to its former folder. Running it again changes nothing.
    """
    import sidkit

    project = sidkit.open(repo)
    changes = project.relocate()
    for line in changes:
        say(line)
    say(f"{project.path}: {'relocated' if changes else 'nothing to relocate'}")


def upgrade_(
    repo: RepoOption = Path(),
    definitions: Annotated[
        bool, typer.Option("--definitions", help="Replace definitions that an older release wrote, too, if unchanged.")
    ] = False,
) -> None:
    """Migrate the files of an older release.

    Running it again changes nothing.
    """
    from sidkit.api import Project
    from sidkit.core.repo import Repo
    from sidkit.core.repo_format import FORMAT

    project = Project(Repo.open(repo, any_format=True))
    done = project.upgrade(definitions=definitions)
    for line in done:
        say(line)
    say(f"{project.path}: format {FORMAT}{'' if done else ', already up to date'}")


def materialize_(
    repo: RepoOption = Path(),
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="As-of time, ISO 8601 with a zone; default: that of the tables."),
    ] = None,
    allow_future: AllowFutureOption = False,
) -> None:
    """Write the newest row of every key to the online store."""
    import sidkit
    from sidkit.core.clock import iso, parse_time
    from sidkit.tables import read_build

    project = sidkit.open(repo)
    keys = project.materialize(as_of, allow_future=allow_future)
    for name, count in keys.items():
        say(f"{name}: {count:,} keys")
    say(f"as of {iso(parse_time(as_of) if as_of else read_build(project.repo)['as_of_us'])}")
