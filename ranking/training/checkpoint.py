"""Checkpoints to resume an interrupted training run: one safetensors file, written after every epoch, without pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sidkit.core.artifact import tensors_under
from sidkit.core.config import content_hash
from sidkit.core.files import written_beside
from sidkit.core.integrity import say_discarded

Tensors = dict[str, Tensor]
_HASH = "sha256"


@dataclass
class Progress:
    """Progress of a run: validation AUC per finished epoch, and the weights of the best epoch."""

    curve: list[float]
    best: Tensors


class Checkpoint:
    """The state of a training run on disk.

    Parameters
    ----------
    path : Path or None
        The file; None saves nothing.
    run : Any
        JSON values that identify the run; a checkpoint of another run is ignored and overwritten.
    """

    def __init__(self, path: Path | None, run: Any) -> None:
        self._path = path
        self._mark = content_hash(run)

    def save(
        self, progress: Progress, model: nn.Module, optimizers: list[torch.optim.Optimizer], order: torch.Generator
    ) -> None:
        """Write the state after an epoch atomically."""
        if self._path is None:
            return
        from safetensors.torch import save_file

        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        tensors |= {f"kept.{name}": tensor for name, tensor in progress.best.items()}
        for number, optimizer in enumerate(optimizers):
            for parameter, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimiser.{number}.{parameter}.{key}": value for key, value in state.items()}
        tensors |= {"random": torch.get_rng_state(), "order": order.get_state()}
        if torch.cuda.is_available():
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        copied = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        with written_beside(self._path) as temporary:
            facts = {"run": self._mark, "curve": json.dumps(progress.curve)}
            save_file(copied, temporary, {**facts, _HASH: _digest(copied, facts)})

    def resume(
        self, model: nn.Module, optimizers: list[torch.optim.Optimizer], order: torch.Generator
    ) -> Progress | None:
        """Restore the state after the last finished epoch.

        Returns None if there is no checkpoint of this run; a damaged checkpoint is discarded and training restarts.
        """
        if self._path is None or not self._path.exists():
            return None
        saved = _read(self._path)
        if saved is None:
            say_discarded(self._path, "the checkpoint is damaged")
            self.remove()
            return None
        tensors, facts = saved
        if facts["run"] != self._mark:
            return None
        model.load_state_dict(tensors_under(tensors, "model."))
        for number, optimizer in enumerate(optimizers):
            state: dict[int, Tensors] = {}
            for name, value in tensors_under(tensors, f"optimiser.{number}.").items():
                parameter, _, key = name.partition(".")
                state.setdefault(int(parameter), {})[key] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["random"])
        order.set_state(tensors["order"])
        if torch.cuda.is_available() and "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"])
        return Progress(json.loads(facts["curve"]), tensors_under(tensors, "kept."))

    def remove(self) -> None:
        """Delete the checkpoint of a finished run."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[Tensors, dict[str, str]] | None:
    """Read tensors and metadata of a checkpoint; None if it is unreadable or does not match its hash."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as opened:
            facts = dict(opened.metadata() or {})
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
    stated = facts.pop(_HASH, None)
    return (tensors, facts) if stated == _digest(tensors, facts) else None


def _digest(tensors: Tensors, facts: dict[str, str]) -> str:
    """SHA-256 of the tensors and metadata of a checkpoint."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
