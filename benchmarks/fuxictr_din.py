"""FuxiCTR 2.3.10's DIN on the frames that our rankers train on: how fast, and how good.

    make bench-fuxictr
    python benchmarks/fuxictr_din.py --repos REPO ... [--arms rqkmeans:id ...] [--only speed|auc] [--seeds 5]

Each REPO is one on which ``sidkit run`` has finished with every preset named by ``--arms PRESET:ARM``. FuxiCTR lives in an
environment of its own (``.work/fuxictr``, made from PyPI when it is missing) and runs in a process of its own.

Speed: training rows per second at equal batch, embedding width (16), history length (50), head (64, 32) and threads, on the
same rows, spread over the training part; one pass each in turn. Told are medians of the passes, and ratios of the medians
with the range over pairs of passes; by the wall clock, and by the CPU time of the process, which other work on the
machine disturbs less. FuxiCTR is measured twice: with its own loader for histories, as its users run it (it cuts a batch to
its longest history), and with batches cut from tensors in memory in the same way, which leaves the model's cost alone.
Ours includes gathering the batch. Its DIN sees ids only; ours sees the numeric features too. Where there is CUDA, absolute
figures for it stand beside.

AUC: FuxiCTR's DIN on the item id, the history and our numeric features, which is what our arm ``id`` is told
(``fuxictr_din``), and on item id, history and user id alone (``fuxictr_din_ids``). Learning rate, dropout and regularizer are
chosen on validation rows with seed 0; test rows are scored once per seed. Results go to ``benchmarks/results/fuxictr.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

import numpy as np
import pandas as pd

import ranking.train
from ranking.arms import TrainingContext, train_arm
from ranking.evaluation.bootstrap import auc_interval
from ranking.evaluation.judge import enough
from ranking.evaluation.slices import slices
from ranking.features import Scaling
from ranking.kept_run import read_run
from ranking.presets import ArmSpec, load_preset
from ranking.tensors import Vocabulary
from ranking.training_set import TrainingSet
from sidkit.files import remove
from sidkit.repo import Repo

HERE = Path(__file__).parent
WORK = HERE.parent / ".work" / "fuxictr"
PINS = ("torch==2.13.0", "fuxictr==2.3.10")
DIM, HIDDEN = 16, [64, 32]
PASS_ROWS = 16_384
FUXICTR = ("fuxictr_din/tensors", "fuxictr_din/own")
GRID = [(1e-3, 0.0, 0.0), (1e-3, 0.4, 1e-5), (1e-3, 0.4, 1e-4), (3e-4, 0.4, 1e-4)]
"""Learning rate, dropout of the head and regularizer of the embeddings: chosen on validation rows, with seed 0."""
INPUTS = {"fuxictr_din": ["context"], "fuxictr_din_ids": ["user_id"]}
"""What each arm is told besides the item and the history: our numeric features, or the user's id."""


def environment(python: str) -> Path:
    """The interpreter of the environment that holds FuxiCTR; made from PyPI when it is missing."""
    interpreter = WORK / "venv" / "bin" / "python"
    if not (WORK / "venv" / ".made").exists():
        subprocess.run([python, "-m", "venv", str(WORK / "venv")], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *PINS], check=True)
        (WORK / "venv" / ".made").touch()
    return interpreter


