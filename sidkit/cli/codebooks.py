"""The ``codebooks`` commands: fit, publish, promote, retire, purge, repair, refresh, look-ups and export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidkit.cli.options import (
    ItemOption,
    ItemsOption,
    JsonOption,
    MergeOption,
    Name,
    RepoOption,
    ShardOption,
    ShardsOption,
    StrictOption,
    codebooks_app,
)
from sidkit.cli.output import VERBOSITY, json_records, say, show, show_json
from sidkit.cli.tables import table
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
    force: Annotated[bool, typer.Option("--force", help="Fit even with fewer than 20 items per code.")] = False,
    shards: ShardsOption = None,
    merge: MergeOption = False,
) -> None:
    """Fit a codebook on the items known at a point in time.

    With --shards, the pairs of items that a preset such as saviorrec learns from are mined in shards.
    """
    import sidkit
    from sidkit.core.names import check_codebook_name

    check_codebook_name(name)
    project = sidkit.open(repo)
    record = project.fit(name, preset, fit_end=fit_end, force=force, shards=shards, merge=merge)
    if not VERBOSITY.quiet:
        _show(record, project.repo.codebooks / name)


@codebooks_app.command("pairs")
def pairs(
    name: Name,
    shard: ShardOption,
    repo: RepoOption = Path(),
    preset: Annotated[str, typer.Option(help="The preset of the fit.")] = "saviorrec",
    fit_end: Annotated[
        str | None,
        typer.Option(help="The cut-off of the fit, ISO-8601 with a time zone. Default: the tables' as-of time."),
    ] = None,
) -> None:
    """Mine the pairs of one shard of users, for a fit.

    Fit with the same options, --shards N and --merge puts the N shards together. Takes no lock: several workers can run.
    """
    import sidkit

    mined = sidkit.open(repo).mine_shard(name, shard, preset, fit_end=fit_end)
    say(f"{name}: shard {shard} " + ("mined" if mined else "was finished before"))


@codebooks_app.command("publish")
def publish(name: Name, repo: RepoOption = Path(), shards: ShardsOption = None, merge: MergeOption = False) -> None:
    """Assign codes to all items and register them.

    Registers the feature view of the codebook and its services, and fills the online store.
    """
    import sidkit

    report = sidkit.open(repo).publish(name, shards=shards, merge=merge)
    say(f"{name}: {report.rows:,} rows of codes ({report.new_rows:,} new), {report.without_content:,} without content")


@codebooks_app.command("assign")
def assign(name: Name, shard: ShardOption, repo: RepoOption = Path()) -> None:
    """Assign codes to the items of one shard.

    Publish or refresh with --shards N --merge puts the N shards together. Takes no lock, so that several workers can run.
    """
    import sidkit

    rows = sidkit.open(repo).assign_shard(name, shard)
    say(
        f"{name}: shard {shard} was finished before"
        if rows is None
        else f"{name}: shard {shard}, {rows:,} rows of codes"
    )


@codebooks_app.command("promote")
def promote(name: Name, repo: RepoOption = Path()) -> None:
    """Make a published codebook the default of all commands."""
    import sidkit

    sidkit.open(repo).promote_codebook(name)
    say(f"{name} is serving")


@codebooks_app.command("retire")
def retire(name: Name, repo: RepoOption = Path()) -> None:
    """Take a codebook out of use.

    Its feature view and data remain until it is purged.
    """
    import sidkit

    sidkit.open(repo).retire(name)
    say(f"{name} is retired; `sidkit codebooks purge {name}` deletes its feature view, codes and files")


@codebooks_app.command("purge")
def purge(name: Name, repo: RepoOption = Path()) -> None:
    """Permanently delete a retired codebook."""
    import sidkit

    sidkit.open(repo).purge(name)
    say(f"{name} is purged")


@codebooks_app.command("repair")
def repair(repo: RepoOption = Path()) -> None:
    """Recreate damaged or lost catalogue records."""
    import sidkit

    done = sidkit.open(repo).repair_catalog()
    for record in done:
        say(str(record))
    say(f"{len(done)} records recreated; `sidkit codebooks list` and `sidkit ranker list` show all")


@codebooks_app.command("refresh")
def refresh(
    name: Annotated[str | None, typer.Argument(help="Codebook name; default: all published codebooks.")] = None,
    repo: RepoOption = Path(),
    shards: ShardsOption = None,
    merge: MergeOption = False,
) -> None:
    """Assign codes to new and changed content."""
    import sidkit

    for report in sidkit.open(repo).refresh(name, shards=shards, merge=merge):
        say(f"{report.name}: {report.rows:,} rows, {report.new_rows:,} new")


@codebooks_app.command("list")
def list_(repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """List all codebooks and their states."""
    import sidkit

    codebooks = sidkit.open(repo).codebooks()
    if json_:
        show_json(json_records(codebooks))
        return
    rows = [
        [
            each.name,
            each.state,
            each.quantizer,
            "x".join(map(str, each.sizes)),
            each.encoder,
            "-" if each.fit_end is None or each.fit_end != each.fit_end else f"{each.fit_end:%Y-%m-%d}",
        ]
        for each in codebooks.itertuples()
    ]
    head = ("NAME", "STATE", "QUANTIZER", "CODES", "ENCODER", "FIT END")
    show(table(head, rows, left=head[1:]))


@codebooks_app.command("show")
def show_(name: Name, repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """Show one codebook: fit window, quality metrics and folder."""
    import sidkit
    from semantic_ids.catalog import Catalog

    project = sidkit.open(repo)
    record, folder = Catalog.open(project.repo).codebook(name), project.repo.codebooks / name
    if json_:
        codebooks = project.codebooks()
        stated = json_records(codebooks[codebooks["name"] == name])[0]
        show_json({**stated, "stats": _stats(folder), "metrics": _metrics(folder), "folder": str(folder)})
    else:
        _show(record, folder)


@codebooks_app.command("similar")
def similar(
    item: Annotated[str, typer.Argument(help="Item id.")],
    name: Annotated[str | None, typer.Option(help="Codebook name; default: the serving codebook.")] = None,
    repo: RepoOption = Path(),
    most: Annotated[int, typer.Option(min=1, help="Number of items.")] = 10,
    list_: Annotated[
        str | None, typer.Option("--list", help="A neighbour list of the codebook, such as content or co_clicks.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """List the items with the most similar vectors.

    Prints item id, cosine similarity and codes, by the vectors of the codebook's encoder. With --list, prints item id and
    weight of the neighbours in a list of the codebook, as of its fit.
    """
    import sidkit

    codebook = sidkit.open(repo).codebook(name)
    if list_ is not None:
        listed = codebook.neighbours(item, list_).head(most)
        if json_:
            show_json(json_records(listed))
        else:
            show("\n".join(f"{each.item_id}\t{each.weight:.4f}" for each in listed.itertuples()))
        return
    near = codebook.similar(item, most)
    if json_:
        show_json(json_records(near))
        return
    for each in near.itertuples():
        show(f"{each.item_id}\t{each.similarity:.4f}\t{','.join(map(str, each.codes or ()))}")


@codebooks_app.command("codes")
def codes(
    items: ItemsOption = None,
    item: ItemOption = None,
    name: Annotated[str | None, typer.Option(help="Codebook name; default: the serving codebook.")] = None,
    repo: RepoOption = Path(),
    strict: StrictOption = False,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON list of item_id, codes, known.")] = False,
) -> None:
    """Look up the codes of items.

    They are as of the feature tables. Unknown ids are reported on stderr.
    """
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
        show_json(rows)
        return
    for each in item_ids:
        show(f"{each}\t{','.join(map(str, codes_by_id[each] or ())) or 'no codes'}")


@codebooks_app.command("items")
def items_(
    codes: Annotated[str, typer.Option(help="Full codes or a prefix of them, such as 17,3.")],
    name: Annotated[str | None, typer.Option(help="Default: the serving codebook.")] = None,
    repo: RepoOption = Path(),
    most: Annotated[int, typer.Option(help="Maximum number of items.")] = 50,
    json_: JsonOption = False,
) -> None:
    """List the items with given codes or a code prefix."""
    from semantic_ids.lookup import items_of
    from sidkit.core.repo import Repo

    items = items_of(Repo.open(repo), codes, name, most)
    if json_:
        show_json([{"item_id": item, "codes": own, "title": title} for item, own, title in items])
        return
    for item, item_codes, title in items:
        show(f"{item}\t{','.join(map(str, item_codes))}\t{title or ''}")


@codebooks_app.command("export")
def export(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="File: .parquet, .csv, or .json for a prefix trie.")],
    repo: RepoOption = Path(),
) -> None:
    """Write the codes of all items to a file.

    A .json file is a prefix trie for constrained decoding: nested objects by code, with lists of item ids as leaves.
    """
    import sidkit

    report = sidkit.open(repo).codebook(name).export(out)
    say(
        f"{report.path}: {report.items:,} items with {report.distinct:,} distinct codes; {report.colliding:,} share their "
        f"codes with another item, {report.without_codes:,} have none"
    )


def _metrics(folder: Path) -> Any:
    from sidkit.core.integrity import read_checked_json

    path = folder / "metrics.json"
    return read_checked_json(path) if path.is_file() else None


def _stats(folder: Path) -> Any:
    """Depths and cadences of the statistics of codes, as the manifest states them; None without any."""
    from sidkit.core.artifact import read_manifest

    return read_manifest(folder, verify=False).get("stats") if folder.is_dir() else None


def _show(record: CodebookRecord, folder: Path) -> None:
    import json

    from sidkit.core.clock import iso

    show(f"{record.name}: {record.state}, {record.summary}")
    if record.fit_end_us:
        show(
            f"fitted on content from {iso(record.fit_start_us)} to {iso(record.fit_end_us)}, hash {record.content_hash}"
        )
    if stats := _stats(folder):
        show(f"statistics of prefixes of {', '.join(map(str, stats['depths']))} codes")
    if (metrics := _metrics(folder)) is not None:
        show(json.dumps(metrics, indent=2))
        show(str(folder))
