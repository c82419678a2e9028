"""``sidkit leakage``: AUC promised by leaked counts, delivered in serving, and possible without the leak."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.options import JsonOption, RepoOption
from sidkit.cli.output import show, show_json
from sidkit.core.id_lists import comma_separated

if TYPE_CHECKING:
    from ranking.experiments.leakage import LeakageResult


def leakage(
    repo: RepoOption = Path(),
    preset: Annotated[str, typer.Option(help="The preset of a finished `sidkit run` on this repo.")] = "rqkmeans",
    arms: Annotated[str, typer.Option(help="Comma-separated arms of the preset.")] = "gbdt",
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings per arm with random parts, with and without the leak.")
    ] = 1,
    json_: JsonOption = False,
) -> None:
    """Measure the cost of leakage.

    Prints the AUC promised by leaked counts, delivered in serving, and possible without the leak.
    """
    import sidkit

    result = sidkit.open(repo).leakage(preset, comma_separated(arms), seeds=seeds)
    if json_:
        show_json(result.as_json())
    else:
        show(as_text(result))


def as_text(result: LeakageResult) -> str:
    """Format the result as text."""
    lines = [
        f"{'arm':<14} {'slice':<6} {'rows':>8}  {'promised':>8}  {'delivered':>9}  {'possible':>8}  delivered - possible"
    ]
    for arm, rows in result.arms.items():
        for row in rows:
            cost = row.cost.interval
            interval = "-" if math.isnan(cost.low) else f"[{cost.low:+.4f}, {cost.high:+.4f}]"
            lines.append(
                f"{arm:<14} {row.slice:<6} {row.rows:>8,}  {row.promised.value:>8.4f}  "
                f"{row.delivered.value:>9.4f}  {row.possible.value:>8.4f}  {cost.value:+.4f} {interval} "
                f"{row.cost.verdict}"
            )
    return "\n".join(lines)
