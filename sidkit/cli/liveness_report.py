"""Terminal table of the liveness of each arm's parts, a part of ``sidkit ranker compare``."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ranking.experiments.comparison.liveness import ArmPart, Liveness
from ranking.experiments.comparison.liveness_table import liveness_cells
from sidkit.cli.tables import Rows, print_table

_LEGEND = (
    "* the ablation baseline of the arm lacks the part",
    "entropy: of the attention weights / log n; 1 is uniform",
    "size: of the table / at its start; 0+ its size if it starts at 0",
    "AUC with it off: change of the validation AUC; of a gate at 0 and at 1",
    "alive: the change exceeds the SD of the arm's validation AUC; ?: one seed",
)


def print_liveness(console: Console, liveness: Liveness) -> None:
    """Print one row per part of each arm; nothing if no arm was measured."""
    rows = [Rows(f"{arm}: {_deviation(parts[0])}", [_cells(part) for part in parts]) for arm, parts in liveness.items()]
    if not rows:
        return
    head = ("arm", "part", "entropy", "size", "AUC with it off", "alive")
    print_table(console, "liveness of the parts, on validation rows", head, rows, left=("part", "alive"))
    for line in _LEGEND:
        console.print(Text(line), soft_wrap=True)


def _deviation(part: ArmPart) -> str:
    return "SD over seeds unknown" if part.deviation is None else f"SD over seeds {part.deviation:.4f}"


def _cells(part: ArmPart) -> list[str]:
    cells = liveness_cells(part)
    return [
        f"{part.name}{'*' if part.own else ''}",
        cells.entropy,
        cells.size,
        cells.off,
        "?" if part.alive is None else cells.alive,
    ]
