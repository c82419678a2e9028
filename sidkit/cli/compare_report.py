"""Terminal report of ``sidkit ranker compare``."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ranking.data.rows_used import rows_summary
from ranking.experiments.comparison.arms import CODES_AS_FEATURES, paper_number
from ranking.experiments.comparison.results import EVIDENCE, ComparisonResult, Row
from ranking.experiments.comparison.tables import SHORT, budgets
from sidkit.cli.liveness_report import print_liveness
from sidkit.cli.tables import Rows, print_table
from sidkit.core.bootstrap import LEAST_POSITIVES
from sidkit.core.records import record_json


def print_comparison(console: Console, result: ComparisonResult) -> None:
    """Print parameter counts, the short AUC table with differences to ``id_codes``, liveness, and durations."""
    _print_parameters(console, result)
    _print_aucs(console, result)
    print_liveness(console, result.evaluation.liveness)
    console.print()
    for number, origin in enumerate(result.origins):
        if origin.rows is not None:
            console.print(f"time origin {number}: {rows_summary(origin.rows)}", highlight=False)
    seconds, count = result.seconds, len(result.trials)
    console.print(
        f"{count} trials, {seconds.trials / count:.1f} s each ({seconds.trials_cpu / count:.1f} s of CPU); "
        f"prepare {seconds.prepare:.0f} s, evaluate {seconds.evaluate:.0f} s, this run {seconds.this_run:.0f} s; "
        f"peak memory {result.peak_rss_mb:,.0f} MB"
    )


def _print_parameters(console: Console, result: ComparisonResult) -> None:
    arms = result.evaluation.arms
    rows = []
    for arm, total, without_tables, ratio in budgets({arm: record_json(facts) for arm, facts in arms.items()}):
        share = "-" if ratio is None else f"{ratio:.2f}"
        rows.append(
            Rows(f"{arm}: {arms[arm].title}", [[paper_number(arm), f"{total:,}", f"{without_tables:,}", share]])
        )
    if rows:
        head = ("arm", "paper", "parameters", "without tables", f"of {CODES_AS_FEATURES}")
        print_table(console, "parameters", head, rows, left=("paper",))


def _print_aucs(console: Console, result: ComparisonResult) -> None:
    """Print AUC and difference per arm and slice."""
    evaluation = result.evaluation
    slices = [name for name in SHORT if name in evaluation.slices]
    auc = [row for row in evaluation.rows if row.metric == "auc"]
    against = {(row.arm, row.slice): row for row in auc if row.baseline in {CODES_AS_FEATURES, None}}
    alone = {(row.arm, row.slice): row for row in auc if (row.arm, row.slice) not in against}
    rows = []
    for arm in [*evaluation.arms, *({"oracle"} if any(key[0] == "oracle" for key in against) else ())]:
        cells = [[name, *_cells(against.get((arm, name)), alone.get((arm, name)))] for name in slices]
        rows.append(Rows(arm, cells, dim=arm == "oracle"))
    title = f"{result.data}: AUC, and its difference to {CODES_AS_FEATURES} with the 95 % interval over users"
    print_table(console, title, ("arm", "slice", "AUC", "difference", "interval"), rows, left=("slice",))
    counted = ", ".join(f"{name} {evaluation.slices[name].positives:,}" for name in slices)
    console.print(
        Text(f"* the interval excludes 0 and the slice has at least {LEAST_POSITIVES} positives"), soft_wrap=True
    )
    console.print(Text(f"positives: {counted}"), soft_wrap=True)


def _cells(against: Row | None, alone: Row | None) -> list[str]:
    """Format the AUC, and the difference and interval if the row has a baseline."""
    row = against or alone
    if row is None or row.mean is None:
        return ["-", "", ""]
    if against is None or row.delta is None or row.delta_low is None:
        return [f"{row.mean:.4f}", "", ""]
    mark = "*" if row.verdict in EVIDENCE else " "
    return [f"{row.mean:.4f}", f"{row.delta:+.4f}{mark}", f"[{row.delta_low:+.4f}, {row.delta_high:+.4f}]"]
