"""A codebook's fit on a small repo: who is known at the cut-off, what it leaves behind, which fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.builders import DAY, START, fresh_repo
from helpers.codebook_builders import AS_OF, CUT, DELAY, ITEMS, SPEC, bring, built_repo, files
from ranking.pipeline.presets import load_preset
from semantic_ids import item_vectors, lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.fitting import build_models
from semantic_ids.lifecycle import CodebookSpec
from semantic_ids.quality.floors import Floors
from semantic_ids.quantizers.sizes import ROWS_PER_CODE, falling_sizes
from sidkit.core import row_groups
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import (
    ArtifactMissingError,
    ConfigError,
    FitError,
    LifeCycleError,
    SettingsChangedError,
    UnknownVersionError,
)
from sidkit.core.repo import Repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return built_repo(tmp_path)


@pytest.mark.parametrize(("after_us", "known"), [(-1, True), (0, True), (1, False)])
def test_a_fit_sees_what_could_be_read_at_the_cut_off_and_nothing_later(
    tmp_path: Path, after_us: int, known: bool
) -> None:
    repos = [
        built_repo(tmp_path / name, items)
        for name, items in (("without", ITEMS), ("with", {**ITEMS, "new": CUT - DELAY + after_us}))
    ]
    hashes = [lifecycle.fit(repo, "a", SPEC, CUT).content_hash for repo in repos]
    assert (hashes[0] != hashes[1]) is known
    fitted_on = [read_manifest(repo.codebooks / "a")["rows"] for repo in repos]
    # i000 to i039 are created half a day apart before the cut-off; i007 has no vector.
    assert fitted_on == [39, 39 + known]


def tensors(repo: Repo, name: str) -> dict[str, list[float]]:
    codebook = Codebook.load(repo.codebooks / name)
    held = {**codebook.encoder.tensors(), **codebook.quantizer.tensors()}
    return {key: tensor.tolist() for key, tensor in held.items()}


def test_of_content_that_changed_a_fit_takes_what_was_newest_at_the_cut_off(tmp_path: Path, repo: Repo) -> None:
    before = lifecycle.fit(repo, "before", SPEC, CUT)
    bring(repo, ITEMS, AS_OF + DAY, edition={"i003": 1})
    again = lifecycle.fit(repo, "again", SPEC, CUT)
    assert tensors(repo, "again") == tensors(repo, "before")
    assert (before.fit_start_us, before.fit_end_us) == (again.fit_start_us, again.fit_end_us) == (START + DELAY, CUT)
    # Once the change is known, it is as if the content had never been other.
    lifecycle.fit(repo, "after", SPEC, AS_OF + DAY)
    other = built_repo(tmp_path / "other", edition={"i003": 1})
    lifecycle.fit(other, "after", SPEC, AS_OF)
    assert tensors(repo, "after") == tensors(other, "after")


def test_the_same_fit_again_keeps_the_artefact_as_it_lies(repo: Repo) -> None:
    first = lifecycle.fit(repo, "a", SPEC, CUT)
    before = files(repo.codebooks / "a")
    assert lifecycle.fit(repo, "a", SPEC, CUT) == first
    assert files(repo.codebooks / "a") == before


def test_a_fit_is_the_same_whether_its_vectors_fit_in_memory_or_not(
    tmp_path: Path, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = lifecycle.fit(repo, "a", SPEC, CUT)
    monkeypatch.setattr(item_vectors, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(item_vectors, "_BLOCK_ROWS", 5)
    monkeypatch.setattr(row_groups, "_READ_ROWS", 3)
    again = built_repo(tmp_path / "again")
    assert lifecycle.fit(again, "a", SPEC, CUT).content_hash == held.content_hash
    assert lifecycle.fit(repo, "a", SPEC, CUT) == held


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        ({"sizes": (8, 6, 5)}, CUT),
        ({"beam": 1}, CUT),
        ({"quantizer_arguments": {"seed": 1}}, CUT),
        ({"encoder_arguments": {"dim": 5}}, CUT),
        ({}, CUT - 1),
    ],
)
def test_other_arguments_under_a_name_that_is_taken_are_refused(repo: Repo, change: dict[str, Any], cut: int) -> None:
    first = lifecycle.fit(repo, "a", SPEC, CUT)
    before = files(repo.codebooks / "a")
    with pytest.raises(LifeCycleError, match="different arguments; fit under a new name"):
        lifecycle.fit(repo, "a", SPEC.model_copy(update=change), cut)
    assert Catalog.open(repo).codebook("a") == first
    assert files(repo.codebooks / "a") == before


def test_codes_below_a_floor_are_not_kept_and_the_level_is_named(repo: Repo) -> None:
    high = SPEC.model_copy(update={"floors": Floors(perplexity=(0.0, 1.0, 0.0))})
    with pytest.raises(FitError, match=r"perplexity of level 2 is .* below its floor of 1 .*fewer codes"):
        lifecycle.fit(repo, "low", high, CUT)
    assert not (repo.codebooks / "low").exists()
    with pytest.raises(UnknownVersionError, match="no codebook named 'low'"):
        lifecycle.publish(repo, "low")
    lifecycle.fit(repo, "low", SPEC, CUT)


def test_other_content_under_a_name_that_is_taken_is_refused(repo: Repo) -> None:
    lifecycle.fit(repo, "a", SPEC, CUT)
    bring(repo, ITEMS, rebuild=True, edition=dict.fromkeys(ITEMS, 1))
    with pytest.raises(LifeCycleError, match="different data"):
        lifecycle.fit(repo, "a", SPEC, CUT)


def test_a_fit_that_cannot_be_is_refused_before_anything_is_written(repo: Repo) -> None:
    refused: list[tuple[type[Exception], str, CodebookSpec, int]] = [
        (FitError, "is later than the feature tables", SPEC, AS_OF + 1),
        (FitError, "no item with content was known", SPEC, START + DELAY - 1),
        (ConfigError, "no encoder named 'nothing'", SPEC.model_copy(update={"encoder": "nothing"}), CUT),
        (ConfigError, "no quantizer named 'nothing'", SPEC.model_copy(update={"quantizer": "nothing"}), CUT),
    ]
    for error, message, spec, cut in refused:
        with pytest.raises(error, match=message):
            lifecycle.fit(repo, "a", spec, cut)
    with pytest.raises(ConfigError, match="cannot name a codebook"):
        lifecycle.fit(repo, "A", SPEC, CUT)
    assert Catalog.open(repo).codebooks() == []
    assert not repo.codebooks.exists()


def test_items_without_any_vector_are_no_ground_for_a_fit(tmp_path: Path) -> None:
    repo = built_repo(tmp_path, bare=[item for item in ITEMS if item < "i040"])
    with pytest.raises(FitError, match="no item with content was known"):
        lifecycle.fit(repo, "a", SPEC, CUT)


def test_a_fit_that_failed_leaves_its_name_free(repo: Repo) -> None:
    with pytest.raises(FitError, match="39 rows for 8 codes"):
        lifecycle.fit(repo, "a", SPEC.model_copy(update={"force": False}), CUT)
    assert not (repo.codebooks / "a").exists()
    with pytest.raises(UnknownVersionError, match="no codebook named 'a'"):
        lifecycle.publish(repo, "a")
    assert lifecycle.fit(repo, "a", SPEC.model_copy(update={"sizes": (4, 4)}), CUT).sizes == (4, 4)


def test_a_codebook_needs_tables_made_with_the_settings_of_the_others(tmp_path: Path, repo: Repo) -> None:
    empty = fresh_repo(tmp_path / "empty", tmp_path / "source")
    with pytest.raises(ArtifactMissingError, match="expected feature tables"):
        lifecycle.fit(empty, "a", SPEC, CUT)
    lifecycle.fit(repo, "a", SPEC, CUT)
    toml = repo.path / "sidkit.toml"
    toml.write_text(toml.read_text().replace("history_length = 50", "history_length = 49"))
    with pytest.raises(SettingsChangedError, match=r"a in codebooks.*history_length: made with 50, now 49"):
        lifecycle.fit(Repo.open(repo.path), "b", SPEC, CUT)


@pytest.mark.parametrize(
    ("items", "sizes"),
    [(1_000, (32, 8, 4)), (2_000, (64, 16, 8)), (10_000, (128, 32, 16)), (100_000, (256, 64, 32))],
)
def test_falling_sizes_follow_the_house_rule_and_can_be_filled(items: int, sizes: tuple[int, ...]) -> None:
    assert falling_sizes(items) == sizes
    assert max(sizes) * ROWS_PER_CODE <= items


def test_a_preset_of_falling_levels_fits_a_small_catalogue() -> None:
    _, quantizer = build_models(load_preset("smile").codebook, 1_000)
    assert quantizer.sizes == (32, 8, 4)
    quantizer.fit(np.random.default_rng(0).normal(size=(1_000, 8)).astype(np.float32))
    assert quantizer.sizes_ == (32, 8, 4, 4, 4)
    assert quantizer.residual_levels == 3
