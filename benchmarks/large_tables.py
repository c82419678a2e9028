"""Memory and speed of training with an id table of ten million rows, and of the vocabulary of its ids.

    python benchmarks/large_tables.py --work FOLDER [--items 100000 10000000] [--rows 50000] [--dim 16]

Every cell runs in its own process on one thread; ``peak_mb`` is its peak resident memory, ``data_mb`` the memory before a
model is created. Training is ``train`` of the arm that uses ids only, with checkpoints; candidates and histories are sampled
from all items, popular ones more often, so a batch looks up a few thousand distinct rows. Times are CPU seconds;
``rows_per_cpu_s`` is of a training epoch without validation. AdamW, which updates the whole table at every step, runs on
fewer rows. ``as_dictionary`` is the previous vocabulary: a sorted NumPy array of fixed-width strings, a tuple, and a
dictionary per call. Results go to ``benchmarks/results/large_tables.json``.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from processes import in_a_process, peak_mb

RESULTS = Path(__file__).parent / "results" / "large_tables.json"
START_US, DAY_US = 1_577_836_800_000_000, 86_400_000_000
CELLS = ("train", "vocabulary", "as_dictionary")
LENGTH, BATCH_ROWS, VALIDATION_ROWS, EPOCHS = 20, 512, 5_000, 2


def names(items: int) -> npt.NDArray[np.object_]:
    """Distinct ids ``object [items]``, sorted."""
    return np.array([f"item-{number:09d}" for number in np.random.default_rng(1).permutation(items)], dtype=object)


def drawn(rng: np.random.Generator, items: int, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Sampled item indices from 1 on, popular items more often."""
    return (1 + items * rng.random(shape) ** 2).astype(np.int32)


def train_cell(items: int, rows: int, dim: int, optimiser: str, work: Path) -> dict[str, Any]:
    """Train the arm that uses ids only."""
    import torch

    import ranking.training.loop
    from ranking.data.batches import Batches, Vocabulary
    from ranking.data.dataset import Dataset, LabelledRows
    from ranking.data.item_table import ItemTable
    from ranking.data.numeric_features import Scaling, feature_names
    from ranking.models.ctr_model import CtrModel
    from ranking.models.representations.base import ItemShape
    from ranking.models.spec import ModelSpec
    from ranking.training.spec import TrainingSpec

    rng = np.random.default_rng(0)
    ids = np.concatenate([[""], names(items)]).astype(object)
    table = ItemTable(ids, np.zeros((items + 1, 1), np.int32), np.zeros((items + 1, 1), np.float32))
    count = rows + VALIDATION_ROWS
    lists = drawn(rng, items, (count // 10, LENGTH))
    candidate = drawn(rng, items, (count,))
    whole = Dataset(
        LabelledRows(
            np.full(count, "u", dtype=object),
            ids[candidate],
            np.sort(START_US + rng.integers(0, 30 * DAY_US, count)),
            (rng.random(count) < 0.2).astype(np.int8),
        ),
        np.abs(rng.normal(size=(count, len(feature_names())))).astype(np.float32),
        candidate,
        rng.integers(0, len(lists), count).astype(np.int32),
        lists,
        np.full(lists.shape, START_US - DAY_US),
        table,
    )
    vocabulary = Vocabulary.fit(ids[1:])  # of all items, shown or not
    scaling = Scaling.fit(whole.features, 0.2)
    parts = [Batches(whole.take(part), scaling, vocabulary) for part in (np.arange(rows), np.arange(rows, count))]
    told = {"data_mb": peak_mb()}
    spec = TrainingSpec(epochs=EPOCHS, batch_rows=BATCH_ROWS, table_optimiser=optimiser, device="cpu")
    epochs: list[float] = []
    plain: Callable[..., None] = ranking.training.loop._epoch

    def timed(*asked: Any) -> None:
        began = time.process_time()
        plain(*asked)
        epochs.append(time.process_time() - began)

    ranking.training.loop._epoch = timed
    shape = ItemShape(vocabulary.size, (2,), 1, numeric_dim=len(feature_names()))
    model = ModelSpec(dim=dim, hidden=(64, 32))
    trained = ranking.training.loop.train(
        lambda: CtrModel(("id",), shape, len(feature_names()), model), *parts, spec, seed=0, threads=1,
        checkpoint=work / f"run-{items}-{optimiser}.safetensors",
    )  # fmt: skip
    parameters = sum(each.numel() for each in trained.model.parameters())
    assert torch.isfinite(trained.model.last.weight).all()
    return {
        **told,
        "peak_mb": peak_mb(),
        "parameters": parameters,
        "table_mb": round(vocabulary.size * dim * 4 / 2**20, 1),
        "epoch_cpu_s": epochs,
        "rows_per_cpu_s": round(rows / min(epochs)),
    }


def vocabulary_cell(items: int, kind: str) -> dict[str, Any]:
    """Look up the ids of all items, and of the 500 items of a request."""
    ids = names(items)
    before = peak_mb()
    steps: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = work()
        steps[f"{name}_cpu_s"] = round(time.process_time() - began, 4)
        return found

    if kind == "as_dictionary":
        known = timed("fit", lambda: tuple(np.unique(ids.astype(str)).tolist()))

        def numbers(asked: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
            place = {name: number + 2 for number, name in enumerate(known)} | {"": 0}
            return np.array([place.get(name, 1) for name in asked], dtype=np.int64)
    else:
        from ranking.data.vocabulary import Vocabulary

        numbers = timed("fit", lambda: Vocabulary.fit(ids)).numbers
    timed("first_500", lambda: numbers(ids[:500]))
    timed("next_500", lambda: numbers(ids[:500]))
    found = timed("all", lambda: numbers(ids))
    told = {"ids_mb": before, "peak_mb": peak_mb(), **steps}
    assert (np.bincount(found) == ([0, 0] + [1] * items)).all()
    assert found[ids == "item-000000000"] == 2
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    # Cells that are not asked for stay as they were measured.
    there = json.loads(RESULTS.read_text())["records"] if RESULTS.exists() else []
    records: list[dict[str, Any]] = [record for record in there if record["cell"] not in asked.cells]

    def measure(cell: dict[str, Any], work: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        records.append({**cell, **in_a_process(work, *arguments)})
        print(records[-1], flush=True)
        write(records, asked)

    for items in asked.items:
        for optimiser, rows in (("rowwise_adagrad", asked.rows), ("adamw", few_rows(asked))):
            if "train" not in asked.cells:
                continue
            cell = {"cell": "train", "items": items, "optimiser": optimiser, "rows": rows}
            measure(cell, train_cell, items, rows, asked.dim, optimiser, asked.work)
        for kind in (kind for kind in ("vocabulary", "as_dictionary") if kind in asked.cells):
            measure({"cell": kind, "items": items}, vocabulary_cell, items, kind)


def few_rows(asked: argparse.Namespace) -> int:
    """AdamW updates the whole table at each step, so it gets fewer rows."""
    return int(min(asked.rows, 10 * BATCH_ROWS))


def write(records: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    """Write the results so far."""
    result = {
        "command": f"python benchmarks/large_tables.py --work FOLDER --items {' '.join(map(str, asked.items))} "
        f"--rows {asked.rows} --dim {asked.dim}",
        "shapes": {
            "validation_rows": VALIDATION_ROWS, "dim": asked.dim,
            "history_length": LENGTH, "batch_rows": BATCH_ROWS, "epochs": EPOCHS, "threads": 1, "content_dim": 1,
        },
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "pyarrow", "pandas")}
        | {"python": platform.python_version()},
        "records": records,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
