"""Statistics of code prefixes: which depths and cadences a codebook has, and their tables.

The statistics are counts of the events of all items that share the first codes (:mod:`sidkit.tables.code_stats`). What
is counted is chosen at the fit, and recorded in the codebook's manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from sidkit.core import code_stats
from sidkit.core.arrays import Codes
from sidkit.core.artifact import read_manifest
from sidkit.core.code_stats import code_stats_view
from sidkit.core.config import TimeSettings
from sidkit.core.errors import ArtifactError, ConfigError
from sidkit.core.repo import Repo
from sidkit.core.section import Section
from sidkit.tables.code_stats import CodeCounts, counted_codebooks

STATS = "stats"
"""Key of the manifest."""
_MOST_DEPTHS = 3


class CodeStatsSpec(Section):
    """Statistics of code prefixes (``[codebook.stats]`` of a preset)."""

    depths: tuple[int, ...] | None = None
    """Numbers of codes per prefix, ascending; an empty list turns the statistics off. By default 1, and further depths, at most
    3 in all, while the prefixes in use hold at least ``least_items`` items on average."""
    least_items: int = Field(default=5, ge=1)
    """Items per prefix below which no further depth is chosen."""
    cadence_seconds: int = Field(default=3600, ge=1, le=31_536_000)
    """Counts per prefix change at multiples of this; at least ``[time] stats_cadence_seconds``."""
    user_cadence_seconds: int = Field(default=86_400, ge=1, le=31_536_000)
    """Counts per user and prefix change at multiples of this; at least ``[time] stats_cadence_seconds``."""

    @field_validator("depths")
    @classmethod
    def _depths_ascend(cls, depths: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if depths and (min(depths) < 1 or list(depths) != sorted(set(depths))):
            raise ValueError(f"expected distinct depths of at least 1, ascending, got {list(depths)}")
        return depths


@dataclass(frozen=True)
class CodeStats:
    """The statistics of a codebook: ``depths`` ascending, and cadences of window ends in seconds."""

    depths: tuple[int, ...]
    cadence_seconds: int
    user_cadence_seconds: int

    def stated(self) -> dict[str, Any]:
        """The values as JSON."""
        return {**vars(self), "depths": list(self.depths)}


def chosen_stats(
    spec: CodeStatsSpec, codes: Codes, time: TimeSettings, residual_levels: int | None = None
) -> CodeStats | None:
    """The statistics of a fitted codebook, None if they are turned off.

    Parameters
    ----------
    spec : CodeStatsSpec
        The settings.
    codes : int32 [items, levels]
        Codes of the items of the fit.
    time : TimeSettings
        ``[time]`` of the repository.
    residual_levels : int, optional
        Number of leading levels that refine each other (default: all). Codes after them are no part of a prefix; if there are
        none that do, a prefix is the first code.

    Raises
    ------
    ConfigError
        When a depth exceeds the levels that refine each other.
    """
    levels = codes.shape[1] if residual_levels is None else max(1, residual_levels)
    depths = spec.depths
    if depths is None:
        depths = (1,)
        while len(depths) < min(_MOST_DEPTHS, levels):
            used = len(np.unique(codes[:, : len(depths) + 1], axis=0))
            if len(codes) / max(used, 1) < spec.least_items:
                break
            depths = (*depths, len(depths) + 1)
    if depths and depths[-1] > levels:
        raise ConfigError(
            f"codebook.stats.depths: expected at most {levels}, the levels of the codebook that refine each other, got "
            f"{depths[-1]}; remove it"
        )
    if not depths:
        return None
    least = time.stats_cadence_seconds
    return CodeStats(depths, max(spec.cadence_seconds, least), max(spec.user_cadence_seconds, least))


def code_stats_of(repo: Repo, codebook: str) -> CodeStats | None:
    """The statistics of a fitted codebook; None if it has none.

    Raises
    ------
    ArtifactError
        When it has tables, and neither its manifest nor the record beside them can be read: the feature definitions would lose
        their views.
    """
    try:
        stated = read_manifest(repo.codebooks / codebook, verify=False).get(STATS)
    except ArtifactError:
        counted = dict(counted_codebooks(repo)).get(codebook)
        if counted is None and not (repo.tables / f"{code_stats_view(codebook)}.parquet").exists():
            return None
        if counted is None:
            raise
        return CodeStats(counted.depths, counted.cadence_seconds, counted.user_cadence_seconds)
    return CodeStats(**{**stated, "depths": tuple(stated["depths"])}) if stated else None


def counts_of(repo: Repo, codebook: str, codebook_hash: str) -> CodeCounts | None:
    """What the tables of a codebook's statistics are counted from; None if it has none."""
    stats = code_stats_of(repo, codebook)
    return CodeCounts(codebook, codebook_hash, **vars(stats)) if stats else None


def prefix_keys(codebook: str, codes: Sequence[Sequence[int] | None], depth: int) -> list[str | None]:
    """Keys of the entity ``sid_prefix`` for the codes of items.

    Parameters
    ----------
    codebook : str
        Name of the codebook.
    codes : sequence
        Codes per item as Feast returns them; None or empty for an item without codes.
    depth : int
        Codes per prefix, at least 1.

    Returns
    -------
    list
        A key per item; None for an item without codes.

    Raises
    ------
    ConfigError
        When the depth is below 1 or exceeds the codes of an item.

    Examples
    --------
    >>> from semantic_ids import prefix_keys
    >>> prefix_keys("a", [[17, 3, 5], None], depth=2)
    ['a/17-3', None]
    """
    lengths = {len(each) for each in codes if each is not None and len(each)}
    if depth < 1 or (lengths and depth > min(lengths)):
        raise ConfigError(
            f"expected a depth from 1 to {min(lengths, default=depth)}, the codes of an item, got {depth}"
        )
    known = [None if each is None or not len(each) else np.asarray(each[:depth], dtype=np.int64) for each in codes]
    missing = np.full(depth, -1, dtype=np.int64)
    rows = np.array([missing if each is None else each for each in known], dtype=np.int64).reshape(-1, depth)
    return list(code_stats.prefix_keys(codebook, rows, depth)) if len(rows) else []
