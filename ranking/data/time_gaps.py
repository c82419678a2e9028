"""Bucketed time gaps between a history item and the row's time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sidkit.core.clock import DAY_US

TIME_BUCKETS = 16
_FIRST_US = 2 * DAY_US / 1440


def gap_bucket(at_us: Tensor, then_us: Tensor) -> Tensor:
    """Bucket of a time gap: 0 below 2 minutes, then each bucket is 2.6 times as long as the last; the final one is open."""
    first = (at_us - then_us).float() / _FIRST_US
    bucket: Tensor = (torch.log(first.clamp(min=1e-9)) / math.log(2.6) + 1).clamp(0, TIME_BUCKETS - 1).long()
    return bucket
