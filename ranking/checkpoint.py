"""What a training run needs to go on after it was killed: written after every epoch, in one file, without pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sidkit.artifact import tensors_under
from sidkit.config import content_hash
from sidkit.files import written_beside

Tensors = dict[str, Tensor]


@dataclass
class Progress:
    """How far a run is: validation AUC per finished epoch, and the weights of the best one."""

    curve: list[float]
    kept: Tensors


class Checkpoint:
    """A run's state on disk.

    Parameters
    ----------
    path : Path or None
        The file; None keeps nothing.
    run : Any
        JSON values that identify the run; a file of another run is ignored and overwritten.
    """

    def __init__(self, path: Path | None, run: Any) -> None:
        self._path = path
        self._mark = content_hash(run)

    def save(
        self, progress: Progress, model: nn.Module, optimisers: list[torch.optim.Optimizer], order: torch.Generator
    ) -> None:
        """Write the state after an epoch, in one rename."""
        if self._path is None:
            return
        from safetensors.torch import save_file

        tensors = {f"model.{name}": each for name, each in model.state_dict().items()}
        tensors |= {f"kept.{name}": each for name, each in progress.kept.items()}
        for number, optimiser in enumerate(optimisers):
            for parameter, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{number}.{parameter}.{key}": value for key, value in state.items()}
        tensors |= {"random": torch.get_rng_state(), "order": order.get_state()}
        if torch.cuda.is_available():
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        copied = {name: each.detach().cpu().clone().contiguous() for name, each in tensors.items()}
        with written_beside(self._path) as temporary:
            save_file(copied, temporary, {"run": self._mark, "curve": json.dumps(progress.curve)})

    def resume(
        self, model: nn.Module, optimisers: list[torch.optim.Optimizer], order: torch.Generator
    ) -> Progress | None:
        """Bring everything to where the last finished epoch left it, or return None where there is nothing to resume."""
        if self._path is None or not self._path.exists():
            return None
        from safetensors import safe_open
        from safetensors.torch import load_file

        with safe_open(self._path, "pt") as opened:
            facts = opened.metadata()
        if facts.get("run") != self._mark:
            return None
        tensors = load_file(self._path)
        model.load_state_dict(tensors_under(tensors, "model."))
        for number, optimiser in enumerate(optimisers):
            state: dict[int, Tensors] = {}
            for name, value in tensors_under(tensors, f"optimiser.{number}.").items():
                parameter, _, key = name.partition(".")
                state.setdefault(int(parameter), {})[key] = value
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        torch.set_rng_state(tensors["random"])
        order.set_state(tensors["order"])
        if torch.cuda.is_available() and "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"])
        return Progress(json.loads(facts["curve"]), tensors_under(tensors, "kept."))

    def remove(self) -> None:
        """Drop the file: the run is finished."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
