"""Trials of a comparison: one arm, one seed, one time origin each, stored in one file that is written atomically.

Workers share only files. A trial is claimed with a lock that is released when its holder exits or dies, so any number of
processes can work on one plan, and an interrupted plan resumes.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ranking.data.control_codes import ControlKind
from ranking.data.split import TimeSplit
from ranking.experiments.comparison.arms import ComparedArm
from ranking.pipeline.controls import control_folders
from ranking.pipeline.prepare import training_context
from ranking.training.adapted_arm import adapted_arm
from ranking.training.arm_members import in_order
from ranking.training.arm_spec import RankerSpec, without_loss
from ranking.training.arms import ArmDetails, ArmResult, train_arm
from ranking.training.blend import blend_arm
from ranking.training.liveness import PartLiveness
from ranking.training.predictions import read_details, write_predictions
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import say_discarded
from sidkit.core.locks import locked_file
from sidkit.core.progress import SILENT, Progress, StageDone
from sidkit.core.records import record_of
from sidkit.core.repo import Repo
from sidkit.core.stages import StageResult

if TYPE_CHECKING:
    from ranking.training.arms import TrainingContext


TRIALS = "units"
"""Folder of the trials within the folder of the comparison."""


@dataclass(frozen=True)
class Frame:
    """A saved frame: the rows of one time origin, with the codes of one codebook."""

    folder: Path
    codebook: str
    split: TimeSplit
    controls: Mapping[ControlKind, StageResult] = field(default_factory=dict)
    """The stages that made the control parts of the frame."""


@dataclass(frozen=True)
class Trial:
    """One arm with one seed at one time origin, trained on one frame.

    ``mark`` is a hash of everything that determines the result. ``budget`` is the target parameter count; None leaves the
    model's size unchanged. ``without`` names an auxiliary loss that the arm is trained without.
    """

    arm: str
    seed: int
    origin: int
    frame: str
    mark: str
    budget: int | None = None
    without: str | None = None

    @property
    def name(self) -> str:
        """Stem of the trial's file."""
        arm = self.arm if self.without is None else f"{self.arm}-without-{self.without}"
        return f"{arm}-s{self.seed}-o{self.origin}"

    def done(self, details: TrialDetails, *, reused: bool) -> StageDone:
        """Return the event of the finished trial."""
        return StageDone(self.name, details.train_rows or 0, details.seconds, reused)


@dataclass(frozen=True)
class TrialDetails(ArmDetails):
    """The result and cost of a finished trial."""

    mark: str = ""
    """Mark of the trial that produced the result."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    validation: float | None = None
    """AUC on the validation rows."""
    ranker: str | None = None
    """Name of the saved artefact; None if none was saved."""
    liveness: tuple[PartLiveness, ...] | None = None
    """What the parts of the model contribute; None for gradient boosting, a trial without a loss, or an earlier release."""


@dataclass(frozen=True)
class Plan:
    """All inputs of a worker."""

    repo: Path
    folder: Path
    spec: RankerSpec
    arms: Mapping[str, ComparedArm]
    frames: Mapping[str, Frame]
    trials: tuple[Trial, ...]
    loss_trials: tuple[Trial, ...] = ()
    """The arms at the latest time origin, trained without each of their auxiliary losses."""

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """All trials to run."""
        return (*self.trials, *self.loss_trials)

    @property
    def ablation_baselines(self) -> dict[str, str]:
        """Arm -> ablation baseline, for the arms that have one."""
        return {arm: spec.baseline for arm, spec in self.arms.items() if spec.baseline}

    def path(self, trial: Trial) -> Path:
        """Path of the trial's predictions."""
        return self.folder / TRIALS / f"{trial.name}.parquet"

    def members(self, trial: Trial) -> dict[str, Trial]:
        """Member -> its trial of the same seed and time origin, for the trial of a blend."""
        named = self.arms[trial.arm].of
        at = (trial.seed, trial.origin)
        return {other.arm: other for other in self.trials if other.arm in named and (other.seed, other.origin) == at}

    def details(self, trial: Trial) -> TrialDetails | None:
        """Return the details of a finished trial, or None if it has not run on the current inputs."""
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
        """Return the artefact name within ``rankers``; only the first seed of the latest time origin is saved."""
        return f"{trial.arm}_{trial.mark[:8]}"

    @property
    def rankers(self) -> Path:
        """Folder of the artefacts for :mod:`ranking.experiments.comparison.probes`."""
        return self.folder / "rankers"


