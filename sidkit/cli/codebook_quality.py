"""Commands on code quality: health, report, sweep, and suffixes that make codes unique."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.options import JsonOption, Name, Preset, RepoOption, codebooks_app
from sidkit.cli.output import VERBOSITY, say, show, show_json
from sidkit.cli.tables import table

if TYPE_CHECKING:
    from semantic_ids.quality.sweep import SweepReport, Trial

STALE = 3
"""Exit code of ``codebooks health`` when the codebook is stale."""


@codebooks_app.command("health")
def health(
    name: Annotated[str | None, typer.Argument(help="Name of the codebook. Default: the serving one.")] = None,
    repo: RepoOption = Path(),
    preset: Preset = "rqkmeans",
    json_: JsonOption = False,
) -> None:
    """Compare the codes of recent items with those of the fit.

    Exits with code 3 if the codebook is stale. Items without codes are ignored: run `sidkit codebooks refresh` first.
    """
    import sidkit

    report = sidkit.open(repo).health(name, preset)
    if json_:
        show_json(report.as_json())
    else:
        show(f"{report.verdict}: {report.recent_items:,} recent items compared with {report.fit_items:,} of the fit")
        for reason in report.reasons:
            show(f"  {reason}")
    if report.verdict == "stale":
        raise typer.Exit(STALE)


@codebooks_app.command("report")
def report_(
    name: Name,
    repo: RepoOption = Path(),
    out: Annotated[Path | None, typer.Option(help="Output HTML file. Default: NAME.html.")] = None,
) -> None:
    """Write a self-contained HTML page about a codebook.

    It shows metrics, the code tree, collisions, a map and drift.
    """
    import sidkit

    show(str(sidkit.open(repo).codebook_report(name, out)))


@codebooks_app.command("suffixes")
def suffixes(
    name: Name,
    repo: RepoOption = Path(),
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Discard the table and number all items again, for a damaged table.")
    ] = False,
) -> None:
    """Make codes unique.

    Appends to each item's codes a number within its bucket that never changes.
    """
    import pyarrow.parquet as pq

    import sidkit

    path = sidkit.open(repo).suffixes(name, rebuild=rebuild)
    say(f"{pq.read_metadata(path).num_rows:,} rows in {path}")


@codebooks_app.command("sweep")
def sweep_(
    repo: RepoOption = Path(),
    preset: Preset = "rqkmeans",
    fit_end: Annotated[
        str | None,
        typer.Option(help="Fit on data known by this time and evaluate on later clicks. Default: 80 % of the log."),
    ] = None,
    sample: Annotated[int, typer.Option(min=100, help="Items to fit on; the others are held out.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the sample and of every fit.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Fit a small grid of codebooks and recommend one.

    The grid has quantizers, sizes and encoders; each is fitted on a sample. No ranker is trained.
    """
    import sidkit

    on_trial = None if json_ or VERBOSITY.quiet else _print_trial
    report = sidkit.open(repo).sweep(preset, fit_end=fit_end, sample=sample, seed=seed, on_trial=on_trial)
    if json_:
        show_json(report.as_json())
        return
    _show_sweep(report)


def _print_trial(trial: Trial) -> None:
    """Print one line on a finished trial to stderr."""
    label = trial.candidate.label
    if trial.refused is not None:
        typer.echo(f"{label}: could not be fitted: {trial.refused}", err=True)
    else:
        status = "; ".join(trial.failed) or "passes the floors"
        typer.echo(f"{label}: fitted in {trial.fit_seconds or 0:.1f} s; {status}", err=True)


def _show_sweep(report: SweepReport) -> None:
    rows = [
        [
            trial.candidate.label,
            _number(min(trial.utilisation) if trial.utilisation else None),
            _number(trial.collision_rate),
            _number(trial.held_out_error),
            _number(trial.hit_rate),
            "recommended" if trial.candidate == report.recommended else "" if trial.passed else "below a floor",
        ]
        for trial in report.trials
    ]
    say(f"fitted on {report.sample:,} items, {report.held_out:,} held out; all metrics: --json")
    show(table(("CANDIDATE", "LEAST USED", "COLLISIONS", "ERROR", "HIT RATE", ""), rows, left=("",)))
    show(report.reason)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
