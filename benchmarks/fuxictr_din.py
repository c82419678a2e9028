"""How fast rankers train beside FuxiCTR 2.3.10's DIN, on the frames of a comparison.

    python benchmarks/fuxictr_din.py --data DATA... [--work .work/arms] [--compared A0 A9 A12 A12_content] [--repeats 5]

FuxiCTR lives in an environment of its own (``.work/fuxictr``, made from PyPI when it is missing) and runs in a process of
its own. Told are training rows per second at equal batch, embedding width (16), history length (50), head (64, 32) and
threads, on the same rows, spread over the training part; in turn, one epoch of FuxiCTR's and a whole training of three
epochs of ours, with all that it does once (tables, matches, weights). Told are medians of the passes, and ratios
of the medians with the range over pairs of passes; by the wall clock, and by the CPU time of the process, which other work
on the machine disturbs less. FuxiCTR is measured twice: with its own loader for histories, as its users run it (it cuts a
batch to its longest history), and with batches cut from tensors in memory in the same way, which leaves the model's cost
alone. Ours includes gathering the batch. Its DIN sees ids only; ours (A0, the first arm) sees the numeric features too. Where
there is CUDA, absolute figures for it stand beside. Results go to ``benchmarks/results/fuxictr.json``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

import argparse

import numpy as np
from arms import parser_of
from fuxictr_peer import DIM, HIDDEN, WORK, Worker, export, measure_all, prepared

import ranking.training.loop
from ranking.data.dataset import Dataset
from ranking.experiments.comparison.arms import ComparedArm
from ranking.experiments.comparison.comparison import data_name
from ranking.training.arms import TrainingContext, train_arm

PASS_ROWS, EPOCHS = 16_384, 3
FUXICTR = ("fuxictr_din/tensors", "fuxictr_din/own")


def our_pass(
    context: TrainingContext, arm: str, spec: ComparedArm, batch: int, threads: int, rows: int, device: str = "cpu"
) -> dict[str, float]:
    """Rows per second (``wall``, ``cpu``) of a training of one of our arms, as ``train_arm`` trains it."""
    found: dict[str, float] = {}
    original = ranking.training.loop.train

    def timed(*given: Any, **named: Any) -> Any:
        began, worked = time.perf_counter(), time.process_time()
        try:
            return original(*given, **named)
        finally:
            found.update(
                wall=EPOCHS * rows / (time.perf_counter() - began), cpu=EPOCHS * rows / (time.process_time() - worked)
            )

    training = context.spec.training.model_copy(
        update={"epochs": EPOCHS, "patience": EPOCHS, "batch_rows": batch, "device": device}
    )
    few = _few(context.validation)
    ranking.training.loop.train = timed
    try:
        part = dataclasses.replace(
            context, train=context.train.take(spread(len(context.train), rows)), validation=few, test=few, threads=threads,
            spec=context.spec.model_copy(update={"training": training}),
        )  # fmt: skip
        train_arm(part, arm, spec, 0, "timed")
    finally:
        ranking.training.loop.train = original
    return found


def spread(total: int, count: int) -> Any:
    """Row numbers at even distances: the first rows of a log have short histories."""
    return np.linspace(0, total - 1, count).astype(np.int64)


def _few(data: Dataset) -> Dataset:
    """Two rows, one of each class: training wants a validation part, and it shall cost nothing."""
    return data.take(np.array([int(np.argmax(data.rows.label)), int(np.argmin(data.rows.label))]))


def measure_speed(worker: Worker, data: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per batch and threads: rows per second of FuxiCTR's DIN (both loaders) and of our arms, in turn."""
    _, plan, contexts = prepared(data, options.compared, options)
    ours, name = options.compared[0], data_name(data)
    folder, root = WORK / name, WORK / name / "own"
    export(contexts[ours], folder)
    root.mkdir(parents=True)
    rows = min(PASS_ROWS, len(contexts[ours].train))
    shared = {"folder": str(folder), "root": str(root), "rows": rows, "dim": DIM, "hidden": HIDDEN}
    worker.ask(do="own_files", **shared)
    cuda = worker.ask(do="versions")["cuda"]
    found = []
    for batch, threads in itertools.product(options.batches, options.threads):
        passes: list[dict[str, dict[str, float]]] = []
        for _ in range(options.repeats + 1):
            speeds = {
                f"fuxictr_din/{loader}": worker.ask(do="speed", batch=batch, threads=threads, loader=loader, **shared)
                for loader in ("tensors", "own")
            }
            if cuda:
                told = worker.ask(do="speed", batch=batch, threads=threads, loader="tensors", gpu=0, **shared)
                speeds["fuxictr_din/tensors on cuda"] = told
            for arm in options.compared:
                work = (contexts[arm], arm, plan.arms[arm], batch, threads, rows)
                speeds[arm] = our_pass(*work)
                if cuda:
                    speeds[f"{arm} on cuda"] = our_pass(*work, device="cuda")
            passes.append(speeds)
        told = {"data": name, "batch": batch, "threads": threads} | _medians(passes[1:], [*FUXICTR, ours])
        found.append(told)
        print(json.dumps(told), flush=True)
    return found


def _medians(passes: list[dict[str, dict[str, float]]], bases: list[str]) -> dict[str, Any]:
    """Medians of rows per second of wall clock and of CPU time, and ratios to each base: of medians, least, most."""
    found: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        speeds = {name: np.array([told[name][clock] for told in passes]) for name in passes[0]}
        ratios = {}
        for name, base in itertools.product(speeds, bases):
            if name != base and name not in FUXICTR and "on cuda" not in name:
                pairs = speeds[name] / speeds[base]
                ratio = float(np.median(speeds[name]) / np.median(speeds[base]))
                ratios[f"{name} / {base}"] = [
                    round(ratio, 3),
                    round(float(pairs.min()), 3),
                    round(float(pairs.max()), 3),
                ]
        found[clock] = {name: round(float(np.median(values))) for name, values in speeds.items()}
        found[f"{clock}_ratios"] = ratios
    return found


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--compared", nargs="+", default=["A0", "A9", "A12", "A12_content"], help="arms; the first is our DIN"
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[512, 1024, 4096])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.set_defaults(seeds=1, origins=1)
    measure_all(parser, "speed", measure_speed)


if __name__ == "__main__":
    main()
