"""``sidkit run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import AllowFutureOption, DataOption


def run(
    data: DataOption,
    repo: Annotated[Path, typer.Option("--repo", "-r", help="The repo's folder; a fresh one is written.")],
    preset: Annotated[str, typer.Option(help="Which system: a preset's name, or a path to a .toml.")] = "rqkmeans",
    seeds: Annotated[int, typer.Option(min=1, help="Train each arm with so many seeds.")] = 1,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="Build features up to this moment; default: the end of the log."),
    ] = None,
    allow_future: AllowFutureOption = False,
    impressions: Annotated[int, typer.Option(help="Size of a data set that code writes.")] = 200_000,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
    ] = False,
) -> None:
    """Do everything: read the log, build features, learn codes, train and evaluate rankers, fill the online store."""
    import json

    from rich.console import Console

    from ranking.pipeline.prepare import prepare_repo
    from ranking.pipeline.presets import load_preset
    from ranking.pipeline.run import Job, JobOptions
    from sidkit.cli.run_report import as_json, print_report
    from sidkit.core.clock import check_as_of, parse_time

    console = Console(stderr=json_, emoji=False)
    moment = None if as_of is None else parse_time(as_of)
    if moment is not None:
        check_as_of(moment, allow_future=allow_future)
    options = JobOptions(data, preset, load_preset(preset), seeds, moment, impressions, allow_future)
    opened = prepare_repo(data, repo)

    def announce(name: str, rows: int, seconds: float, kept: bool) -> None:
        mark = "[dim]kept[/]" if kept else "[green]done[/]"
        console.print(f"{mark} {name:<24} {rows:>12,} rows {seconds:>8.1f} s", highlight=False)

    def warn(text: str) -> None:
        typer.echo(f"warning: {text}", err=True)

    with opened.locked():
        result = Job(opened, options, announce, warn, lambda text: console.print(text, highlight=False)).run()
    if json_:
        typer.echo(json.dumps(as_json(result)))
    else:
        print_report(console, result)
