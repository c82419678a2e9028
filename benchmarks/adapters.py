"""Adapters that are refitted daily (Reindex-Then-Adapt), and joint re-ranking of a request (CROSS-JEM).

    python benchmarks/adapters.py --data DATA... [--work .work/adapters] [--open] [--table]

One time origin: rankers train on the first 70 % of the log (at most 15,000 rows, by user), choose their epoch on the next
15 %, and the last 15 % are test rows (at most 12,000 each). An adapter corrects each day by the rows of the days before, from
the validation rows on; its control is fitted on rows with the items of random rows, and that of the joint re-ranker has
shuffled codes. Without ``--open``, arms are compared on validation rows; with it, on test rows. The processor time of a refit
and of a request is measured too, in one process. Results go to ``benchmarks/results/adapters.json``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from gates import compared, planned, print_tables
from planning import record, results_of, with_rows
from rich.console import Console

from ranking.data.dataset import Dataset
from ranking.experiments.comparison.arms import load_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.evaluation import Parts
from ranking.experiments.comparison.trials import Plan, work_through
from ranking.training.adapters import ADAPTER_NAMES, ADAPTERS
from ranking.training.adapters.base import AdapterRows
from ranking.training.mixing import logits
from ranking.training.reranked_ranker import RerankedRanker
from sidkit.api.progress import LineProgress
from sidkit.core.records import record_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "adapters.json"
NAMED = (
    "id", "content", "id_content", "gbdt", "id_content_bias", "id_content_bias_shuffled", "gbdt_bias", "content_gate",
    "content_gate_shuffled", "id_content_joint", "id_content_joint_shuffled",
)  # fmt: skip
PAIRS = (
    *(("id_content_bias", other) for other in ("id_content", "id_content_bias_shuffled")),
    ("gbdt_bias", "gbdt"),
    *(("content_gate", other) for other in ("content", "id", "content_gate_shuffled")),
    *(("id_content_joint", other) for other in ("id_content", "id_content_joint_shuffled")),
)
"""Arm and the arm that it is compared with."""
CANDIDATES = (20, 100, 200, 500)
REQUESTS = 40


def living(plan: Plan) -> dict[str, Any]:
    """What adapters and the context of requests contribute, by arm and seed."""
    found: dict[str, Any] = {}
    for trial in plan.trials:
        details = plan.details(trial)
        if details is not None and (details.adapter or details.reranked):
            parts = [record_json(part) for part in details.liveness or () if part.kind in ("adapter", "context")]
            stated = {"parts": parts, "adapter": details.adapter, "reranked": details.reranked}
            sizes = {"parameters": details.parameters, "reranker_parameters": details.reranker_parameters}
            found.setdefault(trial.arm, []).append({**stated, **sizes, "cpu_seconds": details.cpu_seconds})
    return found


def costs(plan: Plan, rows: Dataset) -> dict[str, Any]:
    """Processor seconds of a refit, and milliseconds of a request with and without the joint re-ranker."""
    trial = next(each for each in plan.trials if each.arm == "id_content_joint" and each.seed == 0)
    ranker = RerankedRanker.load(plan.rankers / plan.ranker(trial))
    read = AdapterRows.of(rows, logits(ranker.base.score(rows)))
    refit = {name: timed(ADAPTER_NAMES.find(name).fit, read) for name in ADAPTERS}
    requests: dict[str, Any] = {}
    for count in CANDIDATES:
        request = one_request(rows, count)
        with_it, without = [], []
        for _ in range(REQUESTS):  # in turn, so that another load of the machine meets both
            without.append(timed(ranker.base.score, request))
            with_it.append(timed(ranker.score, request))
        codes = request.items.codes[request.candidate]
        tokens = sum(len(np.unique(level[level >= 0])) for level in codes.T)
        medians = [1000 * float(np.median(each)) for each in (without, with_it)]
        requests[str(count)] = {
            "ranker_ms": medians[0], "joint_ms": medians[1], "ratio": medians[1] / medians[0],
            "tokens": tokens, "share": tokens / max(int((codes >= 0).sum()), 1),
        }  # fmt: skip
    return {"rows": len(rows), "refit_cpu_seconds": refit, "requests": requests}


def one_request(rows: Dataset, count: int) -> Dataset:
    """A request of one user at one time, with the candidates of the first rows of distinct items, and their two histories."""
    first = np.unique(rows.candidate, return_index=True)[1]
    data = rows.take(np.resize(first, count))
    kept = np.array([0, data.history[0]])
    labelled = replace(
        data.rows,
        user_ids=np.full(count, data.rows.user_ids[0], dtype=object),
        at_us=np.full(count, data.rows.at_us.max()),
        request_ids=None,
    )
    tables = {"history_items": rows.history_items[kept], "history_us": rows.history_us[kept]}
    return replace(data, rows=labelled, history=np.ones(count, dtype=np.int32), **tables)


def timed(work: Callable[[Any], object], argument: object) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    work(argument)
    return time.process_time() - started


def main() -> None:
    """Compare the arms on the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "adapters")
    parser.add_argument("--open", action="store_true", help="compare on test rows")
    parser.add_argument("--seeds", type=int, default=2)
    with_rows(parser, train=15_000, evaluation=12_000)
    options = parser.parse_args()
    if options.table:
        print_tables(results_of(RESULTS), PAIRS)
    for data in options.data:
        began, name = time.process_time(), data_name(data)
        plan = replace(planned(data, options, load_arms(NAMED)), loss_trials=())
        work_through(plan, LineProgress(Console()))
        part = "test" if options.open else "validation"
        rows = getattr(Parts.load(plan, plan.trials[0].frame), part)
        result = {**compared(plan, opened=options.open, pairs=PAIRS), "seeds": options.seeds}
        if not options.open:
            result |= {"liveness": living(plan), "costs": costs(plan, rows)}
        result |= {"cpu_seconds": round(time.process_time() - began)}
        record(RESULTS, name, part, result)
        print(f"{name}: {part} rows, {result['cpu_seconds']} s of processor time", flush=True)


if __name__ == "__main__":
    main()
