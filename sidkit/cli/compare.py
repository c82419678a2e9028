"""``sidkit ranker compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import DataOrOwnOption, JsonOption
from sidkit.cli.output import VERBOSITY, show_json
from sidkit.core.id_lists import comma_separated


def compare(
    data: DataOrOwnOption = None,
    repo: Annotated[
        Path, typer.Option("--repo", "-r", envvar="SIDKIT_REPO", help="The repo's folder; it is created if missing.")
    ] = Path(),
    arms: Annotated[
        str,
        typer.Option(
            help="Comma-separated arms: names, numbers in the papers' table, paths of .toml files, papers (those of both "
            "papers) or all (every shipped arm that the data allow)."
        ),
    ] = "papers",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per arm and time origin.")] = 3,
    origins: Annotated[
        int,
        typer.Option(min=1, help="Number of time origins: the split, moved back by one test window at a time."),
    ] = 3,
    preset: Annotated[
        str, typer.Option(help="Preset whose ranker settings all arms share: widths, optimizer, early stopping.")
    ] = "rqkmeans",
    max_train_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Sample users to about this many training rows. Default: the preset's, or all."),
    ] = None,
    max_evaluation_rows: Annotated[
        int | None,
        typer.Option(min=1, help="The same limit for validation rows and for test rows."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of training processes, one thread each.")] = 1,
    impressions: Annotated[int, typer.Option(help="Number of impressions of a generated data set.")] = 200_000,
    own_sizes: Annotated[
        bool,
        typer.Option(
            "--own-sizes", help="Use the preset's widths instead of scaling arms to the parameter count of id_codes."
        ),
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(help="Write the result rows to this JSON file, replacing its rows of the same data."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page to this file.")] = None,
    json_: JsonOption = False,
) -> None:
    """Train and compare arms.

    All arms have the same rows and features, and are compared by paired differences. An interrupted run resumes.
    """
    from rich.console import Console

    from ranking.experiments.comparison.compare import compare_arms
    from sidkit.api.progress import shown_progress
    from sidkit.cli.compare_report import print_comparison
    from sidkit.core.repo import source_of

    with shown_progress(stderr=json_, verbose=VERBOSITY.verbose, quiet=VERBOSITY.quiet) as progress:
        result = compare_arms(
            repo,
            data or source_of(repo),
            comma_separated(arms),
            seeds=seeds,
            origins=origins,
            preset=preset,
            max_train_rows=max_train_rows,
            max_evaluation_rows=max_evaluation_rows,
            jobs=jobs,
            impressions=impressions,
            own_sizes=own_sizes,
            results=results,
            html=html,
            progress=progress,
        )
    if json_:
        show_json(result.as_json())
    else:
        print_comparison(Console(emoji=False, highlight=False), result)
