"""``sidkit data`` and ``sidkit tables``: from a source to the log, the labelled rows and the feature tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.options import (
    AllowFutureOption,
    AsOfOption,
    JsonOption,
    MergeOption,
    RepoOption,
    SettingsOption,
    ShardOption,
    ShardsOption,
    data_app,
    tables_app,
)
from sidkit.cli.output import VERBOSITY, say, show, show_json
from sidkit.cli.tables import table

if TYPE_CHECKING:
    from sidkit.contract import TableReport


@data_app.command("check")
def check(
    source: Annotated[str, typer.Argument(help="A folder of Parquet, CSV or JSON-lines files, or a SQLAlchemy URL.")],
    rejects: Annotated[
        Path | None,
        typer.Option(help="Write rejected rows to this folder."),
    ] = None,
    repo: Annotated[
        Path | None,
        typer.Option("--repo", "-r", help="Use this repository's settings instead of the defaults."),
    ] = None,
    settings: SettingsOption = None,
    json_: JsonOption = False,
) -> None:
    """Validate a source and print a summary per table.

    Lists what becomes of every column. Exits with code 1 and the reasons if the source is rejected.
    """
    from dataclasses import asdict

    from sidkit.api.checks import check_source

    report = None if json_ else partial(_print_tables, columns=True)
    checked = check_source(source, rejects=rejects, repo=repo, settings_file=settings, report=report)
    if json_:
        show_json({"source": checked.settings, "tables": [asdict(report) for report in checked.tables]})
        return
    modalities = ", ".join(checked.settings["modalities"]) or "none"
    forgotten = sum(report.forgotten for report in checked.tables)
    say(
        f"the source is valid: feedback {checked.settings['feedback']}, modalities {modalities}, "
        f"{sum(report.rejected for report in checked.tables):,} rows rejected, "
        f"{sum(report.merged for report in checked.tables):,} merged as duplicates of an event"
        + (f", {forgotten:,} of forgotten users left out" if forgotten else "")
    )


@data_app.command("convert")
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of Parquet, CSV or JSON-lines files, a SQLAlchemy URL, or a published data set as NAME:PATH."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    repo: Annotated[
        Path | None,
        typer.Option("--repo", "-r", help="Use this repository's settings instead of the defaults."),
    ] = None,
    settings: SettingsOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a source as Parquet files of the input contract.

    Columns have the contract's names and types. Rejected rows, each with its reason, are in the folder rejects.
    """
    from dataclasses import asdict

    from sidkit.api.checks import convert_source
    from sidkit.datasets import PUBLISHED, named_dataset
    from sidkit.datasets import convert as convert_published

    if (dataset := named_dataset(source)) is not None and dataset.name in PUBLISHED:
        written = convert_published(dataset.name, dataset.variant, out)
        if json_:
            show_json({"tables": written})
        else:
            say(f"{out}: {', '.join(f'{count:,} rows of {name}' for name, count in written.items())}")
        return
    converted = convert_source(source, out, repo=repo, settings_file=settings)
    if json_:
        show_json({"source": converted.settings, "tables": [asdict(report) for report in converted.tables]})
        return
    if not VERBOSITY.quiet:
        _print_tables(converted.tables, columns=True)
    rows = ", ".join(f"{report.valid - report.merged:,} rows of {report.table}" for report in converted.tables)
    say(
        f"{out}: {rows}; {sum(report.rejected for report in converted.tables):,} rejected rows are in {out / 'rejects'}"
    )


def _print_tables(reports: Sequence[TableReport], *, columns: bool = False) -> None:
    """Print the counts per table, then the facts and the reasons of rejects; with ``columns``, also what becomes of each."""
    counts = [[each.table, f"{each.rows:,}", f"{each.rejected:,}", f"{each.merged:,}"] for each in reports]
    show(table(("table", "rows", "rejected", "merged"), counts))
    for report in reports:
        facts = [f"{name}: {value}" for name, value in report.facts.items()]
        reasons = [f"rejected: {count:,} x {reason}" for reason, count in report.reasons.items()]
        if facts or reasons:
            show("\n".join([f"{report.table}:", *(f"  {line}" for line in (*facts, *reasons))]))
    uses = [[each.table, use["column"], use["use"], use["reason"]] for each in reports for use in each.columns]
    if columns and uses:
        show(table(("table", "column", "use", "how, or why not"), uses, left=("column", "use", "how, or why not")))
    for report in reports:
        for text in report.warnings:
            typer.echo(f"warning: {report.table}: {text}", err=True)


