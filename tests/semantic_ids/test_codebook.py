"""A codebook on disk: what it says stays, and nothing that was changed is believed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.builders import DAY
from helpers.codebook_builders import AS_OF, CUT, ITEMS, SPEC, bring, built_repo, publish
from semantic_ids import lifecycle
from semantic_ids.catalog import table_path
from semantic_ids.codebook import CONFIG, METRICS, TENSORS, Codebook
from semantic_ids.codebook_parts import make_encoder, make_quantizer
from semantic_ids.encoders import ContentEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.quantizers import QUANTIZERS
from sidkit.core.artifact import MANIFEST, read_manifest, write_artifact
from sidkit.core.errors import ArtifactCorruptError, ArtifactMissingError, ConfigError, FitError
from sidkit.core.files import read_json, sha256, write_json
from sidkit.core.repo import Repo

DESCRIBE = {"fit_start_us": 5, "fit_end_us": 7, "parents": [], "rows": 80}
FILES = (TENSORS, CONFIG, METRICS, MANIFEST)


def content(rows: int = 80, seed: int = 0) -> ItemVectors:
    """Two modalities; a tenth of the items has neither."""
    rng = np.random.default_rng(seed)
    matrices = {"text": rng.normal(size=(rows, 6)).astype("f4"), "image": rng.normal(size=(rows, 4)).astype("f4")}
    nothing = rng.random(rows) < 0.1
    nothing[0], nothing[1] = True, False
    return ItemVectors(matrices, {"text": ~nothing, "image": ~nothing & (rng.random(rows) < 0.7)})


def fitted(name: str = "a", quantizer: str = "residual_kmeans", beam: int = 2, seed: int = 0) -> Codebook:
    items = content()
    known = items.rows(items.any_present)
    encoder = ContentEncoder(dim=6).fit(known)
    arguments = {"sizes": (6, 4, 3), "force": True, "seed": seed}
    return Codebook(name, encoder, make_quantizer(quantizer, arguments).fit(encoder.encode(known)), beam)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved codebook."""
    fitted().save(tmp_path / "a", DESCRIBE, {"items": 80})
    return tmp_path / "a"


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_a_loaded_codebook_assigns_as_the_saved_one(tmp_path: Path, kind: str) -> None:
    codebook = fitted("some_name", kind, beam=3)
    codebook.save(tmp_path / "x", DESCRIBE, {})
    loaded = Codebook.load(tmp_path / "x")
    items = content(200, seed=1)
    before, after = codebook.assign(items), loaded.assign(items)
    np.testing.assert_array_equal(after.codes, before.codes)
    np.testing.assert_array_equal(after.residual_norm, before.residual_norm)
    np.testing.assert_array_equal(after.encodable, before.encodable)
    assert (loaded.name, loaded.sizes, loaded.beam) == ("some_name", codebook.sizes, 3)
    assert loaded.config() == codebook.config()


def test_an_assignment_says_how_far_the_codes_are_off_and_who_has_none() -> None:
    codebook, items = fitted(), content(50, seed=2)
    assigned = codebook.assign(items)
    assert assigned.encodable.tolist() == items.any_present.tolist()
    assert assigned.codes.dtype == np.int32
    assert assigned.residual_norm.dtype == np.float32
    missed = codebook.vectors(items) - codebook.quantizer.decode(assigned.codes)
    np.testing.assert_allclose(assigned.residual_norm, np.sqrt((missed**2).sum(axis=1)), rtol=1e-5)


def test_an_assignment_of_no_items_is_empty() -> None:
    assigned = fitted().assign(content().rows(np.array([], dtype=np.int64)))
    assert assigned.codes.shape == (0, 3)
    assert len(assigned.residual_norm) == len(assigned.encodable) == 0


def test_the_beam_belongs_to_the_codebook() -> None:
    narrow, wide = fitted(beam=1), fitted(beam=20)
    items = content(300, seed=3)
    greedy, searched = narrow.assign(items), wide.assign(items)
    assert (greedy.codes != searched.codes).any()
    assert searched.residual_norm.mean() < greedy.residual_norm.mean()


