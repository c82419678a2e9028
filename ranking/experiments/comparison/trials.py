"""The trials of a comparison: one arm, one seed, one time origin. Each is a file, written in one rename, and done once.

Workers share nothing but files. A trial is claimed by a lock that is released when its holder ends or dies, so any number of
processes may work on one plan, and an interrupted plan resumes.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ranking.data.split import TimeSplit
from ranking.experiments.comparison.arms import ComparedArm
from ranking.pipeline.prepare import training_context
from ranking.training.arm_spec import RankerSpec
from ranking.training.arms import ArmDetails, read_details, train_arm, write_predictions
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import say_discarded
from sidkit.core.locks import locked_file
from sidkit.core.records import record_of
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from ranking.training.arms import TrainingContext


TRIALS = "units"
"""The folder of trials in that of the comparison."""


@dataclass(frozen=True)
class Frame:
    """A saved frame: the rows of one time origin with the features of one codebook."""

    folder: Path
    codebook: str
    split: TimeSplit


@dataclass(frozen=True)
class Trial:
    """One arm with one seed at one time origin, trained on one frame; ``mark`` changes when anything changes that decides it.

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
class TrialDetails(ArmDetails):
    """What a trial came to and what it took."""

    mark: str = ""
    """Of the trial that was done."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    validation: float | None = None
    """AUC on the validation rows."""
    ranker: str | None = None
    """The saved artefact; None where none was saved."""


@dataclass(frozen=True)
class Plan:
    """Everything that a worker needs to know."""

    repo: Path
    folder: Path
    spec: RankerSpec
    arms: Mapping[str, ComparedArm]
    frames: Mapping[str, Frame]
    trials: tuple[Trial, ...]

    @property
    def ablation_baselines(self) -> dict[str, str]:
        """Arm -> its ablation baseline, of the arms that name one."""
        return {arm: spec.baseline for arm, spec in self.arms.items() if spec.baseline}

    def path(self, trial: Trial) -> Path:
        """Where the trial's predictions lie, once it is done."""
        return self.folder / TRIALS / f"{trial.name}.parquet"

    def details(self, trial: Trial) -> TrialDetails | None:
        """What a finished trial came to; None where it has still to be done, or was done on other inputs."""
        path = self.path(trial)
        if not path.exists():
            return None
        try:
            details = record_of(TrialDetails, read_details(path), path)
        except ArtifactCorruptError as error:
            say_discarded(error.path, error.problem)
            path.unlink(missing_ok=True)
            return None
        return details if details.mark == trial.mark else None

    def ranker(self, trial: Trial) -> str:
        """The name of the artefact in ``rankers`` of the folder; only the first seed of the latest origin has one."""
        return f"{trial.arm}_{trial.mark[:8]}"

    @property
    def rankers(self) -> Path:
        """Artefacts for :mod:`ranking.experiments.comparison.probes`."""
        return self.folder / "rankers"


def work_through(plan: Plan, announce: Callable[[Trial, TrialDetails], None] | None = None) -> None:
    """Do all trials that are not done yet; those that another process holds are waited for.

    Parameters
    ----------
    plan : Plan
        What there is to do.
    announce : callable, optional
        Called with each trial that was done here, and what it came to.
    """
    parent = os.getppid()
    contexts: dict[str, TrainingContext] = {}
    held = []
    # Trials of one frame stand together: it is loaded once.
    for trial in sorted(plan.trials, key=lambda trial: (trial.origin, trial.frame)):
        if os.getppid() != parent:
            return  # nobody waits for this any more
        with _claimed(plan, trial, wait=False) as mine:
            if not mine:
                held.append(trial)
                continue
            _do(plan, trial, contexts, announce)
    for trial in held:
        with _claimed(plan, trial, wait=True):
            _do(plan, trial, contexts, announce)


@contextmanager
def _claimed(plan: Plan, trial: Trial, *, wait: bool) -> Iterator[bool]:
    path = plan.folder / TRIALS / f".{trial.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(path, wait=wait) as mine:
        yield mine


def _do(
    plan: Plan,
    trial: Trial,
    contexts: dict[str, TrainingContext],
    announce: Callable[[Trial, TrialDetails], None] | None,
) -> None:
    if plan.details(trial) is not None:
        return
    if trial.frame not in contexts:
        contexts.clear()  # one frame at a time in memory
        contexts[trial.frame] = _context(plan, trial)
    context = contexts[trial.frame]
    saved = trial.seed == 0 and trial.origin == 0
    if not saved:
        context = _without_artefacts(context)
    from ranking.training.sizing import Budget

    began, worked = time.monotonic(), time.process_time()
    spec = plan.arms[trial.arm]
    budget = Budget(trial.budget, spec.sized_by) if trial.budget is not None else None
    result = train_arm(context, trial.arm, spec, trial.seed, plan.ranker(trial), budget)
    details = TrialDetails(
        **{
            **vars(result.details),
            "mark": trial.mark,
            "seconds": round(time.monotonic() - began, 2),
            "cpu_seconds": round(time.process_time() - worked, 2),
            "validation": result.validation_auc,
            "ranker": result.ranker,
            "train_rows": len(context.train),
        }
    )
    write_predictions(plan.path(trial), result, details.as_json())
    if announce is not None:
        announce(trial, details)


def _context(plan: Plan, trial: Trial) -> TrainingContext:
    frame = plan.frames[trial.frame]
    return context_of(Repo.open(plan.repo), frame, plan.spec, plan.rankers)


def context_of(repo: Repo, frame: Frame, spec: RankerSpec, rankers: Path | None = None) -> TrainingContext:
    """What all arms share that train on a saved frame, one thread each."""
    return training_context(repo, frame.codebook, frame.split, frame.folder, spec, rankers, threads=1, first_epoch=True)


def _without_artefacts(context: TrainingContext) -> TrainingContext:

    return dataclasses.replace(context, rankers=None)
