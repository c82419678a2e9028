"""Files of saved estimators and codebooks: names, tensors, and the check of what a folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sidkit.core.errors import ArtifactError, ArtifactMissingError

TENSORS = "tensors.safetensors"
CONFIG = "config.json"

_LOADERS = {
    "codebook": "semantic_ids.load_codebook",
    "quantizer": "semantic_ids.quantizers.Quantizer.load",
    "encoder": "semantic_ids.encoders.Encoder.load",
    "ranker": "ranking.Ranker.load",
}


def write_tensors(folder: Path, tensors: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write named arrays in safetensors format."""
    from safetensors.numpy import save_file

    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / TENSORS)


def existing_folder(path: str | Path) -> Path:
    """The path of an existing folder.

    Raises
    ------
    ArtifactMissingError
        When there is none.
    """
    folder = Path(path)
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise ArtifactMissingError(f"expected a folder to load from, but {folder} {state}; correct the path")
    return folder


def check_kind(folder: Path, manifest: Mapping[str, Any], kind: str) -> None:
    """Check that a folder holds an artefact of a kind, such as ``codebook`` or ``quantizer``.

    Raises
    ------
    ArtifactError
        When it holds another one; names what loads it.
    """
    actual = manifest.get("kind")
    if actual != kind:
        loader = _LOADERS.get(str(actual))
        remedy = f"load it with {loader}" if loader else "give another folder"
        raise ArtifactError(f"expected a saved {kind} in {folder}, got kind {actual!r}; {remedy}")
