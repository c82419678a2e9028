"""Codebooks that learn from clicks: their clicks, the rows of their rankers, and the evaluation follow each other in time."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sidkit
from helpers.builders import FAST_PRESET, FinishedJob, copy_of, run_fast_job
from helpers.commands import ask, ask_well
from helpers.own_rankers import Linear
from helpers.pair_logs import DELAY, mined, random_log
from ranking.data.split import TimeSplit
from ranking.pipeline.prepare import Prepared, training_context
from ranking.pipeline.presets import load_preset
from ranking.pipeline.report.page import render
from ranking.pipeline.saved_run import read_run
from ranking.training.load_ranker import load_ranker
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.pairs.mining import PairSpec
from semantic_ids.report.facts import collect_facts
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import iso
from sidkit.core.config import SplitSettings
from sidkit.core.errors import EvaluationError, LeakageError
from sidkit.tables.labelled_rows import log_moments


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fast preset with an encoder that learns from clicks, few rows and one epoch."""
    text = FAST_PRESET.read_text()
    for old, new in (
        ('encoder = "content"\nencoder_arguments = {dim = 24}', 'encoder = "collaborative"'),
        ("epochs = 2", "epochs = 1"),
        ("max_train_rows = 15000", "max_train_rows = 2000"),
    ):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("windows") / "clicks.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def learned(preset: Path) -> FinishedJob:
    return run_fast_job(preset.parent / "repo", preset, impressions=8_000)


def moments_and_split(job: FinishedJob) -> tuple[np.ndarray, TimeSplit]:
    at_us = log_moments(job.repo)
    return at_us, TimeSplit.of(at_us, job.repo.settings.split)


def test_rankers_train_on_the_rows_after_the_clicks_of_their_codebook(learned: FinishedJob, preset: Path) -> None:
    at_us, split = moments_and_split(learned)
    record = Catalog.open(learned.repo).codebook(learned.result.codebook.name)
    assert record.fit_end_us == split.codebook_end_us
    context = read_run(learned.repo, str(preset))
    assert split.codebook_end_us <= context.train.first_us < split.train_end_us
    assert context.validation.rows.at_us.min() >= split.train_end_us
    ranker = learned.result.rankers["id_codes"][0]
    assert ranker is not None
    assert read_manifest(learned.repo.rankers / ranker)["fit_start_us"] >= record.fit_end_us
    config = load_ranker(learned.repo.rankers / ranker, record, "a test").config
    assert config.match_codes, "codes that have not seen the training rows are matched with the history"
    assert config.content_columns is None
    assert int((at_us < split.codebook_end_us).sum()) == pytest.approx(0.5 * len(at_us), abs=30)


def test_the_remaining_training_rows_are_stated(learned: FinishedJob) -> None:
    at_us, split = moments_and_split(learned)
    rows, of = (
        int(((at_us >= split.codebook_end_us) & (at_us < split.train_end_us)).sum()),
        int((at_us < split.train_end_us).sum()),
    )
    assert learned.output["codebook_window"] == {
        "learned_before": iso(split.codebook_end_us), "training_rows": rows, "of": of,
    }  # fmt: skip
    name = learned.result.codebook.name
    end = iso(split.codebook_end_us)
    sentence = f"codebook {name} learned from clicks before {end}; {rows:,} of {of:,} training rows follow it"
    assert learned.result.window.sentence == sentence
    assert sentence in render(learned.result, collect_facts(learned.repo, name)).replace("&#43;", "+")
    assert learned.output["rows"]["train"]["available"] == rows


def test_a_codebook_of_content_leaves_all_training_rows(finished: FinishedJob) -> None:
    window = finished.output["codebook_window"]
    assert window["learned_before"] is None
    assert finished.result.window.sentence is None
    assert window["training_rows"] == window["of"] == finished.output["rows"]["train"]["available"]


