"""Item texts to vectors with a real model of sentences, and which models can be used; no network."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import dies, forked_sidkit
from helpers.commands import ask_well
from helpers.pretrained_builders import TITLES, embed_texts, vectors_of, write_items
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pretrained import TextSpec, embed_items
from sidkit.core.errors import ConfigError, MissingExtraError

pytestmark = pytest.mark.usefixtures("no_network")


def test_similar_titles_are_closer_than_unrelated_ones(minilm: Path, tmp_path: Path) -> None:
    report = embed_texts(write_items(tmp_path / "s", dict(TITLES)), minilm)
    told = report.modalities["text"]
    assert (told.rows, told.embedded, told.from_cache, told.missing, told.width) == (6, 6, 0, {}, 384)
    table = pq.read_table(report.out)
    assert table.schema.names == ["item_id", "text"] and table.schema.field("text").type == pa.list_(
        pa.field("element", pa.float32())
    )
    read = ItemVectors.from_arrow(table, ["text"])
    matrix = dict(zip(table.column("item_id").to_pylist(), read.matrices["text"], strict=True))
    np.testing.assert_allclose([np.linalg.norm(row) for row in matrix.values()], 1.0, atol=1e-5)
    for one, other in (("shoes", "sneakers"), ("kettle", "teapot"), ("novel", "thriller")):
        alike = float(matrix[one] @ matrix[other])
        unlike = max(float(matrix[one] @ matrix[name]) for name in TITLES if name not in {one, other})
        assert alike > unlike + 0.1, (one, other, alike, unlike)


def test_a_second_run_embeds_nothing_and_a_changed_text_embeds_one(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", {**TITLES, "copy": TITLES["novel"]})
    first = embed_texts(source, minilm)
    assert (first.modalities["text"].embedded, first.modalities["text"].from_cache) == (6, 1)
    before = first.out.read_bytes()
    again = embed_texts(source, minilm).modalities["text"]
    assert (again.embedded, again.from_cache, again.width, again.max_tokens) == (0, 7, 384, 256)
    assert first.out.read_bytes() == before
    old = vectors_of(first, "text")
    write_items(source, {**TITLES, "kettle": "a garden hose of ten metres"})
    changed = embed_texts(source, minilm)
    assert (changed.modalities["text"].embedded, changed.modalities["text"].from_cache) == (1, 5)
    new = vectors_of(changed, "text")
    assert new["kettle"] != old["kettle"] and all(new[name] == old[name] for name in TITLES if name != "kettle")


def _embeds_until_killed(source: str, model: str, out: str) -> None:
    def told(_: str, done: int, __: int | None) -> None:
        if done >= 4:
            os.kill(os.getpid(), signal.SIGKILL)

    spec = TextSpec(model=model, batch_size=1)
    embed_items(source, Path(out), {"text": spec}, Path(out) / "cache", progress=told, chunk_rows=2)


def test_a_killed_run_goes_on_where_it_was(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    dies(_embeds_until_killed, str(source), str(minilm), str(source))
    assert not (source / "item_embeddings.parquet").exists()
    report = embed_texts(source, minilm)
    assert (report.modalities["text"].embedded, report.modalities["text"].from_cache) == (2, 4)
    whole = embed_items(source, tmp_path / "whole", {"text": TextSpec(model=str(minilm))}, tmp_path / "cache")
    resumed, unbroken = vectors_of(report, "text"), vectors_of(whole, "text")
    for item in TITLES:
        np.testing.assert_allclose(resumed[item]["text"], unbroken[item]["text"], atol=1e-5)
    assert sorted(entry.name for entry in source.iterdir()) == ["cache", "item_embeddings.parquet", "items.parquet"]


def test_neighbours_in_a_batch_move_a_vector_by_float_noise_only(minilm: Path, tmp_path: Path) -> None:
    titles: dict[str, str | None] = {f"i{place}": f"{name} " * (1 + 7 * place) for place, name in enumerate(TITLES)}
    source = write_items(tmp_path / "s", titles)
    alone, together = (
        vectors_of(
            embed_items(
                source,
                tmp_path / str(size),
                {"text": TextSpec(model=str(minilm), batch_size=size)},
                tmp_path / f"cache{size}",
            ),
            "text",
        )
        for size in (1, 64)
    )
    for item in titles:
        np.testing.assert_allclose(alone[item]["text"], together[item]["text"], atol=1e-5)


def test_text_comes_before_title_and_a_blank_text_is_null(minilm: Path, tmp_path: Path) -> None:
    titles: dict[str, str | None] = {"a": "a title", "b": TITLES["kettle"], "c": " ", "d": None, "e": ""}
    texts = pa.array([TITLES["kettle"], "  ", "\n", None, None])
    source = write_items(tmp_path / "s", titles, text=texts, shop=pa.array(["x", None, "y", None, None]))
    report = embed_texts(source, minilm)
    told = report.modalities["text"]
    assert told.missing == {"no text": 3} and told.embedded + told.from_cache == 2
    found = vectors_of(report, "text")
    assert found["a"] == found["b"] and found["c"]["text"] is None and found["e"]["text"] is None
    shops = embed_texts(source, minilm, columns=("shop",))
    assert shops.modalities["text"].missing == {"no text": 3} and vectors_of(shops, "text")["b"]["text"] is None


def test_a_long_text_is_counted_as_cut(minilm: Path, tmp_path: Path) -> None:
    words = " ".join(TITLES.values())
    source = write_items(tmp_path / "s", {"long": f"{words} " * 20, "short": words, "same": f"{words} " * 21})
    report = embed_texts(source, minilm)
    assert (report.modalities["text"].max_tokens, report.modalities["text"].cut) == (256, 2)
    assert embed_texts(source, minilm).modalities["text"].cut == 2
    found = vectors_of(report, "text")
    np.testing.assert_allclose(found["long"]["text"], found["same"]["text"], atol=1e-5)  # alike up to token 256
    shorter = embed_texts(source, minilm, max_tokens=16).modalities["text"]
    assert (shorter.max_tokens, shorter.cut, shorter.embedded) == (16, 3, 3)  # other settings are another cache
    with pytest.raises(ConfigError, match="max_tokens must be at most 512"):
        embed_texts(source, minilm, max_tokens=513)


def test_a_prompt_makes_other_vectors(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    plain = vectors_of(embed_texts(source, minilm), "text")
    report = embed_texts(source, minilm, prompt="passage: ")
    assert report.modalities["text"].embedded == 6 and vectors_of(report, "text")["novel"] != plain["novel"]


def test_a_model_that_cannot_be_used_is_named(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    with pytest.raises(ConfigError, match="is not a folder; pass a model folder"):
        embed_texts(source, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is a file; pass the folder"):
        embed_texts(source, minilm / "config.json")
    with pytest.raises(ConfigError, match="only applies to hub names; omit it"):
        embed_texts(source, minilm, revision="main")
    with pytest.raises(
        ConfigError,
        match=r"is not usable as text model: expected modules.json or config.json, the folder contains items",
    ):
        embed_texts(source, write_items(tmp_path / "no_model", {"a": "b"}))
    broken = tmp_path / "broken"
    shutil.copytree(minilm, broken)
    (broken / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match=r"broken cannot be loaded \(SafetensorError"):
        embed_texts(source, broken)
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no safetensors weights"):
        embed_texts(source, broken)
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        embed_texts(source, minilm, device="abacus")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sentence_transformers" else found(name)
    )
    with pytest.raises(MissingExtraError, match=r"sentence-transformers, .* run: pip install 'sidkit\[text\]'"):
        embed_texts(source, minilm)


def test_a_name_is_brought_from_the_hub_once_and_is_a_folder_then(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    source, asked = write_items(tmp_path / "s", dict(TITLES)), []

    def brought(name: str, *, revision: str | None, ignore_patterns: list[str]) -> str:
        asked.append((name, revision, "*.bin" in ignore_patterns))
        if revision == "no_such":
            raise huggingface_hub.errors.LocalEntryNotFoundError("the hub cannot be reached")
        return str(minilm)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", brought)
    embed_texts(source, minilm)
    assert asked == []
    specs = {"text": TextSpec(model="all-MiniLM-L6-v2", revision="1.0")}
    report = embed_items(source, source, specs, source / "cache")
    assert report.modalities["text"].from_cache == 6  # the same files are the same model, wherever they came from
    with pytest.raises(
        ConfigError, match=r"'an/other' at no_such cannot be downloaded from the hub.*hub cannot be reached"
    ):
        embed_items(source, source, {"text": TextSpec(model="an/other", revision="no_such")}, source / "cache")
    assert asked == [("sentence-transformers/all-MiniLM-L6-v2", "1.0", True), ("an/other", "no_such", True)]


def test_another_model_has_another_cache(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    embed_texts(source, minilm)
    other = tmp_path / "other"
    shutil.copytree(minilm, other)
    (other / "README.md").write_text("prose")
    assert embed_texts(source, other).modalities["text"].embedded == 0
    modules = (other / "1_Pooling" / "config.json").read_text()
    mean, cls = '"pooling_mode_mean_tokens": true', '"pooling_mode_cls_token": false'
    assert mean in modules and cls in modules
    changed = modules.replace(mean, mean.replace("true", "false")).replace(cls, cls.replace("false", "true"))
    (other / "1_Pooling" / "config.json").write_text(changed)
    assert embed_texts(source, other).modalities["text"].embedded == 6


def test_importing_the_package_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    script = (
        "import sys, semantic_ids.pretrained; "
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_embeds_only_what_is_new(minilm: Path, tmp_path: Path, elsewhere: Path) -> None:
    source = write_items(tmp_path / "source", {"a": "red shoes", "b": "a kettle", "c": " "})
    first = forked_sidkit("data", "embed", source, "--text", minilm, cwd=elsewhere, TZ="Asia/Kathmandu").stdout
    assert "text: 2 embedded, 0 from the cache, 1 without a vector" in first
    assert f"3 rows in {source / 'item_embeddings.parquet'}" in first
    write_items(source, {"a": "red shoes", "b": "a teapot", "c": " "})
    again = ask_well("data", "embed", source, "--text", minilm).out
    assert "text: 1 embedded, 1 from the cache, 1 without a vector" in again
    refused = ask_well("data", "embed", source, expect=1)
    assert "set --text, --image, --kg-text or --attributes" in refused.err
