"""Commands on code quality: health, report, sweep, and suffixes that make codes unique."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidkit.cli.options import Name, Preset, RepoOption, codebooks_app

if TYPE_CHECKING:
    from semantic_ids.quality.sweep import SweepReport, Trial
    from sidkit.core.repo import Repo

STALE = 3
"""Exit code of ``codebooks health`` when the codebook is stale."""


@codebooks_app.command("health")
def health(
    name: Annotated[str | None, typer.Argument(help="Name of the codebook. Default: the serving one.")] = None,
    repo: RepoOption = Path(),
    preset: Preset = "rqkmeans",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare the codes of recent items with those of the fit; exits with code 3 if the codebook is stale.

    Items without codes are ignored: run `sidkit codebooks refresh` first.
    """
    from semantic_ids.quality.drift import DriftThresholds
    from semantic_ids.quality.drift import health as measure_health
    from sidkit.core.config import load_section
    from sidkit.core.repo import Repo
    from sidkit.presets import preset_path

    report = measure_health(Repo.open(repo), name, load_section(DriftThresholds, preset_path(preset), "health"))
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        typer.echo(
            f"{report.verdict}: {report.recent_items:,} recent items compared with {report.fit_items:,} of the fit"
        )
        for reason in report.reasons:
            typer.echo(f"  {reason}")
    if report.verdict == "stale":
        raise typer.Exit(STALE)


@codebooks_app.command("report")
def report_(
    name: Name,
    repo: RepoOption = Path(),
    out: Annotated[Path | None, typer.Option(help="Output HTML file. Default: NAME.html.")] = None,
) -> None:
    """Write a self-contained HTML page about a codebook: metrics, code tree, collisions, map and drift."""
    from semantic_ids.report import write_report
    from sidkit.core.repo import Repo

    typer.echo(str(write_report(Repo.open(repo), name, out or Path(f"{name}.html"))))


@codebooks_app.command("suffixes")
def suffixes(
    name: Name,
    repo: RepoOption = Path(),
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Discard the table and number all items again, for a damaged table.")
    ] = False,
) -> None:
    """Make codes unique: append to each item's codes a number within its bucket that never changes."""
    from semantic_ids.collisions import suffix_path, update_suffixes
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        record = update_suffixes(opened, name, rebuild=rebuild)
    typer.echo(f"{record.num_rows:,} rows in {suffix_path(opened, name)}")


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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a small grid of quantizers, sizes and encoders on a sample and recommend one, without training a ranker."""
    from sidkit.core.clock import parse_time
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    report = _sweep(opened, preset, parse_time(fit_end) if fit_end else None, sample, seed, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
        return
    _show_sweep(report)


def _sweep(repo: Repo, preset: str, fit_end_us: int | None, sample: int, seed: int, *, quiet: bool) -> SweepReport:
    import numpy as np

    from semantic_ids.encoders import ContentEncoder
    from semantic_ids.fitting import CodebookSpec
    from semantic_ids.pairs.known_items import known_items, pairs_among
    from semantic_ids.quality.hit_rate import held_out_pairs
    from semantic_ids.quality.sweep import SweepGrid, sweep
    from sidkit.core.config import load_section
    from sidkit.presets import preset_path
    from sidkit.tables import read_build, read_log

    path = preset_path(preset)
    spec, grid = load_section(CodebookSpec, path, "codebook"), load_section(SweepGrid, path, "sweep")
    as_of_us = read_build(repo)["as_of_us"]
    log = read_log(repo)
    end_us = fit_end_us or int(log.first_us + 0.8 * (log.last_us - log.first_us))
    known = known_items(repo, end_us)
    vectors = ContentEncoder().fit(known.content).encode(known.content)
    training = pairs_among(repo, known, vectors, end_us, spec.pairs)
    # Evaluate on swing pairs only: user_to_item picks triggers by content similarity, which would favour content.
    swing_only = spec.pairs.model_copy(update={"sources": ("swing",)})
    evaluation = None
    if end_us < as_of_us:
        future = pairs_among(repo, known, vectors, as_of_us, swing_only, start_us=end_us)
        pairs = held_out_pairs(future, np.ones(len(known), dtype=bool), training, most_triggers=1000, seed=seed)
        evaluation = pairs if len(pairs) else None
    return sweep(
        known.content,
        grid,
        sample,
        seed,
        floors=spec.floors,
        pairs=training if len(training) else None,
        evaluation=evaluation,
        force=spec.force,
        on_trial=None if quiet else _print_trial,
    )


def _print_trial(trial: Trial) -> None:
    """Print one line on a finished trial to stderr."""
    label = trial.candidate.label
    if trial.refused is not None:
        typer.echo(f"{label}: could not be fitted: {trial.refused}", err=True)
    else:
        status = "; ".join(trial.failed) or "passes the floors"
        typer.echo(f"{label}: fitted in {trial.fit_seconds or 0:.1f} s; {status}", err=True)


def _show_sweep(report: SweepReport) -> None:
    from rich.console import Console
    from rich.table import Table

    rows: list[dict[str, Any]] = report.table().to_pylist()
    table = Table(title=f"fitted on {report.sample:,} items, {report.held_out:,} held out")
    for column in rows[0] if rows else ():
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    typer.echo(report.reason)
