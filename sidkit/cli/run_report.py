"""What the main job says at its end: one table for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ranking.data.rows_used import rows_summary
from ranking.pipeline.run import Job
from semantic_ids.catalog import Catalog
from sidkit.core.integrity import read_checked_json
from sidkit.core.redact import redacted

ORDER = ("all", "cold", "warm")
_TOLD = {("content", "id"), ("id_codes", "id"), ("id_codes", "shuffled_codes")}
"""Pairs that the table shows besides those against gbdt; ``verdict.json`` holds all."""


def job_json(job: Job, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object of ``sidkit run --json``."""
    record = Catalog.open(job.repo).codebook(facts["codebook"])
    metrics = read_checked_json(job.repo.codebooks / record.name / "metrics.json")
    judged = facts["judged"]
    cold = judged["rows"].get("cold", {"rows": 0})
    return {
        "data": redacted(job.options.data),
        "preset": job.options.preset_name,
        "codebook": {
            "name": record.name,
            "quantizer": record.quantizer,
            "levels": record.levels,
            "utilisation": metrics["utilisation"],
            "perplexity": metrics["perplexity"],
            "collision_rate": metrics["collision_rate"],
            "hit_rate_30": _hit_rate(facts["hit_rate"], record.name),
            "hit_rate_30_reason": facts["hit_rate"].get("reason"),
        },
        "arms": [
            {
                "arm": arm,
                "auc": figures["all"]["auc"],
                "gauc": figures["all"]["gauc"],
                "logloss": figures["all"]["logloss"],
                "auc_cold": figures.get("cold", {}).get("auc"),
                "auc_warm": figures.get("warm", {}).get("auc"),
                "rows": judged["rows"]["all"]["rows"],
                "rows_cold": cold["rows"],
                "oracle_auc": judged["oracle"]["all"] if judged["oracle"] else None,
            }
            for arm, figures in ((arm, judged["arms"][arm]) for arm in job.preset.arms)
        ],
        "log": facts["log"],
        "rows": facts["parts"],
        "stages": facts["stages"],
        "warnings": facts["warnings"],
        "without_auc": judged["reasons"],
        "peak_rss_mb": facts["peak_rss_mb"],
        "artifacts": {
            "repo": str(job.repo.path),
            "codebook": str(job.repo.codebooks / record.name),
            "rankers": {
                arm: [str(job.repo.rankers / name) for name in names if name] for arm, names in facts["rankers"].items()
            },
            "serving_ranker": facts["serving_ranker"],
            "feature_service": record.service_name,
            "tables": str(job.repo.tables),
            "rejects": str(job.repo.rejects),
            "verdict": str(job.folder / "verdict.json"),
        },
    }


def print_report(console: Console, job: Job, facts: Mapping[str, Any]) -> None:
    """The tables at the end of ``sidkit run``."""
    told = job_json(job, facts)
    judged = facts["judged"]
    console.print(_arms_table(told, judged))
    compared = _differences_table(judged)
    if compared.row_count:
        console.print(compared)
    if "all" in told["without_auc"]:
        console.print(f"no AUC over all rows: {told['without_auc']['all']}")
    book = told["codebook"]
    console.print(
        f"[bold]codebook[/] {book['name']}: {book['quantizer']}, {book['levels']} levels; utilisation "
        f"{_listed(book['utilisation'])}, perplexity {_listed(book['perplexity'])} of the codes, "
        f"{book['collision_rate']:.1%} of items share all codes with another"
    )
    if book["hit_rate_30_reason"]:
        console.print(f"hit rate at 30: not measured, {book['hit_rate_30_reason']}")
    stages = Table(title="stages")
    for column in ("stage", "rows", "seconds"):
        stages.add_column(column, justify="left" if column == "stage" else "right")
    for stage in told["stages"]:
        stages.add_row(stage["name"], f"{stage['rows']:,}", f"{stage['seconds']:.1f}")
    console.print(stages)
    console.print(_log_line(told["log"]))
    console.print(rows_summary(told["rows"]), highlight=False)
    console.print(f"peak memory {told['peak_rss_mb']:,.0f} MB; test window from {facts['split']['validation_end']}")
    for name in ("codebook", "verdict", "tables", "rejects"):
        console.print(f"{name}: {told['artifacts'][name]}", soft_wrap=True)
    if told["artifacts"]["serving_ranker"]:
        console.print(
            f"serving: {told['artifacts']['serving_ranker']}. Score with: sidkit score --repo {told['artifacts']['repo']} "
            "--user USER --items ITEM,ITEM",
            soft_wrap=True,
        )


def _log_line(log: Mapping[str, Any]) -> str:
    """What the last ingest that read the source did."""
    merged = sum(log["merged"].values())
    rejected = sum(count for reasons in log["rejected"].values() for count in reasons.values())
    return (
        f"log: {log['new']:,} new events, {log['changed']:,} changed, {log['removed']:,} removed, {log['vanished']:,} no "
        f"longer in the source; {rejected:,} rows rejected, {merged:,} merged with another row of their event"
    )


def _hit_rate(told: Mapping[str, Any], name: str) -> dict[str, float | None] | None:
    """Of the codebook's vectors, for targets that were known at the fit and for those that were not."""
    if told["rates"] is None:
        return None
    rates = told["rates"][name]
    return {part: rates[part]["value"] if rates[part] else None for part in ("seen", "new")}


def _arms_table(told: Mapping[str, Any], judged: Mapping[str, Any]) -> Table:
    rows = told["arms"][0]
    table = Table(
        title=f"{told['data']}: test window, {rows['rows']:,} rows, {rows['rows_cold']:,} cold "
        f"(item with under 10 earlier interactions); GAUC by {judged['gauc_by']}"
    )
    for column in ("arm", "AUC", "cold AUC", "warm AUC", "GAUC", "log-loss"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm in told["arms"]:
        shown = [arm["auc"], arm["auc_cold"], arm["auc_warm"], arm["gauc"], arm["logloss"]]
        table.add_row(arm["arm"], *(_number(value) for value in shown))
    if judged["oracle"]:
        table.add_row("(oracle)", *(_number(judged["oracle"].get(name)) for name in ORDER), "", "", style="dim")
    return table


def _differences_table(judged: Mapping[str, Any]) -> Table:
    table = Table(title="AUC differences, paired by row, 95 % interval over users")
    for column in ("arm - baseline", *ORDER):
        table.add_column(column, justify="left" if column == "arm - baseline" else "right")
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for found in judged["differences"]:
        text = f"{found['value']:+.4f} {_interval(found)}\n{found['verdict']}"
        pairs.setdefault((found["arm"], found["baseline"]), {})[found["slice"]] = text
    for (arm, baseline), cells in pairs.items():
        if (arm, baseline) not in _TOLD and baseline != "gbdt":
            continue
        table.add_row(f"{arm} - {baseline}", *(cells.get(name, "") for name in ORDER))
    return table


def _interval(found: Mapping[str, Any]) -> str:
    return "" if found["low"] is None else f"[{found['low']:+.4f}, {found['high']:+.4f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _listed(values: list[float]) -> str:
    return "/".join(f"{value:.0%}" for value in values)
