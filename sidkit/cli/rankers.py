"""Commands for rankers, frames and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import ItemOption, ItemsOption, RepoOption, StrictOption, ranker_app
from sidkit.core.id_lists import read_ids, refuse_broken_text


def frame(
    rows: Annotated[
        Path, typer.Option(help="Parquet file with user_id, item_id, event_timestamp; further columns are copied.")
    ],
    out: Annotated[Path, typer.Option(help="Output file (Parquet).")],
    repo: RepoOption = Path(),
    service: Annotated[
        str | None,
        typer.Option(help="Feature service; default: that of the serving codebook."),
    ] = None,
) -> None:
    """Write the point-in-time features of rows, as a ranker trains on them."""
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
        typer.Option(help="Time of the request, ISO-8601 with a zone; default: now."),
    ] = None,
    ranker: Annotated[str | None, typer.Option(help="Name of the ranker; default: the serving ranker.")] = None,
    strict: StrictOption = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score candidates for a user with features from the online store; unknown ids are reported."""
    import json

    from ranking.serving.scorer import Scorer, unknown_ids
    from sidkit.core.clock import iso, parse_time
    from sidkit.core.repo import Repo

    candidates = read_ids(items, item)
    refuse_broken_text(user)
    at_us = parse_time(at)
    scorer = Scorer(Repo.open(repo), ranker)
    scores = scorer.answer(user, candidates, at_us, strict=strict)
    if unknown := unknown_ids(user, candidates, scores.known, scores.user_known):
        typer.echo(f"sidkit: {unknown}: scored without their features", err=True)
    values, known = scores.values.tolist(), scores.known.tolist()
    if json_:
        rows = [
            {"item_id": candidate, "score": value, "known": is_known}
            for candidate, value, is_known in zip(candidates, values, known, strict=True)
        ]
        request = {"ranker": scorer.record.name, "user": user, "user_known": scores.user_known, "at": iso(at_us)}
        typer.echo(json.dumps({**request, "scores": dict(zip(candidates, values, strict=True)), "items": rows}))
        return
    for candidate, value in sorted(zip(candidates, values, strict=True), key=lambda pair: -pair[1]):
        typer.echo(f"{candidate}\t{value:.6f}")


def _warn_of_rows(repo: Path, ahead: int, unknown: int) -> None:
    """Warn of rows later than the tables, and of rows with unknown items."""
    from sidkit.core.clock import iso
    from sidkit.core.repo import Repo
    from sidkit.tables import read_build

    if ahead:
        built = iso(read_build(Repo.open(repo))["as_of_us"])
        typer.echo(
            f"warning: {ahead:,} rows are later than the as-of time of the tables, {built}, and get the features of that time. "
            "Run `sidkit tables build` with a later --as-of first",
            err=True,
        )
    if unknown:
        typer.echo(
            f"warning: {unknown:,} rows have item ids that are missing from the tables, and get no item features. Expected ids "
            "as in the log (`sidkit codebooks codes --item ID` checks an id)",
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
    """Make a ranker the default of `sidkit score`."""
    from ranking.serving.scorer import Scorer
    from semantic_ids.catalog import Catalog
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    with opened.locked():
        Scorer(opened, name)  # raises if the ranker cannot serve
        Catalog.open(opened).set_ranker_state(name, "serving")
    typer.echo(f"{name} is serving")


@ranker_app.command("evaluate")
def evaluate(
    name: Annotated[str, typer.Argument(help="The ranker's name.")],
    repo: RepoOption = Path(),
    rows: Annotated[
        Path | None,
        typer.Option(help="Labelled rows (Parquet); default: those of the repository."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Evaluate rows from this time on, ISO-8601 with a zone; default: the ranker's fit_end."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate a ranker on held-out labelled rows; fails if they start before its fit_end."""
    import json

    from ranking.experiments.evaluate import evaluate_ranker
    from sidkit.core.clock import parse_time
    from sidkit.core.repo import Repo

    opened = Repo.open(repo)
    result = evaluate_ranker(opened, name, rows or opened.labelled_rows, parse_time(since) if since else None)
    if json_:
        typer.echo(json.dumps(result.as_json()))
        return
    given = result.given
    typer.echo(f"evaluating {given.rows - given.before_start:,} of {given.rows:,} rows: those from {given.start} on")
    _warn_of_rows(repo, given.after_tables, given.of_unknown_items)
    for slice_name, metrics in result.slices.items():
        auc = "-" if metrics.auc is None else f"{metrics.auc:.4f}"
        typer.echo(
            f"{slice_name:<16} {result.rows[slice_name].rows:>9,} rows  AUC {auc}  log-loss {metrics.logloss:.4f}  "
            f"calibration {metrics.calibration if metrics.calibration is None else round(metrics.calibration, 3)}"
        )
