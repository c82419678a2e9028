"""The units of a comparison: one arm, one seed, one origin. Each is a file, written in one rename, and done once.

Workers share nothing but files. A unit is claimed by a lock that its holder's death frees, so that any number of
processes may work on one plan, and a plan goes on where a killed one stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranking.data.split import TimeSplit
from ranking.experiments.comparison.arms import ComparedArm
from ranking.pipeline.prepare import training_context
from ranking.training.arm_spec import RankerSpec
from ranking.training.arms import read_details, train_arm, write_predictions
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import say_discarded
from sidkit.core.locks import locked_file
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from ranking.training.arms import TrainingContext


@dataclass(frozen=True)
class Frame:
    """A kept frame: the rows of one origin with the features of one codebook."""

    folder: Path
    codebook: str
    split: TimeSplit


@dataclass(frozen=True)
class Unit:
    """One arm with one seed at one origin, trained on one frame; ``mark`` changes when anything changes that decides it.

    ``budget`` is how many parameters its model should have; None leaves it as it is.
    """

    arm: str
    seed: int
    origin: int
    frame: str
    mark: str
    budget: int | None = None

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.arm}-s{self.seed}-o{self.origin}"


@dataclass(frozen=True)
class Plan:
    """Everything that a worker needs to know."""

    repo: Path
    folder: Path
    spec: RankerSpec
    arms: Mapping[str, ComparedArm]
    frames: Mapping[str, Frame]
    units: tuple[Unit, ...]

    @property
    def own_baselines(self) -> dict[str, str]:
        """The arms that name a baseline, and which."""
        return {arm: spec.baseline for arm, spec in self.arms.items() if spec.baseline}

    def path(self, unit: Unit) -> Path:
        """Where the unit's predictions lie, once it is done."""
        return self.folder / "units" / f"{unit.name}.parquet"

    def details(self, unit: Unit) -> dict[str, Any] | None:
        """The facts of a finished unit; None where it has still to be done, or was done on other inputs."""
        path = self.path(unit)
        if not path.exists():
            return None
        try:
            details = read_details(path)
        except ArtifactCorruptError as error:
            say_discarded(error.path, error.problem)
            path.unlink(missing_ok=True)
            return None
        return details if details.get("mark") == unit.mark else None

    def ranker(self, unit: Unit) -> str:
        """The name of the artefact in ``rankers`` of the folder; only the first seed of the latest origin has one."""
        return f"{unit.arm}_{unit.mark[:8]}"

    @property
    def rankers(self) -> Path:
        """Artefacts for the tests that ask a model."""
        return self.folder / "rankers"


def work_through(plan: Plan, announce: Callable[[Unit, Mapping[str, Any]], None] | None = None) -> None:
    """Do all units that nobody has done; those that another process holds are waited for.

    Parameters
    ----------
    plan : Plan
        What there is to do.
    announce : callable, optional
        Called with each unit that was done here, and its facts.
    """
    parent = os.getppid()
    contexts: dict[str, TrainingContext] = {}
    held = []
    # Units of one frame stand together: it is loaded once.
    for unit in sorted(plan.units, key=lambda unit: (unit.origin, unit.frame)):
        if os.getppid() != parent:
            return  # nobody waits for this any more
        with _claimed(plan, unit, wait=False) as mine:
            if not mine:
                held.append(unit)
                continue
            _do(plan, unit, contexts, announce)
    for unit in held:
        with _claimed(plan, unit, wait=True):
            _do(plan, unit, contexts, announce)


@contextmanager
def _claimed(plan: Plan, unit: Unit, *, wait: bool) -> Iterator[bool]:
    path = plan.folder / "units" / f".{unit.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(path, wait=wait) as mine:
        yield mine


def _do(
    plan: Plan,
    unit: Unit,
    contexts: dict[str, TrainingContext],
    announce: Callable[[Unit, Mapping[str, Any]], None] | None,
) -> None:
    if plan.details(unit) is not None:
        return
    if unit.frame not in contexts:
        contexts.clear()  # one frame at a time in memory
        contexts[unit.frame] = _context(plan, unit)
    context = contexts[unit.frame]
    keep = unit.seed == 0 and unit.origin == 0
    if not keep:
        context = _without_artefacts(context)
    from ranking.training.sizing import Budget

    began, worked = time.monotonic(), time.process_time()
    spec = plan.arms[unit.arm]
    budget = Budget(unit.budget, spec.sized_by) if unit.budget is not None else None
    result = train_arm(context, unit.arm, spec, unit.seed, plan.ranker(unit), budget)
    facts = {
        "mark": unit.mark,
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(time.process_time() - worked, 2),
        "validation": result.validation_auc,
        "ranker": result.ranker,
        "train_rows": len(context.train),
    }
    write_predictions(plan.path(unit), result, facts)
    if announce is not None:
        announce(unit, {**result.details, **facts})


def _context(plan: Plan, unit: Unit) -> TrainingContext:
    frame = plan.frames[unit.frame]
    return context_of(Repo.open(plan.repo), frame, plan.spec, plan.rankers)


def context_of(repo: Repo, frame: Frame, spec: RankerSpec, rankers: Path | None = None) -> TrainingContext:
    """What all arms share that train on a kept frame, one thread each."""
    return training_context(repo, frame.codebook, frame.split, frame.folder, spec, rankers, threads=1, first_epoch=True)


def _without_artefacts(context: TrainingContext) -> TrainingContext:
    import dataclasses

    return dataclasses.replace(context, rankers=None)
