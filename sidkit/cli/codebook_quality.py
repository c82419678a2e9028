"""The commands that look at codes: health, report, sweep, and one code per item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from sidkit.cli.options import Name, Preset, RepoOption, codebooks_app

if TYPE_CHECKING:
    from semantic_ids.quality.sweep import SweepReport
    from sidkit.core.repo import Repo

STALE = 3
"""Exit code of ``codebooks health`` when the codebook is stale."""


@codebooks_app.command("health")
def health(
    name: Annotated[Optional[str], typer.Argument(help="The codebook's name; default: the serving one.")] = None,  # noqa: UP045
    repo: RepoOption = Path(),
    preset: Preset = "rqkmeans",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Compare the codes of recent items with those of the fit; exits 3 when the codebook is stale.

    Items that have no codes yet are not seen: run `sidkit codebooks refresh` first.
    """
    from semantic_ids.quality.drift import DriftThresholds
    from semantic_ids.quality.drift import health as look
    from sidkit.core.config import load_section
    from sidkit.core.repo import Repo
    from sidkit.presets import preset_path

    report = look(Repo.open(repo), name, load_section(DriftThresholds, preset_path(preset), "health"))
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        typer.echo(f"{report.verdict}: {report.recent_items:,} recent items against {report.fit_items:,} of the fit")
        for reason in report.reasons:
            typer.echo(f"  {reason}")
    if report.verdict == "stale":
        raise typer.Exit(STALE)


@codebooks_app.command("report")
def report_(
    name: Name,
    repo: RepoOption = Path(),
    out: Annotated[Optional[Path], typer.Option(help="The HTML file; default NAME.html.")] = None,  # noqa: UP045
) -> None:
    """Write one self-contained HTML page about a codebook: figures, code tree, collisions, map, drift."""
    from semantic_ids.report import write_report
    from sidkit.core.repo import Repo

    typer.echo(str(write_report(Repo.open(repo), name, out or Path(f"{name}.html"))))


@codebooks_app.command("suffixes")
def suffixes(
    name: Name,
    repo: RepoOption = Path(),
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Forget the record and number all items anew: for a damaged record.")
    ] = False,
) -> None:
    """Give every item one code of its own: its codes and an append-only number within their bucket."""
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
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Only what was known by this moment is fitted on; later clicks judge. Default: 80 % of the log."
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=100, help="Items fitted on; the others are held out.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Decides the sample and every fit.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Fit a small grid of quantizers, sizes and encoders on a sample, and recommend one without training a ranker."""
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
    from semantic_ids.quality.hit_rate import questions
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
    # A user's most similar earlier item was chosen by content, which would favour content: only swing judges.
    judge = spec.pairs.model_copy(update={"sources": ("swing",)})
    judged = None
    if end_us < as_of_us:
        future = pairs_among(repo, known, vectors, as_of_us, judge, start_us=end_us)
        asked = questions(future, np.ones(len(known), dtype=bool), training, most_triggers=1000, seed=seed)
        judged = asked if len(asked) else None
    told = None if quiet else lambda text: typer.echo(text, err=True)
    return sweep(
        known.content, grid, sample, seed, floors=spec.floors, pairs=training if len(training) else None, judged=judged,
        force=spec.force, told=told,
    )  # fmt: skip


def _show_sweep(report: SweepReport) -> None:
    from rich.console import Console
    from rich.table import Table

    rows: list[dict[str, Any]] = report.table().to_pylist()
    table = Table(title=f"{report.sample:,} items fitted on, {report.held_out:,} held out")
    for column in rows[0] if rows else ():
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    typer.echo(report.reason)
