"""Commands on a whole repository: init, doctor, apply, upgrade, materialize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import AllowFutureOption, RepoOption


def init(
    folder: Annotated[Path, typer.Argument(help="New or empty folder.")],
    data: Annotated[str | None, typer.Option(help="Folder of Parquet files, or a SQLAlchemy URL.")] = None,
) -> None:
    """Create a repository; with --data its settings are inferred from the data."""
    from sidkit.contract import inspect_source, open_source
    from sidkit.core.repo import init_repo

    if data is not None:
        source = open_source(data)
        facts = inspect_source(source)
        repo = init_repo(folder, source_url=source.url, **facts.settings())
        facts.warn()
    else:
        repo = init_repo(folder)
    typer.echo(f"created a sidkit repository in {repo.path}; its settings are in {repo.path / 'sidkit.toml'}")


def doctor(
    repo: RepoOption = Path(),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Check the definitions for what Feast would silently mishandle; exit 1 if there is a problem."""
    import json
    from dataclasses import asdict

    from sidkit.core.repo import Repo
    from sidkit.stores.repo_doctor import examine_repo

    opened = Repo.open(repo)
    problems = examine_repo(opened)
    if json_:
        typer.echo(json.dumps({"repo": str(opened.path), "problems": [asdict(problem) for problem in problems]}))
    else:
        for problem in problems:
            typer.echo(f"- {problem}")
        typer.echo(f"{opened.path}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    if problems:
        raise typer.Exit(1)


def apply(repo: RepoOption = Path()) -> None:
    """Register the definitions like `feast apply`, from any working directory."""
    from sidkit.core.repo import Repo
    from sidkit.stores.feast_repo import apply_repo

    opened = Repo.open(repo)
    with opened.locked():
        typer.echo(apply_repo(opened).strip())


def upgrade_(repo: RepoOption = Path()) -> None:
    """Migrate a repository written by an older release; running it again changes nothing."""
    from sidkit.core.repo import Repo
    from sidkit.core.repo_format import FORMAT
    from sidkit.upgrade import upgrade

    opened = Repo.open(repo, any_format=True)
    with opened.locked():
        done = upgrade(opened)
    for line in done:
        typer.echo(line)
    typer.echo(f"{opened.path}: format {FORMAT}{'' if done else ', already up to date'}")


def materialize_(
    repo: RepoOption = Path(),
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="As-of time, ISO 8601 with a zone; default: that of the tables."),
    ] = None,
    allow_future: AllowFutureOption = False,
) -> None:
    """Write the newest row of every key, as of a point in time, to the online store."""
    from sidkit.core.clock import check_as_of, iso, parse_time
    from sidkit.core.errors import TimeError
    from sidkit.core.repo import Repo
    from sidkit.stores.feast_repo import materialize, repair_online_store
    from sidkit.tables import read_build

    opened = Repo.open(repo)
    with opened.locked():
        built = read_build(opened)["as_of_us"]
        as_of_us = built if as_of is None else parse_time(as_of)
        check_as_of(as_of_us, allow_future=allow_future)
        if as_of_us > built:
            raise TimeError(
                f"expected --as-of no later than the tables ({iso(built)}), got {iso(as_of_us)}; run `sidkit tables build` "
                "first"
            )
        for finding in repair_online_store(opened):
            typer.echo(finding, err=True)
        keys = materialize(opened, as_of_us)
    for name, count in keys.items():
        typer.echo(f"{name}: {count:,} keys")
    typer.echo(f"as of {iso(as_of_us)}")
