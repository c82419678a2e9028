"""Saved runs: the frame of a finished run with its split, to train on again."""

from __future__ import annotations

from dataclasses import replace

from ranking.data.split import TimeSplit
from ranking.pipeline.codebook_window import window_of
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
    """Load the frame of a saved run.

    Parameters
    ----------
    repo : Repo
        Repo on which ``sidkit run`` with the preset has finished.
    preset : str
        Name or path of the preset.

    Returns
    -------
    TrainingContext
        Training, validation and test rows of the run, in memory; streamed training rows are thinned by user. Rankers that
        are trained on it are not saved.

    Raises
    ------
    ArtifactMissingError
        When the saved frame is missing.
    LeakageError
        When the codebook learned from clicks that are training rows of the frame.
    """
    folder = repo.runs / preset_name(preset)
    if not (folder / "frame").is_dir():
        raise ArtifactMissingError(
            f"{folder / 'frame'} is missing; run `sidkit run --preset {preset} --repo {repo.path}` first"
        )
    moments = log_moments(repo)
    codebook = check_codebook_name(read_facts(folder / "stages.json", "codebook")["name"])
    split, _ = window_of(repo, codebook, TimeSplit.of(moments, repo.settings.split), moments)
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
