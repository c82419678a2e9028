"""Drift of a codebook: compare items added after its fit with the items it was fitted on.

Two statistics. Codes: the population stability index (PSI) of each level, ``sum (q - p) ln(q / p)`` over codes with shares
p at the fit and q since. Residual norms: growth of the distance between recent items and their reconstructions.

PSI is biased upwards in small samples: without any drift it is about ``(1/n + 1/m)`` times a chi-square variable of
``bins - 1`` degrees of freedom (Yurdakul, Statistical Properties of the Population Stability Index, 2018), which for a
thousand codes and some hundred items is far above the usual limits of 0.1 and 0.25. Three corrections apply: rare codes
are pooled until a bin expects enough items; shares are smoothed towards their common mean, which leaves equal shares at
exactly 0; and the mean of the no-drift distribution is subtracted, with values below its 95 % point set to 0.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from semantic_ids.catalog import Catalog, table_path
from sidkit.core.arrays import Codes, Floats, Ints, one_chunk
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection, literal
from sidkit.core.errors import ConfigError, LifeCycleError
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.core.section import Section

FRESH, WATCH, STALE, UNKNOWN = "fresh", "watch", "stale", "unknown"


class DriftThresholds(Section):
    """Thresholds for drift (``[health]``)."""

    watch_psi: float = Field(default=0.1, gt=0)
    """Population stability index of a level above which the verdict is ``watch``."""
    stale_psi: float = Field(default=0.25, gt=0)
    """The same for ``stale``."""
    watch_residual: float = Field(default=0.25, gt=0)
    """Growth of the residual norm relative to the items of the fit. Without any drift, the norm of new items is 10 to 20 %
    larger at 30 items per code, because the codebook was fitted on the old ones."""
    stale_residual: float = Field(default=0.5, gt=0)
    """The same growth for ``stale``."""
    min_recent: int = Field(default=200, ge=2)
    """With fewer recent items the verdict is ``unknown``."""
    items_per_bin: int = Field(default=20, ge=1)
    """Rare codes are pooled until a bin expects this many items of the smaller group."""

    @model_validator(mode="after")
    def _watch_comes_before_stale(self) -> DriftThresholds:
        if self.watch_psi > self.stale_psi or self.watch_residual > self.stale_residual:
            raise ValueError("watch_psi and watch_residual must not exceed stale_psi and stale_residual")
        return self


@dataclass(frozen=True)
class CodedItems:
    """Codes ``int32 [items, levels]`` and residual norms ``float32 [items]`` of a group of items."""

    codes: Codes
    residual_norm: Floats

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True)
class Stability:
    """PSI of one level: ``psi`` is the raw value over ``bins`` pooled bins; ``noise`` the 95 % point of its distribution
    without drift; ``drift`` is psi minus its mean without drift, or 0 if psi does not exceed ``noise``.
    """

    psi: float
    noise: float
    drift: float
    bins: int


@dataclass(frozen=True)
class DriftReport:
    """The health of a codebook.

    ``verdict`` is ``fresh``, ``watch``, ``stale``, or ``unknown`` with fewer than ``needed_items`` recent items;
    ``reasons`` explains it, one message each; ``levels`` has one entry per level, coarse to fine, empty if unknown; the
    growths are recent / fit - 1, infinite if the residuals of the fit are 0 and those of recent items are not.
    """

    verdict: str
    reasons: tuple[str, ...]
    fit_items: int
    recent_items: int
    needed_items: int
    levels: tuple[Stability, ...] = ()
    residual_growth_mean: float | None = None
    residual_growth_median: float | None = None

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values; an infinite growth is null and mentioned in ``reasons``."""
        fields = asdict(self)
        for key in ("residual_growth_mean", "residual_growth_median"):
            if fields[key] is not None and not math.isfinite(fields[key]):
                fields[key] = None
        return {**fields, "reasons": list(self.reasons), "levels": [asdict(level) for level in self.levels]}


