"""Terminal report of ``sidkit ranker compare``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from rich.console import Console
from rich.text import Text

from ranking.data.rows_used import rows_summary
from ranking.experiments.comparison.arms import CODES_AS_FEATURES, CONTENT, paper_number
from ranking.experiments.comparison.baselines import of_idea
from ranking.experiments.comparison.results import ComparisonEvaluation, ComparisonResult, Row
from ranking.experiments.comparison.tables import SHORT, budgets
from ranking.training.calibration import SAMPLED_METRICS
from sidkit.cli.liveness_report import print_liveness
from sidkit.cli.tables import Rows, print_table
from sidkit.core.intervals import EVIDENCE, too_small
from sidkit.core.records import record_json

IDEAS = ("all", "cold")
"""Slices of the table of ideas."""


def print_comparison(console: Console, result: ComparisonResult) -> None:
    """Print parameter counts, AUC with differences to plain arms, what the ideas of arms give, liveness, and durations."""
    _print_parameters(console, result)
    _print_aucs(console, result)
    _print_ideas(console, result.evaluation)
    print_liveness(console, result.evaluation.liveness)
    console.print()
    for number, origin in enumerate(result.origins):
        if origin.rows is not None:
            console.print(f"time origin {number}: {rows_summary(origin.rows)}", highlight=False)
        for window in origin.codebooks or ():
            if window.sentence is not None:
                console.print(Text(f"time origin {number}: {window.sentence}"), soft_wrap=True)
    for arm, reason in result.skipped.items():
        console.print(Text(f"skipped {arm}: {reason}"), soft_wrap=True)
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
    by = {(row.arm, row.slice, row.baseline): row for row in auc}
    mean = {(row.arm, row.slice): row.mean for row in auc}
    rows = []
    for arm in dict.fromkeys(row.arm for row in auc):
        cells = [
            [
                name,
                "-" if (value := mean.get((arm, name))) is None else f"{value:.4f}",
                *_difference(by.get((arm, name, CODES_AS_FEATURES))),
                _difference(by.get((arm, name, CONTENT)))[0],
            ]
            for name in slices
        ]
        rows.append(Rows(arm, cells, dim=arm not in evaluation.arms))
    compared = f"its differences to {CODES_AS_FEATURES} (with the 95 % interval) and to {CONTENT}"
    title = f"{result.data}, target {evaluation.target}: AUC, and {compared}"
    head = ("arm", "slice", "AUC", f"- {CODES_AS_FEATURES}", "interval", f"- {CONTENT}")
    print_table(console, title, head, rows, left=("slice",))
    small = {name: too_small(size.positives, size.effective_users or 0) for name, size in evaluation.slices.items()}
    counted = ", ".join(f"{name} {evaluation.slices[name].positives:,}" for name in slices)
    lines = [
        "* better or worse: the interval over users, items and trainings excludes 0",
        f"positives: {counted}",
        *(f"no verdict on {name}: {small[name]}" for name in slices if small[name] is not None),
        *_unequal_rows(auc),
    ]
    lines += [SAMPLED_METRICS] if evaluation.sampled_negatives else []
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _print_ideas(console: Console, evaluation: ComparisonEvaluation) -> None:
    """Print the differences of arms to the same inputs without their idea, and to their controls."""
    slices = [name for name in IDEAS if name in evaluation.slices]
    by = {(row.arm, row.slice, row.baseline): row for row in evaluation.rows if row.metric == "auc"}
    rows = []
    for arm, facts in evaluation.arms.items():
        cells = [
            [name, baseline, *_difference(row), row.verdict or ""]
            for name in slices
            for baseline in chain.from_iterable(of_idea(arm, facts.baseline).values())
            if (row := by.get((arm, name, baseline))) is not None
        ]
        if cells:
            rows.append(Rows(arm, cells))
    if rows:
        title = "AUC minus that of the same inputs without the idea, and of controls"
        print_table(
            console,
            title,
            ("arm", "slice", "compared with", "difference", "interval", "outcome"),
            rows,
            left=("slice", "compared with", "outcome"),
        )


def _unequal_rows(rows: Sequence[Row]) -> list[str]:
    """Why arms have no verdict against a shared baseline, once per arm."""
    reasons: dict[str, str] = {}
    for row in rows:
        if row.verdict == "unequal rows" and row.baseline in {CODES_AS_FEATURES, CONTENT}:
            reasons.setdefault(row.arm, f"no verdict on {row.arm} against {row.baseline}: {row.reason}")
    return list(reasons.values())


def _difference(row: Row | None) -> tuple[str, str]:
    """Format a difference, marked if it has a verdict, and its interval."""
    if row is None or row.delta is None or row.delta_low is None:
        return "", ""
    mark = "*" if row.verdict in EVIDENCE else " "
    return f"{row.delta:+.4f}{mark}", f"[{row.delta_low:+.4f}, {row.delta_high:+.4f}]"
