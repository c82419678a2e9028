"""Locate and check the folder of a pretrained model; a model is identified by the hash of its files."""

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
    """Import a module of an optional dependency (an extra).

    Raises
    ------
    ConfigError
        When the extra is not installed, or the import fails.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{module} is not installed; run: pip install 'sidkit[{extra}]'")
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise _unusable(module, extra, error) from error


def member(module: str, name: str, extra: str) -> Any:
    """Get a class of a module of an extra; raises like :func:`required`."""
    try:
        return getattr(required(module, extra), name)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise _unusable(module, extra, error) from error


def _unusable(module: str, extra: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{module} is installed but cannot be imported ({error}). A common cause is a torchvision built for a different "
        f"torch version: uninstall torchvision (sidkit does not need it) or install the matching build, then run: "
        f"pip install 'sidkit[{extra}]'"
    )


def model_folder(model: str, revision: str | None, extra: str) -> Path:
    """Get the folder of a model, downloading it if necessary.

    Parameters
    ----------
    model : str
        A local folder, which takes precedence and needs no network; else a name on the Hugging Face hub
        (``organisation/name``), which is downloaded to the hub's cache.
    revision : str or None
        Commit, tag or branch on the hub; None is the newest.
    extra : str
        The extra that errors recommend to install.

    Returns
    -------
    Path
        An existing folder.

    Raises
    ------
    ConfigError
        When neither such a folder nor such a name exists, or the hub cannot be reached.
    """
    folder = typed_path(model)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"{folder} is a folder, but revision {revision!r} only applies to hub names; omit it")
        return folder.resolve()
    if folder.exists():
        raise ConfigError(f"{folder} is a file; pass the folder that contains the model's config.json and weights")
    if not _HUB_NAME.fullmatch(model):
        raise ConfigError(
            f"{folder.absolute()} is not a folder; pass a model folder, or a hub name such as organisation/name"
        )
    hub = required("huggingface_hub", extra)
    try:
        return Path(hub.snapshot_download(model, revision=revision, ignore_patterns=_OTHER_FORMATS))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise ConfigError(
            f"the folder {folder.absolute()} does not exist, and the model {model!r}"
            f"{f' at {revision}' if revision else ''} cannot be downloaded from the hub ({_first_line(error)}). Check the "
            "name and the network, or copy the model's folder to this machine and pass its path"
        ) from error


def check_files(folder: Path, needed: tuple[str, ...], kind: str) -> None:
    """Check that a folder contains a model of this kind.

    Raises
    ------
    ConfigError
        When all of the ``needed`` files, or safetensors weights, are missing.
    """
    if not any((folder / name).is_file() for name in needed):
        entries = sorted(entry.name for entry in folder.iterdir())[:8] or ["nothing"]
        raise ConfigError(
            f"{folder} is not usable as {kind} model: expected {' or '.join(needed)}, the folder contains {', '.join(entries)}"
        )
    if not any(folder.rglob("*.safetensors")):
        raise ConfigError(
            f"{folder} contains no safetensors weights; other formats can run code when loaded and are not accepted. "
            "Load the model in an environment you trust and save it with save_pretrained(folder)"
        )


def content_of(folder: Path) -> str:
    """Hex SHA-256 over the names and contents of a model's files, except Markdown and hidden files."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if file.is_file() and not hidden and file.suffix.lower() != ".md":
            digest.update(f"{name.as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def loading(folder: Path, kind: str) -> Iterator[None]:
    """Load a model without the libraries' progress bars; their exceptions become an error that names the folder.

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
            f"the {kind} model in {folder} cannot be loaded ({_first_line(error)}). If files are damaged, missing or Git "
            "LFS pointers, copy the folder again; if a library is missing, install it"
        ) from error
    finally:
        if was_shown:
            shown.enable_progress_bar()


def device_of(name: str) -> str:
    """Resolve a device name: ``auto`` is the first available of cuda, mps and cpu.

    Raises
    ------
    ConfigError
        When torch does not support the device, or it is not available.
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
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