def test_rows_that_the_codebook_learned_from_are_no_training_rows(
    learned: FinishedJob, preset: Path, tmp_path: Path
) -> None:
    repo = copy_of(learned.repo, tmp_path / "repo")
    at_us, split = moments_and_split(learned)
    name = learned.result.codebook.name
    project = sidkit.open(repo.path)
    everything = project.rows("train")
    model = Linear.fit(project.dataset(everything, name))
    with pytest.raises(
        LeakageError, match=rf"{name} \(fit_end {re.escape(iso(split.codebook_end_us))}\).*codebook="
    ) as caught:
        project.register_ranker("early", model, trained_on=project.dataset(everything, name))
    assert caught.value.parents == {name: iso(split.codebook_end_us)}
    assert caught.value.evaluation_start == iso(int(at_us[0]))
    remaining = project.rows("train", codebook=name)
    assert 0 < len(remaining) < len(everything)
    assert project.register_ranker("late", model, trained_on=project.dataset(remaining, name)).name == "late"

    # A frame as of earlier versions, whose training rows start with the log.
    folder = tmp_path / "frame"
    from ranking.data.caps import Caps
    from ranking.data.dataset import read_rows
    from sidkit.core.stages import Stages

    prepared = Prepared(repo, Stages(tmp_path / "stages.json"), learned.result.data, 8_000)
    prepared.frame("frame", [], name, read_rows(repo.labelled_rows), split, Caps(500, 500), folder)
    with pytest.raises(LeakageError, match="sidkit run"):
        training_context(repo, name, split, folder, load_preset(str(preset)).ranker, None, threads=1)


def test_a_codebook_fitted_up_to_today_is_refused_and_the_advice_works(
    learned: FinishedJob, preset: Path, tmp_path: Path
) -> None:
    repo = copy_of(learned.repo, tmp_path / "repo")
    ask_well("codebooks", "fit", "today", "--preset", preset, "--repo", repo.path, "--force")
    answer = ask("run", "--repo", repo.path, "--preset", preset, "--codebook", "today", "--impressions", 8_000)
    assert answer.code == 1
    message = " ".join(answer.err.split())
    assert re.search(r"before these artefacts were fitted: today \(fit_end 20", message), message
    commands = re.findall(r"`(sidkit [^`]*)`", message)
    assert [command.split()[1] for command in commands] == ["codebooks", "run"]
    fit, run = (shlex.split(command)[1:] for command in commands)
    ask_well(*fit, "--force")
    printed = ask_well(*run, "--impressions", 8_000).out
    name = run[run.index("--codebook") + 1]
    assert f"codebook {name} learned from clicks before" in printed
    assert Catalog.open(repo).serving_codebook().name == name


def test_without_rows_between_the_windows_nothing_is_fitted() -> None:
    from ranking.data.codebook_window import check_training_rows

    split = TimeSplit(10, 20, 10)
    with pytest.raises(EvaluationError, match=r"no row lies between .* Choose a smaller split\.codebook"):
        check_training_rows(len(split.training_from(10).parts(np.arange(30))["train"]), split)


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.1, 0.3, 0.5]))
def test_no_codebook_saw_an_event_at_or_after_the_first_training_row(
    seed: int, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events = random_log(rows=200, users=8, seed=seed)
    at_us = np.sort([event.timestamp for event in events])
    split = TimeSplit.of(at_us, SplitSettings(codebook=share))
    end_us = split.fit_end_us(learns_from_clicks=True)
    used = split.training_from(end_us)
    first = int(at_us[used.parts(at_us)["train"]].min())
    rng = np.random.default_rng(seed)
    # The same log with other labels and items from the first training row on.
    changed = [
        event if event.timestamp < first else dataclasses.replace(event, label=0, item_id=f"i{rng.integers(9)}")
        for event in events
    ]
    spec = PairSpec(sources=("swing", "user_to_item"))
    pairs = [mined(tmp_path_factory.mktemp("log"), log, spec, end=end_us) for log in (events, changed)]
    for name in ("trigger", "target", "weight", "clicks"):
        np.testing.assert_array_equal(*(getattr(each, name) for each in pairs))
    available = sum(
        event.timestamp + DELAY <= end_us
        for event in events
        if event.item_id in {"i4", "i0", "i7", "i2", "i1", "i3", "i6"}
    )
    assert pairs[0].clicks.sum() == available, "all earlier clicks that were available are used"
    assert lifecycle.CodebookSpec(encoder="behaviour").needs_pairs