def test_an_item_has_the_same_codes_alone_and_in_company() -> None:
    codebook = fitted(beam=1)
    ends = content(60, seed=4)
    text = ends.matrices["text"]
    low, high = text[:30].astype(float), text[30:].astype(float)

    def items(vectors: Any) -> ItemVectors:
        matrix = np.asarray(vectors, dtype=np.float32)
        none = np.zeros((len(matrix), 0), np.float32)
        return ItemVectors(
            {"text": matrix, "image": none},
            {"text": np.ones(len(matrix), bool), "image": np.zeros(len(matrix), bool)},
        )

    start = codebook.assign(items(low)).codes[:, 0]
    for _ in range(40):
        middle = (low + high) / 2
        same = codebook.assign(items(middle)).codes[:, 0] == start
        low, high = np.where(same[:, None], middle, low), np.where(same[:, None], high, middle)
    edge = items(np.concatenate([low, high, (low + high) / 2]))
    together = codebook.assign(edge).codes
    alone = np.concatenate([codebook.assign(edge.rows(np.array([row]))).codes for row in range(len(edge))])
    np.testing.assert_array_equal(alone, together)


def test_a_codebook_on_disk_is_four_files_that_open_with_standard_tools(folder: Path) -> None:
    from safetensors.numpy import load_file

    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert load_file(folder / TENSORS)["quantizer.codebook.0"].shape == (6, 6)
    assert read_json(folder / CONFIG)["quantizer"]["arguments"]["sizes"] == [6, 4, 3]
    assert read_json(folder / METRICS) == {"items": 80}
    manifest = read_json(folder / MANIFEST)
    assert manifest.items() >= {"kind": "codebook", "name": "a", **DESCRIBE}.items()
    assert manifest["files"] == {name: sha256(folder / name) for name in (CONFIG, METRICS, TENSORS)}
    assert "numpy" in manifest["libraries"]


def test_the_same_fit_has_the_same_content_hash_and_another_has_another(tmp_path: Path) -> None:
    hashes = [
        fitted(seed=seed).save(tmp_path / name, DESCRIBE, {})["content_hash"]
        for name, seed in (("x", 0), ("y", 0), ("z", 5))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", [TENSORS, CONFIG, METRICS])
def test_one_edited_byte_of_a_file_is_noticed(folder: Path, name: str, data: st.DataObject) -> None:
    path = folder / name
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    other = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(original[:at] + bytes([original[at] ^ other]) + original[at + 1 :])
        with pytest.raises(ArtifactCorruptError, match=re.escape(name)):
            Codebook.load(folder)
    finally:
        path.write_bytes(original)
    Codebook.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("content_hash", "0" * 16), ("files", {}), ("files", "text"),
        # The fit window decides what is leakage.
        ("fit_end_us", 8), ("fit_start_us", 4), ("rows", 81), ("parents", ["other"]), ("name", "b"),
    ],
)  # fmt: skip
def test_an_edited_manifest_is_noticed(folder: Path, key: str, value: object) -> None:
    write_json(folder / MANIFEST, {**read_json(folder / MANIFEST), key: value})
    with pytest.raises(ArtifactCorruptError):
        Codebook.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '"text"', "\x00\xff"])
def test_a_manifest_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactCorruptError, match="manifest"):
        Codebook.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactCorruptError, match=re.escape(name)):
        Codebook.load(folder)


@pytest.mark.parametrize("name", [TENSORS, CONFIG])
def test_a_file_that_became_a_folder_or_was_cut_short_is_refused(folder: Path, name: str) -> None:
    content_before = (folder / name).read_bytes()
    (folder / name).write_bytes(content_before[:-1])
    with pytest.raises(ArtifactCorruptError, match=re.escape(name)):
        Codebook.load(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ArtifactCorruptError, match=re.escape(name)):
        Codebook.load(folder)


def test_a_file_that_was_added_is_noticed(folder: Path) -> None:
    (folder / "extra.json").write_text("{}")
    with pytest.raises(ArtifactCorruptError, match=re.escape("extra.json")):
        Codebook.load(folder)


def test_a_folder_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="nowhere"):
        Codebook.load(tmp_path / "nowhere")


