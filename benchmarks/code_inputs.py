"""Which inputs that codes bring make ``id_codes`` differ from ``id``: the code table and shared codes, or statistics of codes.

    python benchmarks/code_inputs.py --data DATA... [--work .work/arms_today] [--seeds 3] [--families] [--table]

Compares ``id``, ``id_codes`` and the arms of ``benchmarks/presets/code_inputs``, each with a control whose codes are shuffled
between items, on the rows of ``benchmarks/arms_today.py``. ``--families`` adds arms with one family of statistics each: counts
by prefix, the item's smoothed rate, and the user's counts by prefix. An interrupted run resumes. AUC and differences over all
test rows go to ``benchmarks/results/code_inputs.json``, one entry per data set. ``--table`` prints the saved results as
Markdown and runs nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from arms_today import options_parser, signed
from rich.console import Console

from ranking.experiments.comparison.compare import compare_arms
from ranking.experiments.comparison.comparison import data_name
from sidkit.api.progress import LineProgress
from sidkit.core.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "code_inputs.json"
OWN = Path(__file__).parent / "presets" / "code_inputs"
BASELINES = {
    "id_codes": "id_codes_shuffled",
    "id_codes_plain": "id_codes_plain_shuffled",
    "id_statistics": "id_statistics_shuffled",
    "id_prefix_counts": "id_prefix_counts_shuffled",
    "id_item_rate": "id_item_rate_shuffled",
    "id_user_prefixes": "id_user_prefixes_shuffled",
}
"""Arm with codes -> its control."""
FAMILIES = ("id_prefix_counts", "id_item_rate", "id_user_prefixes")


def measured(data: str, options: argparse.Namespace) -> dict[str, Any]:
    """The comparison of one data set: per arm its AUC, and the differences to ``id`` and to its control."""
    own = [path for path in sorted(OWN.glob("*.toml")) if options.families or not path.stem.startswith(FAMILIES)]
    arms = ["id", "id_codes", "id_codes_shuffled", *map(str, own)]
    result = compare_arms(
        options.work / data_name(data), data, arms, seeds=options.seeds, origins=options.origins, jobs=options.jobs,
        max_train_rows=options.max_train_rows, max_evaluation_rows=options.max_evaluation_rows,
        impressions=options.impressions, progress=LineProgress(Console()),
    )  # fmt: skip
    kept = {"id", "id_codes", *BASELINES.values()}
    shown = [row for row in result.evaluation.rows if row.metric == "auc" and row.slice == "all"]
    return {
        "seeds": options.seeds,
        "caps": {"train": options.max_train_rows, "evaluation": options.max_evaluation_rows},
        "auc": [row.as_json() for row in shown if row.baseline in kept],
        "cpu_seconds": result.seconds.trials_cpu,
    }


def table(saved: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: per data set and arm, the AUC and the differences to ``id`` and to the arm's control."""
    lines = ["| data | arm | AUC | - `id` | - the same with shuffled codes |", "| --- |" + " --- |" * 4]
    for data, facts in saved.items():
        for arm, control in BASELINES.items():
            rows = {(row["arm"], row["baseline"]): row for row in facts["auc"]}
            if (arm, "id") not in rows:
                continue  # its family was not asked for
            own, shuffled = rows[arm, "id"], rows.get((arm, control))
            # The shared baseline `id_codes` is compared from the other side: its control has the difference to it.
            cell = _cell(shuffled) if shuffled is not None else _cell(rows[control, arm], sign=-1)
            lines.append(f"| {data} | `{arm}` | {own['mean']:.4f} | {_cell(own)} | {cell} |".replace("| 0.", "| ."))
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], sign: int = 1) -> str:
    low, high = sorted((sign * row["delta_low"], sign * row["delta_high"]))
    return f"{signed(sign * row['delta'])} [{signed(low)}, {signed(high)}]"


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--families", action="store_true", help="also one arm per family of statistics")
    options = parser.parse_args()
    for data in options.data if not options.table else ():
        facts = measured(data, options)
        saved = read_json(RESULTS) if RESULTS.exists() else {}
        write_json(RESULTS, {**saved, data_name(data): facts})
    if RESULTS.exists():
        print(table(read_json(RESULTS)))


if __name__ == "__main__":
    main()
