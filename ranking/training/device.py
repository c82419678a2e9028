"""Where training runs."""

from __future__ import annotations

import torch

from sidkit.core.errors import ConfigError


def training_device(wanted: str) -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the CPU.

    Raises
    ------
    ConfigError
        When the device is ``cuda`` and no CUDA device is available.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError(
            'training.device = "cuda" came and torch finds no CUDA device; use "auto" or "cpu", or install a CUDA build'
        )
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")
