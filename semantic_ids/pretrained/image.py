"""Embed images with a CLIP-like or other vision model of the transformers library."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from semantic_ids.pretrained.cache import Missing, Vectors
from semantic_ids.pretrained.model_folder import (
    check_files,
    content_of,
    device_of,
    loading,
    member,
    model_folder,
    required,
)
from sidkit.core.errors import ConfigError, TableSchemaError
from sidkit.core.files import sha256
from sidkit.core.section import Section

_EXTRA = "image"
_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_LONGEST = 200
"""Maximum aspect ratio: resized by its shorter side, a longer image would exhaust memory."""
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


class ImageSpec(Section):
    """Configuration of an image embedding: model and location of the images."""

    model: str = Field(min_length=1)
    """A folder (needs no network), or a name on the hub such as ``openai/clip-vit-base-patch32``."""
    revision: str | None = None
    """Commit, tag or branch on the hub; None is the newest."""
    column: str | None = None
    """Column of ``items`` with paths. None: an item's image is ``<folder>/<item_id>.<jpg, png, ...>``."""
    folder: Path | None = None
    """Folder of the images, or base folder of relative paths in ``column`` (None: the source's folder)."""
    batch_size: int = Field(default=32, ge=1)
    device: str = "auto"
    """``auto`` is the first available of cuda, mps and cpu."""


