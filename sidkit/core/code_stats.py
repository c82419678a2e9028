"""Names of the statistics of code prefixes, and the keys of prefixes.

A prefix is the first codes of an item under one codebook, coarse to fine: all items that share it are alike. Its key is text,
``<codebook>/<code>-<code>-...``, with one code per level of its depth.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sidkit.core.feature_settings import WINDOWS

SID_PREFIX = "sid_prefix"
"""The entity of prefixes and its join key."""
CODE_WINDOWS = WINDOWS
"""Windows of the counts per prefix."""
USER_CODE_WINDOWS = ("30d", "all")
"""Windows of the counts per user and prefix."""


def code_stats_view(codebook: str) -> str:
    """Name of the feature view of counts per prefix, and of its table."""
    return f"code_stats_{codebook}"


def user_code_stats_view(codebook: str) -> str:
    """Name of the feature view of counts per user and prefix, and of its table."""
    return f"user_code_stats_{codebook}"


def stats_views(codebook: str) -> tuple[str, str]:
    """Names of both feature views, and tables, of the statistics of a codebook."""
    return code_stats_view(codebook), user_code_stats_view(codebook)


def codes_service(codebook: str) -> str:
    """Name of the feature service of both views, one alias per depth."""
    return f"codes_{codebook}"


def code_stats_alias(depth: int) -> str:
    """Name of the counts per prefix of a depth in :func:`codes_service`; its join key is :func:`prefix_column`."""
    return f"code_stats_d{depth}"


def user_code_stats_alias(depth: int) -> str:
    """Name of the counts per user and prefix of a depth; its join keys are ``user_id`` and :func:`prefix_column`."""
    return f"user_code_stats_d{depth}"


def prefix_column(depth: int) -> str:
    """Join key of the prefixes of a depth in :func:`codes_service`."""
    return f"{SID_PREFIX}_{depth}"


def prefix_keys(codebook: str, codes: npt.NDArray[np.integer], depth: int) -> npt.NDArray[np.object_]:
    """Keys of the prefixes of items.

    Parameters
    ----------
    codebook : str
        The codebook's name.
    codes : int [items, levels]
        Codes; -1 in an item without.
    depth : int
        Codes per prefix, at least 1.

    Returns
    -------
    numpy.ndarray
        ``object [items]``: text, or None for an item without codes.
    """
    distinct, group = np.unique(codes[:, :depth], axis=0, return_inverse=True)
    keys: npt.NDArray[np.object_] = np.empty(len(distinct), dtype=object)
    keys[:] = [f"{codebook}/{'-'.join(map(str, row))}" if min(row) >= 0 else None for row in distinct.tolist()]
    of_items: npt.NDArray[np.object_] = keys[group.ravel()]
    return of_items
