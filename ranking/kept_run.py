"""What a finished run of the main job left: its frame, split as it was, ready to train on again."""

from __future__ import annotations

from pathlib import Path

from ranking.arms import TrainingContext
from ranking.presets import load_preset
from ranking.split import TimeSplit
from ranking.training_set import read_rows
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.errors import ArtifactMissingError
from sidkit.files import read_json
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
        Train, validation and test rows as the run had them. Its rankers would be written under the run's own folder and
        name no feature types: they are for measurements, not for serving.

    Raises
    ------
    ArtifactMissingError
        When the run has no kept frame.
    """
    from ranking.frame_store import load_training_set

    folder = repo.runs / Path(preset_name).stem
    if not (folder / "frame").is_dir():
        raise ArtifactMissingError(
            f"{folder / 'frame'} is not there; run `sidkit run --preset {preset_name} --repo {repo.path}` first"
        )
    stages = read_json(folder / "stages.json")
    record = Catalog.open(repo).codebook(stages["codebook"]["facts"]["name"])
    data = load_training_set(folder / "frame")
    split = TimeSplit.of(read_rows(repo.labelled_rows).at_us, repo.settings.split)
    parts = {name: data.take(rows) for name, rows in split.parts(data.rows.at_us).items()}
    return TrainingContext(
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        spec=load_preset(preset_name).ranker,
        rate=float(stages["frame"]["facts"]["rate"]),
        threads=repo.settings.engine.threads,
        describe={"fit_end_us": split.validation_end_us},
        serving={
            "sizes": record.sizes,
            "residual_levels": Codebook.load(repo.codebooks / record.name).quantizer.residual_levels,
            "codebook": record.name,
            "codebook_hash": record.content_hash,
            "service": record.service_name,
            "features": {},
            "history_length": repo.settings.time.history_length,
        },
        rankers=folder / "measured",
    )
