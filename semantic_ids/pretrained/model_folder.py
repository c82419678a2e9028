"""Where a pretrained model lies: every model is a folder on disk before it is used, and that folder's content names it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidkit.core.errors import ConfigError
from sidkit.core.files import sha256, typed_path

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_OTHER_FORMATS = ["*.bin", "*.h5", "*.msgpack", "*.ot", "*.pt", "*.ckpt", "*.onnx", "onnx/*", "openvino/*", "*.gguf"]


def required(module: str, extra: str) -> Any:
    """Import a module of an extra.

    Raises
    ------
    ConfigError
        When the extra is not installed, or its import fails.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{module} is not installed; run: pip install 'sidkit[{extra}]'")
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise _unusable(module, extra, error) from error


def member(module: str, name: str, extra: str) -> Any:
    """A class of an extra's module, which may be imported only when it is asked for; raises like :func:`required`."""
    try:
        return getattr(required(module, extra), name)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise _unusable(module, extra, error) from error


def _unusable(module: str, extra: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{module} is installed but cannot be imported ({error}). Often a torchvision made for another torch is the "
        f"cause: uninstall torchvision (sidkit does not need it) or install the build that belongs to this torch, "
        f"then run: pip install 'sidkit[{extra}]'"
    )


def model_folder(model: str, revision: str | None, extra: str) -> Path:
    """The folder of a model.

    Parameters
    ----------
    model : str
        A local folder, which is taken first and never looked up anywhere; else a name on the Hugging Face hub
        (``organisation/name``), which is brought to the hub's own cache on disk.
    revision : str or None
        Commit, tag or branch of a name; None is the newest.
    extra : str
        The extra that an error tells to install.

    Returns
    -------
    Path
        A folder that exists.

    Raises
    ------
    ConfigError
        When there is no such folder and no such name, or the hub cannot be reached.
    """
    folder = typed_path(model)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"{folder} is a folder and revision {revision!r} is for names; leave the revision out")
        return folder.resolve()
    if folder.exists():
        raise ConfigError(f"{folder} is a file; give the folder that holds the model's config.json and weights")
    if not _HUB_NAME.fullmatch(model):
        raise ConfigError(
            f"{folder.absolute()} is no folder; give a model's folder, or a name such as organisation/name"
        )
    hub = required("huggingface_hub", extra)
    try:
        return Path(hub.snapshot_download(model, revision=revision, ignore_patterns=_OTHER_FORMATS))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise ConfigError(
            f"no folder {folder.absolute()} is here, and the model {model!r}"
            f"{f' at {revision}' if revision else ''} cannot be brought from the hub ({_first_line(error)}). Check the "
            "name and the network, or copy the model's folder here and give its path"
        ) from error


def check_files(folder: Path, needed: tuple[str, ...], kind: str) -> None:
    """Refuse a folder that holds no model of this kind.

    Raises
    ------
    ConfigError
        When none of the ``needed`` files or no safetensors weights are there.
    """
    if not any((folder / name).is_file() for name in needed):
        found = sorted(entry.name for entry in folder.iterdir())[:8] or ["nothing"]
        raise ConfigError(
            f"{folder} is no {kind} model: {' or '.join(needed)} is needed; the folder holds {', '.join(found)}"
        )
    if not any(folder.rglob("*.safetensors")):
        raise ConfigError(
            f"{folder} holds no weights in safetensors form; other forms run code when they are read and are refused. "
            "Load the model where you trust it and write it with save_pretrained(folder)"
        )


def content_of(folder: Path) -> str:
    """SHA-256 in hex over the names and contents of a model's files; prose and hidden files do not count."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if file.is_file() and not hidden and file.suffix.lower() != ".md":
            digest.update(f"{name.as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def loading(folder: Path, kind: str) -> Iterator[None]:
    """Load a model without foreign progress bars; what the libraries raise becomes an error that names the folder.

    Raises
    ------
    ConfigError
        When the files cannot be loaded.
    """
    from safetensors import SafetensorError

    shown = importlib.import_module("transformers.utils.logging")
    was_shown = shown.is_progress_bar_enabled()
    shown.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise ConfigError(
            f"the {kind} model in {folder} cannot be loaded ({_first_line(error)}). If files are damaged, missing or "
            "only pointers of a shallow clone, copy the folder again; if a library is named, install it"
        ) from error
    finally:
        if was_shown:
            shown.enable_progress_bar()


def device_of(name: str) -> str:
    """The device to compute on: ``auto`` is the first of cuda, mps and cpu that this machine has.

    Raises
    ------
    ConfigError
        When torch knows no such device, or this machine has none.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} cannot be used ({_first_line(error)}); use auto, cpu, cuda or cuda:0"
        ) from error
    return name


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no further word'}"
