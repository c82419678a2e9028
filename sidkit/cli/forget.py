"""``sidkit forget``: remove users from a repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import JsonOption, RepoOption
from sidkit.cli.output import say, show, show_json


def forget(
    repo: RepoOption = Path(),
    user: Annotated[
        list[str] | None, typer.Option("--user", help="A value of user_id, compared as a whole. Repeatable.")
    ] = None,
    users_file: Annotated[
        Path | None, typer.Option("--users-file", help="A UTF-8 file with one value of user_id per line.")
    ] = None,
    allow_unknown: Annotated[
        bool,
        typer.Option("--allow-unknown", help="Accept users without any row, so that later ingests leave them out."),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Remove users from all files of a repository.

    Later ingests leave them out. Without users, finishes a call that was interrupted. Lists the codebooks and rankers that
    learned from their rows.
    """
    from dataclasses import asdict

    import sidkit
    from sidkit.cli.tables import table
    from sidkit.core.id_lists import read_ids, refuse_broken_text

    users = list(user or ())
    for each in users:
        refuse_broken_text(each)
    if users_file is not None:
        users += read_ids([f"@{users_file}"])
    project = sidkit.open(repo)
    report = project.forget(users, allow_unknown=allow_unknown)
    if json_:
        show_json(asdict(report))
        return
    if report.finished:
        say("finished what an interrupted call began")
    say(f"{report.users:,} user{'' if report.users == 1 else 's'} forgotten in {project.path}")
    for place, rows in report.rows.items():
        say(f"removed from {place}: {rows:,} rows")
    for place in report.removed:
        say(f"removed as a whole: {place}; `sidkit run`, or the command that made it, makes it again")
    if report.retrain:
        listed = [[each.kind, each.name, f"{each.rows:,}", each.remedy] for each in report.retrain]
        show("learned from their rows:")
        show(table(("artefact", "name", "rows", "what to do"), listed, left=("artefact", "name", "what to do")))
    for place in report.left:
        show(f"not changed: {place}")
