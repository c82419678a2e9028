"""The ``codebooks`` commands: fit, publish, promote, retire, purge, repair, refresh, and look-ups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
        str, typer.Option(help="Preset name, or path of a .toml file, with the codebook section to use.")
    ] = "rqkmeans",
    fit_end: Annotated[
        str | None,
        typer.Option(
            help="Use only items and clicks known by this time, ISO-8601 with a time zone. Default: the tables' as-of time."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Fit even with fewer than 20 items per code.")] = False,
) -> None:
    """Fit a codebook on the items known at a point in time."""
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
        typer.echo(f"warning: fell back to the encoder 'content', which uses no behaviour: {reason}", err=True)
    _show(record, opened.codebooks / name)


@codebooks_app.command("publish")
def publish(name: Name, repo: RepoOption = Path()) -> None:
    """Assign codes to all items, register the feature view and its services, and fill the online store."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        report = lifecycle.publish(opened, name)
    typer.echo(
        f"{name}: {report.rows:,} rows of codes ({report.new_rows:,} new), {report.without_content:,} without content"
    )


@codebooks_app.command("promote")
def promote(name: Name, repo: RepoOption = Path()) -> None:
    """Make a published codebook the default of all commands."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        lifecycle.promote(opened, name)
    typer.echo(f"{name} is serving")


@codebooks_app.command("retire")
def retire(name: Name, repo: RepoOption = Path()) -> None:
    """Take a codebook out of use; its feature view and data remain until it is purged."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        lifecycle.retire(opened, name)
    typer.echo(f"{name} is retired; `sidkit codebooks purge {name}` deletes its feature view, codes and files")


@codebooks_app.command("purge")
def purge(name: Name, repo: RepoOption = Path()) -> None:
    """Permanently delete a retired codebook."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        lifecycle.purge(opened, name)
    typer.echo(f"{name} is purged")


@codebooks_app.command("repair")
def repair(repo: RepoOption = Path()) -> None:
    """Recreate damaged or lost catalogue records from the artefacts."""
    from semantic_ids.catalog_repair import repair_catalog
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        done = repair_catalog(opened)
    for record in done:
        typer.echo(str(record))
    typer.echo(f"{len(done)} records recreated; `sidkit codebooks list` and `sidkit rankers list` show all")


@codebooks_app.command("refresh")
def refresh(
    name: Annotated[str | None, typer.Argument(help="Codebook name; default: all published codebooks.")] = None,
    repo: RepoOption = Path(),
) -> None:
    """Assign codes to content added or changed since the last refresh."""
    from semantic_ids import lifecycle
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        for report in lifecycle.refresh(opened, name):
            typer.echo(f"{report.name}: {report.rows:,} rows, {report.new_rows:,} new")


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
    """Show one codebook: fit window, quality metrics and folder."""
    from semantic_ids.catalog import Catalog
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    _show(Catalog.open(opened).codebook(name), opened.codebooks / name)


@codebooks_app.command("codes")
def codes(
    items: ItemsOption = None,
    item: ItemOption = None,
    name: Annotated[str | None, typer.Option(help="Codebook name; default: the serving codebook.")] = None,
    repo: RepoOption = Path(),
    strict: StrictOption = False,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON list of item_id, codes, known.")] = False,
) -> None:
    """Look up the codes of items, as of the feature tables; unknown ids are reported on stderr."""
    import json

    from semantic_ids.lookup import codes_of, known_ids
    from sidkit.core.errors import ConfigError
    from sidkit.core.repo import Repo

    item_ids, opened = read_ids(items, item), Repo.open(repo)
    known, codes_by_id = known_ids(opened, item_ids), codes_of(opened, item_ids, name)
    if unknown := unknown_items(item_ids, (each in known for each in item_ids)):
        if strict:
            raise ConfigError(f"{unknown}; correct the ids, or omit --strict")
        typer.echo(f"sidkit: {unknown}", err=True)
    if json_:
        rows = [{"item_id": each, "codes": codes_by_id[each], "known": each in known} for each in item_ids]
        typer.echo(json.dumps(rows))
        return
    for each in item_ids:
        typer.echo(f"{each}\t{','.join(map(str, codes_by_id[each] or ())) or 'no codes'}")


@codebooks_app.command("items")
def items_(
    codes: Annotated[str, typer.Option(help="Full codes or a prefix of them, such as 17,3.")],
    name: Annotated[str | None, typer.Option(help="Default: the serving codebook.")] = None,
    repo: RepoOption = Path(),
    most: Annotated[int, typer.Option(help="Maximum number of items.")] = 50,
) -> None:
    """List the items with given codes or a code prefix, as of the feature tables."""
    from semantic_ids.lookup import items_of
    from sidkit.core.repo import Repo

    for item, item_codes, title in items_of(Repo.open(repo), codes, name, most):
        typer.echo(f"{item}\t{','.join(map(str, item_codes))}\t{title or ''}")


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
