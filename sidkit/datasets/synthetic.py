"""Deterministic synthetic worlds with impressions and known click probabilities.

Users and items have latent vectors that drift. An impression is clicked with probability

    sigmoid(intercept + affinity + quality + position bias)

``text`` and ``image`` are noisy views of the item's latent vector at its creation; how much of it they reveal depends on the
world. The same seed gives the same users, items, impressions and clicks in every world: worlds differ in content
only, so that ``none`` is the control of ``strong``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.contract.rows import MOMENT
from sidkit.core.arrays import Floats, Ints
from sidkit.core.clock import DAY_US
from sidkit.core.errors import ConfigError
from sidkit.core.files import folder_written_beside
from sidkit.datasets.base import GeneratedDataset
from sidkit.datasets.worlds import CATEGORY_WORDS, WORLDS, WorldParameters


@dataclass(frozen=True)
class Sizes:
    """Size of a world."""

    impressions: int = 200_000
    users: int | None = None
    items: int | None = None

    @property
    def user_count(self) -> int:
        """Number of users; default: one per 100 impressions."""
        return self.users or max(50, self.impressions // 100)

    @property
    def item_count(self) -> int:
        """Number of items; default: one per 50 impressions, at most 200,000."""
        return self.items or min(200_000, max(100, self.impressions // 50))


@dataclass(frozen=True)
class _Items:
    latent: Floats  # [items, k] at the start of the log
    drift: Floats  # [items, k] over the whole time
    quality: Floats
    popularity: Floats
    created_us: Ints
    removed_us: Ints  # after the end of the log if the item stays


@dataclass(frozen=True)
class _Users:
    start: Floats  # [users, k]
    turn: Floats  # [users, k], orthogonal to start
    activity: Floats


def write_world(out: Path, world: str, sizes: Sizes, seed: int = 0) -> dict[str, int | float]:
    """Write one world as a folder of the input contract's tables, with ``oracle.parquet``.

    Parameters
    ----------
    out : Path
        New folder; must not exist.
    world : str
        ``strong``, ``weak`` or ``none``.
    sizes : Sizes
        Impressions (approximately), users and items.
    seed : int
        Random seed.

    Returns
    -------
    dict
        ``impressions``, ``clicks``, ``items``, ``users`` as written.

    Raises
    ------
    ConfigError
        When the world is unknown, the sizes are too small, or ``out`` exists.
    """
    if world not in WORLDS:
        raise ConfigError(f"no world named {world!r}; available: {', '.join(WORLDS)}")
    parameters = WORLDS[world]
    for name, count in (("users", sizes.users), ("items", sizes.items)):
        if count is not None and count < 1:
            raise ConfigError(f"expected at least 1 of {name}, got {count}")
    least = parameters.slots * parameters.days * parameters.epochs_per_day
    if sizes.impressions < least or sizes.item_count < 2 * parameters.candidates:
        raise ConfigError(
            f"expected at least {least:,} impressions and {2 * parameters.candidates} items, got {sizes.impressions:,} "
            f"impressions and {sizes.item_count:,} items; raise --impressions or --items"
        )
    if out.exists():
        raise ConfigError(f"expected a new folder, got {out}, which exists; choose another one")
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)]
    items = _draw_items(parameters, sizes.item_count, streams[0])
    users = _draw_users(parameters, sizes.user_count, items, streams[1])
    with folder_written_beside(out) as folder:
        _write_content(folder, parameters, items, streams[3])
        counts = _write_impressions(folder, parameters, items, users, sizes, streams[2])
    return {**counts, "items": sizes.item_count, "users": sizes.user_count}


def _draw_items(p: WorldParameters, count: int, rng: np.random.Generator) -> _Items:
    latent = _mixture(p, count, rng)
    quality = rng.standard_normal(count).astype(np.float32)
    popularity = np.exp(p.popularity_spread * rng.standard_normal(count) + p.popularity_quality * quality)
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
    left = np.maximum(created, p.start_us) + (rng.random(count) * (end - np.maximum(created, p.start_us))).astype(
        np.int64
    )
    return _Items(
        latent=latent,
        drift=(p.item_drift * _unit(rng.standard_normal((count, p.latent_dim)))).astype(np.float32),
        quality=quality,
        popularity=popularity.astype(np.float32),
        created_us=created,
        removed_us=np.where(stays, end + DAY_US, left),
    )


def _draw_users(p: WorldParameters, count: int, items: _Items, rng: np.random.Generator) -> _Users:
    # A user's taste is a mixture of a few items, so that tastes are distributed like items.
    liked = rng.integers(0, len(items.quality), (count, p.user_interests))
    weight = rng.dirichlet(np.ones(p.user_interests), count)[:, :, None]
    start = _unit((items.latent[liked] * weight).sum(axis=1) + 0.3 * rng.standard_normal((count, p.latent_dim)))
    turn = rng.standard_normal((count, p.latent_dim))
    turn = _unit(turn - (turn * start).sum(axis=1, keepdims=True) * start)
    activity = np.exp(p.user_activity_spread * rng.standard_normal(count))
    return _Users(start.astype(np.float32), turn.astype(np.float32), activity.astype(np.float32))


def _mixture(p: WorldParameters, count: int, rng: np.random.Generator) -> Floats:
    centres = rng.standard_normal((p.clusters, p.latent_dim))
    share = 1 / np.arange(1, p.clusters + 1) ** 0.5
    cluster = rng.choice(p.clusters, count, p=share / share.sum())
    points = centres[cluster] + p.cluster_spread * rng.standard_normal((count, p.latent_dim))
    scaled: Floats = (points / np.sqrt(1 + p.cluster_spread**2)).astype(np.float32)
    return scaled


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length: npt.NDArray[np.float64] = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors / length


def _write_impressions(
    folder: Path, p: WorldParameters, items: _Items, users: _Users, sizes: Sizes, rng: np.random.Generator
) -> dict[str, int | float]:
    user_names = pa.array([f"u{index}" for index in range(len(users.activity))])
    item_names = pa.array([f"i{index}" for index in range(len(items.quality))])
    shown, clicks = 0, 0
    interactions: pq.ParquetWriter | None = None
    oracle: pq.ParquetWriter | None = None
    try:
        for chunk in _epochs(p, items, users, sizes, rng):
            user, item = user_names.take(pa.array(chunk.user)), item_names.take(pa.array(chunk.item))
            request = pc.binary_join_element_wise("r", pa.array(chunk.request).cast(pa.string()), "")
            moment = pa.array(chunk.moment).cast(pa.timestamp("us")).cast(MOMENT)
            position = pa.array(chunk.position, pa.int32())
            log = pa.table(
                {
                    "user_id": user,
                    "item_id": item,
                    "timestamp": moment,
                    "label": pa.array(chunk.click, pa.int8()),
                    "request_id": request,
                    "position": position,
                    "converted": pa.array(chunk.converted, pa.int8()),
                }
            )
            probabilities = pa.table(
                {
                    "request_id": request,
                    "position": position,
                    "user_id": user,
                    "item_id": item,
                    "timestamp": moment,
                    "probability": pa.array(chunk.probability, pa.float64()),
                }
            )
            interactions = interactions or pq.ParquetWriter(
                folder / "interactions.parquet", log.schema, compression="zstd"
            )
            oracle = oracle or pq.ParquetWriter(folder / "oracle.parquet", probabilities.schema, compression="zstd")
            interactions.write_table(log)
            oracle.write_table(probabilities)
            shown += len(log)
            clicks += int(chunk.click.sum())
    finally:
        for writer in (interactions, oracle):
            if writer is not None:
                writer.close()
    return {"impressions": shown, "clicks": clicks}


@dataclass(frozen=True)
class _Chunk:
    request: Ints
    user: Ints
    item: Ints
    position: Ints
    moment: Ints
    probability: npt.NDArray[np.float64]
    click: npt.NDArray[np.int8]
    converted: npt.NDArray[np.int8]


def _epochs(
    p: WorldParameters, items: _Items, users: _Users, sizes: Sizes, rng: np.random.Generator
) -> Iterator[_Chunk]:
    epochs = p.days * p.epochs_per_day
    length = DAY_US // p.epochs_per_day
    cumulated = np.cumsum(users.activity, dtype=np.float64)
    requests = np.diff(np.linspace(0, sizes.impressions / p.slots, epochs + 1).round().astype(np.int64))
    first = 0
    for epoch in range(epochs):
        count = int(requests[epoch])
        begin = p.start_us + epoch * length
        on_show = np.flatnonzero((items.created_us <= begin) & (items.removed_us > begin + length))
        weight = items.popularity[on_show].astype(np.float64)
        weight *= np.where(begin - items.created_us[on_show] < p.new_item_days * DAY_US, p.new_item_exposure, 1.0)
        drawn = np.searchsorted(np.cumsum(weight), rng.random((count, p.candidates)) * weight.sum(), side="right")
        chosen = on_show[np.minimum(drawn, len(on_show) - 1)]
        user = np.searchsorted(cumulated, rng.random(count) * cumulated[-1], side="right")
        moment = np.sort(begin + (rng.random(count) * length).astype(np.int64))
        yield _page(p, items, users, chosen, np.minimum(user, len(cumulated) - 1), moment, first, rng)
        first += count


def _page(
    p: WorldParameters,
    items: _Items,
    users: _Users,
    chosen: Ints,
    user: Ints,
    moment: Ints,
    first_request: int,
    rng: np.random.Generator,
) -> _Chunk:
    # Distinct items per page: repeated draws are moved to the end and cut off.
    order = np.argsort(chosen, axis=1, kind="stable")
    in_order = np.take_along_axis(chosen, order, axis=1)
    repeat = np.zeros_like(chosen, dtype=bool)
    np.put_along_axis(repeat, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
    score = p.policy_quality * items.quality[chosen] + rng.gumbel(size=chosen.shape)
    ranked = np.argsort(np.where(repeat, np.inf, -score), axis=1, kind="stable")[:, : p.slots]
    item = np.take_along_axis(chosen, ranked, axis=1)
    shown = ~np.take_along_axis(repeat, ranked, axis=1)

    elapsed = ((moment - p.start_us) / (p.days * DAY_US)).astype(np.float32)
    angle = (p.user_drift * elapsed)[:, None]
    taste = np.cos(angle) * users.start[user] + np.sin(angle) * users.turn[user]  # [requests, k]
    latent = items.latent[item] + elapsed[:, None, None] * items.drift[item]  # [requests, slots, k]
    affinity = np.einsum("rk,rsk->rs", taste, latent, dtype=np.float64)
    position = np.broadcast_to(np.arange(item.shape[1]), item.shape)
    quality = items.quality[item].astype(np.float64)
    logit = p.intercept + p.affinity_weight * affinity + p.quality_weight * quality + p.position_weight * position
    probability = 1 / (1 + np.exp(-logit))
    click = rng.random(item.shape) < probability
    buys = rng.random(item.shape) < 1 / (1 + np.exp(-(p.conversion_intercept + p.conversion_quality * quality)))
    request = np.broadcast_to(first_request + np.arange(len(user))[:, None], item.shape)
    return _Chunk(
        request=request[shown],
        user=np.broadcast_to(user[:, None], item.shape)[shown],
        item=item[shown],
        position=position[shown],
        moment=np.broadcast_to(moment[:, None], item.shape)[shown],
        probability=probability[shown],
        click=click[shown].astype(np.int8),
        converted=(click & buys)[shown].astype(np.int8),
    )


def _write_content(folder: Path, p: WorldParameters, items: _Items, rng: np.random.Generator) -> None:
    count = len(items.quality)
    elapsed = np.maximum(items.created_us - p.start_us, 0) / (p.days * DAY_US)
    at_birth = items.latent + elapsed[:, None].astype(np.float32) * items.drift
    # Content reveals a mixture of the latent and an unrelated latent of the same distribution.
    unrelated = _mixture(p, count, rng)
    seen = p.content_sight * at_birth + np.sqrt(1 - p.content_sight**2) * unrelated
    text = _view(seen, p.text_dim, p.text_noise, rng)
    image = _view(seen, p.image_dim, p.image_noise, rng)
    without_image = rng.random(count) < p.image_missing
    anchors = rng.standard_normal((len(CATEGORY_WORDS), p.latent_dim))
    category = np.argmax(seen @ anchors.T, axis=1)
    price = np.round(np.exp(2 + 0.5 * rng.standard_normal(count) + 0.3 * (category % 5)), 2)
    end = p.start_us + p.days * DAY_US
    names = [f"i{index}" for index in range(count)]
    words = [CATEGORY_WORDS[index] for index in category]
    removed = pa.array(items.removed_us, mask=items.removed_us > end).cast(pa.timestamp("us")).cast(MOMENT)
    pq.write_table(
        pa.table(
            {
                "item_id": names,
                "created_at": pa.array(items.created_us).cast(pa.timestamp("us")).cast(MOMENT),
                "removed_at": removed,
                "title": [f"{word} {index}" for index, word in enumerate(words)],
                "category": words,
                "price": pa.array(price, pa.float32()),
            }
        ),
        folder / "items.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "item_id": names,
                "text": _vectors(text, np.zeros(count, bool)),
                "image": _vectors(image, without_image),
            }
        ),
        folder / "item_embeddings.parquet",
    )


def _view(seen: npt.NDArray[np.floating], dim: int, noise: float, rng: np.random.Generator) -> Floats:
    projection = rng.standard_normal((seen.shape[1], dim)) / np.sqrt(dim)
    blur = noise * np.sqrt(seen.shape[1] / dim) * rng.standard_normal((len(seen), dim))
    shown: Floats = (seen @ projection + blur).astype(np.float32)
    return shown


def _vectors(matrix: Floats, missing: npt.NDArray[np.bool_]) -> pa.Array:
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.ravel()), mask=pa.array(missing))


class SyntheticDataset(GeneratedDataset):
    """The world that ``--data synthetic[:strong|weak|none]`` names; by default the strong one."""

    modalities = ("text", "image")
    conversions = True

    def write(self, folder: Path, impressions: int) -> int:
        """See :class:`GeneratedDataset`."""
        folder.rmdir()  # a world makes its folder itself, in one rename
        return int(write_world(folder, self.variant or "strong", Sizes(impressions))["impressions"])
