"""Terminal report of ``sidkit ranker compare``."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ranking.data.rows_used import rows_summary
from ranking.experiments.comparison.arms import CODES_AS_FEATURES, paper_number
from ranking.experiments.comparison.results import ComparisonResult, Row
from ranking.experiments.comparison.tables import SHORT, budgets
from sidkit.core.bootstrap import NO_EVIDENCE
from sidkit.core.records import record_json


def print_comparison(console: Console, result: ComparisonResult) -> None:
    """Print parameter counts, the short AUC table with differences to ``id_codes``, and durations."""
    arms = result.evaluation.arms
    table = Table(title="parameters")
    for column in ("arm", "paper", "", "all", "without tables", f"of {CODES_AS_FEATURES}"):
        table.add_column(column, justify="left" if column in {"arm", "paper", ""} else "right")
    for arm, total, without_tables, ratio in budgets({arm: record_json(facts) for arm, facts in arms.items()}):
        share = "-" if ratio is None else f"{ratio:.2f}"
        table.add_row(arm, paper_number(arm), arms[arm].title, f"{total:,}", f"{without_tables:,}", share)
    console.print(table)
    console.print(_auc_table(result))
    for number, origin in enumerate(result.origins):
        if origin.rows is not None:
            console.print(f"time origin {number}: {rows_summary(origin.rows)}", highlight=False)
    seconds, count = result.seconds, len(result.trials)
    console.print(
        f"{count} trials, {seconds.trials / count:.1f} s each ({seconds.trials_cpu / count:.1f} s of CPU); "
        f"prepare {seconds.prepare:.0f} s, evaluate {seconds.evaluate:.0f} s, this run {seconds.this_run:.0f} s; "
        f"peak memory {result.peak_rss_mb:,.0f} MB"
    )


def _auc_table(result: ComparisonResult) -> Table:
    evaluation = result.evaluation
    slices = [name for name in SHORT if name in evaluation.slices]
    table = Table(title=f"{result.data}: AUC, and difference to {CODES_AS_FEATURES} with its 95 % interval over users")
    table.add_column("arm")
    for name in slices:
        table.add_column(f"{name}\n{evaluation.slices[name].positives:,} positives", justify="right")
    rows = [row for row in evaluation.rows if row.metric == "auc"]
    against = {(row.arm, row.slice): row for row in rows if row.baseline in {CODES_AS_FEATURES, None}}
    alone = {(row.arm, row.slice): row for row in rows if (row.arm, row.slice) not in against}
    for arm in [*evaluation.arms, *({"oracle"} if any(key[0] == "oracle" for key in against) else ())]:
        cells = (_cell(against.get((arm, name)), alone.get((arm, name))) for name in slices)
        table.add_row(arm, *cells, style="dim" if arm == "oracle" else "")
    return table


def _cell(against: Row | None, alone: Row | None) -> str:
    """Format the AUC, and the difference if the row has a baseline."""
    row = against or alone
    if row is None or row.mean is None:
        return "-"
    if against is None or row.delta is None or row.delta_low is None:
        return f"{row.mean:.4f}"
    mark = "" if row.verdict == NO_EVIDENCE else "*"
    return f"{row.mean:.4f}\n{row.delta:+.4f}{mark}\n[{row.delta_low:+.4f}, {row.delta_high:+.4f}]"
