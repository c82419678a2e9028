"""The codebook of a run and the training rows that it leaves."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, datetime

from ranking.data.codebook_window import CodebookWindow, check_training_rows, training_split
from ranking.data.split import TimeSplit
from ranking.pipeline.presets import Preset
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook, load_committed
from semantic_ids.records import CodebookRecord
from sidkit.core.arrays import Ints
from sidkit.core.clock import iso
from sidkit.core.errors import LeakageError
from sidkit.core.repo import Repo
from sidkit.tables.labelled_rows import rows_per_event

_LONGEST_STEM = 50


def window_of(repo: Repo, name: str, split: TimeSplit, at_us: Ints) -> tuple[TimeSplit, CodebookWindow]:
    """The split for rankers of a codebook, and the training rows that remain.

    Parameters
    ----------
    repo : Repo
        Repo with the codebook.
    name : str
        Name of the codebook.
    split : TimeSplit
        Of the settings; it may start training later.
    at_us : int64 [rows]
        Times of the rows of the log, microseconds UTC.
    """
    record = Catalog.open(repo).codebook(name)
    codebook = Codebook.load(repo.codebooks / name)
    used = training_split(split, record, codebook)
    each = rows_per_event(repo)
    after = each * len(used.parts(at_us)["train"])
    all_of = each * len(replace(split, train_start_us=None).parts(at_us)["train"])
    learned = iso(record.fit_end_us) if codebook.learned_from_clicks else None
    return used, CodebookWindow(name, learned, after, all_of)


def given_codebook(
    repo: Repo, preset_name: str, preset: Preset, name: str, split: TimeSplit, at_us: Ints
) -> CodebookRecord:
    """The record of a fitted codebook, if it leaves rows to train and evaluate rankers on.

    Raises
    ------
    UnknownVersionError
        When there is no such codebook.
    LeakageError
        When it was fitted on data of the validation or test rows, or learned from the clicks of all training rows. Names a
        cut-off that leaves rows.
    """
    record = Catalog.open(repo).codebook(name)
    codebook, _ = load_committed(repo.codebooks / name, record)
    used = training_split(split, record, codebook)
    if record.fit_end_us <= split.train_end_us and len(used.parts(at_us)["train"]):
        return record
    learns = codebook.learned_from_clicks or preset.codebook.needs_pairs
    cut_us = split.fit_end_us(learns_from_clicks=learns)
    if learns:
        check_training_rows(len(split.training_from(cut_us).parts(at_us)["train"]), split)
    other = f"{name[:_LONGEST_STEM]}_to_{datetime.fromtimestamp(cut_us / 1e6, UTC):%Y%m%d}"
    where, of = shlex.quote(str(repo.path)), shlex.quote(preset_name)
    raise LeakageError(
        iso(split.train_end_us),
        {name: iso(record.fit_end_us)},
        remedy=(
            "Fit one on data before the evaluation, and before the training rows if it learns from clicks: `sidkit "
            f"codebooks fit {other} --preset {of} --fit-end {iso(cut_us)} --repo {where}`, then `sidkit run --preset {of} "
            f"--codebook {other} --repo {where}`"
        ),
    )
