"""What ``sidkit ranker compare`` prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ranking.data.rows_used import rows_summary
from ranking.evaluation.arms_table import NO_EVIDENCE
from ranking.experiments.comparison.arms import CODES_AS_FEATURES
from ranking.experiments.comparison.tables import TOLD, budgets


def print_comparison(console: Console, facts: Mapping[str, Any]) -> None:
    """Budgets, then the short table of AUC with differences to A3, then what it took."""
    table = Table(title="parameters")
    for column in ("arm", "", "all", "without tables", f"of {CODES_AS_FEATURES}"):
        table.add_column(column, justify="left" if column in {"arm", ""} else "right")
    for arm, whole, bare, ratio in budgets(facts["arms"]):
        share = "-" if ratio is None else f"{ratio:.2f}"
        table.add_row(arm, facts["arms"][arm]["title"], f"{whole:,}", f"{bare:,}", share)
    console.print(table)
    console.print(_auc_table(facts))
    for number, origin in enumerate(facts["origins"]):
        if origin["rows"] is not None:
            console.print(f"origin {number}: {rows_summary(origin['rows'])}", highlight=False)
    seconds = facts["seconds"]
    units = facts["units"]
    console.print(
        f"{len(units)} units, {seconds['units'] / len(units):.1f} s each ({seconds['units_cpu'] / len(units):.1f} s of CPU); "
        f"prepare {seconds['prepare']:.0f} s, judge {seconds['judge']:.0f} s, this run {seconds['this_run']:.0f} s; "
        f"peak memory {facts['peak_rss_mb']:,.0f} MB"
    )


def _auc_table(facts: Mapping[str, Any]) -> Table:
    slices = [name for name in TOLD if name in facts["slices"]]
    table = Table(
        title=f"{facts['data']}: AUC, and difference to {CODES_AS_FEATURES} with its 95 % interval over users"
    )
    table.add_column("arm")
    for name in slices:
        table.add_column(f"{name}\n{facts['slices'][name]['positives']:,} positives", justify="right")
    cells = {
        (row["arm"], row["slice"]): row
        for row in facts["rows"]
        if row["metric"] == "auc" and row["baseline"] in {CODES_AS_FEATURES, None}
    }
    cells |= {
        (row["arm"], row["slice"]): {**row, "delta": None}
        for row in facts["rows"]
        if row["metric"] == "auc" and (row["arm"], row["slice"]) not in cells
    }
    for arm in [*facts["arms"], *({"oracle"} if any(key[0] == "oracle" for key in cells) else ())]:
        table.add_row(arm, *(_cell(cells.get((arm, name))) for name in slices), style="dim" if arm == "oracle" else "")
    return table


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return "-"
    if row["delta"] is None or row["delta_low"] is None:
        return f"{row['mean']:.4f}"
    mark = "" if row["verdict"] == NO_EVIDENCE else "*"
    return f"{row['mean']:.4f}\n{row['delta']:+.4f}{mark}\n[{row['delta_low']:+.4f}, {row['delta_high']:+.4f}]"
