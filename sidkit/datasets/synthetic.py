"""Deterministic synthetic worlds with impressions and known click probabilities.

Users and items have latent vectors that drift. An impression is clicked with probability

    sigmoid(intercept + affinity + quality + position bias)

``text`` and ``image`` are noisy views of the item's latent vector at its creation; how much of it they reveal depends on the
world. The same seed gives the same users, items, impressions and clicks in ``strong``, ``weak`` and ``none``: they differ in
content only, so that ``none`` is the control of ``strong``.

In ``clustered``, the quality of an item is mostly that of its cluster, which content shows, so that items can share what is
learned of them. Pages depend on the user's affinity, and on quality only as far as clusters share it. New items keep coming.

``oracle.parquet`` has two probabilities per impression: ``probability``, from which the click was drawn, and
``knowable_probability``, the expectation given what can be known at serving time (:mod:`sidkit.datasets.knowledge`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.contract.rows import MOMENT
from sidkit.core.arrays import Doubles, Floats, Ints
from sidkit.core.clock import DAY_US
from sidkit.core.errors import ConfigError
from sidkit.core.files import folder_written_beside
from sidkit.datasets.base import GeneratedDataset
from sidkit.datasets.knowledge import Impressions, Knowledge
from sidkit.datasets.population import Items, Users, draw_content, draw_items, draw_users
from sidkit.datasets.worlds import CATEGORY_WORDS, WORLDS, WorldParameters

_GROUP_ROWS = 100_000
"""Least number of rows of a row group, but for the last one."""


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

    def item_count(self, impressions_per_item: int) -> int:
        """Number of items; default: from the number of impressions, at least 100 and at most 200,000."""
        return self.items or min(200_000, max(100, self.impressions // impressions_per_item))


def write_world(out: Path, world: str, sizes: Sizes, seed: int = 0) -> dict[str, int | float]:
    """Write one world as a folder of the input contract's tables, with ``oracle.parquet``.

    Parameters
    ----------
    out : Path
        New folder; must not exist.
    world : str
        ``strong``, ``weak``, ``none`` or ``clustered``.
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
    item_count = sizes.item_count(parameters.impressions_per_item)
    if sizes.impressions < least or item_count < 2 * parameters.candidates:
        raise ConfigError(
            f"expected at least {least:,} impressions and {2 * parameters.candidates} items, got {sizes.impressions:,} "
            f"impressions and {item_count:,} items; raise --impressions or --items"
        )
    if out.exists():
        raise ConfigError(f"expected a new folder, got {out}, which exists; choose another one")
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)]
    items = draw_items(parameters, item_count, streams[0], streams[4])
    users = draw_users(parameters, sizes.user_count, items, streams[1])
    content = draw_content(parameters, items, streams[3])
    knowledge = Knowledge(parameters, items, content)
    with folder_written_beside(out) as folder:
        _write_content(folder, parameters, items, content.seen, streams[3])
        counts = _write_impressions(folder, parameters, items, users, knowledge, sizes, streams[2])
    return {**counts, "items": item_count, "users": sizes.user_count}


def _write_impressions(
    folder: Path,
    p: WorldParameters,
    items: Items,
    users: Users,
    knowledge: Knowledge,
    sizes: Sizes,
    rng: np.random.Generator,
) -> dict[str, int | float]:
    user_names = pa.array([f"u{index}" for index in range(len(users.activity))])
    item_names = pa.array([f"i{index}" for index in range(len(items.quality))])
    shown, clicks = 0, 0
    with (
        contextlib.closing(_Rows(folder / "interactions.parquet")) as interactions,
        contextlib.closing(_Rows(folder / "oracle.parquet")) as oracle,
    ):
        for chunk, knowable in _epochs(p, items, users, knowledge, sizes, rng):
            rows = chunk.impressions
            user, item = user_names.take(pa.array(chunk.user)), item_names.take(pa.array(rows.item))
            request = pc.binary_join_element_wise("r", pa.array(chunk.request).cast(pa.string()), "")
            moment = pa.array(chunk.moment).cast(pa.timestamp("us")).cast(MOMENT)
            position = pa.array(rows.position, pa.int32())
            log = pa.table(
                {
                    "user_id": user,
                    "item_id": item,
                    "timestamp": moment,
                    "label": pa.array(rows.click, pa.int8()),
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
                    "knowable_probability": pa.array(knowable, pa.float64()),
                }
            )
            interactions.add(log)
            oracle.add(probabilities)
            shown += len(log)
            clicks += int(rows.click.sum())
    return {"impressions": shown, "clicks": clicks}


