"""Compare the arms of both papers with the default settings, and list which of their parts act.

    python benchmarks/arms_today.py --data DATA... [--work .work/arms_today] [--seeds 3] [--origins 1] [--jobs 1] [--table]

Runs ``sidkit ranker compare`` for each data set on a sample of users (``--max-train-rows``, ``--max-evaluation-rows``). An
interrupted run resumes, and a run with more time origins trains only what is missing. AUC, differences and the liveness of all
parts go to ``benchmarks/results/arms_today.json``, one entry per data set. ``--table`` prints the saved results as Markdown and
runs nothing.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from rich.console import Console

from ranking.experiments.comparison.compare import compare_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.liveness import exercised
from ranking.experiments.comparison.results import ComparisonResult
from sidkit.api.progress import LineProgress
from sidkit.core.files import read_json, write_json
from sidkit.core.records import record_json

RESULTS = Path(__file__).parent / "results" / "arms_today.json"
ARMS = (
    "id", "id_content", "id_codes", "id_codes_shuffled", "gbdt", "blend", "saviorrec", "id_content_codes_saviorrec", "smile",
    "id_codes_smile",
)  # fmt: skip
BASELINES = {"id", "id_content", "id_codes", "id_content_codes_saviorrec", "id_codes_smile"}
SLICES = ("all", "cold")
STATES = {True: "alive", False: "no", None: "unknown"}


def measured(data: str, options: argparse.Namespace) -> dict[str, Any]:
    """The comparison of one data set, reduced to what the page shows."""
    result = compare_arms(
        options.work / data_name(data), data, ARMS, seeds=options.seeds, origins=options.origins, jobs=options.jobs,
        max_train_rows=options.max_train_rows, max_evaluation_rows=options.max_evaluation_rows,
        impressions=options.impressions, progress=LineProgress(Console()),
    )  # fmt: skip
    return {
        "seeds": options.seeds,
        "caps": {"train": options.max_train_rows, "evaluation": options.max_evaluation_rows},
        "origins": [record_json(origin) for origin in result.origins],
        "test": {name: record_json(facts) for name, facts in result.evaluation.slices.items() if name in SLICES},
        "auc": _auc(result),
        "liveness": {arm: [record_json(part) for part in parts] for arm, parts in result.evaluation.liveness.items()},
        "exercised": {arm: exercised(result.evaluation.liveness, arm) for arm in result.evaluation.liveness},
        "cpu_seconds": result.seconds.trials_cpu,
    }


def _auc(result: ComparisonResult) -> list[dict[str, Any]]:
    shown = (
        row
        for row in result.evaluation.rows
        if row.metric == "auc" and row.slice in SLICES and row.baseline in BASELINES
    )
    return [row.as_json() for row in shown]


def table(saved: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: rows and caps, AUC and differences, the outcome of each arm, and the state of every part."""
    lines = ["| data | training rows | validation rows | test rows | positives | effective users | seeds | origins |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for data, facts in saved.items():
        rows, test = facts["origins"][0]["rows"], facts["test"]["all"]
        used = [f"{rows[part]['used']:,}" for part in ("train", "validation")]
        counts = [f"{test['rows']:,}", f"{test['positives']:,}", f"{test['effective_users']:.0f}"]
        lines.append(f"| {' | '.join([data, *used, *counts, str(facts['seeds']), str(len(facts['origins']))])} |")
    return "\n\n".join(["\n".join(lines), _differences(saved), _outcomes(saved), _parts(saved)])


def _head(first: str, saved: Mapping[str, Any]) -> list[str]:
    return [f"| {first} | {' | '.join(saved)} |", "| --- |" + " --- |" * (first.count("|") + len(saved))]


def _differences(saved: Mapping[str, Mapping[str, Any]]) -> str:
    """AUC over all rows, with the difference to ``id_codes``."""
    lines = _head("arm", saved)
    for arm in ARMS:
        cells = []
        for facts in saved.values():
            rows = [row for row in facts["auc"] if row["arm"] == arm and row["slice"] == "all"]
            of = next((row for row in rows if row["baseline"] == "id_codes"), rows[0])
            cell = f"{of['mean']:.4f}".lstrip("0")
            if of["baseline"] == "id_codes":
                cell += f" {signed(of['delta'])} [{signed(of['delta_low'])}, {signed(of['delta_high'])}]"
            cells.append(cell)
        lines.append(f"| `{arm}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _outcomes(saved: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether any part of its own acts in an arm that has parts of its own."""
    lines = _head("arm", saved)
    words = {True: "exercised", False: "not exercised", None: "unknown"}
    for arm in ARMS:
        owners = [any(part["own"] for part in facts["liveness"].get(arm, ())) for facts in saved.values()]
        if any(owners):
            cells = [words[facts["exercised"].get(arm)] for facts in saved.values()]
            lines.append(f"| `{arm}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _parts(saved: Mapping[str, Mapping[str, Any]]) -> str:
    """State of every part of the arms that have parts of their own, without the tables of attributes, which all arms have: the
    changes of the AUC with the part off, the deviation over seeds, and whether it is alive.
    """
    parts = {
        (arm, part["name"]): part["own"]
        for arm in ARMS
        for facts in saved.values()
        if any(each["own"] for each in _of(facts, arm))
        for part in _of(facts, arm)
        if not part["name"].startswith("features.")
    }
    lines = _head("arm | part", saved)
    for (arm, name), own in parts.items():
        cells = []
        for facts in saved.values():
            part = next((part for part in _of(facts, arm) if part["name"] == name), None)
            cells.append("-" if part is None else _cell(part))
        lines.append(f"| `{arm}` | `{name}`{' *' if own else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _of(facts: Mapping[str, Any], arm: str) -> list[dict[str, Any]]:
    return list(facts["liveness"].get(arm, ()))


def _cell(part: Mapping[str, Any]) -> str:
    changes = ", ".join(signed(delta) for delta in part["delta_auc"])
    deviation = "" if part["deviation"] is None else f" ({part['deviation']:.4f})".replace("0.", ".", 1)
    state = STATES[part["alive"]]
    return f"{'**alive**' if state == 'alive' else state}: {changes or '-'}{deviation}"


def signed(value: float) -> str:
    """Four decimals with a sign and without the leading zero."""
    return f"{value:+.4f}".replace("0.", ".", 1)


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a comparison on samples of users."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--work", type=Path, default=Path(".work") / "arms_today")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--origins", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--max-train-rows", type=int, default=10_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=10_000)
    parser.add_argument("--impressions", type=int, default=100_000, help="of a synthetic world")
    parser.add_argument("--table", action="store_true", help="print the saved results as Markdown")
    return parser


def main() -> None:
    options = options_parser(__doc__).parse_args()
    for data in options.data if not options.table else ():
        began = time.monotonic()
        facts = measured(data, options)
        saved = read_json(RESULTS) if RESULTS.exists() else {}
        write_json(RESULTS, {**saved, data_name(data): facts})
        print(f"{data_name(data)} took {(time.monotonic() - began) / 60:.1f} min", flush=True)
    if RESULTS.exists():
        print(table(read_json(RESULTS)))


if __name__ == "__main__":
    main()
