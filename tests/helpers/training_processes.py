"""Trainings that tests run in one process and in several; as a script, each of the processes of ``torchrun``.

Arguments of the script: the folder of the results, then names of :data:`SCENARIOS`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.builders import Forked
from helpers.places import TESTS
from helpers.ports import free_port
from helpers.training_builders import CONTENT_DIM, SIZES, fitted_to, random_set
from ranking.data.batches import Batches, Vocabulary
from ranking.data.dataset import Dataset
from ranking.data.disk_batches import DiskBatches
from ranking.data.disk_dataset import DiskDataset, DiskDatasetWriter
from ranking.data.frame_rows import FrameRows
from ranking.data.numeric_features import Scaling, feature_names
from ranking.data.shares import Part, Share
from ranking.models.ctr_model import CtrModel
from ranking.models.representations.base import ItemShape
from ranking.models.spec import ModelSpec
from ranking.training.loop import Epoch, Trained, train
from ranking.training.processes import ALONE, Processes, joined_processes
from ranking.training.spec import TrainingSpec

MODEL = ModelSpec(dim=4, hidden=(8,), dropout=0.3, id_dropout=0.4, history="target_attention")
SPEC = TrainingSpec(
    epochs=4, patience=4, batch_rows=24, learning_rate=0.01, table_learning_rate=0.01, device="cpu"
)  # fmt: skip
DATA, VALIDATION = (
    random_set(121, seed=1),
    random_set(61, seed=2),
)  # a last batch of one row, of which one process has none


@dataclass(frozen=True)
class Scenario:
    """What is trained on which rows."""

    parts: tuple[str, ...] = ("id", "content", "sid")
    model: ModelSpec = MODEL
    spec: TrainingSpec = SPEC
    data: Dataset = field(default=DATA)
    buffer_rows: int | None = None
    """The rows are on disk, in groups of 16, and shuffled through such a buffer."""


SCENARIOS = {
    "dense": Scenario(),
    "sparse": Scenario(spec=SPEC.model_copy(update={"table_optimiser": "rowwise_adagrad"})),
    "stops early": Scenario(spec=SPEC.model_copy(update={"patience": 1, "epochs": 12, "learning_rate": 0.05})),
    "on disk": Scenario(buffer_rows=1000),
    "in lanes": Scenario(buffer_rows=40, model=MODEL.model_copy(update={"id_dropout": 0.0})),
    "contrast": Scenario(parts=("mba", "rq_opq_gate"), model=MODEL.model_copy(update={"history_scale": 1.0})),
    "killed": Scenario(parts=("mba", "rq_opq_gate")),
    "other rows": Scenario(),
}


def on_disk(data: Dataset, folder: Path) -> DiskDataset:
    """The rows of a set in groups of 16 on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}.parquet"
    writer = DiskDatasetWriter(path, 16)
    writer.add(FrameRows(data.rows, data.numeric, data.candidate, data.history))
    writer.close()
    return DiskDataset(path, data.history_items, data.history_us, data.items)


class JoinedLanes(DiskBatches):
    """The global batches of two processes in a single one."""

    memory: Batches

    def shares(self, size: int, generator: torch.Generator, part: Part) -> Iterator[Share]:
        """Each global batch, found in memory by the times of its rows."""
        state = generator.get_state()
        lanes = []
        for number in range(2):
            generator.set_state(state)
            lanes.append(list(super().shares(size, generator, Part(number, 2))))
        for both in zip(*lanes, strict=True):
            rows = torch.cat([share.batch.at_us for share in both if share.batch is not None])
            assert len(rows) == both[0].of == both[1].of
            yield Share(self.memory.batch(rows), 0, len(rows))