def work_through(plan: Plan, progress: Progress = SILENT) -> None:
    """Run all unfinished trials; wait for those that another process has claimed. A worker stops when its parent has died.

    Parameters
    ----------
    plan : Plan
        The trials to run.
    progress : Progress
        Receives each trial that this process runs as a stage, and its epochs.
    """
    parent = multiprocessing.parent_process()  # None but in workers: a command outlives the shell that started it
    contexts: dict[str, TrainingContext] = {}
    # Blends and adapters come after all other trials, which include their members.
    for order in sorted({in_order(plan.arms[trial.arm]) for trial in plan.all_trials}):
        claimed_elsewhere = []
        trials = [trial for trial in plan.all_trials if in_order(plan.arms[trial.arm]) == order]
        # Trials of the same frame are adjacent, so that each frame is loaded once.
        for trial in sorted(trials, key=lambda trial: (trial.origin, trial.frame)):
            if parent is not None and not parent.is_alive():
                return
            with _claimed(plan, trial, wait=False) as claimed:
                if not claimed:
                    claimed_elsewhere.append(trial)
                    continue
                _run(plan, trial, contexts, progress)
        for trial in claimed_elsewhere:
            with _claimed(plan, trial, wait=True):
                _run(plan, trial, contexts, progress)


@contextmanager
def _claimed(plan: Plan, trial: Trial, *, wait: bool) -> Iterator[bool]:
    path = plan.folder / TRIALS / f".{trial.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(path, wait=wait) as acquired:
        yield acquired


def _run(plan: Plan, trial: Trial, contexts: dict[str, TrainingContext], progress: Progress) -> None:
    if plan.details(trial) is not None:
        return
    progress.stage_started(trial.name)
    if trial.frame not in contexts:
        contexts.clear()  # one frame at a time in memory
        contexts[trial.frame] = _context(plan, trial)
    context = contexts[trial.frame]
    started, cpu_started = time.monotonic(), time.process_time()
    result = train_trial(plan, trial, context, progress)
    details = TrialDetails(
        **{
            **vars(result.details),
            "mark": trial.mark,
            "seconds": round(time.monotonic() - started, 2),
            "cpu_seconds": round(time.process_time() - cpu_started, 2),
            "validation": result.validation_auc,
            "ranker": result.ranker,
            "liveness": result.liveness,
            "train_rows": len(context.train),
        }
    )
    write_predictions(plan.path(trial), result, details.as_json())
    progress.stage_finished(trial.done(details, reused=False))


def train_trial(plan: Plan, trial: Trial, context: TrainingContext, progress: Progress = SILENT) -> ArmResult:
    """Train the arm of a trial; the predictions of the arms that it is made of must be saved."""
    spec = plan.arms[trial.arm]
    paths = {arm: plan.path(member) for arm, member in plan.members(trial).items()}
    if spec.kind == "adapter":
        delay_us = Repo.open(plan.repo).settings.time.delay_us
        parts = (context.validation, context.test)
        return adapted_arm(trial.arm, trial.seed, spec, *parts, paths, delay_us, progress)
    if spec.kind == "blend":
        return blend_arm(trial.arm, trial.seed, spec, context.validation, context.test, paths, progress)
    if trial.without is not None:
        context = dataclasses.replace(context, rankers=None, liveness=False, first_epoch=False)
        spec = without_loss(spec, plan.spec.model, trial.without)
    elif trial.seed != 0 or trial.origin != 0:
        context = dataclasses.replace(context, rankers=None)
    from ranking.training.sizing import Budget

    budget = Budget(trial.budget, spec.sized_by) if trial.budget is not None else None
    return train_arm(context, trial.arm, spec, trial.seed, plan.ranker(trial), budget, progress)


def _context(plan: Plan, trial: Trial) -> TrainingContext:
    frame = plan.frames[trial.frame]
    context = context_of(Repo.open(plan.repo), frame, plan.spec, plan.rankers)
    return dataclasses.replace(context, liveness=True)


def context_of(repo: Repo, frame: Frame, spec: RankerSpec, rankers: Path | None = None) -> TrainingContext:
    """Return the training context of a saved frame, with one thread per arm."""
    context = training_context(
        repo, frame.codebook, frame.split, frame.folder, spec, rankers, threads=1, first_epoch=True
    )
    return dataclasses.replace(context, controls=control_folders(frame.controls))
