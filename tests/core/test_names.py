"""Names become folders, files and feature views: none of them may lead out of the repo."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers.builders import FAST_PRESET
from ranking.experiments.comparison.arms import load_arms
from ranking.pipeline.presets import load_preset
from ranking.pipeline.saved_run import read_run
from semantic_ids.catalog import Catalog, read_definitions
from sidkit.cli import build_app
from sidkit.core.artifact import MANIFEST, read_manifest
from sidkit.core.errors import ArtifactCorruptError, CatalogError, ConfigError
from sidkit.core.files import write_json
from sidkit.core.names import check_name, codebook_stem, is_codebook_name, is_name
from sidkit.core.repo import init_repo
from sidkit.presets import preset_name, preset_names

HOSTILE = [
    "../x", "/abs", "a/b", "a\\b", "", ".", "..", "...", ".hidden", "a.", "a\0b", "a" * 300, "a\nb", "a b", "-x", "--", "CON",
    "nul.txt", "com1", "аrm", "ａ", "x\u202ey", "x'--", 'x"y', "~", "$HOME", "a\n",
]  # fmt: skip
"""Traversals, absolute paths, separators, hidden files, control characters, devices, lookalikes (Cyrillic and wide a)."""
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{number}" for kind in ("COM", "LPT") for number in range(10))}


@given(st.one_of(st.text(max_size=60), st.text("aZ09_-./\\ ", max_size=60), st.sampled_from(HOSTILE)))
@settings(deadline=None)
def test_a_name_is_one_component_of_a_path(name: str) -> None:
    letters = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
    right = (
        0 < len(name) <= 48
        and set(name) <= letters
        and name[0] not in "-."
        and name[-1] != "."
        and name.split(".", maxsplit=1)[0].upper() not in DEVICES
    )
    assert is_name(name) == right
    if right:
        assert check_name("arm", name) == name
        assert (Path("/repo") / name).resolve().parent == Path("/repo")
        assert is_codebook_name(f"{codebook_stem(name)}_0a1b2c")
    else:
        with pytest.raises(
            ConfigError, match="cannot name an arm: expected at most 48 characters of letters"
        ) as raised:
            check_name("arm", name)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_name_passes(name: str) -> None:
    assert not is_name(name) and not is_codebook_name(name)
    with pytest.raises(ConfigError):
        load_preset(name)
    with pytest.raises(ConfigError):
        load_arms([name])


@pytest.mark.parametrize("file", ["...toml", "a b.toml", "-x.toml", "CON.toml", "comparison.toml", "x" * 60 + ".toml"])
def test_a_presets_file_is_named_by_the_rule(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text(FAST_PRESET.read_text())
    with pytest.raises(ConfigError, match="cannot name a preset|is reserved for comparisons"):
        load_preset(str(tmp_path / file))
    if file != "comparison.toml":
        with pytest.raises(ConfigError, match="cannot name an arm"):
            load_arms([str(tmp_path / file)])
    repo = init_repo(tmp_path / "repo")
    with pytest.raises(ConfigError):
        read_run(repo, str(tmp_path / file))


def test_shipped_presets_and_ordinary_files_keep_the_rule(tmp_path: Path) -> None:
    assert [preset_name(name) for name in preset_names()] == preset_names()
    (tmp_path / "My-Preset.v2.toml").write_text(FAST_PRESET.read_text())
    load_preset(str(tmp_path / "My-Preset.v2.toml"))
    assert preset_name(str(tmp_path / "My-Preset.v2.toml")) == "My-Preset.v2"
    assert codebook_stem("My-Preset.v2") == "my_preset_v2" and codebook_stem("2x") == "c2x"


@pytest.mark.parametrize("name", ["../../../evil", "a/b", "", "a\\nb"])
def test_an_arm_with_a_path_as_name_is_refused_when_the_preset_is_loaded(tmp_path: Path, name: str) -> None:
    text = FAST_PRESET.read_text()
    preset = tmp_path / "mine.toml"
    preset.write_text(text.replace("[arms.id]", f'[arms."{name}"]'))
    assert preset.read_text() != text
    with pytest.raises(ConfigError, match="cannot name an arm"):
        load_preset(str(preset))


@pytest.mark.parametrize("name", ["../x", "A", "x_user", "a-b"])
def test_fit_refuses_a_codebooks_name_before_anything_is_read(tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(build_app(), ["codebooks", "fit", name, "--repo", str(tmp_path / "none")])
    assert isinstance(done.exception, ConfigError) and "cannot name a codebook" in str(done.exception)


@pytest.mark.parametrize("column", ["name", "service", "codebook"])
def test_a_catalogue_that_holds_a_path_as_a_name_is_refused(tmp_path: Path, column: str) -> None:
    repo = init_repo(tmp_path / "repo")
    catalog = Catalog.open(repo)
    catalog.add_ranker("r", content_hash="1", codebook="c", service="ctr_c", arm="id", fit_end_us=1)
    with sqlite3.connect(repo.data / "catalog.sqlite") as opened:
        opened.execute(f"UPDATE sidkit_rankers SET {column} = '../../x', row_hash = NULL")
    with pytest.raises(CatalogError, match=r"'\.\./\.\./x', which sidkit did not write"):
        catalog.serving_ranker()


def test_definitions_are_not_made_of_a_catalogue_with_a_hostile_codebook(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    Catalog.open(repo).begin_fit("a", "pq", "content", (2,))
    with sqlite3.connect(repo.data / "catalog.sqlite") as opened:
        opened.execute("UPDATE sidkit_codebooks SET name = '../a', defined = 1, row_hash = NULL")
    with pytest.raises(CatalogError, match=r"contains a codebook named '\.\./a'"):
        read_definitions(repo.path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_manifest_that_lists_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / MANIFEST, {"files": {name: "0"}, "manifest_hash": ""})
    with pytest.raises(ArtifactCorruptError, match="it lists files outside the folder"):
        read_manifest(tmp_path)
