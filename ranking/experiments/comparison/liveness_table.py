"""Text of the liveness of a part, for the terminal and the HTML page."""

from __future__ import annotations

from dataclasses import dataclass

from ranking.experiments.comparison.liveness import ArmPart


@dataclass(frozen=True)
class LivenessCells:
    """The measurements of a part as text; ``-`` for those that do not apply."""

    entropy: str
    """Entropy over log n of an attention."""
    size: str
    """Size over start of a table; ``0+x`` for a zero-initialised one of size x."""
    off: str
    """Changes of the validation AUC."""
    alive: str
    """``yes``, ``no`` or ``unknown``."""


def liveness_cells(part: ArmPart) -> LivenessCells:
    """Format the measurements of a part."""
    return LivenessCells(
        entropy="-" if part.entropy_over_log_n is None else f"{part.entropy_over_log_n:.3f}",
        size=_size(part),
        off=" ".join(f"{delta:+.4f}" for delta in part.delta_auc) or "-",
        alive={True: "yes", False: "no", None: "unknown"}[part.alive],
    )


def _size(part: ArmPart) -> str:
    if part.size is None:
        return "-"
    return f"0+{part.size:.1e}" if part.size_over_start is None else f"x {part.size_over_start:.2f}"