def trained(
    name: str, folder: Path, processes: Processes = ALONE, *, checkpoint: Path | None = None, killed: bool = False
) -> tuple[Trained, list[float]]:
    """Train a scenario; returns the result and the loss of each epoch. With ``killed``, process 1 kills itself in epoch 3."""
    scenario = SCENARIOS[name]
    data = random_set(100 + processes.part.number) if name == "other rows" else scenario.data
    data = replace(data, rows=replace(data.rows, at_us=np.arange(len(data))))
    vocabulary, scaling = Vocabulary.fit(data.rows.item_ids), Scaling.fit(data.features, 0.5)
    shape = ItemShape(vocabulary.size, SIZES, CONTENT_DIM, residual_levels=2, numeric_dim=len(feature_names()))
    memory = Batches(data, scaling, vocabulary)
    training: Batches | DiskBatches = memory
    if scenario.buffer_rows is not None:
        kind = JoinedLanes if processes is ALONE and scenario.buffer_rows < len(data) else DiskBatches
        training = kind(on_disk(data, folder / "rows"), scaling, vocabulary, scenario.buffer_rows)
        if isinstance(training, JoinedLanes):
            training.memory = memory
    losses: list[float] = []

    def make() -> CtrModel:
        fitted = fitted_to(data, shape, vocabulary, scenario.model)
        model = CtrModel(scenario.parts, shape, len(feature_names()), scenario.model, fitted)
        if killed and processes.part.number == 1:
            calls = iter(range(16))

            def kill_itself(*_: object) -> None:
                if next(calls, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)

            model.register_forward_pre_hook(kill_itself)
        return model

    def report(epoch: Epoch) -> None:
        losses.append(epoch.loss)

    result = train(
        make, training, Batches(VALIDATION, scaling, vocabulary), scenario.spec,
        seed=3, threads=1, checkpoint=checkpoint, report=report, processes=processes,
    )  # fmt: skip
    processes.check_same([value.double().sum().item() for value in result.model.state_dict().values()])
    return result, losses


def environment_of(**changes: str) -> dict[str, str]:
    """The environment of a process that imports the helpers and uses one thread."""
    return {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1", **changes}


def torchrun(*script: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a script with arguments, or a module after "-m", in two processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*launcher, *map(str, script)],
        env=environment_of(**changes), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two processes that train together, and the files that they print to."""

    processes: tuple[Forked, Forked]
    files: tuple[Path, Path]

    def ended(self) -> tuple[list[int], list[str]]:
        """Exit status of each, and what each said."""
        return [each.wait(900) for each in self.processes], [file.read_text() for file in self.files]


def two_forks(folder: Path, script: str, *arguments: object, **changes: str) -> Pair:
    """Run a script in two processes that are forked and have no launcher: nobody stops one when the other is dead."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    files = (folder / f"said-{place['MASTER_PORT']}-0", folder / f"said-{place['MASTER_PORT']}-1")
    first, second = (
        Forked(
            script, *arguments, cwd=folder, files=[file, file],
            environment=environment_of(**place, RANK=str(number), LOCAL_RANK=str(number), **changes),
        )
        for number, file in enumerate(files)
    )  # fmt: skip
    return Pair((first, second), files)


def main() -> None:
    """Train each scenario; process 0 writes loss curve, validation AUC and weights."""
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    with joined_processes() as processes:
        for name in names:
            killed = name == "killed" and os.environ.get("KILLED") == "yes"
            checkpoint = folder / "checkpoint.safetensors" if name == "killed" and "KILLED" in os.environ else None
            result, losses = trained(name, folder, processes, checkpoint=checkpoint, killed=killed)
            if processes.leads:
                write(folder, name, result, losses)


def write(folder: Path, name: str, result: Trained, losses: list[float]) -> None:
    """Write what :func:`read` reads."""
    np.savez(folder / f"{name}.npz", **{key: value.numpy() for key, value in result.model.state_dict().items()})
    (folder / f"{name}.json").write_text(json.dumps([losses, list(result.validation_auc)]))


def read(folder: Path, name: str) -> tuple[dict[str, Any], list[float], list[float]]:
    """Weights, loss of each epoch and validation AUC."""
    losses, auc = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as weights:
        return {key: weights[key] for key in weights.files}, losses, auc


if __name__ == "__main__":
    main()
