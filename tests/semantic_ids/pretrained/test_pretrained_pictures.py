"""Item pictures to vectors: tiny vision models with random weights, and no network."""

from __future__ import annotations

import importlib.util
import io
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from helpers.pretrained_builders import vectors_of, write_items
from semantic_ids.pretrained import EmbedReport, ImageSpec, embed_items
from sidkit.core.errors import ConfigError, MissingExtraError, TableSchemaError

ABSENT = "pretrained model absent"
pytestmark = pytest.mark.usefixtures("no_network")


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


def picture(path: Path, *, colour: str = "red", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


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
    assert (told.embedded, told.from_cache, told.missing, told.width) == (2, 1, {"no image": 1}, width)
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
        "pictures/half.png": "the file is not a readable image",
        "pictures/text.png": "the file is not a readable image",
        "pictures/empty.png": "the file is not a readable image",
        "pictures/huge.png": f"the image has more than {Image.MAX_IMAGE_PIXELS:,} pixels",
        "pictures/strip.png": "the aspect ratio of the image is above 200",
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
    assert told.embedded >= 6 and told.missing["the file is not a readable image"] >= 12


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

    with pytest.raises(ConfigError, match="pass an image folder, a column of paths, or both"):
        embed()
    with pytest.raises(ConfigError, match="is not a folder; pass the folder of the images"):
        embed(folder=tmp_path / "nowhere")
    with pytest.raises(TableSchemaError, match="column 'photo' is missing"):
        embed(column="photo")
    picture(tmp_path / "pictures" / "a.png")
    picture(tmp_path / "pictures" / "a.jpg")
    with pytest.raises(ConfigError, match="item 'a' has two images"):
        embed(folder=tmp_path / "pictures")
    with sqlite3.connect(tmp_path / "items.sqlite") as database:
        database.execute("CREATE TABLE items AS SELECT 'a' AS item_id, 'a.png' AS photo")
    database.close()
    url, by_column = f"sqlite:///{tmp_path / 'items.sqlite'}", ImageSpec(model=clip, column="photo")
    with pytest.raises(ConfigError, match="pass the base folder of the paths"):
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
    with pytest.raises(MissingExtraError, match=r"pillow, which is not installed; run: pip install 'sidkit\[image\]'"):
        embed_items(source, source, {"image": spec}, source / "cache")