class Worker:
    """FuxiCTR's process: a dict in, a dict out."""

    def __init__(self, interpreter: Path) -> None:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [str(interpreter), str(HERE / "fuxictr_worker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**clean, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip

    def ask(self, **told: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"FuxiCTR's process ended with {self._process.wait()}; its messages are above")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def export(context: TrainingContext, folder: Path) -> None:
    """Write a frame as plain arrays: per part ``item``, ``user``, ``history`` (numbers of lists), ``numeric``, ``label``; once
    ``lists`` int64 [histories, length], oldest first, padding in front. Item 0 is padding, 1 unknown; user 0 unknown.
    """
    remove(folder)
    vocabulary = Vocabulary.fit(context.train.rows.item_ids)
    users = pd.Index(pd.unique(context.train.rows.user_ids))
    scaling = Scaling.fit(context.train.numeric, context.rate)
    number = vocabulary.numbers(context.train.items.ids)
    folder.mkdir(parents=True)
    np.save(folder / "lists.npy", np.ascontiguousarray(number[context.train.history_items][:, ::-1]))
    for name, part in (("train", context.train), ("validation", context.validation), ("test", context.test)):
        (folder / name).mkdir()
        arrays = {
            "item": number[part.candidate],
            "user": users.get_indexer(pd.Index(part.rows.user_ids)) + 1,
            "history": part.history.astype(np.int64),
            "numeric": scaling.apply(part.numeric),
            "label": part.rows.label.astype(np.float32),
        }
        for key, array in arrays.items():
            np.save(folder / name / f"{key}.npy", array)
    facts = {"items": vocabulary.size, "users": len(users) + 1, "numeric": context.train.numeric.shape[1]}
    (folder / "facts.json").write_text(json.dumps(facts))


def our_pass(
    context: TrainingContext, arm: str, spec: ArmSpec, batch: int, threads: int, rows: int, device: str | None = None
) -> dict[str, float]:
    """Rows per second (``wall``, ``cpu``) of one epoch of one of our arms, as :func:`ranking.arms.train_arm` trains it.

    With a device, the same epoch there: batches are gathered here and moved, as FuxiCTR's are.
    """
    found: dict[str, float] = {}
    original = ranking.train.train
    train = partial(_epoch_on, device) if device else original

    def timed(*given: Any, **named: Any) -> Any:
        began, worked = time.perf_counter(), time.process_time()
        try:
            return train(*given, **named)
        finally:
            found.update(wall=rows / (time.perf_counter() - began), cpu=rows / (time.process_time() - worked))

    training = context.spec.training.model_copy(update={"epochs": 1, "batch_rows": batch})
    few = _few(context.validation)
    ranking.train.train = timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            part = dataclasses.replace(
                context, train=context.train.take(spread(len(context.train), rows)), validation=few, test=few, threads=threads,
                spec=context.spec.model_copy(update={"training": training}), rankers=Path(folder),
            )  # fmt: skip
            train_arm(part, arm, spec, 0, "timed")
    finally:
        ranking.train.train = original
    return found


def _epoch_on(device: str, make_model: Any, training: Any, validation: Any, spec: Any, **named: Any) -> Any:
    """One epoch of :func:`ranking.train.train` on another device."""
    import torch

    def moved(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        if not dataclasses.is_dataclass(value):
            return value
        return type(value)(**{part.name: moved(getattr(value, part.name)) for part in dataclasses.fields(value)})

    torch.manual_seed(named["seed"])
    model = make_model().to(device).train()
    optimiser = ranking.train._optimiser(model, spec)
    for here in training.batches(spec.batch_rows, torch.Generator().manual_seed(named["seed"])):
        batch = moved(here)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
        if hasattr(model, "auxiliary"):
            loss = sum(model.auxiliary(batch).values(), start=loss)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    if device == "cuda":
        torch.cuda.synchronize()
    return ranking.train.Trained(model.cpu().eval(), (0.5,), 0)


def spread(total: int, count: int) -> Any:
    """Row numbers at even distances: the first rows of a log have short histories."""
    return np.linspace(0, total - 1, count).astype(np.int64)


def _few(data: TrainingSet) -> TrainingSet:
    """Two rows, one of each class: training wants a validation part, and it shall cost nothing."""
    return data.take(np.array([int(np.argmax(data.rows.label)), int(np.argmin(data.rows.label))]))


def measure_speed(worker: Worker, repo: Repo, arms: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per batch and threads: rows per second of FuxiCTR's DIN (both loaders) and of our arms, in turn."""
    contexts = {name.rpartition(":")[0]: read_run(repo, name.rpartition(":")[0]) for name in arms}
    specs = {name: load_preset(name.rpartition(":")[0]).arms[name.rpartition(":")[2]] for name in arms}
    first, ours = contexts[arms[0].rpartition(":")[0]], arms[0].rpartition(":")[2]
    folder, root = WORK / repo.path.name, WORK / repo.path.name / "own"
    export(first, folder)
    root.mkdir(parents=True)
    rows = min(PASS_ROWS, len(first.train))
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
            for name in arms:
                work = (contexts[name.rpartition(":")[0]], name, specs[name], batch, threads, rows)
                speeds[name.rpartition(":")[2]] = our_pass(*work)
                if cuda:
                    speeds[f"{name.rpartition(':')[2]} on cuda"] = our_pass(*work, device="cuda")
            passes.append(speeds)
        told = {"data": repo.path.name, "batch": batch, "threads": threads} | _medians(passes[1:], [*FUXICTR, ours])
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


def measure_auc(worker: Worker, repo: Repo, preset: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows as in ``arms.json``: AUC of FuxiCTR's DIN per slice, mean over seeds with an interval over users."""
    context = read_run(repo, preset)
    folder = WORK / repo.path.name
    export(context, folder)
    (folder / "frame").mkdir()  # FuxiCTR keeps its checkpoints under the name of its data set
    label = context.test.rows.label
    user = pd.factorize(context.test.rows.user_ids)[0].astype(np.int64)
    rows: list[dict[str, Any]] = []
    for arm, inputs in INPUTS.items():
        shared = {
            "folder": str(folder), "root": str(folder), "out": str(folder / "scores"), "context": inputs, "dim": DIM,
            "hidden": HIDDEN, "batch": 512, "epochs": 8, "threads": options.threads[-1],
        }  # fmt: skip
        tried = []
        for rate, drop, regularizer in GRID:
            chosen = {"learning_rate": rate, "dropout": drop, "embedding_regularizer": regularizer or None}
            tried.append((worker.ask(do="fit", seed=0, **chosen, **shared)["best_validation_auc"], chosen))
        best, chosen = max(tried, key=lambda trial: trial[0])
        print(f"{repo.path.name} {arm}: {tried}", flush=True)
        scores, weights = [], 0
        for seed in range(options.seeds):
            weights = worker.ask(do="fit", seed=seed, **chosen, **shared)["parameters"]
            scores.append(np.load(folder / "scores.test.npy"))
        for name, part in slices(context.test).items():
            if not enough(label[part]):
                continue
            interval = auc_interval(label[part], [score[part] for score in scores], user[part], 400)
            rows.append(
                {
                    "data": repo.path.name, "arm": arm, "seeds": options.seeds, "slice": name, "metric": "auc",
                    "mean": interval.value, "low": interval.low, "high": interval.high, "baseline": None, "delta": None,
                    "delta_low": None, "delta_high": None, "positives": int(label[part].sum()), "verdict": None,
                    "rows": int(part.sum()), "parameters": weights, "validation_auc": best, **chosen,
                }
            )  # fmt: skip
            if name in {"all", "cold"}:
                print(f"{repo.path.name} {arm} {name}: {interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repos", nargs="+", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=["rqkmeans:id"], help="PRESET:ARM; the first is our DIN")
    parser.add_argument("--only", choices=["speed", "auc"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batches", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", default=sys.executable, help="makes the environment of FuxiCTR")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fuxictr.json")
    options = parser.parse_args()
    worker = Worker(environment(options.python))
    versions = worker.ask(do="versions")
    try:
        for path in options.repos:
            repo = Repo.open(path)
            if options.only != "auc":
                keep(options.out, "speed", repo.path.name, measure_speed(worker, repo, options.arms, options), versions)
            if options.only != "speed":
                fresh = measure_auc(worker, repo, options.arms[0].rpartition(":")[0], options)
                keep(options.out, "auc", repo.path.name, fresh, versions)
    finally:
        worker.close()


def keep(out: Path, what: str, data: str, fresh: list[dict[str, Any]], versions: dict[str, Any]) -> None:
    """Put the rows of one data set in the place of older ones."""
    told = json.loads(out.read_text()) if out.exists() else {"speed": [], "auc": []}
    told[what] = [row for row in told[what] if row["data"] != data] + fresh
    out.write_text(json.dumps(told | {"versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