@pytest.mark.parametrize(("part", "known"), [("encoder", "content"), ("quantizer", "residual_kmeans")])
def test_a_codebook_of_a_kind_that_this_version_lacks_is_refused_by_name(
    tmp_path: Path, folder: Path, part: str, known: str
) -> None:
    def write_files(temporary: Path) -> None:
        shutil.copy(folder / TENSORS, temporary)
        config = read_json(folder / CONFIG)
        config[part]["name"] = "of_the_future"
        (temporary / CONFIG).write_text(json.dumps(config))

    write_artifact(tmp_path / "b", {"kind": "codebook", "name": "b"}, write_files)
    with pytest.raises(ConfigError, match=rf"no {part} named 'of_the_future'; available: .*{known}"):
        Codebook.load(tmp_path / "b")


@pytest.mark.parametrize("make", [make_encoder, make_quantizer])
def test_a_kind_or_an_argument_that_there_is_not_is_refused_by_name(make: Any) -> None:
    with pytest.raises(ConfigError, match="no (encoder|quantizer) named 'nothing'; available:"):
        make("nothing", {})
    name = "content" if make is make_encoder else "residual_kmeans"
    with pytest.raises(ConfigError, match=f"{name}.*'colour'"):
        make(name, {"colour": 1})


def test_saving_again_keeps_the_artefact_that_is_there(folder: Path) -> None:
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    manifest = fitted().save(folder, DESCRIBE, {"items": 80})
    assert manifest == read_manifest(folder)
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_another_fit_never_overwrites_an_artefact(folder: Path) -> None:
    before = (folder / TENSORS).read_bytes()
    with pytest.raises(ArtifactCorruptError, match="other inputs"):
        fitted().save(folder, {**DESCRIBE, "fit_end_us": 8}, {})
    assert (folder / TENSORS).read_bytes() == before


def test_other_tensors_are_never_taken_for_those_that_are_there(folder: Path) -> None:
    with pytest.raises(ArtifactCorruptError):
        fitted(seed=5).save(folder, DESCRIBE, {"items": 80})


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = fitted()
    monkeypatch.setattr(Codebook, "config", lambda _: {"beam": object()})
    with pytest.raises(TypeError):
        codebook.save(tmp_path / "a", DESCRIBE, {})
    assert list(tmp_path.iterdir()) == []


def test_content_that_is_not_finite_gets_no_codes(folder: Path) -> None:
    items = content()
    items.matrices["text"][1, 2] = np.nan
    with pytest.raises(FitError, match="1 of 72 vectors of 'text'"):
        Codebook.load(folder).assign(items)


@pytest.mark.parametrize("step", [lifecycle.publish, lifecycle.refresh])
def test_codes_are_never_assigned_with_files_that_were_changed(
    tmp_path: Path, step: Callable[[Repo, str], object]
) -> None:
    repo = built_repo(tmp_path)
    publish(repo, "a")
    before = table_path(repo, "a").read_bytes()
    metrics = repo.codebooks / "a" / "metrics.json"
    metrics.write_text(metrics.read_text() + " ")
    with pytest.raises(ArtifactCorruptError, match="metrics"):
        step(repo, "a")
    shutil.rmtree(repo.codebooks / "a")
    with pytest.raises(ArtifactMissingError):
        step(repo, "a")
    assert table_path(repo, "a").read_bytes() == before


@pytest.mark.parametrize("step", [lifecycle.publish, lifecycle.refresh])
def test_the_files_of_another_codebook_are_not_taken_for_a_codebooks_own(
    tmp_path: Path, step: Callable[[Repo, str], object]
) -> None:
    repo = built_repo(tmp_path)
    publish(repo, "a")
    lifecycle.fit(repo, "b", SPEC.model_copy(update={"quantizer_arguments": {"seed": 3}}), CUT)
    shutil.rmtree(repo.codebooks / "a")
    shutil.copytree(repo.codebooks / "b", repo.codebooks / "a")
    bring(repo, {**ITEMS, "new": AS_OF}, AS_OF + DAY)
    with pytest.raises(ArtifactCorruptError):
        step(repo, "a")