@data_app.command("synthetic")
def synthetic(
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    world: Annotated[
        str,
        typer.Option(
            help="How much the content reveals about an item: strong, weak or none; in clustered, items also share quality."
        ),
    ] = "strong",
    impressions: Annotated[int, typer.Option(help="Approximate number of impressions.")] = 200_000,
    users: Annotated[int | None, typer.Option(help="Number of users; default: one per 100 impressions.")] = None,
    items: Annotated[int | None, typer.Option(help="Number of items; default: one per 50 impressions.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Write a deterministic synthetic data set.

    It has impressions, and the click probabilities that are true and that can be known at serving time.
    """
    from sidkit.datasets.synthetic import Sizes, write_world

    written = write_world(out, world, Sizes(impressions, users, items), seed)
    say(
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
    json_: JsonOption = False,
) -> None:
    """Append new rows of the source to the log.

    The source is validated first; corrected rows replace the old ones.
    """
    from dataclasses import asdict

    import sidkit

    project = sidkit.open(repo)
    report = project.ingest(remove_vanished=remove_vanished, rebuild=rebuild)
    if json_:
        show_json(asdict(report))
        return
    if not VERBOSITY.quiet:
        _print_tables(report.tables)
    summary = ["the source is unchanged" if report.unchanged else f"{report.new_rows:,} new rows"]
    counts = (("changed", report.changed), ("removed", report.removed))
    summary += [f"{count:,} {name}" for name, count in counts if count]
    summary += [f"{report.forgotten:,} of forgotten users left out"] if report.forgotten else []
    say(f"{', '.join(summary)}; the log has {report.rows:,} rows; rejected rows are in {project.repo.rejects}")
    if report.read_again:
        say(report.read_again)
    if report.vanished:
        say(
            f"{report.vanished:,} rows of the log are no longer in the source, or no longer valid there; they were left in "
            "place. `sidkit data ingest --remove-vanished` removes them"
        )


@tables_app.command("build")
def build(
    repo: RepoOption = Path(),
    as_of: AsOfOption = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Discard the previous build and start over.")] = False,
    allow_future: AllowFutureOption = False,
    shards: ShardsOption = None,
    merge: MergeOption = False,
) -> None:
    """Update the feature tables to a point in time.

    Only rows due since the last build are computed.
    """
    import sidkit
    from sidkit.core.clock import iso

    report = sidkit.open(repo).build(as_of, rebuild=rebuild, allow_future=allow_future, shards=shards, merge=merge)
    if report.restarted:
        say(report.restarted)
    for note in report.notes:
        say(note)
    for name, rows in report.rows.items():
        say(f"{name}: {rows:,} rows, {report.new_rows[name]:,} new")
    for name, new_rows in report.code_rows.items():
        say(f"{name}: {new_rows:,} new rows")
    say(f"as of {iso(report.as_of_us)}")


@tables_app.command("shard")
def shard_(
    shard: ShardOption,
    as_of: Annotated[str, typer.Option("--as-of", help="The --as-of of the build, ISO-8601 with a time zone.")],
    repo: RepoOption = Path(),
    rebuild: Annotated[bool, typer.Option("--rebuild", help="For a build with --rebuild.")] = False,
    allow_future: AllowFutureOption = False,
) -> None:
    """Compute the rows of one shard of users and items, for a build.

    Build with the same options, --shards N and --merge puts the N shards together. Takes no lock: several workers can run.
    """
    import sidkit

    rows = sidkit.open(repo).build_shard(as_of, shard, rebuild=rebuild, allow_future=allow_future)
    if rows is None:
        say(f"shard {shard} was finished before, or the tables are of that time already")
    else:
        say(f"shard {shard}: " + ", ".join(f"{name} {count:,} rows" for name, count in rows.items()))


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
    """Write the labelled rows.

    Negatives are sampled if the log has positives only.
    """
    import sidkit

    report = sidkit.open(repo).write_rows(out, since=since, until=until, max_rows=max_rows)
    available = f" of {report.available[0]:,}" if report.available and report.available[0] != report.rows else ""
    say(f"{report.rows:,}{available} rows, {report.sampled:,} of them sampled negatives, in {report.path}")
    if report.sampled:
        say(
            f"of the sampled negatives {report.far:,} differ from their positive by more than a factor of four in age or in "
            f"a count, and {report.other_touch:,} in whether the user interacted with the item before; {report.missing:,} are "
            "missing because no eligible item was left"
        )
