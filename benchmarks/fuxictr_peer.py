"""FuxiCTR 2.3.10 in its own environment and process, and the export of a comparison's frames as plain arrays for it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from arms import options_of

from ranking.data.batches import Vocabulary
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling
from ranking.data.rows_used import PARTS
from ranking.experiments.comparison.comparison import Comparison, data_name
from ranking.experiments.comparison.trials import Plan, context_of
from ranking.pipeline.prepare import prepare_repo
from ranking.training.arms import TrainingContext
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.gbdt import boosted_features
from sidkit.core.files import read_json, remove, write_json
from sidkit.core.repo import Repo

HERE = Path(__file__).parent
WORK = HERE.parent / ".work" / "fuxictr"
OUT = HERE / "results" / "fuxictr.json"
PINS = ("torch==2.13.0", "fuxictr==2.3.10")
DIM, HIDDEN = 16, [64, 32]


def environment(python: str) -> Path:
    """The Python interpreter of FuxiCTR's environment; installed from PyPI if missing."""
    interpreter = WORK / "venv" / "bin" / "python"
    if not (WORK / "venv" / ".made").exists():
        subprocess.run([python, "-m", "venv", str(WORK / "venv")], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *PINS], check=True)
        (WORK / "venv" / ".made").touch()
    return interpreter


class Worker:
    """FuxiCTR's process: takes a dict, returns a dict."""

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


def export(context: TrainingContext, folder: Path, parts: Sequence[str] = PARTS) -> None:
    """Write a frame as plain arrays: per part ``item``, ``user``, ``history`` (numbers of lists), ``numeric``, ``label``,
    ``candidate`` (the item's version) and ``cosines`` (of its content with the history, those of boosting); once
    ``lists`` int64 [histories, length], oldest first, padding in front, ``versions`` of the same items, and ``content``
    float32 [versions, dim], scaled to variance 1. Item 0 is padding, 1 unknown; user 0 unknown; version 0 is padding.
    """
    remove(folder)
    vocabulary = Vocabulary.fit(context.train.rows.item_ids)
    users = pd.Index(pd.unique(context.train.rows.user_ids))
    scaling = Scaling.fit(context.train.features, context.rate)
    number = vocabulary.numbers(context.train.items.ids)
    folder.mkdir(parents=True)
    oldest_first = np.ascontiguousarray(context.train.history_items[:, ::-1])
    content = context.train.items.content
    np.save(folder / "lists.npy", number[oldest_first])
    np.save(folder / "versions.npy", oldest_first.astype(np.int64))
    np.save(folder / "content.npy", content / max(float(content.std()), 1e-9))
    columns, cosines = context.serving.content_columns, BoostingSpec(content_axes=0)
    for name in parts:
        part: Dataset = getattr(context, name)
        (folder / name).mkdir()
        arrays = {
            "item": number[part.candidate],
            "user": users.get_indexer(pd.Index(part.rows.user_ids)) + 1,
            "history": part.history.astype(np.int64),
            "numeric": scaling.apply(part.features),
            "label": part.rows.label.astype(np.float32),
            "candidate": part.candidate.astype(np.int64),
            "cosines": boosted_features(part, columns, cosines)[:, -len(cosines.similarities) :],
        }
        for key, array in arrays.items():
            np.save(folder / name / f"{key}.npy", array)
    facts = {
        "items": vocabulary.size,
        "users": len(users) + 1,
        "numeric": context.train.features.shape[1],
        "content": content.shape[1],
        "cosines": len(cosines.similarities),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def prepared(data: str, arms: list[str], options: argparse.Namespace) -> tuple[Repo, Plan, dict[str, TrainingContext]]:
    """The plan of a comparison, with missing frames prepared, and each arm's training context."""
    repo = prepare_repo(data, options.work / data_name(data))
    with repo.locked():
        plan, _ = Comparison(repo, options_of(data, options, arms)).plan()
    contexts: dict[str, TrainingContext] = {}
    for trial in plan.trials:
        if trial.origin == 0 and trial.arm not in contexts:
            frame = plan.frames[trial.frame]
            contexts[trial.arm] = dataclasses.replace(context_of(repo, frame, plan.spec), first_epoch=False)
    return repo, plan, contexts


def measure_all(
    parser: argparse.ArgumentParser,
    what: str,
    measure: Callable[[Worker, str, argparse.Namespace], list[dict[str, Any]]],
) -> None:
    """Measure all requested data sets with one FuxiCTR process, and save their rows under ``what``."""
    parser.add_argument("--python", default=sys.executable, help="makes the environment of FuxiCTR")
    options = parser.parse_args()
    worker = Worker(environment(options.python))
    versions = worker.ask(do="versions")
    try:
        for data in options.data:
            _keep(what, data_name(data), measure(worker, data, options), versions)
    finally:
        worker.close()


def kept() -> dict[str, Any]:
    """The saved results: ``speed`` and ``auc`` rows, and by data set and arm the trials ``tried``."""
    return {"speed": [], "auc": [], "tried": {}} | (read_json(OUT) if OUT.exists() else {})


def _keep(what: str, data: str, fresh: list[dict[str, Any]], versions: dict[str, Any]) -> None:
    """Replace the saved rows of one data set; equal ones stay where they are."""
    told = kept()
    if [row for row in told[what] if row["data"] == data] != fresh:
        told[what] = [row for row in told[what] if row["data"] != data] + fresh
    write_json(OUT, told | {"versions": versions})
