"""Report of the main job: tables for the terminal, or a JSON object."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ranking.data.rows_used import rows_summary
from ranking.evaluation.evaluator import ArmMetrics
from ranking.evaluation.slices import COLD_BELOW
from ranking.pipeline.evaluation import COMPARED, ArmDifference, RunEvaluation
from ranking.pipeline.results import LogChanges, RunResult
from ranking.pipeline.world import CEILING, ORACLE
from sidkit.cli.tables import Rows, print_table
from sidkit.core.intervals import NO_EVIDENCE
from sidkit.core.records import record_json
from sidkit.core.redact import redacted


def as_json(result: RunResult) -> dict[str, Any]:
    """Return the JSON object of ``sidkit run --json``."""
    repo, book, evaluation = result.repo, result.codebook, result.evaluation
    return {
        "data": redacted(result.data),
        "preset": result.preset,
        "codebook": {
            "name": book.name,
            "quantizer": book.quantizer,
            "levels": book.levels,
            "utilisation": list(book.utilisation),
            "perplexity": list(book.perplexity),
            "collision_rate": book.collision_rate,
            "hit_rate_30": result.hit_rate.as_json(),
            "hit_rate_30_reason": result.hit_rate.reason,
        },
        "codebook_window": {
            "learned_before": result.window.learned_before,
            "training_rows": result.window.rows,
            "of": result.window.of,
        },
        "target": evaluation.target,
        "calibrated": result.calibration.calibrated,
        "calibration": result.calibration.reason,
        "arms": [_arm_json(evaluation, arm) for arm in evaluation.arms],
        "log": record_json(result.log),
        "rows": result.parts,
        "stages": [record_json(stage) for stage in result.stages],
        "warnings": list(result.warnings),
        "conclusions": list(result.conclusions),
        "report": str(result.report),
        "without_auc": evaluation.reasons,
        "peak_rss_mb": result.peak_rss_mb,
        "artifacts": {
            "repo": str(repo.path),
            "codebook": str(repo.codebooks / book.name),
            "rankers": {
                arm: [str(repo.rankers / name) for name in names if name] for arm, names in result.rankers.items()
            },
            "serving_ranker": result.ranker,
            "feature_service": book.service,
            "tables": str(repo.tables),
            "rejects": str(repo.rejects),
            "verdict": str(result.folder / "verdict.json"),
        },
    }


def _arm_json(evaluation: RunEvaluation, arm: str) -> dict[str, Any]:
    slices = evaluation.arms[arm]
    overall = slices["all"]
    return {
        "arm": arm,
        "auc": overall.auc,
        "gauc": overall.gauc,
        "logloss": overall.logloss,
        "auc_cold": slices["cold"].auc if "cold" in slices else None,
        "auc_warm": slices["warm"].auc if "warm" in slices else None,
        "rows": evaluation.rows["all"].rows,
        "rows_cold": _cold_rows(evaluation),
        "oracle_auc": evaluation.oracle["all"] if evaluation.oracle else None,
        "ceiling_auc": evaluation.ceiling["all"] if evaluation.ceiling else None,
    }


def _cold_rows(evaluation: RunEvaluation) -> int:
    return evaluation.rows["cold"].rows if "cold" in evaluation.rows else 0


def print_report(console: Console, result: RunResult) -> None:
    """Print the tables, places and conclusions at the end of ``sidkit run``."""
    repo, book, evaluation = result.repo, result.codebook, result.evaluation
    _print_arms(console, result)
    _print_differences(console, result)
    lines = [
        f"codebook {book.name}: {book.quantizer}, {book.levels} levels; utilisation {_listed(book.utilisation)}, perplexity "
        f"{_listed(book.perplexity)} of the codes, {1 - book.independent_code_rate:.1%} of items share all codes with another "
        "item",
        _log_line(result.log),
        rows_summary(result.parts),
        *([result.window.sentence] if result.window.sentence else []),
        result.scores,
        f"peak memory {result.peak_rss_mb:,.0f} MB; test window from {result.split.describe()['validation_end']}",
    ]
    if "all" in evaluation.reasons:
        lines.insert(0, f"no AUC over all rows: {evaluation.reasons['all']}")
    if result.hit_rate.reason:
        lines.append(f"hit rate at 30: not measured ({result.hit_rate.reason})")
    places = {
        "codebook": repo.codebooks / book.name,
        "verdict": result.folder / "verdict.json",
        "tables": repo.tables,
        "rejects": repo.rejects,
    }
    lines += [f"{name}: {path}" for name, path in places.items()]
    if result.ranker:
        lines.append(f"Score with: sidkit score --repo {shlex.quote(str(repo.path))} --user USER --items ITEM,ITEM")
    console.print()
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    console.print()
    console.print(Text("conclusions", "bold"))
    for sentence in result.conclusions:
        console.print(Text(_wrapped(sentence, console.width)), soft_wrap=True)
    console.print(Text(f"report: {result.report}"), soft_wrap=True)


def _wrapped(sentence: str, width: int) -> str:
    """Break a sentence between words only, so that names and paths can be copied."""
    return textwrap.fill(
        sentence, width, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _log_line(log: LogChanges) -> str:
    """Summarize the last ingest that read the source."""
    merged = sum(log.merged.values())
    rejected = sum(count for reasons in log.rejected.values() for count in reasons.values())
    return (
        f"log: {log.new:,} new events, {log.changed:,} changed, {log.removed:,} removed, {log.vanished:,} no "
        f"longer in the source; {rejected:,} rows rejected, {merged:,} merged with another row of the same event"
    )


def _print_arms(console: Console, result: RunResult) -> None:
    evaluation = result.evaluation
    rows = [
        Rows(arm, [_arm_cells(evaluation, name, slices[name]) for name in COMPARED if name in slices])
        for arm, slices in evaluation.arms.items()
    ]
    for label, by_slice in ((CEILING, evaluation.ceiling), (ORACLE, evaluation.oracle)):
        if by_slice:
            names = [name for name in COMPARED if name in evaluation.rows]
            cells = [[name, f"{evaluation.rows[name].rows:,}", _number(by_slice.get(name)), "", ""] for name in names]
            rows.append(Rows(f"({label})", cells, dim=True))
    cold = f"cold: under {COLD_BELOW} earlier interactions"
    title = f"{redacted(result.data)}: test window, target {evaluation.target}; {cold}"
    print_table(
        console,
        title,
        ("arm", "slice", "rows", "AUC", f"GAUC by {evaluation.gauc_by}", "log-loss"),
        rows,
        left=("slice",),
    )


def _arm_cells(evaluation: RunEvaluation, name: str, metrics: ArmMetrics) -> list[str]:
    numbers = (_number(value) for value in (metrics.auc, metrics.shown_gauc, metrics.logloss))
    return [name, f"{evaluation.rows[name].rows:,}", *numbers]


def _print_differences(console: Console, result: RunResult) -> None:
    pairs_shown = [(question.arm, question.baseline) for question in result.questions]
    groups: dict[str, list[list[str]]] = {}
    reasons: dict[str, str] = {}
    for arm, baseline in pairs_shown:
        for each in result.evaluation.differences:
            if (each.arm, each.baseline) == (arm, baseline):
                verdict = str(each.reasoned)
                if each.verdict == NO_EVIDENCE and not each.reason.startswith("interval"):
                    # A property of the slice, or of the seeds, is stated once below the table.
                    verdict, reasons[each.slice] = each.verdict, each.reason
                cells = [each.slice, f"{each.value:+.4f}", _interval(each), verdict]
                groups.setdefault(f"{arm} - {baseline}", []).append(cells)
    if groups:
        title = "AUC differences, paired by row, with their 95 % interval"
        head = ("arm - baseline", "slice", "AUC", "interval", "verdict")
        rows = [Rows(name, cells) for name, cells in groups.items()]
        print_table(console, title, head, rows, left=("slice", "verdict"))
    for name, reason in reasons.items():
        console.print(Text(f"no verdict on {name} rows: {reason}"), soft_wrap=True)


def _interval(difference: ArmDifference) -> str:
    return "" if difference.low is None else f"[{difference.low:+.4f}, {difference.high:+.4f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _listed(values: Sequence[float]) -> str:
    return "/".join(f"{value:.0%}" for value in values)
