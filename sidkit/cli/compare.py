"""``sidkit ranker compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import DataOption
from sidkit.core.id_lists import comma_separated


def compare(
    data: DataOption,
    repo: Annotated[Path, typer.Option("--repo", "-r", help="The repo's folder; a fresh one is written.")],
    arms: Annotated[
        str,
        typer.Option(help="Arms, separated by commas: names, numbers of the papers' table, paths to .toml, or all."),
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each arm at the latest time origin.")] = 5,
    origins: Annotated[int, typer.Option(min=1, help="Time origins; earlier ones take the arms that roll.")] = 1,
    origin_seeds: Annotated[int, typer.Option(min=1, help="Seeds at the earlier origins.")] = 1,
    preset: Annotated[
        str, typer.Option(help="Whose [ranker] all arms share: widths, optimizer, stopping.")
    ] = "rqkmeans",
    max_train_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Thin training rows to about so many, by user; default: the preset's, or all."),
    ] = None,
    max_evaluation_rows: Annotated[
        int | None,
        typer.Option(min=1, help="The same of validation rows and of test rows."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that train, one thread each.")] = 1,
    impressions: Annotated[int, typer.Option(help="Size of a data set that code writes.")] = 200_000,
    own_sizes: Annotated[
        bool,
        typer.Option(
            "--own-sizes", help="Leave arms at the preset's widths; else they get as many parameters as id_codes."
        ),
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(help="A JSON list of rows; those of this data are replaced, others stay."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.")] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
    ] = False,
) -> None:
    """Train and evaluate arms on equal terms: same rows, same features, paired differences. An interrupted run resumes."""
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
    chosen = load_arms(comma_separated(arms))
    spec = load_preset(preset).ranker
    given = {"max_train_rows": max_train_rows, "max_evaluation_rows": max_evaluation_rows}
    caps = {name: most for name, most in given.items() if most is not None}
    spec = spec.model_copy(update={"training": spec.training.model_copy(update=caps)})
    options = CompareOptions(data, chosen, spec, seeds, origins, origin_seeds, jobs, impressions, not own_sizes)

    def announce(name: str, rows: int, seconds: float, kept: bool) -> None:
        mark = "[dim]kept[/]" if kept else "[green]done[/]"
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
