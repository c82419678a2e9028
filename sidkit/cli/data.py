"""``sidkit data`` and ``sidkit tables``: from a source to the log, the labelled rows and the feature tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import AllowFutureOption, AsOfOption, RepoOption, data_app, tables_app


@data_app.command("check")
def check(
    source: Annotated[str, typer.Argument(help="A folder of Parquet files or a SQLAlchemy URL.")],
    rejects: Annotated[
        Path | None,
        typer.Option(help="Write rejected rows to this folder."),
    ] = None,
    repo: Annotated[
        Path | None,
        typer.Option("--repo", "-r", help="Use this repository's settings instead of the defaults."),
    ] = None,
) -> None:
    """Validate a source and print a summary per table; exit 1 with the reasons if it is rejected."""
    from sidkit.contract import inspect_source, open_source, validate
    from sidkit.core.config import Settings, SourceSettings
    from sidkit.core.engine import connection
    from sidkit.core.repo import Repo
    from sidkit.core.temporary import temporary_folder

    opened = open_source(source)
    if repo is not None:
        settings = Repo.open(repo).settings
    else:
        facts = inspect_source(opened)
        settings = Settings(source=SourceSettings(url=source, **facts.settings()))
        facts.warn()
    with (
        temporary_folder() as work,
        connection(settings.engine, work / "spill") as duck,
    ):
        valid = validate(opened, settings, duck, work / "valid", rejects, report=_print_tables)
    typer.echo(
        f"the source is valid: feedback {settings.source.feedback}, modalities {', '.join(settings.source.modalities)}, "
        f"{sum(report.rejected for report in valid.reports):,} rows rejected, "
        f"{sum(report.merged for report in valid.reports):,} merged as duplicates of an event"
    )


def _print_tables(reports: object) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="summary of the source")
    for column in ("table", "rows", "rejected", "merged", "facts", "reasons"):
        counts = column in {"rows", "rejected", "merged"}
        table.add_column(column, justify="right" if counts else "left", overflow="fold")
    for report in reports:  # type: ignore[attr-defined]
        table.add_row(
            report.table,
            f"{report.rows:,}",
            f"{report.rejected:,}",
            f"{report.merged:,}",
            "\n".join(f"{name}: {value}" for name, value in report.facts.items()),
            "\n".join(f"{count:,} x {reason}" for reason, count in report.reasons.items()),
        )
    Console(width=140).print(table)
    for report in reports:  # type: ignore[attr-defined]
        for text in report.warnings:
            typer.echo(f"warning: {report.table}: {text}", err=True)


@data_app.command("synthetic")
def synthetic(
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    world: Annotated[
        str, typer.Option(help="How much the content reveals about an item: strong, weak or none.")
    ] = "strong",
    impressions: Annotated[int, typer.Option(help="Approximate number of impressions.")] = 200_000,
    users: Annotated[int | None, typer.Option(help="Number of users; default: one per 100 impressions.")] = None,
    items: Annotated[int | None, typer.Option(help="Number of items; default: one per 50 impressions.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Write a deterministic synthetic data set with impressions and an oracle."""
    from sidkit.datasets.synthetic import Sizes, write_world

    written = write_world(out, world, Sizes(impressions, users, items), seed)
    typer.echo(
        f"{out}: {written['impressions']:,} impressions ({written['clicks'] / written['impressions']:.1%} clicked) of "
        f"{written['items']:,} items to {written['users']:,} users"
    )


@data_app.command("ingest")
def ingest_(
    repo: RepoOption = Path(),
    remove_vanished: Annotated[
        bool,
        typer.Option(
            "--remove-vanished", help="Remove log rows that are no longer in the source; not for rotated sources."
        ),
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Discard the log and read the whole source again, to repair a damaged log."),
    ] = False,
) -> None:
    """Validate the source, append new rows to the repository's log and replace corrected ones."""
    from sidkit.core.repo import Repo
    from sidkit.tables import ingest

    opened = Repo.open(repo)
    with opened.locked():
        report = ingest(opened, remove_vanished=remove_vanished, rebuild=rebuild)
    _print_tables(report.tables)
    summary = ["the source is unchanged" if report.unchanged else f"{report.new_rows:,} new rows"]
    counts = (("changed", report.changed), ("removed", report.removed))
    summary += [f"{count:,} {name}" for name, count in counts if count]
    typer.echo(f"{', '.join(summary)}; the log has {report.rows:,} rows; rejected rows are in {opened.rejects}")
    if report.vanished:
        typer.echo(
            f"{report.vanished:,} rows of the log are no longer in the source, or no longer valid there; they were left in "
            "place. `sidkit data ingest --remove-vanished` removes them"
        )


@tables_app.command("build")
def build(
    repo: RepoOption = Path(),
    as_of: AsOfOption = None,
    rebuild: Annotated[bool, typer.Option(help="Discard the previous build and start over.")] = False,
    allow_future: AllowFutureOption = False,
) -> None:
    """Update the feature tables to a point in time; only rows due since the last build are computed."""
    from sidkit.core.clock import iso, parse_time
    from sidkit.core.repo import Repo
    from sidkit.tables import build_tables

    opened = Repo.open(repo)
    with opened.locked():
        report = build_tables(opened, parse_time(as_of), rebuild=rebuild, allow_future=allow_future)
    if report.restarted:
        typer.echo(report.restarted)
    for name, rows in report.rows.items():
        typer.echo(f"{name}: {rows:,} rows, {report.new_rows[name]:,} new")
    typer.echo(f"as of {iso(report.as_of_us)}")


@tables_app.command("rows")
def rows_(
    repo: RepoOption = Path(),
    since: Annotated[
        str | None,
        typer.Option(help="Only rows from this time on, ISO 8601 with a zone; requires --out."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="Only rows before this time, ISO 8601 with a zone; requires --out."),
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Sample users with about this many rows in total; requires --out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the selected rows to this file; default: all rows to the repository's own file."),
    ] = None,
) -> None:
    """Write the labelled rows; negatives are sampled if the log has positives only."""
    from sidkit.core.clock import parse_time
    from sidkit.core.errors import ConfigError
    from sidkit.core.files import typed_path
    from sidkit.core.repo import Repo
    from sidkit.tables.labelled_rows import RowSample, SampledWindow, build_labelled_rows

    opened = Repo.open(repo)
    chosen = {"--since": since, "--until": until, "--max-rows": max_rows}
    selecting = [name for name, value in chosen.items() if value is not None]
    if selecting and out is None:
        raise ConfigError(
            f"expected --out with {', '.join(selecting)}, which select some of the rows, because {opened.labelled_rows} is for "
            "all of them; name another file with --out"
        )
    sample = None
    if out is not None:
        begin = parse_time(since) if since else -(2**62)
        end = parse_time(until) if until else 2**62
        sample = RowSample(typed_path(out), (SampledWindow(begin, end, max_rows),))
    with opened.locked():
        report = build_labelled_rows(opened, sample)
    available = f" of {report.available[0]:,}" if report.available and report.available[0] != report.rows else ""
    typer.echo(f"{report.rows:,}{available} rows, {report.sampled:,} of them sampled negatives, in {report.path}")
    if report.sampled:
        typer.echo(
            f"of the sampled negatives {report.far:,} differ from their positive by more than a factor of four in age or in "
            f"a count, and {report.other_touch:,} in whether the user interacted with the item before; {report.missing:,} are "
            "missing because no eligible item was left"
        )
