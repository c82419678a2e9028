"""What a perfect learner could know of a synthetic world at serving time: the probabilities of the fair ceiling.

The true probability of a click (the oracle) contains the quality of items that nobody has seen yet, and the position at which
an item will be shown. The fair ceiling is the expectation of the click probability given what can be known before the
impression. It is a property of the world, not of a model.

Known exactly:

- the law of the world: all parameters, cluster centres, the quality of clusters, and how an item drifts after its creation;
- the taste of the user at the time of the request;
- what content shows of the item, without the noise of the modalities;
- the past of the log: impressions with users, positions and clicks, up to the item's previous impression.

Unknown are the latent vector and the quality of an item, except for what content and the past say about them, and the position.
Positions are averaged as items are shown whose expected affinity and quality are alike.

Each item has a Gaussian posterior over its latent vector and quality. It starts from the posterior given content (a mixture of
clusters, whose mean and mean variance per axis are matched). Every impression updates it by assumed density filtering, that is,
mean and covariance of the posterior with a logistic likelihood are matched (Minka, 2001). Where popular items are better, the
number of impressions shows quality as well: a Poisson likelihood gives the posterior of an item's log propensity to be shown,
and with it the part of quality that it explains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Doubles, Floats, Ints
from sidkit.datasets.population import Content, Items, elapsed_at_birth
from sidkit.datasets.worlds import WorldParameters

_BLOCK = 4_000_000
"""Cells of a block of items by pairs of clusters."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_RANK_WIDTH = 0.2
_RANK_BINS = 20
"""Bins on either side of 0."""
_NEWTON_STEPS = 6


@dataclass(frozen=True)
class Impressions:
    """Impressions of one epoch, in the order of time."""

    item: Ints
    taste: Floats
    """Taste of the user, [rows, k]."""
    elapsed: Floats
    """Time since the start of the log, as a share of the whole time."""
    position: Ints
    click: npt.NDArray[np.int8]


class Knowledge:
    """Posterior of all items of a world, updated as impressions arrive.

    Memory is 4 (k + 1)^2 bytes per item.

    Parameters
    ----------
    p : WorldParameters
        The world.
    items : Items
        Its items.
    content : Content
        What content shows of them.
    """

    def __init__(self, p: WorldParameters, items: Items, content: Content) -> None:
        self._p = p
        self._drift = items.drift
        latent, spread, shared, shared_variance = _given_content(p, items, content)
        own = 1.0 if not p.quality_from_cluster else 1 - p.quality_from_cluster**2
        self._exposure = _Exposure(p, items) if not p.quality_from_cluster else None
        if self._exposure is not None:
            own -= self._exposure.explained
        self._positions = _Positions(p)
        # The first axis is the part of quality that exposure does not explain, the others are the latent vector.
        self._mean = np.column_stack([p.quality_from_cluster * shared, latent]).astype(np.float32)
        self._covariance = np.zeros((len(latent), p.latent_dim + 1, p.latent_dim + 1), np.float32)
        self._covariance[:, 0, 0] = own + p.quality_from_cluster**2 * shared_variance
        axes = np.arange(1, p.latent_dim + 1)
        self._covariance[:, axes, axes] = spread[:, None]

    def observe(self, rows: Impressions, on_show: Ints, ramp: Doubles) -> Doubles:
        """Return the knowable click probability of each impression, and learn from the impressions.

        Parameters
        ----------
        rows : Impressions
            Impressions of one epoch.
        on_show : int64 [available]
            Items that could be shown in the epoch.
        ramp : float64 [available]
            Factors on their exposure.

        Returns
        -------
        float64 [rows]
            Expected click probability before the impression.
        """
        p, taste = self._p, rows.taste
        moved = np.einsum("rk,rk->r", taste, self._drift[rows.item], dtype=np.float64) * rows.elapsed
        quality, variance = np.zeros(len(moved)), np.zeros(len(moved))
        if self._exposure is not None:
            quality, variance = self._exposure.observe(rows.item, on_show, ramp)
        causes = np.column_stack([np.full(len(moved), p.quality_weight), p.affinity_weight * taste])
        offset = p.intercept + p.affinity_weight * moved + p.quality_weight * quality
        policy = np.column_stack([np.full(len(moved), p.policy_quality), p.policy_affinity * taste])
        rank = p.policy_affinity * moved + p.policy_quality * quality
        knowable = np.empty(len(moved))
        for turn in _turns(rows.item):
            item, cause = rows.item[turn], causes[turn]
            mean, covariance = self._mean[item], self._covariance[item]
            rank[turn] += np.einsum("rk,rk->r", policy[turn], mean)
            center = offset[turn] + np.einsum("rk,rk->r", cause, mean)
            blur = np.einsum("rjk,rk->rj", covariance, cause)
            deviation = np.sqrt(np.einsum("rj,rj->r", blur, cause) + p.quality_weight**2 * variance[turn])
            knowable[turn] = self._positions.expected_probability(center, deviation, rank[turn])
            slope, curvature = _evidence(center + p.position_weight * rows.position[turn], deviation, rows.click[turn])
            self._mean[item] = mean + slope[:, None] * blur
            self._covariance[item] = covariance + curvature[:, None, None] * blur[:, :, None] * blur[:, None, :]
        self._positions.observe(rank, rows.position)
        return knowable


