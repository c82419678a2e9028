"""``sidkit ranker compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import DataOption
from sidkit.core.id_lists import comma_separated


def compare(
    data: DataOption,
    repo: Annotated[Path, typer.Option("--repo", "-r", help="The repo's folder; it is created if missing.")],
    arms: Annotated[
        str,
        typer.Option(help="Comma-separated arms: names, numbers in the papers' table, paths of .toml files, or all."),
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per arm at the latest time origin.")] = 5,
    origins: Annotated[
        int, typer.Option(min=1, help="Number of time origins; earlier ones run only rolling arms.")
    ] = 1,
    origin_seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per arm at earlier time origins.")] = 1,
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
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, and nothing else.")] = False,
) -> None:
    """Train and compare arms on the same rows and features, with paired differences. An interrupted run resumes."""
    import json

    from rich.console import Console

    from ranking.experiments.comparison.arms import load_arms
    from ranking.experiments.comparison.comparison import CompareOptions, Comparison
    from ranking.experiments.comparison.tables import merge_rows
    from ranking.pipeline.prepare import prepare_repo
    from ranking.pipeline.presets import load_preset
    from sidkit.cli.compare_report import print_comparison
    from sidkit.core.files import check_output

    for path in filter(None, (results, html)):
        check_output(path)
    console = Console(stderr=json_, emoji=False)
    selected = load_arms(comma_separated(arms))
    spec = load_preset(preset).ranker
    limits = {"max_train_rows": max_train_rows, "max_evaluation_rows": max_evaluation_rows}
    caps = {name: limit for name, limit in limits.items() if limit is not None}
    spec = spec.model_copy(update={"training": spec.training.model_copy(update=caps)})
    options = CompareOptions(data, selected, spec, seeds, origins, origin_seeds, jobs, impressions, not own_sizes)

    def announce(name: str, rows: int, seconds: float, reused: bool) -> None:
        mark = "[dim]kept[/]" if reused else "[green]done[/]"
        console.print(f"{mark} {name:<34} {rows:>12,} rows {seconds:>8.1f} s", highlight=False)

    opened = prepare_repo(data, repo)
    with opened.locked():
        result = Comparison(opened, options, announce, lambda text: console.print(text, highlight=False)).run()
    if results is not None:
        merge_rows(results, [row.as_json() for row in result.evaluation.rows])
    if html is not None:
        from ranking.experiments.comparison.report import write_page

        write_page([result.as_json()], html)
    if json_:
        typer.echo(json.dumps(result.as_json()))
    else:
        print_comparison(console, result)
