"""Test AUC of FuxiCTR 2.3.10's models on the rows of a comparison, next to our arms.

    python benchmarks/fuxictr_auc.py --data DATA... [--work .work/arms] [--seeds 5] [--peers fuxictr_dcnv2] [--tune-only]

Run it after ``benchmarks/arms.py`` with the same options: differences are to the saved predictions of ``id_codes`` and ``id``,
paired by row and averaged over seeds, with 95 % intervals. FuxiCTR's DIN gets the item id, the history and our numeric
features, like ``id`` (``fuxictr_din``), or item id, history and user id only (``fuxictr_din_ids``). Its DIN, DCNv2 and FinalMLP
(``fuxictr_din_content``, ``fuxictr_dcnv2``, ``fuxictr_finalmlp``) also get the content vectors of the candidate and of the
history. Settings are chosen on validation rows with seed 0 (for the worlds, on those of ``strong``, which runs first): of four
for the former two, of twelve for the latter three. Every trial is saved with its numbers of rows (null: all rows, of an earlier
release) and not repeated; only trials on the same rows are compared. Test rows are scored once per seed, and not at all
with ``--tune-only``, which needs no comparison and may be limited to ``--rows`` evenly spaced rows of each part: those of
``benchmarks/tune_boosting.py --beside --rows``. Rows in the format of ``arms.json`` are written to ``auc`` in
``benchmarks/results/fuxictr.json``, the trials to ``tried``. ``--table`` prints the best trials as Markdown.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

import numpy as np
from arms import parser_of, tuned_as
from fuxictr_peer import DIM, HIDDEN, OUT, WORK, Worker, export, kept, measure_all, prepared
from tune_boosting import fewer

from ranking.data.rows_used import PARTS
from ranking.experiments.comparison.arms import CODES_AS_FEATURES, ID_ALONE
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.evaluation import baseline_trials, evaluate_external
from sidkit.core.files import write_json

GRID = [(1e-3, 0.0, 0.0), (1e-3, 0.4, 1e-5), (1e-3, 0.4, 1e-4), (3e-4, 0.4, 1e-4)]
"""Learning rate, dropout of the head and regularizer of the embeddings; the first trials of every model."""
TRIALS = 12
CHOICES: dict[str, list[Any]] = {
    "learning_rate": [3e-4, 1e-3, 3e-3],
    "dropout": [0.0, 0.2, 0.4],
    "embedding_regularizer": [None, 1e-5, 1e-4, 1e-3],
    "batch_norm": [False, True],
    "hidden": [[64, 32], [128, 64]],
    "cosines": [False, True],
}
"""``cosines`` adds those of the candidate's content with the history, as boosting has them."""
OWN: dict[str, dict[str, list[Any]]] = {
    "DIN": {"attention": [[64], [32, 16]]},
    "DCNv2": {"cross_layers": [2, 1, 3]},
    "FinalMLP": {"heads": [1, 2, 4]},
}
"""Settings that only one model has; the first value is that of the first trials."""


