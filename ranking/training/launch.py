"""Processes that ``torchrun`` started, by their environment; does not import torch."""

from __future__ import annotations

import os


def launched_processes() -> int:
    """Number of processes that ``torchrun`` started, of which this is one; 1 for a process that was started by itself."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
