"""``sidkit events``: events and items that arrive while the service runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidkit.cli.options import AtOption, JsonOption, RepoOption
from sidkit.cli.output import say, show, show_json

if TYPE_CHECKING:
    import pyarrow as pa

    from semantic_ids.ticks import TickReport
    from sidkit.api.event_steps import Pushed

events_app = typer.Typer(help="Add events and items one by one.", no_args_is_help=True)

FileArgument = Annotated[
    str, typer.Argument(help="A Parquet or JSON-lines file with the contract's columns, or - for JSON lines on stdin.")
]


@events_app.command("push")
def push(file: FileArgument, repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """Add events to the log, without the source.

    Prints the rejected rows with their reasons, and exits with code 1 if there are any; the others are added. The next tick
    updates the online store.
    """
    import sidkit

    project = sidkit.open(repo)
    _report(project.push_events(_rows(file, "interactions")), "events", json_)


@events_app.command("items")
def items(file: FileArgument, repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """Add new items to the log, without the source.

    Columns are those of the source's items, and a vector per modality. The next tick gives the items codes.
    """
    import sidkit

    project = sidkit.open(repo)
    _report(project.push_items(_rows(file, "items")), "items", json_)


@events_app.command("tick")
def tick(
    repo: RepoOption = Path(),
    at: AtOption = None,
    every: Annotated[
        float | None,
        typer.Option(min=0.05, help="Tick again and again, every so many seconds, until a signal arrives."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Update the online store.

    Writes what pushed rows and the passage of time change. Afterwards the store has the values of tables that were built as of
    the same time.
    """
    import sidkit

    project = sidkit.open(repo)
    if every is None:
        report = project.tick(at)
        show_json(_as_json(report)) if json_ else say(_words(report))
        return
    if at is not None:
        raise typer.BadParameter("a replay ticks once: leave out --every or --at")
    from sidkit.serve.ticking import tick_until_stopped

    tick_until_stopped(project.repo, every, lambda report: say(_words(report)))


def _rows(file: str, table: str) -> pa.Table | list[dict[str, Any]]:
    """Read the rows of a file; those of JSON lines as objects."""
    from sidkit.core.files import typed_path

    path = typed_path(file)
    if file != "-" and path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        from sidkit.core.errors import ContractError

        try:
            return pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise ContractError(table, f"{path} cannot be read as Parquet ({error}); write it again") from error
    return _objects(sys.stdin.buffer.read() if file == "-" else path.read_bytes(), table)


def _objects(text: bytes, table: str) -> list[dict[str, Any]]:
    from sidkit.core.errors import ContractError

    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ContractError(table, f"line {number} is no JSON ({error}); write one object per line") from error
        if not isinstance(row, dict):
            raise ContractError(
                table, f"expected a JSON object in line {number}, got {type(row).__name__}; write objects"
            )
        rows.append(row)
    return rows


def _report(done: Pushed, what: str, json_: bool) -> None:
    if json_:
        rejected = [{"row": each.row, "reason": each.reason} for each in done.rejected]
        show_json({**vars(done), "rejected": rejected})
    else:
        for each in done.rejected:
            show(f"row {each.row}: {each.reason}")
        counts = (("changed", done.changed), ("known already", done.duplicates), ("rejected", len(done.rejected)))
        further = "".join(f", {count:,} {words}" for words, count in counts if count)
        first = f"{done.new:,} new {what}"
        if done.waiting:
            first = f"{done.accepted:,} {what} wait in the queue, because another command holds the repository"
        say(f"{first}{further}")
    if done.rejected:
        raise typer.Exit(1)


def _words(report: TickReport) -> str:
    from sidkit.core.clock import iso

    absorbed = report.absorbed
    counts = (("new events", absorbed.new), ("changed events", absorbed.changed), ("new items", absorbed.items))
    log = "".join(f", {count:,} {words}" for words, count in counts if count)
    rows = ", ".join(f"{name} {count:,}" for name, count in report.written.items()) or "none"
    return f"tick as of {iso(report.as_of_us)}{log}; rows written: {rows} ({report.seconds:.2f} s)"


def _as_json(report: TickReport) -> dict[str, object]:
    from sidkit.core.clock import iso

    return {
        "as_of": iso(report.as_of_us),
        "log": vars(report.absorbed),
        "written": report.written,
        "seconds": round(report.seconds, 3),
        "whole": report.whole,
    }
