"""Merge the rows of comparisons into one file, and format them as Markdown tables.

Rows of earlier versions identify arms by number (``A3``); the tables show current names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ranking.experiments.comparison.arms import (
    BOOSTING,
    CODES_AS_FEATURES,
    CONTENT,
    ID_ALONE,
    arm_name,
    paper_number,
)
from ranking.experiments.comparison.baselines import is_control
from sidkit.core.files import read_json, written_beside
from sidkit.core.intervals import EVIDENCE

SHORT = ("all", "cold", "prior 0-99", "strict cold", "COINS cold, theta 80 %")
"""Slices of the short table; the results file contains all slices."""
_SHARED_BASELINES = {CODES_AS_FEATURES, CONTENT, ID_ALONE, BOOSTING, None}


def named_today(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the current names of its arm and baseline."""
    baseline = row["baseline"]
    return {**row, "arm": arm_name(row["arm"]), "baseline": None if baseline is None else arm_name(baseline)}


def merge_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a JSON list, one per line, replacing existing rows of the same data sets."""
    replaced = {row["data"] for row in rows}
    remaining = [row for row in read_json(path) if row["data"] not in replaced] if path.exists() else []
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in [*remaining, *rows])
    with written_beside(path) as temporary:
        temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def budgets(arms: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int, int, float | None]]:
    """Return name, parameters, parameters without tables, and parameters relative to ``id_codes`` per neural arm.

    The ratio is None without ``id_codes``. ``arms`` is the ``arms`` object of :meth:`ComparisonResult.as_json`.
    """
    arms = {arm_name(arm): facts for arm, facts in arms.items()}
    base = arms.get(CODES_AS_FEATURES, {}).get("parameters")
    return [
        (
            arm,
            facts["parameters"],
            facts["parameters"] - facts["table_parameters"],
            facts["parameters"] / base if base else None,
        )
        for arm, facts in arms.items()
        if facts["parameters"]
    ]


def markdown(rows: Sequence[Mapping[str, Any]], slices: Sequence[str] = SHORT) -> str:
    """Format AUC and differences to ``id_codes``, then to ``id_content``, as one Markdown table per data set.

    ``**`` marks better or worse.
    """
    parts = []
    rows = [named_today(row) for row in rows]
    for data in dict.fromkeys(row["data"] for row in rows):
        of_data = [row for row in rows if row["data"] == data and row["metric"] == "auc"]
        by = {(row["arm"], row["slice"]): row for row in of_data if row["baseline"] != CODES_AS_FEATURES}
        by |= {(row["arm"], row["slice"]): row for row in of_data if row["baseline"] == CODES_AS_FEATURES}
        content = {(row["arm"], row["slice"]): row for row in of_data if row["baseline"] == CONTENT}
        shown = [name for name in slices if any(key[1] == name for key in by)]
        positives = {key[1]: row["positives"] for key, row in by.items()}
        heads = "".join(f" {name} ({positives[name]:,}) |" for name in shown)
        lines = [f"**{data}**", "", f"| arm | paper |{heads}", "| --- | --- |" + " --- |" * len(shown)]
        for arm in dict.fromkeys(row["arm"] for row in of_data):
            cells = [_markdown_cell(by.get((arm, name)), content.get((arm, name))) for name in shown]
            lines.append(f"| {arm} | {paper_number(arm)} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def markdown_of_ideas(rows: Sequence[Mapping[str, Any]], slices: Sequence[str] = SHORT) -> str:
    """Format AUC differences of arms to their ablation baselines, not to controls.

    One Markdown table for all data sets; empty if no arm has an ablation baseline.
    """
    named = [row for row in map(named_today, rows) if row["baseline"] not in _SHARED_BASELINES]
    return _differences([row for row in named if not is_control(row["baseline"])], "ablation baseline", slices)


def markdown_of_boosting(rows: Sequence[Mapping[str, Any]], slices: Sequence[str] = SHORT) -> str:
    """Format AUC differences of all arms to gradient boosting as one Markdown table."""
    named = [named_today(row) for row in rows]
    return _differences([row for row in named if row["baseline"] == BOOSTING], "baseline", slices)


def _differences(rows: Sequence[Mapping[str, Any]], head: str, slices: Sequence[str]) -> str:
    by = {(row["data"], row["arm"], row["baseline"], row["slice"]): row for row in rows if row["metric"] == "auc"}
    if not by:
        return ""
    lines = [f"| data | arm | {head} |{''.join(f' {name} |' for name in slices)}"]
    lines.append("| --- | --- | --- |" + " --- |" * len(slices))
    for data, arm, baseline in dict.fromkeys(key[:3] for key in by):
        cells = [_difference(by.get((data, arm, baseline, name))) for name in slices]
        lines.append(f"| {data} | {arm} | {baseline} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _markdown_cell(row: Mapping[str, Any] | None, to_content: Mapping[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return "-"
    parts = [f"{row['mean']:.4f}"[1:]]
    if row["baseline"] == CODES_AS_FEATURES and row["delta_low"] is not None:
        parts.append(_difference(row))
    if to_content is not None and to_content["delta_low"] is not None:
        parts.append(f"({_difference(to_content)})")
    return " ".join(parts)


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None or row["delta_low"] is None:
        return "-"
    text = f"{row['delta']:+.4f} [{row['delta_low']:+.4f}, {row['delta_high']:+.4f}]"
    return f"**{text}**" if row["verdict"] in EVIDENCE else text
