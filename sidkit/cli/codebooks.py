"""The commands of codebooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from sidkit.cli.options import ItemOption, ItemsOption, Name, RepoOption, StrictOption, codebooks_app
from sidkit.core.id_lists import read_ids, unknown_items

if TYPE_CHECKING:
    from semantic_ids.records import CodebookRecord


@codebooks_app.command("fit")
def fit(
    name: Name,
    repo: RepoOption = Path(),
    preset: Annotated[
        str, typer.Option(help="Where [codebook] comes from: a preset or a path to a .toml.")
    ] = "rqkmeans",
    fit_end: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Only items known by this moment are used, ISO-8601 with a zone; default: the tables' moment."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Fit though there are under 20 items per code.")] = False,
) -> None:
    """Fit a codebook on the items that were known at a moment."""
    from semantic_ids import lifecycle
    from sidkit.core.artifact import read_manifest
    from sidkit.core.clock import parse_time
    from sidkit.core.config import load_section
    from sidkit.core.names import check_codebook_name
    from sidkit.core.repo import Repo
    from sidkit.presets import preset_path
    from sidkit.tables import read_build

    check_codebook_name(name)
    spec = load_section(lifecycle.CodebookSpec, preset_path(preset), "codebook").model_copy(update={"force": force})
    opened = Repo.open(repo)
    with opened.locked():
        until = parse_time(fit_end) if fit_end else read_build(opened)["as_of_us"]
        record = lifecycle.fit(opened, name, spec, until)
    reason = read_manifest(opened.codebooks / name, verify=False).get("fallback")
    if reason:
        typer.echo(f"warning: fitted by the encoder 'content', without behaviour: {reason}", err=True)
    _show(record, opened.codebooks / name)


@codebooks_app.command("publish")
def publish(name: Name, repo: RepoOption = Path()) -> None:
    """Assign codes to all items, register the view and its services, fill the online store."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        report = lifecycle.publish(opened, name)
    typer.echo(
        f"{name}: {report.rows:,} rows of codes, {report.new_rows:,} new; {report.without_content:,} without content"
    )


@codebooks_app.command("promote")
def promote(name: Name, repo: RepoOption = Path()) -> None:
    """Make a published codebook the one that commands use by default."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        lifecycle.promote(opened, name)
    typer.echo(f"{name} is serving")


@codebooks_app.command("retire")
def retire(name: Name, repo: RepoOption = Path()) -> None:
    """Take a codebook out of use; its view and data stay until it is purged."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        lifecycle.retire(opened, name)
    typer.echo(f"{name} is retired; `sidkit codebooks purge {name}` removes its view, its codes and its files")


@codebooks_app.command("purge")
def purge(name: Name, repo: RepoOption = Path()) -> None:
    """Remove a retired codebook for good."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        lifecycle.purge(opened, name)
    typer.echo(f"{name} is purged")


@codebooks_app.command("repair")
def repair(repo: RepoOption = Path()) -> None:
    """Make damaged or lost records of the catalogue anew from the artefacts."""
    from semantic_ids.catalog_repair import repair_catalog
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        done = repair_catalog(opened)
    for record in done:
        typer.echo(str(record))
    typer.echo(f"{len(done)} records made anew; `sidkit codebooks list` and `sidkit rankers list` show all")


@codebooks_app.command("refresh")
def refresh(
    name: Annotated[Optional[str], typer.Argument(help="Default: all published codebooks.")] = None,  # noqa: UP045
    repo: RepoOption = Path(),
) -> None:
    """Assign codes to content that came or changed since the last time."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        for report in lifecycle.refresh(opened, name):
            typer.echo(f"{report.name}: {report.new_rows:,} new rows of {report.rows:,}")


@codebooks_app.command("list")
def list_(repo: RepoOption = Path()) -> None:
    """List all codebooks and their states."""
    from rich.console import Console
    from rich.table import Table

    from semantic_ids.catalog import Catalog
    from sidkit.core.clock import iso
    from sidkit.core.repo import Repo

    table = Table()
    for column in ("name", "state", "quantizer", "codes", "encoder", "fit end", "hash"):
        table.add_column(column, overflow="fold")
    for record in Catalog.open(Repo.open(repo)).codebooks():
        sizes = "x".join(map(str, record.sizes))
        end = iso(record.fit_end_us) if record.fit_end_us else "-"
        table.add_row(record.name, record.state, record.quantizer, sizes, record.encoder, end, record.content_hash)
    Console().print(table)


@codebooks_app.command("show")
def show(name: Name, repo: RepoOption = Path()) -> None:
    """Show one codebook: its window, its quality, where it lies."""
    from semantic_ids.catalog import Catalog
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    _show(Catalog.open(opened).codebook(name), opened.codebooks / name)


@codebooks_app.command("codes")
def codes(
    items: ItemsOption = None,
    item: ItemOption = None,
    name: Annotated[Optional[str], typer.Option(help="Default: the serving codebook.")] = None,  # noqa: UP045
    repo: RepoOption = Path(),
    strict: StrictOption = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON list: item_id, codes, known.")] = False,
) -> None:
    """Look up the codes of items, as of the tables; ids that the tables do not know are reported."""
    import json

    from semantic_ids.lookup import codes_of, known_ids
    from sidkit.core.errors import ConfigError
    from sidkit.core.repo import Repo

    asked, opened = read_ids(items, item), Repo.open(repo)
    known, found = known_ids(opened, asked), codes_of(opened, asked, name)
    if unknown := unknown_items(asked, (each in known for each in asked)):
        if strict:
            raise ConfigError(f"{unknown}; correct the ids, or leave --strict out")
        typer.echo(f"sidkit: {unknown}", err=True)
    if json_:
        typer.echo(json.dumps([{"item_id": each, "codes": found[each], "known": each in known} for each in asked]))
        return
    for each in asked:
        typer.echo(f"{each}\t{','.join(map(str, found[each] or ())) or 'no codes'}")


@codebooks_app.command("items")
def items_(
    codes: Annotated[str, typer.Option(help="A code, or its first levels, such as 17,3.")],
    name: Annotated[Optional[str], typer.Option(help="Default: the serving codebook.")] = None,  # noqa: UP045
    repo: RepoOption = Path(),
    most: Annotated[int, typer.Option(help="List at most so many items.")] = 50,
) -> None:
    """Look up the items of a code or of a prefix, as of the tables."""
    from semantic_ids.lookup import items_of
    from sidkit.core.repo import Repo

    for item, found, title in items_of(Repo.open(repo), codes, name, most):
        typer.echo(f"{item}\t{','.join(map(str, found))}\t{title or ''}")


def _show(record: CodebookRecord, folder: Path) -> None:
    import json

    from sidkit.core.clock import iso
    from sidkit.core.integrity import read_checked_json

    typer.echo(f"{record.name}: {record.state}, {record.summary}")
    if record.fit_end_us:
        typer.echo(
            f"fitted on content from {iso(record.fit_start_us)} to {iso(record.fit_end_us)}, hash {record.content_hash}"
        )
    if (folder / "metrics.json").is_file():
        typer.echo(json.dumps(read_checked_json(folder / "metrics.json"), indent=2))
        typer.echo(str(folder))
