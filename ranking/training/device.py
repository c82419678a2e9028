"""Selection of the training device."""

from __future__ import annotations

import torch

from sidkit.core.errors import ConfigError


def training_device(name: str) -> torch.device:
    """Return the training device; ``auto`` selects CUDA if available, else the CPU.

    Raises
    ------
    ConfigError
        When the device is ``cuda`` and no CUDA device is available.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            'training.device is "cuda", but no CUDA device is available; use "auto" or "cpu", or install a CUDA build of torch'
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")
