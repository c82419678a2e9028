"""Small and unusual logs: default codebooks fit from 40 items on, and a figure that cannot be computed stops nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from helpers.codebook_builders import CUT, built_repo
from helpers.small_logs import run_small_job, write_log
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.fitting import CodebookSpec, build_models, without_codes
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.quantizers import ResidualKMeans, ResidualOPQ
from semantic_ids.quantizers.sizes import byte_size, check_sizes, default_size, falling_sizes
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import FitError
from sidkit.core.repo import Repo

law = settings(max_examples=60, deadline=None, database=None)


def test_a_log_of_sessions_runs_to_its_end_and_says_why_figures_are_missing(tmp_path: Path) -> None:
    """One event per user: no pair of items to learn from or to measure by, and an encoder that learns from pairs."""
    told = run_small_job(
        tmp_path, write_log(tmp_path / "source", 41, users=0, width=5),
        encoder="behaviour", encoder_arguments="encoder_arguments = {dim = 5}", quantizer="rq_opq", falling="true",
    ).output  # fmt: skip
    assert told["codebook"]["hit_rate_30"] is None
    assert "no pairs of clicks after" in told["codebook"]["hit_rate_30_reason"]
    (warning,) = told["warnings"]
    assert (
        "was fitted by the encoder 'content', without behaviour: the encoder 'behaviour' learns from pairs" in warning
    )
    assert [arm["arm"] for arm in told["arms"]] == ["id", "id_codes"]
    assert told["artifacts"]["serving_ranker"] is not None


def test_a_catalogue_too_small_for_codes_runs_the_arms_without_codes(tmp_path: Path) -> None:
    told = run_small_job(tmp_path, write_log(tmp_path / "source", 12, users=20, test_label=0)).output
    (warning,) = told["warnings"]
    assert warning == (
        "codes require 40 items with vectors at the end of training, got 12; skipping the arms that read codes: id_codes"
    )
    assert [arm["arm"] for arm in told["arms"]] == ["id"]
    assert told["arms"][0]["auc"] is None, "the test window holds no click"
    assert told["without_auc"]["all"].startswith("0 positives and ")


@given(st.integers(40, 400), st.integers(1, 5))
def test_default_sizes_pass_the_kits_own_rule_from_40_items_on(items: int, levels: int) -> None:
    check_sizes((default_size(items),) * levels, items, force=False)
    check_sizes(falling_sizes(items, levels), items, force=False)


@pytest.mark.parametrize(("items", "size"), [(10, 2), (39, 2), (100, 8)])
def test_a_refused_size_names_the_settings_that_help(items: int, size: int) -> None:
    rows = np.random.default_rng(0).normal(size=(items, 4)).astype("f4")
    with pytest.raises(FitError, match=r"`force = true` in the preset's \[codebook\]") as refused:
        ResidualKMeans(sizes=(size, size)).fit(rows)
    ResidualKMeans(sizes=(size, size), force=True).fit(rows)
    if items >= 40:
        assert (
            "Set `sizes` in the preset's [codebook] to at most 5 codes per level (the default for 100 items is 4)"
            in str(refused.value)
        )
        ResidualKMeans(sizes=(5, 4)).fit(rows)


def test_few_different_vectors_get_no_more_codes_than_there_are_vectors(tmp_path: Path) -> None:
    rows = np.repeat(np.eye(3, 4, dtype=np.float32), 40, axis=0)
    items = ItemVectors({"text": rows}, {"text": np.ones(120, dtype=bool)})
    assert items.distinct() == 3
    assert items.distinct(2) == 2
    _, quantizer = lifecycle.build_models(CodebookSpec(), 120, distinct=3)
    assert quantizer.sizes == (2, 2, 2)


@given(st.integers(1, 9))
def test_rq_opq_takes_vectors_of_any_width(width: int) -> None:
    rows = np.random.default_rng(width).normal(size=(60, width)).astype("f4")
    fitted = ResidualOPQ(sizes=(2, 2), force=True).fit(rows)
    codes = fitted.encode(rows)
    assert fitted.decode(codes).shape == rows.shape == fitted.decode_flat(codes).shape
    error = ((rows - fitted.decode(codes)) ** 2).sum()
    assert error < ((rows - rows.mean(axis=0)) ** 2).sum()


def test_a_failed_fit_leaves_no_record_and_its_name_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = built_repo(tmp_path)
    strict = CodebookSpec(sizes=(8, 6, 4))
    with pytest.raises(FitError, match="per code"):
        lifecycle.fit(repo, "a", strict, CUT)
    assert Catalog.open(repo).codebooks() == []

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("semantic_ids.codebook.Codebook.save", full)
        with pytest.raises(OSError, match="No space"):
            lifecycle.fit(repo, "a", CodebookSpec(sizes=(4, 4), force=True), CUT)
    assert Catalog.open(repo).codebooks() == []
    assert lifecycle.fit(repo, "a", CodebookSpec(sizes=(4, 4), force=True), CUT).state == "fitted"


def test_a_fit_without_enough_pairs_says_so_in_its_manifest(tmp_path: Path) -> None:
    repo: Repo = built_repo(tmp_path)
    asked = CodebookSpec(encoder="behaviour", sizes=(4, 4), force=True)
    record = lifecycle.fit(repo, "a", asked, CUT)
    assert record.encoder == "content"
    manifest = read_manifest(repo.codebooks / "a")
    assert manifest["spec"]["encoder"] == "behaviour"
    assert "learns from pairs of items, got none" in manifest["fallback"]
    assert lifecycle.fit(repo, "a", asked, CUT) == record, "the same fit again is the same codebook"


@law
@given(st.integers(2, 100_000))
def test_one_byte_codes_are_a_power_of_two_with_three_items_each(items: int) -> None:
    size = byte_size(items)
    assert 2 <= size <= 256 and size & (size - 1) == 0
    assert size == 2 or items >= 3 * size
    assert size == 256 or items < 6 * size


@pytest.mark.parametrize("quantizer", ["residual_kmeans", "pq", "opq", "rq_opq"])
def test_item_bytes_sets_the_number_of_codes_and_their_sizes(quantizer: str) -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    spec = CodebookSpec(quantizer=quantizer, item_bytes=8)
    made = build_models(spec, len(rows))[1].fit(rows)
    assert made.sizes_[:8] == (256,) * 8
    codes = made.encode(rows, beam=2)
    error = ((made.decode(codes) - rows) ** 2).sum() / (rows**2).sum()
    assert error < 0.4


def test_item_bytes_replaces_levels_and_refuses_sizes() -> None:
    assert "item_bytes" not in CodebookSpec().model_dump()
    assert CodebookSpec(levels=3, item_bytes=2).model_dump()["item_bytes"] == 2
    with pytest.raises(ValidationError, match="expected item_bytes or sizes, got both; remove one of them"):
        CodebookSpec(sizes=(8, 8), item_bytes=2)
    bare = without_codes(CodebookSpec(item_bytes=8))
    assert build_models(bare, 10)[1].sizes == (2,)
