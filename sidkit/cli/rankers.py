"""The commands of trained rankers, frames and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import ItemOption, ItemsOption, RepoOption, StrictOption, ranker_app
from sidkit.core.id_lists import read_ids, refuse_broken_text


def frame(
    rows: Annotated[
        Path, typer.Option(help="Parquet with user_id, item_id, event_timestamp; further columns are kept.")
    ],
    out: Annotated[Path, typer.Option(help="Where the frame is written (Parquet).")],
    repo: RepoOption = Path(),
    service: Annotated[
        str | None,
        typer.Option(help="The feature service; default: that of the serving codebook."),
    ] = None,
) -> None:
    """Write the point-in-time features of any rows: the frame that the ranker trains on."""
    from ranking.data.export import write_frame
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    written = write_frame(opened, rows, out, service)
    _warn_of_rows(repo, written.ahead, written.unknown)
    typer.echo(f"{out}: {written.rows:,} rows, {written.columns} columns, from feature service {written.service}")


def score(
    user: Annotated[str, typer.Option(help="The user's id.")],
    items: ItemsOption = None,
    item: ItemOption = None,
    repo: RepoOption = Path(),
    at: Annotated[
        str | None,
        typer.Option(help="The request's moment, ISO-8601 with a zone; default now."),
    ] = None,
    ranker: Annotated[str | None, typer.Option(help="Default: the serving ranker.")] = None,
    strict: StrictOption = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score candidates for a user from the online store; ids that it does not know are reported."""
    import json

    from ranking.serving.scorer import Scorer, unknown_ids
    from sidkit.core.clock import iso, parse_time
    from sidkit.core.repo import Repo

    candidates = read_ids(items, item)
    refuse_broken_text(user)
    moment = parse_time(at)
    scorer = Scorer(Repo.open(repo), ranker)
    answer = scorer.answer(user, candidates, moment, strict=strict)
    if unknown := unknown_ids(user, candidates, answer.known, answer.user_known):
        typer.echo(f"sidkit: {unknown}: scored without their features", err=True)
    values, known = answer.values.tolist(), answer.known.tolist()
    if json_:
        rows = [
            {"item_id": candidate, "score": value, "known": there}
            for candidate, value, there in zip(candidates, values, known, strict=True)
        ]
        found = {"ranker": scorer.record.name, "user": user, "user_known": answer.user_known, "at": iso(moment)}
        typer.echo(json.dumps({**found, "scores": dict(zip(candidates, values, strict=True)), "items": rows}))
        return
    for candidate, value in sorted(zip(candidates, values, strict=True), key=lambda pair: -pair[1]):
        typer.echo(f"{candidate}\t{value:.6f}")


def _warn_of_rows(repo: Path, ahead: int, unknown: int) -> None:
    """Say which rows of a user's file were answered with less than they may have meant."""
    from sidkit.core.clock import iso
    from sidkit.core.repo import Repo
    from sidkit.tables import read_build

    if ahead:
        built = iso(read_build(Repo.open(repo))["as_of_us"])
        typer.echo(
            f"warning: {ahead:,} rows lie after {built}, up to which the tables were built; their features are those of that "
            "moment. Run `sidkit tables build` with a later --as-of first",
            err=True,
        )
    if unknown:
        typer.echo(
            f"warning: {unknown:,} rows are of items that the tables do not know; they have no item features. Expected ids as "
            "the log has them (`sidkit codebooks codes --item ID` shows whether one is known)",
            err=True,
        )


@ranker_app.command("list")
def list_(repo: RepoOption = Path()) -> None:
    """List all rankers and their states."""
    from rich.console import Console
    from rich.table import Table

    from semantic_ids.catalog import Catalog
    from sidkit.core.clock import iso
    from sidkit.core.repo import Repo

    table = Table()
    for column in ("name", "state", "arm", "codebook", "service", "fit end", "hash"):
        table.add_column(column, overflow="fold")
    for record in Catalog.open(Repo.open(repo)).rankers():
        table.add_row(
            record.name,
            record.state,
            record.arm,
            record.codebook,
            record.service,
            iso(record.fit_end_us),
            record.content_hash,
        )
    Console().print(table)


@ranker_app.command("promote")
def promote(name: Annotated[str, typer.Argument(help="The ranker's name.")], repo: RepoOption = Path()) -> None:
    """Make a ranker the one that `sidkit score` uses by default."""
    from ranking.serving.scorer import Scorer
    from semantic_ids.catalog import Catalog
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        Scorer(opened, name)  # refuses what could not serve
        Catalog.open(opened).set_ranker_state(name, "serving")
    typer.echo(f"{name} is serving")


@ranker_app.command("evaluate")
def evaluate(
    name: Annotated[str, typer.Argument(help="The ranker's name.")],
    repo: RepoOption = Path(),
    rows: Annotated[
        Path | None,
        typer.Option(help="Labelled rows (Parquet); default: the repo's own."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only rows from this moment on, ISO-8601 with a zone; default: the ranker's fit_end."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a ranker on labelled rows that it has not seen; refused when they begin before it was fitted."""
    import json

    from ranking.experiments.evaluate import evaluate_ranker
    from sidkit.core.clock import parse_time
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    found = evaluate_ranker(opened, name, rows or opened.labelled_rows, parse_time(since) if since else None)
    if json_:
        typer.echo(json.dumps(found.as_json()))
        return
    given = found.given
    typer.echo(
        f"{given.rows - given.before_start:,} of {given.rows:,} rows lie from {given.start} on and are evaluated"
    )
    _warn_of_rows(repo, given.after_tables, given.of_unknown_items)
    for slice_name, metrics in found.slices.items():
        auc = "-" if metrics.auc is None else f"{metrics.auc:.4f}"
        typer.echo(
            f"{slice_name:<16} {found.rows[slice_name].rows:>9,} rows  AUC {auc}  log-loss {metrics.logloss:.4f}  "
            f"calibration {metrics.calibration if metrics.calibration is None else round(metrics.calibration, 3)}"
        )