def stability(reference: Ints, recent: Ints, items_per_bin: int = 20) -> Stability:
    """Population stability index of two histograms of codes, corrected for small samples (see the module).

    Parameters
    ----------
    reference, recent : int64 [codes]
        Items per code at the fit and since. A code with at least ``items_per_bin`` reference items, scaled to the size
        of the smaller sample, gets its own bin; the others are pooled in numerical order.
    items_per_bin : int
        Items that a bin expects in the smaller sample.
    """
    n, m = int(reference.sum()), int(recent.sum())
    if not n or not m:
        return Stability(0.0, 0.0, 0.0, 0)
    expected = reference * (min(n, m) / n)
    rare = expected < items_per_bin
    # Pooling in count order would group codes whose counts are high, or low, by chance.
    full = ((np.cumsum(expected * rare) - expected * rare) // items_per_bin).astype(np.int64)
    bins = np.where(rare, full, full.max() + np.cumsum(~rare))
    before, after = np.bincount(bins, reference), np.bincount(bins, recent)
    pooled = (before + after) / (n + m)
    used = pooled > 0
    before, after, pooled = before[used], after[used], pooled[used]
    strength = 0.5 * len(pooled)  # half an item per bin on average
    p, q = (before + strength * pooled) / (n + strength), (after + strength * pooled) / (m + strength)
    psi = float(((q - p) * np.log(q / p)).sum())
    freedom, scale = len(pooled) - 1, 1 / n + 1 / m
    noise = scale * (freedom + 1.645 * math.sqrt(2 * freedom))
    drift = max(psi - scale * freedom, 0.0) if psi > noise else 0.0
    return Stability(psi, noise, drift, len(pooled))


def drift(fit: CodedItems, recent: CodedItems, thresholds: DriftThresholds | None = None) -> DriftReport:
    """Compare recent items with the items of the fit.

    Parameters
    ----------
    fit : CodedItems
        Items known at the fit.
    recent : CodedItems
        Items added or changed since, coded by the same codebook.
    thresholds : DriftThresholds, optional
        The verdict is the worst over all levels and the residual norm (the larger growth of mean and median).

    Raises
    ------
    ConfigError
        When the groups have different numbers of levels.
    """
    limits = thresholds or DriftThresholds()
    if fit.codes.shape[1] != recent.codes.shape[1]:
        raise ConfigError(
            f"expected items coded by the same codebook, got {fit.codes.shape[1]} levels for the items of the fit and "
            f"{recent.codes.shape[1]} for the recent ones"
        )
    counts = (len(fit), len(recent), limits.min_recent)
    if len(recent) < limits.min_recent or not len(fit):
        short = f"{len(recent)} items were added or changed since the fit; a verdict needs at least {limits.min_recent}"
        return DriftReport(UNKNOWN, (short if len(fit) else "no items of the fit have codes",), *counts)
    grades: list[tuple[int, str]] = []
    levels = []
    for level, (old, new) in enumerate(zip(fit.codes.T, recent.codes.T, strict=True), start=1):
        size = int(max(old.max(), new.max())) + 1
        before, after = np.bincount(old, minlength=size), np.bincount(new, minlength=size)
        levels.append(measured := stability(before, after, limits.items_per_bin))
        grades.append(_graded(f"PSI of level {level}", measured.drift, limits.watch_psi, limits.stale_psi, ".3f"))
    norms = fit.residual_norm.astype(np.float64), recent.residual_norm.astype(np.float64)
    mean, median = (_growth(*(float(of(norm)) for norm in norms)) for of in (np.mean, np.median))
    for name, growth in (("mean", mean), ("median", median)):
        what = f"growth of the {name} residual norm"
        grades.append(_graded(what, growth, limits.watch_residual, limits.stale_residual, ".1%"))
    worst = max(grade for grade, _ in grades)
    reasons = tuple(message for grade, message in grades if grade == worst) if worst else ()
    reasons = reasons or ("codes and residual norms of recent items match those of the fit",)
    return DriftReport((FRESH, WATCH, STALE)[worst], reasons, *counts, tuple(levels), mean, median)


def read_groups(table: Path, fit_end_us: int, engine: EngineSettings, spill: Path) -> tuple[CodedItems, CodedItems]:
    """Read the items of the fit and the recent items from a codebook's table.

    An item's newest row up to ``fit_end_us`` belongs to the fit, its newest row after it to the recent items; an item
    whose content changed is in both. Rows without codes (an item that lost its content) are skipped.

    Parameters
    ----------
    table : Path
        ``item_sid_<name>.parquet`` with ``item_id``, ``event_timestamp``, ``codes`` and ``residual_norm``.
    fit_end_us : int
        The codebook's cut-off, microseconds UTC.
    engine : EngineSettings
        Limits of DuckDB.
    spill : Path
        Folder for DuckDB's spill files.
    """
    groups = []
    checked(table)
    with connection(engine, spill) as opened:
        for side in ("<=", ">"):
            newest = opened.execute(
                f"SELECT codes, residual_norm FROM (SELECT * FROM read_parquet({literal(table)}) "
                f"WHERE epoch_us(event_timestamp) {side} {int(fit_end_us)} QUALIFY row_number() OVER "
                "(PARTITION BY item_id ORDER BY event_timestamp DESC) = 1) WHERE codes IS NOT NULL ORDER BY item_id"
            ).to_arrow_table()
            listed = one_chunk(newest.column("codes"))
            levels = int(listed.value_lengths().to_numpy()[0]) if len(newest) else 0
            flat = listed.flatten().to_numpy(zero_copy_only=False).astype(np.int32)
            norm = newest.column("residual_norm").to_numpy().astype(np.float32)
            groups.append(CodedItems(flat.reshape(len(newest), levels), norm))
    width = max(group.codes.shape[1] for group in groups)
    fit, recent = (
        group if len(group) else CodedItems(np.zeros((0, width), dtype=np.int32), group.residual_norm)
        for group in groups
    )
    return fit, recent


def health(repo: Repo, name: str | None = None, thresholds: DriftThresholds | None = None) -> DriftReport:
    """Drift of a published codebook, as of its table. Refresh it first, so that new items have codes.

    Parameters
    ----------
    repo : Repo
        With a published codebook.
    name : str, optional
        By default the serving codebook.
    thresholds : DriftThresholds, optional
        By default those of :class:`DriftThresholds`.

    Raises
    ------
    UnknownVersionError
        When there is no such codebook, or none is serving.
    LifeCycleError
        When it has no table of codes.
    """
    catalog = Catalog.open(repo)
    record = catalog.codebook(name) if name else catalog.serving_codebook()
    table = table_path(repo, record.name)
    if not record.has_codes or not table.exists():
        raise LifeCycleError(record.name, record.state, "publish it before checking its health")
    fit, recent = read_groups(table, record.fit_end_us, repo.settings.engine, repo.data / "tmp" / "duckdb")
    return drift(fit, recent, thresholds)


def _growth(before: float, after: float) -> float:
    if before > 0:
        return after / before - 1
    return math.inf if after > 0 else 0.0


def _graded(what: str, value: float, watch: float, stale: float, form: str) -> tuple[int, str]:
    """0, 1 or 2 for fresh, watch or stale, and a message with the reason."""
    grade = int(value >= watch) + int(value >= stale)
    limit = stale if grade == 2 else watch
    return grade, f"{what} is {value:{form}}, at or above {limit:{form}}"
