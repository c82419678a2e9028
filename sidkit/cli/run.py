"""``sidkit run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import AllowFutureOption, DataOption


def run(
    data: DataOption,
    repo: Annotated[Path, typer.Option("--repo", "-r", help="The repo's folder; it is created if missing.")],
    preset: Annotated[str, typer.Option(help="Name of a preset, or path of a .toml file.")] = "rqkmeans",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per arm.")] = 1,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", help="Build features up to this time, ISO-8601 with a time zone. Default: the end of the log."
        ),
    ] = None,
    allow_future: AllowFutureOption = False,
    impressions: Annotated[int, typer.Option(help="Number of impressions of a generated data set.")] = 200_000,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")] = False,
) -> None:
    """Run all stages: read the log, build features, fit a codebook, train and evaluate rankers, fill the online store."""
    import json

    from rich.console import Console

    from ranking.pipeline.prepare import prepare_repo
    from ranking.pipeline.presets import load_preset
    from ranking.pipeline.run import Job, JobOptions
    from sidkit.cli.run_report import as_json, print_report
    from sidkit.core.clock import check_as_of, parse_time

    console = Console(stderr=json_, emoji=False)
    as_of_us = None if as_of is None else parse_time(as_of)
    if as_of_us is not None:
        check_as_of(as_of_us, allow_future=allow_future)
    options = JobOptions(data, preset, load_preset(preset), seeds, as_of_us, impressions, allow_future)
    opened = prepare_repo(data, repo)

    def announce(name: str, rows: int, seconds: float, reused: bool) -> None:
        mark = "[dim]kept[/]" if reused else "[green]done[/]"
        console.print(f"{mark} {name:<24} {rows:>12,} rows {seconds:>8.1f} s", highlight=False)

    def warn(text: str) -> None:
        typer.echo(f"warning: {text}", err=True)

    with opened.locked():
        result = Job(opened, options, announce, warn, lambda text: console.print(text, highlight=False)).run()
    if json_:
        typer.echo(json.dumps(as_json(result)))
    else:
        print_report(console, result)