@dataclass(frozen=True)
class Peer:
    """A model of FuxiCTR's with the inputs it gets besides the item and the history."""

    model: str
    context: tuple[str, ...]
    content: bool = False

    def trials(self) -> list[dict[str, Any]]:
        """The settings to choose from."""
        first: list[dict[str, Any]] = [
            {"learning_rate": rate, "dropout": drop, "embedding_regularizer": regularizer or None}
            for rate, drop, regularizer in GRID
        ]
        if not self.content:
            return first
        own = OWN[self.model]
        base = {
            "batch_norm": False,
            "hidden": HIDDEN,
            "cosines": False,
            **{key: values[0] for key, values in own.items()},
        }
        rng = np.random.default_rng(0)
        drawn = [
            {key: values[int(rng.integers(len(values)))] for key, values in {**CHOICES, **own}.items()}
            for _ in range(TRIALS - len(first))
        ]
        return [*({**base, **one} for one in first), *drawn]

    def asked(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What the worker is asked for."""
        context = [*self.context, *(["cosines"] if settings.get("cosines") else [])]
        return {"hidden": HIDDEN, **settings, "model": self.model, "content": self.content, "context": context}


PEERS = {
    "fuxictr_din": Peer("DIN", ("context",)),
    "fuxictr_din_ids": Peer("DIN", ("user_id",)),
    "fuxictr_din_content": Peer("DIN", ("context",), content=True),
    "fuxictr_dcnv2": Peer("DCNv2", ("context",), content=True),
    "fuxictr_finalmlp": Peer("FinalMLP", ("context",), content=True),
}


def measure_auc(worker: Worker, data: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of all peers; with ``--tune-only``, the saved rows."""
    compared = [ID_ALONE] if options.tune_only else [CODES_AS_FEATURES, ID_ALONE]
    _, plan, contexts = prepared(data, compared, options)
    for arm in options.peers if not options.tune_only else ():
        baseline_trials(plan, arm)  # before hours are spent
    name, context = data_name(data), contexts[compared[0]].narrowed(plan.arms[ID_ALONE])
    if options.rows is not None:
        context = fewer(context, options.rows)
    folder = WORK / name
    export(context, folder, PARTS[:2] if options.tune_only else PARTS)
    (folder / "frame").mkdir()  # FuxiCTR keeps its checkpoints under the name of its data set
    rows = [
        row for row in kept()["auc"] if row["data"] == name and (options.tune_only or row["arm"] not in options.peers)
    ]
    for arm in options.peers:
        shared = {
            "folder": str(folder), "root": str(folder), "out": str(folder / "scores"), "dim": DIM, "batch": options.batch,
            "epochs": 8, "threads": options.threads,
        }  # fmt: skip
        used = {"train": len(context.train), "validation": len(context.validation)}
        chosen = _chosen(worker, name, arm, shared, used, options.trials)
        if options.tune_only:
            continue
        scores = []
        for seed in range(options.seeds):
            worker.ask(do="fit", seed=seed, **chosen, **shared)
            scores.append(np.load(folder / "scores.test.npy").astype(np.float64))
        fresh = [row.as_json() for row in evaluate_external(name, plan, arm, scores)]
        for row in fresh:
            if row["slice"] in {"all", "cold"} and row["metric"] == "auc":
                print(row, flush=True)
        rows += fresh
    return rows


def _chosen(
    worker: Worker, name: str, arm: str, shared: dict[str, Any], rows: dict[str, int], trials: int
) -> dict[str, Any]:
    """The settings of an arm. Trials are saved in the results with their validation AUC and not repeated."""
    peer = PEERS[arm]
    told = kept()
    saved = told["tried"].setdefault(tuned_as(name), {}).setdefault(arm, [])
    for settings in peer.trials()[:trials]:
        if any(trial["settings"] == settings and trial["rows"] == rows for trial in saved):
            continue
        found = worker.ask(do="fit", seed=0, scored=[], **peer.asked(settings), **shared)
        figures = {"validation_auc": found["best_validation_auc"], "cpu_seconds": round(found["cpu_seconds"], 1)}
        saved.append({"settings": settings, "rows": rows, **figures})
        write_json(OUT, told)
        print(name, arm, saved[-1], f"{found['epochs']} epochs, {found['seconds']:.0f} s", flush=True)
    rivals = [trial for trial in saved if trial["rows"] == rows]
    best: dict[str, Any] = max(rivals, key=lambda trial: trial["validation_auc"])["settings"]
    return peer.asked(best)


def table(tried: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Markdown: per data set and number of rows, the trials of every model, the best of :data:`GRID` and the best of all."""
    lines = ["| data | training rows | model | trials | best of the first four | best | settings of the best |"]
    lines.append("| --- |" + " --- |" * 6)
    for name, arms in tried.items():
        counts = [trial["rows"] for trials in arms.values() for trial in trials]
        for rows in [rows for place, rows in enumerate(counts) if rows not in counts[:place]]:
            used = f"{rows['train']:,}" if rows is not None else "all, of an earlier release"
            for arm, peer in PEERS.items():
                trials = [trial for trial in arms.get(arm, []) if trial["rows"] == rows]
                if trials:
                    done = f"{len(trials)} of {len(peer.trials())}"
                    lines.append(f"| {name} | {used} | `{arm}` | {done} | {_best_cells(peer, trials)} |")
    return "\n".join(lines)


def _best_cells(peer: Peer, trials: list[dict[str, Any]]) -> str:
    """AUC of the best of :data:`GRID`, AUC of the best trial, and its settings."""
    first = [trial for trial in trials if trial["settings"] in peer.trials()[: len(GRID)]]
    figures = [max((trial["validation_auc"] for trial in some), default=np.nan) for some in (first, trials)]
    best = max(trials, key=lambda trial: trial["validation_auc"])["settings"]
    settings = ", ".join(f"{key} {value}" for key, value in best.items() if value not in (None, False))
    return " | ".join([*(f"{figure:.4f}".lstrip("0") for figure in figures), settings])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--table", action="store_true", help="print the best trials as Markdown and run nothing")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS], default=[*PEERS])
    parser.add_argument(
        "--tune-only", action="store_true", help="choose settings on validation rows, score no test row"
    )
    parser.add_argument(
        "--trials", type=int, default=TRIALS, help="run the first trials only; a later run adds the others"
    )
    parser.add_argument("--rows", type=int, help="rows of each part at most, evenly spaced; needs --tune-only")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(origins=1)
    options, _ = parser.parse_known_args()
    if options.rows is not None and not options.tune_only:
        parser.error("--rows needs --tune-only: test rows are scored after training on all rows")
    if options.table:
        print(table(kept()["tried"]))
        return
    measure_all(parser, "auc", measure_auc)


if __name__ == "__main__":
    main()