class _Rows:
    """A Parquet file that is written in large row groups from small tables."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= _GROUP_ROWS:
            self._write()

    def close(self) -> None:
        if self._waiting:
            self._write()
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting)
        self._waiting.clear()
        self._writer = self._writer or pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)


@dataclass(frozen=True)
class _Chunk:
    request: Ints
    user: Ints
    impressions: Impressions
    moment: Ints
    probability: Doubles
    converted: npt.NDArray[np.int8]


def _epochs(
    p: WorldParameters, items: Items, users: Users, knowledge: Knowledge, sizes: Sizes, rng: np.random.Generator
) -> Iterator[tuple[_Chunk, Doubles]]:
    """Yield the impressions of each epoch, with their knowable click probabilities."""
    epochs = p.days * p.epochs_per_day
    length = DAY_US // p.epochs_per_day
    cumulated = np.cumsum(users.activity, dtype=np.float64)
    requests = np.diff(np.linspace(0, sizes.impressions / p.slots, epochs + 1).round().astype(np.int64))
    first = 0
    for epoch in range(epochs):
        count = int(requests[epoch])
        begin = p.start_us + epoch * length
        on_show = np.flatnonzero((items.created_us <= begin) & (items.removed_us > begin + length))
        ramp = np.where(begin - items.created_us[on_show] < p.new_item_days * DAY_US, p.new_item_exposure, 1.0)
        weight = items.popularity[on_show].astype(np.float64) * ramp
        drawn = np.searchsorted(np.cumsum(weight), rng.random((count, p.candidates)) * weight.sum(), side="right")
        chosen = on_show[np.minimum(drawn, len(on_show) - 1)]
        user = np.searchsorted(cumulated, rng.random(count) * cumulated[-1], side="right")
        moment = np.sort(begin + (rng.random(count) * length).astype(np.int64))
        chunk = _page(p, items, users, chosen, np.minimum(user, len(cumulated) - 1), moment, first, rng)
        yield chunk, knowledge.observe(chunk.impressions, on_show, ramp)
        first += count


def _page(
    p: WorldParameters,
    items: Items,
    users: Users,
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
    elapsed = ((moment - p.start_us) / (p.days * DAY_US)).astype(np.float32)
    angle = (p.user_drift * elapsed)[:, None]
    taste = np.cos(angle) * users.start[user] + np.sin(angle) * users.turn[user]  # [requests, k]
    score = p.policy_quality * items.policy_quality[chosen] + rng.gumbel(size=chosen.shape)
    if p.policy_affinity:
        score += p.policy_affinity * _affinity(items, taste, chosen, elapsed)
    ranked = np.argsort(np.where(repeat, np.inf, -score), axis=1, kind="stable")[:, : p.slots]
    item = np.take_along_axis(chosen, ranked, axis=1)
    shown = ~np.take_along_axis(repeat, ranked, axis=1)

    affinity = _affinity(items, taste, item, elapsed)
    position = np.broadcast_to(np.arange(item.shape[1]), item.shape)
    quality = items.quality[item].astype(np.float64)
    logit = p.intercept + p.affinity_weight * affinity + p.quality_weight * quality + p.position_weight * position
    probability = 1 / (1 + np.exp(-logit))
    click = rng.random(item.shape) < probability
    buys = rng.random(item.shape) < 1 / (1 + np.exp(-(p.conversion_intercept + p.conversion_quality * quality)))
    page = np.broadcast_to(np.arange(len(user))[:, None], item.shape)[shown]
    return _Chunk(
        request=first_request + page,
        user=user[page],
        impressions=Impressions(
            item=item[shown],
            taste=taste[page],
            elapsed=elapsed[page],
            position=position[shown],
            click=click[shown].astype(np.int8),
        ),
        moment=moment[page],
        probability=probability[shown],
        converted=(click & buys)[shown].astype(np.int8),
    )


def _affinity(items: Items, taste: Floats, item: Ints, elapsed: Floats) -> Doubles:
    """Affinity of each request's user to its items, ``[requests, slots]``."""
    latent = items.mixture.points[item] + elapsed[:, None, None] * items.drift[item]  # [requests, slots, k]
    affinity: Doubles = np.einsum("rk,rsk->rs", taste, latent, dtype=np.float64)
    return affinity


def _write_content(folder: Path, p: WorldParameters, items: Items, seen: Doubles, rng: np.random.Generator) -> None:
    count = len(items.quality)
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


def _view(seen: Doubles, dim: int, noise: float, rng: np.random.Generator) -> Floats:
    projection = rng.standard_normal((seen.shape[1], dim)) / np.sqrt(dim)
    blur = noise * np.sqrt(seen.shape[1] / dim) * rng.standard_normal((len(seen), dim))
    shown: Floats = (seen @ projection + blur).astype(np.float32)
    return shown


def _vectors(matrix: Floats, missing: npt.NDArray[np.bool_]) -> pa.Array:
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.ravel()), mask=pa.array(missing))


class SyntheticDataset(GeneratedDataset):
    """The world that ``--data synthetic[:strong|weak|none|clustered]`` names; by default the strong one."""

    modalities = ("text", "image")
    conversions = True

    def write(self, folder: Path, impressions: int) -> int:
        """See :class:`GeneratedDataset`."""
        folder.rmdir()  # a world makes its folder itself, in one rename
        return int(write_world(folder, self.variant or "strong", Sizes(impressions))["impressions"])
