"""What a finished run of the main job left: its frame, split as it was, ready to train on again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ranking.arms import TrainingContext
from ranking.prepare import training_context
from ranking.presets import load_preset
from ranking.rows_file import read_moments
from ranking.split import TimeSplit
from ranking.stages import read_facts
from sidkit.errors import ArtifactMissingError
from sidkit.repo import Repo


def read_run(repo: Repo, preset_name: str) -> TrainingContext:
    """Read the kept frame of a run.

    Parameters
    ----------
    repo : Repo
        On which ``sidkit run`` with the preset has finished.
    preset_name : str
        The preset's name, or its path.

    Returns
    -------
    TrainingContext
        Train, validation and test rows as the run had them, all in memory (of training rows that were streamed, a sample
        of users); rankers that are trained on it are not kept.

    Raises
    ------
    ArtifactMissingError
        When the run has no kept frame.
    """
    folder = repo.runs / Path(preset_name).stem
    if not (folder / "frame").is_dir():
        raise ArtifactMissingError(
            f"{folder / 'frame'} is not there; run `sidkit run --preset {preset_name} --repo {repo.path}` first"
        )
    codebook = read_facts(folder / "stages.json", "codebook")["name"]
    split = TimeSplit.of(read_moments(repo.labelled_rows), repo.settings.split)
    context = training_context(
        repo, codebook, split, folder / "frame", load_preset(preset_name).ranker, None,
        threads=repo.settings.engine.threads,
    )  # fmt: skip
    return replace(context, train=context.train_in_memory())
