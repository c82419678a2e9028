"""Users and items of a synthetic world: latent vectors, quality, popularity and lifetimes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Doubles, Floats, Ints
from sidkit.core.clock import DAY_US
from sidkit.datasets.worlds import WorldParameters


@dataclass(frozen=True)
class Mixture:
    """Vectors drawn around cluster centres, scaled to unit variance per axis."""

    points: Floats
    """[count, k]"""
    cluster: Ints
    """[count]"""
    centres: Doubles
    """[clusters, k]"""
    share: Doubles
    """Prior probability of each cluster, [clusters]."""
    spread: float
    """Standard deviation per axis of points around their centre."""


@dataclass(frozen=True)
class Items:
    """Items of a world."""

    mixture: Mixture
    """Latent vectors at the start of the log."""
    drift: Floats
    """[items, k], the move over the whole time."""
    quality: Floats
    policy_quality: Floats
    """Quality that exposure depends on: all of it, or only the cluster's part if clusters share quality."""
    cluster_quality: Doubles
    """[clusters]; 0 in worlds whose clusters share no quality."""
    popularity: Floats
    created_us: Ints
    removed_us: Ints
    """After the end of the log if the item stays."""


@dataclass(frozen=True)
class Users:
    """Users of a world; a taste rotates from ``start`` towards ``turn``."""

    start: Floats
    """[users, k]"""
    turn: Floats
    """[users, k], orthogonal to start."""
    activity: Floats


@dataclass(frozen=True)
class Content:
    """What content shows of the items, before the noise of the modalities."""

    seen: Doubles
    """[items, k]"""
    unrelated: Mixture
    """The part of ``seen`` that says nothing about the item."""


def draw_items(p: WorldParameters, count: int, rng: np.random.Generator, cluster_rng: np.random.Generator) -> Items:
    """Draw items; ``cluster_rng`` is used only for the quality that clusters share."""
    mixture = _mixture(p, count, rng)
    quality = policy_quality = rng.standard_normal(count).astype(np.float32)
    cluster_quality = np.zeros(p.clusters)
    if p.quality_from_cluster:
        cluster_quality = cluster_rng.standard_normal(p.clusters)
        policy_quality = (p.quality_from_cluster * cluster_quality[mixture.cluster]).astype(np.float32)
        quality = policy_quality + np.float32(np.sqrt(1 - p.quality_from_cluster**2)) * quality
    popularity = np.exp(p.popularity_spread * rng.standard_normal(count) + p.popularity_quality * policy_quality)
    created, removed = _lifetimes(p, count, rng)
    return Items(
        mixture=mixture,
        drift=(p.item_drift * _unit(rng.standard_normal((count, p.latent_dim)))).astype(np.float32),
        quality=quality,
        policy_quality=policy_quality,
        cluster_quality=cluster_quality,
        popularity=popularity.astype(np.float32),
        created_us=created,
        removed_us=removed,
    )


def _lifetimes(p: WorldParameters, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return creation and removal times, microseconds UTC."""
    span = p.days * DAY_US
    birth = rng.random(count)
    kind = rng.random(count)
    late = kind < p.late_share
    early = ~late & (kind < p.late_share + p.early_share)
    offset = np.where(
        late,
        span * (1 - p.late_window + p.late_window * birth),
        np.where(early, span * (1 - p.late_window) * birth, -p.older_days * DAY_US * birth - DAY_US),
    )
    created = p.start_us + offset.astype(np.int64)
    stays = rng.random(count) >= p.removed_share
    end = p.start_us + span
    first = np.maximum(created, p.start_us)
    left = first + (rng.random(count) * (end - first)).astype(np.int64)
    return created, np.where(stays, end + DAY_US, left)


def draw_users(p: WorldParameters, count: int, items: Items, rng: np.random.Generator) -> Users:
    """Draw users; a taste is a mixture of a few items, so that tastes are distributed like items."""
    latent = items.mixture.points
    liked = rng.integers(0, len(latent), (count, p.user_interests))
    weight = rng.dirichlet(np.ones(p.user_interests), count)[:, :, None]
    start = _unit((latent[liked] * weight).sum(axis=1) + 0.3 * rng.standard_normal((count, p.latent_dim)))
    turn = rng.standard_normal((count, p.latent_dim))
    turn = _unit(turn - (turn * start).sum(axis=1, keepdims=True) * start)
    activity = np.exp(p.user_activity_spread * rng.standard_normal(count))
    return Users(start.astype(np.float32), turn.astype(np.float32), activity.astype(np.float32))


def draw_content(p: WorldParameters, items: Items, rng: np.random.Generator) -> Content:
    """Mix the latent vector at creation with an unrelated one of the same distribution."""
    at_birth = items.mixture.points + elapsed_at_birth(p, items)[:, None].astype(np.float32) * items.drift
    unrelated = _mixture(p, len(items.quality), rng)
    seen = p.content_sight * at_birth + np.sqrt(1 - p.content_sight**2) * unrelated.points
    return Content(seen, unrelated)


def elapsed_at_birth(p: WorldParameters, items: Items) -> Doubles:
    """Time from the start of the log to each item's creation, as a share of the whole time; 0 for older items."""
    elapsed: Doubles = np.maximum(items.created_us - p.start_us, 0) / (p.days * DAY_US)
    return elapsed


def _mixture(p: WorldParameters, count: int, rng: np.random.Generator) -> Mixture:
    centres = rng.standard_normal((p.clusters, p.latent_dim))
    share = 1 / np.arange(1, p.clusters + 1) ** 0.5
    share /= share.sum()
    cluster = rng.choice(p.clusters, count, p=share)
    points = centres[cluster] + p.cluster_spread * rng.standard_normal((count, p.latent_dim))
    scale = np.sqrt(1 + p.cluster_spread**2)
    return Mixture(
        (points / scale).astype(np.float32), cluster, centres / scale, share, float(p.cluster_spread / scale)
    )


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length: npt.NDArray[np.float64] = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors / length
