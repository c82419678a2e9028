"""Write the page of a monitored ranker: one HTML file that loads nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sidkit.core.files import written_beside
from sidkit.reports import render_page

if TYPE_CHECKING:
    from ranking.monitoring.monitor import MonitorResult


def monitor_page(result: MonitorResult) -> str:
    """The page as text."""
    drifting = len(result.drifting)
    rows = sum(day.rows for day in result.days)
    where = "the served log" if result.source == "log" else "the labelled rows"
    return render_page(
        "ranking.monitoring.report",
        styles=("monitor.css",),
        data={},
        content={
            "result": result,
            "summary": f"{drifting} of {len(result.features)} distributions drift; {rows:,} of {result.total:,} rows of "
            f"{where}.",
            "dates": [day.day for day in result.days],
        },
    )


def write_monitor_page(path: Path, result: MonitorResult) -> None:
    """Write the page.

    Raises
    ------
    StorageError
        When the file cannot be written.
    """
    text = monitor_page(result)
    with written_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
