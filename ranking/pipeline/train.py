"""Training of a preset's arms without the stages after it, in one process or in several of ``torchrun``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ranking.pipeline.arm_stages import TrainedArm
from ranking.pipeline.beside import train_tasks
from ranking.pipeline.presets import check_extras, load_preset
from ranking.pipeline.run import Job, JobOptions, opened_for
from sidkit.core.progress import SILENT, Progress
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from ranking.training.processes import JoinedProcesses


def train_preset(
    repo: Repo | Path,
    data: str,
    preset: str,
    *,
    arms: Sequence[str] = (),
    seeds: int = 1,
    as_of_us: int | None = None,
    impressions: int = 200_000,
    allow_future: bool = False,
    codebook: str | None = None,
    progress: Progress | None = None,
) -> dict[str, tuple[TrainedArm, ...]] | None:
    """Run the stages of a preset up to the training of its arms; :func:`ranking.pipeline.run.run_preset` reuses them.

    In several processes that ``torchrun`` started, each calls this with the same arguments. Process 0 runs the stages and
    trains gradient boosting and blends; the others wait, and share the rows of every batch of the neural arms. What is
    trained does not depend on their number: ``training.batch_rows`` are the rows of a batch of all processes together.

    Parameters
    ----------
    repo, data, preset, seeds, as_of_us, impressions, allow_future, codebook, progress
        See :func:`ranking.pipeline.run.run_preset`. Only process 0 reports progress.
    arms : sequence of str
        Arms to train, with the members of blends among them; default: all arms of the preset.

    Returns
    -------
    dict or None
        Arm -> ranker and validation AUC of each seed; None in a process other than 0.

    Raises
    ------
    ConfigError
        When the preset has no such arm, torch cannot exchange tensors between processes, or a machine has fewer GPUs than
        processes.
    ProcessesError
        When another process stopped, or has other rows or settings. The same command resumes after the last finished epoch.
    SidkitError
        When a stage fails; see its message.
    """
    loaded = load_preset(preset)
    check_extras(loaded)
    from ranking.training.processes import joined_processes

    options = JobOptions(data, preset, loaded, seeds, as_of_us, impressions, allow_future, codebook)
    with joined_processes() as processes:
        if not processes.leads:
            train_tasks(repo.path if isinstance(repo, Repo) else repo, loaded, cast("JoinedProcesses", processes))
            return None
        opened = opened_for(repo, options)
        with opened.locked():
            trained = Job(opened, options, progress or SILENT).train(arms, processes)
        if processes.part.of > 1:
            cast("JoinedProcesses", processes).send(None)
        return trained
