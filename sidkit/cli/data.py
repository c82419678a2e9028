"""``sidkit data`` and ``sidkit tables``: from a source to the log, its labelled rows and the feature tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sidkit.cli.options import AllowFutureOption, AsOfOption, RepoOption, data_app, tables_app


@data_app.command("check")
def check(
    source: Annotated[str, typer.Argument(help="A folder of Parquet files or a SQLAlchemy URL.")],
    rejects: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the rows that break the contract here."),
    ] = None,
    repo: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--repo", "-r", help="Judge by this repo's settings instead of the defaults."),
    ] = None,
) -> None:
    """Print what a source holds; exit 1 with the reasons when it must be refused."""
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
        f"the contract holds: feedback {settings.source.feedback}, modalities {', '.join(settings.source.modalities)}, "
        f"{sum(report.rejected for report in valid.reports):,} rows rejected, "
        f"{sum(report.merged for report in valid.reports):,} merged with another row of their event"
    )


def _print_tables(reports: object) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="what was found")
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
    world: Annotated[str, typer.Option(help="How much content sees of the item: strong, weak or none.")] = "strong",
    impressions: Annotated[int, typer.Option(help="About how many impressions.")] = 200_000,
    users: Annotated[Optional[int], typer.Option(help="Default: one per 100 impressions.")] = None,  # noqa: UP045
    items: Annotated[Optional[int], typer.Option(help="Default: one per 50 impressions.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(min=0, help="Decides everything random.")] = 0,
) -> None:
    """Write a deterministic world with real impressions and its oracle."""
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
            "--remove-vanished", help="Remove rows of the log that the source no longer holds; not for rotated sources."
        ),
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Forget the log and read the source anew: repairs a damaged log.")
    ] = False,
) -> None:
    """Read the source, check it, append what is new to the repo's log and replace what was corrected."""
    from sidkit.core.repo import Repo
    from sidkit.tables import ingest

    opened = Repo.open(repo)
    with opened.locked():
        report = ingest(opened, remove_vanished=remove_vanished, rebuild=rebuild)
    _print_tables(report.tables)
    what = ["the source is unchanged" if report.unchanged else f"{report.new_rows:,} new rows"]
    what += [f"{count:,} {name}" for name, count in (("changed", report.changed), ("removed", report.removed)) if count]
    typer.echo(f"{', '.join(what)}; the log holds {report.rows:,} rows; rejects are in {opened.rejects}")
    if report.vanished:
        typer.echo(
            f"{report.vanished:,} rows of the log are not in the source any more, or are no longer valid there; they stay. "
            "`sidkit data ingest --remove-vanished` removes them"
        )


@tables_app.command("build")
def build(
    repo: RepoOption = Path(),
    as_of: AsOfOption = None,
    rebuild: Annotated[bool, typer.Option(help="Forget the earlier build.")] = False,
    allow_future: AllowFutureOption = False,
) -> None:
    """Bring the feature tables up to a moment; only what is due since the last build is computed."""
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
        Optional[str],  # noqa: UP045
        typer.Option(help="Only rows from this moment on, ISO-8601 with a zone; needs --out."),
    ] = None,
    until: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Only rows before this moment, ISO-8601 with a zone; needs --out."),
    ] = None,
    max_rows: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="A sample of users with about so many rows; needs --out."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the chosen rows here; default: all rows to the repo's own file."),
    ] = None,
) -> None:
    """Write the labelled rows; on a log of positives only, negatives are sampled."""
    from sidkit.core.clock import parse_time
    from sidkit.core.errors import ConfigError
    from sidkit.core.files import typed_path
    from sidkit.core.repo import Repo
    from sidkit.tables.labelled_rows import RowSample, SampledWindow, build_labelled_rows

    opened = Repo.open(repo)
    chosen = {"--since": since, "--until": until, "--max-rows": max_rows}
    asked = [name for name, value in chosen.items() if value is not None]
    if asked and out is None:
        raise ConfigError(
            f"{', '.join(asked)} choose some of the rows, and {opened.labelled_rows} holds all; name another file with --out"
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
            f"a count, and {report.other_touch:,} in whether the user had the item before; {report.missing:,} are missing "
            "because no item was left"
        )