class _Exposure:
    """Posterior of each item's log propensity to be shown, and the quality that it explains.

    Log propensity is ``noise + slope * quality`` with normal noise: popularity depends on quality, and so does the ranking of
    a page. To first order, an item of quality q is ``exp(tilt * q)`` times as likely to be shown once it is a candidate.
    """

    def __init__(self, p: WorldParameters, items: Items) -> None:
        cut = p.slots / p.candidates
        threshold = -np.log(1 - cut)  # of Gumbel noise, for an item of average quality
        tilt = p.policy_quality * np.exp(-threshold) * threshold / cut
        slope = p.popularity_quality + tilt
        self._prior = p.popularity_spread**2 + slope**2
        self._share = slope / self._prior  # of log propensity, that is quality
        self.explained = self._share * slope
        """Variance of quality that the propensity explains."""
        self._propensity = items.popularity * np.exp(tilt * items.policy_quality.astype(np.float64))
        self._shown = np.zeros(len(items.quality))
        self._expected = np.zeros(len(items.quality))

    def observe(self, item: Ints, on_show: Ints, ramp: Doubles) -> tuple[Doubles, Doubles]:
        """Return the explained part of quality of each impression's item, and count the impressions of an epoch.

        Mean and variance are ``float64 [rows]``, before the impression, given that it takes place.
        """
        pace = (
            len(item) / (ramp * self._propensity[on_show]).sum()
        )  # impressions per epoch of an item with propensity 1
        self._expected[on_show] += pace * ramp / 2
        known, place, times = np.unique(item, return_inverse=True, return_counts=True)
        # The impression itself counts, since an item is shown in proportion to its propensity.
        mode, variance = self._log_propensity(self._shown[known] + 1, self._expected[known])
        self._shown[known] += times
        self._expected[on_show] += pace * ramp / 2
        return (self._share * mode)[place], (self._share**2 * variance)[place]

    def _log_propensity(self, shown: Doubles, expected: Doubles) -> tuple[Doubles, Doubles]:
        """Laplace approximation of the posterior: mode and variance."""
        mode = np.log((shown + 0.5) / (expected + 0.5))
        for _ in range(_NEWTON_STEPS):
            rate = expected * np.exp(mode)
            mode -= (rate - shown + mode / self._prior) / (rate + 1 / self._prior)
        return mode, 1 / (expected * np.exp(mode) + 1 / self._prior)


