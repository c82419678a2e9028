"""The saved frame of a finished run, split as it was, ready to train on again."""

from __future__ import annotations

from dataclasses import replace

from ranking.data.split import TimeSplit
from ranking.pipeline.prepare import training_context
from ranking.pipeline.presets import load_preset
from ranking.training.arms import TrainingContext
from sidkit.core.errors import ArtifactMissingError
from sidkit.core.names import check_codebook_name
from sidkit.core.repo import Repo
from sidkit.core.stages import read_facts
from sidkit.presets import preset_name
from sidkit.tables.labelled_rows import log_moments


def read_run(repo: Repo, preset: str) -> TrainingContext:
    """Read the saved frame of a run.

    Parameters
    ----------
    repo : Repo
        On which ``sidkit run`` with the preset has finished.
    preset : str
        The preset's name, or its path.

    Returns
    -------
    TrainingContext
        Train, validation and test rows as the run had them, all in memory (of training rows that were streamed, a sample
        of users); rankers that are trained on it are not saved.

    Raises
    ------
    ArtifactMissingError
        When the run has no saved frame.
    """
    folder = repo.runs / preset_name(preset)
    if not (folder / "frame").is_dir():
        raise ArtifactMissingError(
            f"{folder / 'frame'} is missing; run `sidkit run --preset {preset} --repo {repo.path}` first"
        )
    split = TimeSplit.of(log_moments(repo), repo.settings.split)
    codebook = check_codebook_name(read_facts(folder / "stages.json", "codebook")["name"])
    context = training_context(
        repo,
        codebook,
        split,
        folder / "frame",
        load_preset(preset).ranker,
        None,
        threads=repo.settings.engine.threads,
    )
    return replace(context, train=context.train_in_memory())
