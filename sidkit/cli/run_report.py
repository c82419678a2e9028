"""Report of the main job: tables for the terminal, or a JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ranking.data.rows_used import rows_summary
from ranking.pipeline.evaluation import ArmDifference, RunEvaluation
from ranking.pipeline.results import LogChanges, RunResult
from sidkit.core.bootstrap import NO_EVIDENCE
from sidkit.core.records import record_json
from sidkit.core.redact import redacted

ORDER = ("all", "cold", "warm")
_SHOWN = {("content", "id"), ("id_codes", "id"), ("id_codes", "shuffled_codes")}
"""Pairs shown in the table besides those against gbdt; ``verdict.json`` contains all pairs."""


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
        "arms": [_arm_json(evaluation, arm) for arm in evaluation.arms],
        "log": record_json(result.log),
        "rows": result.parts,
        "stages": [record_json(stage) for stage in result.stages],
        "warnings": list(result.warnings),
        "without_auc": evaluation.reasons,
        "peak_rss_mb": result.peak_rss_mb,
        "artifacts": {
            "repo": str(repo.path),
            "codebook": str(repo.codebooks / book.name),
            "rankers": {
                arm: [str(repo.rankers / name) for name in names if name] for arm, names in result.rankers.items()
            },
            "serving_ranker": result.serving_ranker,
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
    }


def _cold_rows(evaluation: RunEvaluation) -> int:
    return evaluation.rows["cold"].rows if "cold" in evaluation.rows else 0


def print_report(console: Console, result: RunResult) -> None:
    """Print the tables at the end of ``sidkit run``."""
    repo, book, evaluation = result.repo, result.codebook, result.evaluation
    console.print(_arms_table(result))
    differences = _differences_table(evaluation.differences)
    if differences.row_count:
        console.print(differences)
    if "all" in evaluation.reasons:
        console.print(f"no AUC over all rows: {evaluation.reasons['all']}")
    console.print(
        f"[bold]codebook[/] {book.name}: {book.quantizer}, {book.levels} levels; utilisation "
        f"{_listed(book.utilisation)}, perplexity {_listed(book.perplexity)} of the codes, "
        f"{book.collision_rate:.1%} of items share all codes with another item"
    )
    if result.hit_rate.reason:
        console.print(f"hit rate at 30: not measured ({result.hit_rate.reason})")
    stages = Table(title="stages")
    for column in ("stage", "rows", "seconds"):
        stages.add_column(column, justify="left" if column == "stage" else "right")
    for stage in result.stages:
        stages.add_row(stage.name, f"{stage.rows:,}", f"{stage.seconds:.1f}")
    console.print(stages)
    console.print(_log_line(result.log))
    console.print(rows_summary(result.parts), highlight=False)
    console.print(
        f"peak memory {result.peak_rss_mb:,.0f} MB; test window from {result.split.describe()['validation_end']}"
    )
    places = {
        "codebook": repo.codebooks / book.name,
        "verdict": result.folder / "verdict.json",
        "tables": repo.tables,
        "rejects": repo.rejects,
    }
    for name, path in places.items():
        console.print(f"{name}: {path}", soft_wrap=True)
    if result.serving_ranker:
        console.print(
            f"serving: {result.serving_ranker}. Score with: sidkit score --repo {repo.path} "
            "--user USER --items ITEM,ITEM",
            soft_wrap=True,
        )


def _log_line(log: LogChanges) -> str:
    """Summarize the last ingest that read the source."""
    merged = sum(log.merged.values())
    rejected = sum(count for reasons in log.rejected.values() for count in reasons.values())
    return (
        f"log: {log.new:,} new events, {log.changed:,} changed, {log.removed:,} removed, {log.vanished:,} no "
        f"longer in the source; {rejected:,} rows rejected, {merged:,} merged with another row of the same event"
    )


def _arms_table(result: RunResult) -> Table:
    evaluation = result.evaluation
    table = Table(
        title=f"{redacted(result.data)}: test window, {evaluation.rows['all'].rows:,} rows, {_cold_rows(evaluation):,} cold "
        f"(item with under 10 earlier interactions); GAUC by {evaluation.gauc_by}"
    )
    for column in ("arm", "AUC", "cold AUC", "warm AUC", "GAUC", "log-loss"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, slices in evaluation.arms.items():
        aucs = [slices[name].auc if name in slices else None for name in ORDER]
        shown = [*aucs, slices["all"].gauc, slices["all"].logloss]
        table.add_row(arm, *(_number(value) for value in shown))
    if evaluation.oracle:
        table.add_row("(oracle)", *(_number(evaluation.oracle.get(name)) for name in ORDER), "", "", style="dim")
    return table


def _differences_table(differences: Sequence[ArmDifference]) -> Table:
    table = Table(title="AUC differences, paired by row, 95 % interval over users")
    for column in ("arm - baseline", *ORDER):
        table.add_column(column, justify="left" if column == "arm - baseline" else "right")
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for difference in differences:
        verdict = difference.reasoned
        reason = f"\n({verdict.reason})" if verdict.outcome == NO_EVIDENCE else ""
        text = f"{difference.value:+.4f} {_interval(difference)}\n{verdict.outcome}{reason}"
        pairs.setdefault((difference.arm, difference.baseline), {})[difference.slice] = text
    for (arm, baseline), cells in pairs.items():
        if (arm, baseline) not in _SHOWN and baseline != "gbdt":
            continue
        table.add_row(f"{arm} - {baseline}", *(cells.get(name, "") for name in ORDER))
    return table


def _interval(difference: ArmDifference) -> str:
    return "" if difference.low is None else f"[{difference.low:+.4f}, {difference.high:+.4f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _listed(values: Sequence[float]) -> str:
    return "/".join(f"{value:.0%}" for value in values)
