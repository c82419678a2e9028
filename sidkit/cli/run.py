"""``sidkit run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import AllowFutureOption, DataOrOwnOption, JsonOption, SettingsOption
from sidkit.cli.output import VERBOSITY, show_json


def run(
    data: DataOrOwnOption = None,
    repo: Annotated[
        Path, typer.Option("--repo", "-r", envvar="SIDKIT_REPO", help="The repo's folder; it is created if missing.")
    ] = Path(),
    settings: SettingsOption = None,
    preset: Annotated[str, typer.Option(help="Name of a preset, or path of a .toml file.")] = "rqkmeans",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per arm.")] = 1,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", help="Build features up to this time, ISO-8601 with a time zone. Default: the end of the log."
        ),
    ] = None,
    allow_future: AllowFutureOption = False,
    codebook: Annotated[
        str | None, typer.Option(help="Train rankers on this fitted codebook instead of fitting one, and promote it.")
    ] = None,
    impressions: Annotated[int, typer.Option(help="Number of impressions of a generated data set.")] = 200_000,
    json_: JsonOption = False,
) -> None:
    """Run all stages, from the log to a serving ranker.

    Reads the log, builds features, fits a codebook, trains and evaluates rankers, and fills the online store. An interrupted
    run resumes when it is started again.
    """
    from rich.console import Console

    from ranking.pipeline.run import run_preset
    from sidkit.api.progress import shown_progress
    from sidkit.cli.run_report import as_json, print_report
    from sidkit.core.clock import parse_time
    from sidkit.core.repo import source_of

    as_of_us = None if as_of is None else parse_time(as_of)
    with shown_progress(stderr=json_, verbose=VERBOSITY.verbose, quiet=VERBOSITY.quiet) as progress:
        result = run_preset(
            repo,
            data or source_of(repo),
            preset,
            seeds=seeds,
            as_of_us=as_of_us,
            impressions=impressions,
            allow_future=allow_future,
            codebook=codebook,
            settings_file=settings,
            progress=progress,
        )
    if json_:
        show_json(as_json(result))
    else:
        print_report(Console(emoji=False, highlight=False), result)