class _Positions:
    """Distribution of positions of shown items, by bins of what is expected of their score in the ranking of a page."""

    def __init__(self, p: WorldParameters) -> None:
        self._effect = p.position_weight * np.arange(p.slots)
        self._counts = np.ones((2 * _RANK_BINS + 1, p.slots))

    def expected_probability(self, center: Doubles, deviation: Doubles, rank: Doubles) -> Doubles:
        """Mean of the click probability over a normal logit and the positions of items that rank alike."""
        counts = self._counts[_rank_bin(rank)]
        logit = center[:, None] + deviation[:, None] * _NODES
        by_node = _sigmoid(logit[:, :, None] + self._effect) @ (counts / counts.sum(axis=1, keepdims=True))[:, :, None]
        expected: Doubles = by_node[:, :, 0] @ _WEIGHTS
        return expected

    def observe(self, rank: Doubles, position: Ints) -> None:
        """Count the positions of an epoch."""
        np.add.at(self._counts, (_rank_bin(rank), position), 1)


def _rank_bin(rank: Doubles) -> Ints:
    return np.clip(np.rint(rank / _RANK_WIDTH), -_RANK_BINS, _RANK_BINS).astype(np.int64) + _RANK_BINS


def _given_content(p: WorldParameters, items: Items, content: Content) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Posterior given content: mean of the latent vector ``[items, k]`` and its variance per axis, mean and variance of the
    quality of the item's cluster ``[items]``.

    ``seen`` is ``sight * latent + sqrt(1 - sight^2) * unrelated``, and both are mixtures of clusters with the same spread.
    """
    sight, blind = p.content_sight, np.sqrt(1 - p.content_sight**2)
    mine, other = items.mixture, content.unrelated
    seen = content.seen - sight * elapsed_at_birth(p, items)[:, None] * items.drift
    center = (sight * mine.centres[:, None] + blind * other.centres[None]).reshape(-1, p.latent_dim)
    prior = np.log(mine.share[:, None] * other.share[None]).ravel()
    base = np.repeat(mine.centres, len(other.centres), axis=0) - sight * center  # the latent is base + sight * seen
    squared = (base**2).sum(axis=1)
    quality = np.repeat(items.cluster_quality, len(other.centres))
    facts = np.column_stack([base, squared, quality, quality**2])
    found = np.empty((len(seen), facts.shape[1]))
    size = max(1, _BLOCK // len(center))
    for start in range(0, len(seen), size):
        block = seen[start : start + size]
        fit = prior + (block @ center.T - (center**2).sum(axis=1) / 2) / mine.spread**2
        weight = np.exp(fit - fit.max(axis=1, keepdims=True))
        found[start : start + size] = weight @ facts / weight.sum(axis=1, keepdims=True)
    mean, shared = found[:, : p.latent_dim], found[:, -2]
    between = (found[:, -3] - (mean**2).sum(axis=1)) / p.latent_dim
    variance = np.maximum(between, 0) + mine.spread**2 * (1 - sight**2)
    return mean + sight * seen, variance, shared, np.maximum(found[:, -1] - shared**2, 0)


def _turns(item: Ints) -> list[Ints]:
    """Split rows so that each item occurs at most once per part, in its order of time."""
    order = np.argsort(item, kind="stable")
    in_order = item[order]
    first = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])
    occurrence = np.arange(len(item)) - np.repeat(first, np.diff(np.r_[first, len(item)]))
    by_turn = np.argsort(occurrence, kind="stable")
    return np.split(order[by_turn], np.cumsum(np.bincount(occurrence))[:-1])


def _evidence(center: Doubles, deviation: Doubles, click: npt.NDArray[np.int8]) -> tuple[Doubles, Doubles]:
    """First and second derivative, by the mean of a normal logit, of the log probability of what was observed."""
    logit = center[:, None] + deviation[:, None] * _NODES
    probability = _sigmoid(logit)
    first = probability * (1 - probability)
    second = first * (1 - 2 * probability)
    sign = 2.0 * click - 1
    observed = np.where(click == 1, probability @ _WEIGHTS, 1 - probability @ _WEIGHTS)
    slope = sign * (first @ _WEIGHTS) / observed
    curvature: Doubles = sign * (second @ _WEIGHTS) / observed - slope**2
    return slope, curvature


def _sigmoid(logit: Doubles) -> Doubles:
    probability: Doubles = 1 / (1 + np.exp(-logit))
    return probability