class ImageEmbedder:
    """Embeds the images of items.

    An image is rotated by its EXIF orientation, composited on white if transparent, and preprocessed by the model's
    ``preprocessor_config.json``. The vector is the model's image feature (CLIP, SigLIP), else its pooled output, else the
    first token's output (classifier checkpoints have no pooler): ``float32`` of unit length, deterministic up to rounding
    noise (below 1e-5 per element) from the other images of its batch.

    Parameters
    ----------
    spec : ImageSpec
        Model and location of the images.
    source_folder : Path or None
        The source's folder; None for a database.

    Raises
    ------
    ConfigError
        When the model or the image folder is missing, or an item has two images.
    """

    loose = False
    """Whether columns that are no texts are read too, as texts."""

    def __init__(self, spec: ImageSpec, source_folder: Path | None) -> None:
        self.spec = spec
        required("PIL", _EXTRA)
        self.folder = model_folder(spec.model, spec.revision, _EXTRA)
        check_files(self.folder, ("config.json",), "image")
        check_files(self.folder, ("preprocessor_config.json", "processor_config.json"), "image")
        if spec.folder is not None and not spec.folder.expanduser().is_dir():
            raise ConfigError(f"{spec.folder} is not a folder; pass the folder of the images")
        if spec.folder is None and spec.column is None:
            raise ConfigError("no images given; pass an image folder, a column of paths, or both")
        start = spec.folder if spec.folder is not None else source_folder
        self._start = None if start is None else start.expanduser().resolve()
        self._by_item = _images_in(self._start) if spec.column is None and self._start is not None else {}

    @property
    def group(self) -> int:
        """Number of images that are embedded and cached together."""
        return 8 * self.spec.batch_size

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """What determines the vectors besides the image: the model's files. Does not load the model."""
        return {"kind": "image", "model": content_of(self.folder)}

    def columns(self, available: Sequence[str]) -> tuple[str, ...]:
        """The columns of ``items`` to read.

        Raises
        ------
        TableSchemaError
            When they are missing.
        """
        if self.spec.column is None:
            return ()
        if self.spec.column not in available:
            raise TableSchemaError(
                "items", f"column {self.spec.column!r} is missing; the table has {', '.join(available)}"
            )
        return (self.spec.column,)

    def contents(self, rows: pa.Table) -> list[Path | Missing]:
        """The image path of each row."""
        if self.spec.column is None:
            none = Missing("no image")
            return [self._by_item.get(item, none) for item in rows.column("item_id").to_pylist()]
        return [self._path(text) for text in rows.column(self.spec.column).to_pylist()]

    def key(self, content: Path) -> bytes | Missing:
        """SHA-256 of an image file."""
        try:
            return bytes.fromhex(sha256(content)) if content.is_file() else Missing("no file at the path")
        except (OSError, ValueError):
            return Missing("the file cannot be read")

    def vectors(self, contents: Sequence[Path], keys: Sequence[bytes]) -> Vectors:
        """Embed images, ``batch_size`` of them in memory at a time.

        Parameters
        ----------
        contents : sequence of Path
            Image files.
        keys : sequence of bytes
            Their keys; a file whose hash no longer matches was changed during the run and gets no vector.

        Returns
        -------
        Vectors
            ``float32 [images, width]``, and the reasons for missing vectors.

        Raises
        ------
        ConfigError
            When the model cannot be loaded, or the device is out of memory.
        """
        missing: list[Missing | None] = [None] * len(contents)
        parts: dict[int, np.ndarray[Any, np.dtype[np.float32]]] = {}
        for start in range(0, len(contents), self.spec.batch_size):
            pixels = {}
            for place in range(start, min(start + self.spec.batch_size, len(contents))):
                prepared = self._prepared(contents[place], keys[place])
                if isinstance(prepared, Missing):
                    missing[place] = prepared
                else:
                    pixels[place] = prepared
            if pixels:
                parts |= dict(zip(pixels, self._embedded(list(pixels.values())), strict=True))
        width = len(next(iter(parts.values()))) if parts else 0
        matrix = np.zeros((len(contents), width), dtype=np.float32)
        for place, vector in parts.items():
            matrix[place] = vector
        return Vectors(matrix, np.zeros(len(contents), dtype=np.bool_), missing)

    def _path(self, text: str | None) -> Path | Missing:
        if text is None or not text.strip():
            return Missing("no path")
        if _URL.match(text):
            return Missing("the path is a URL")
        path = Path(text.strip())
        if not path.is_absolute() and self._start is None:
            raise ConfigError(
                f"column {self.spec.column!r} contains the relative path {text!r}, but the source is not a folder; pass the "
                "base folder of the paths"
            )
        return path if self._start is None else self._start / path

    @cached_property
    def _loaded(self) -> tuple[Any, Any, str, bool]:
        """The preprocessing, the model, the device, and whether the weights include the pooler."""
        prepare_class = member("transformers", "AutoImageProcessor", _EXTRA)
        model_class = member("transformers", "AutoModel", _EXTRA)
        device = device_of(self.spec.device)
        with loading(self.folder, "image"):
            prepare = prepare_class.from_pretrained(self.folder, local_files_only=True)
            model, facts = model_class.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        unset = sorted(facts["missing_keys"])
        if [name for name in unset if "pooler." not in name]:
            raise ConfigError(
                f"{len(unset)} tensors of the model are missing from the weights in {self.folder} ({', '.join(unset[:3])}, "
                "...), so its vectors would be random. Copy the weights that match its config.json"
            )
        return prepare, model.eval().to(device), device, not unset

    def _prepared(self, path: Path, key: bytes) -> Any | Missing:
        """The preprocessed pixels of an image, or the reason why there are none."""
        picture = _read(path, key)
        if isinstance(picture, Missing):
            return picture
        if max(picture.size) > _LONGEST * min(picture.size):
            return Missing(f"the aspect ratio of the image is above {_LONGEST}")
        prepare = self._loaded[0]
        try:
            return prepare(images=picture, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]
        except (ValueError, TypeError, IndexError, ZeroDivisionError):
            return Missing("the model's preprocessing failed on the image")

    def _embedded(self, pixels: list[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        import torch

        _, model, device, pools = self._loaded
        if len({tuple(picture.shape) for picture in pixels}) > 1:
            raise ConfigError(
                f"the preprocessing of the model in {self.folder} returns images of different sizes; use a model whose "
                "preprocessor_config.json fixes the size (do_resize with a height and a width, or a crop)"
            )
        try:
            batch = torch.stack(pixels).to(device)
            with torch.inference_mode():
                if hasattr(model, "get_image_features"):
                    vectors = _pooled(model.get_image_features(pixel_values=batch))
                else:
                    out = model(pixel_values=batch)
                    vectors = _pooled(out) if pools else out.last_hidden_state[:, 0]
                vectors = torch.nn.functional.normalize(vectors.float().flatten(1), dim=1)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"a batch of {self.spec.batch_size} images does not fit in device memory ({error}); lower batch_size"
            ) from error
        return np.asarray(vectors.cpu().numpy(), dtype=np.float32)


def _pooled(out: Any) -> Any:
    if hasattr(out, "last_hidden_state") and getattr(out, "pooler_output", None) is None:
        return out.last_hidden_state[:, 0]
    return getattr(out, "pooler_output", out)


def _images_in(folder: Path) -> dict[str, Path]:
    """The images of a folder by file name without the extension."""
    images: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in _ENDINGS and file.is_file():
            other = images.setdefault(file.stem, file)
            if other != file:
                raise ConfigError(f"item {file.stem!r} has two images, {other} and {file.name}; remove one of them")
    return images


def _read(path: Path, key: bytes) -> Any | Missing:
    """An image in RGB, or the reason why it cannot be read."""
    from PIL import Image, ImageOps

    try:
        content = path.read_bytes()
    except OSError:
        return Missing("the file cannot be read")
    if hashlib.sha256(content).digest() != key:
        return Missing("the file changed during the run")
    try:
        with warnings.catch_warnings():
            # Pillow's other warnings concern damaged metadata and do not affect the pixels.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as opened:
                picture = ImageOps.exif_transpose(opened)
                if picture.has_transparency_data:
                    clear = picture.convert("RGBA")
                    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
                return picture.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Missing(f"the image has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels")
    except Exception:  # noqa: BLE001 (decoders raise arbitrary exceptions on damaged files)
        return Missing("the file is not a readable image")
