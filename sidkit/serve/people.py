"""What people see of users and items: known users, histories, titles and pictures."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sidkit.core.arrays import Ints
from sidkit.core.engine import connection, literal, quoted
from sidkit.core.errors import ConfigError
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.serve.page_bodies import DescribedItem, KnownUser
from sidkit.tables import read_log

if TYPE_CHECKING:
    import duckdb

    from sidkit.serve.model import ServingModel

NO_PICTURES = "off"
"""Value of ``--pictures`` for none."""
_PICTURE_COLUMNS = (
    "picture", "picture_url", "image", "image_url", "image_link", "img", "img_url", "photo", "photo_url", "thumbnail",
    "thumbnail_url", "poster", "poster_url", "cover", "cover_url",
)  # fmt: skip
_PICTURE = re.compile(r"https://[^\s\"'<>\\]+|data:image/(png|jpeg|gif|webp|avif|svg\+xml)[;,][^\s\"'<>\\]*")
_LONGEST_PICTURE = 100_000
_MATCHES = 200
"""Users that match a prefix, among which those with the most clicks come first."""


@dataclass(frozen=True)
class Users:
    """The users of the log.

    Attributes
    ----------
    ids : pyarrow.Array
        User ids, sorted by code points.
    clicks : int64 [users]
        Number of positives.
    """

    ids: pa.Array
    clicks: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def starting_with(self, prefix: str, most: int) -> list[KnownUser]:
        """Users whose ids start with a prefix: of the first matches by id, those with the most clicks."""
        if not prefix:
            places = np.argsort(-self.clicks, kind="stable")[:most].tolist()
        else:
            start = bisect_left(range(len(self.ids)), prefix, key=self._id)
            end = start
            while end < min(len(self.ids), start + _MATCHES) and self._id(end).startswith(prefix):
                end += 1
            # An id that equals the prefix is the one that was typed.
            exact = start < end and self._id(start) == prefix
            rest = np.arange(start + exact, end)
            ranked = rest[np.argsort(-self.clicks[rest], kind="stable")].tolist()
            places = [*([start] if exact else []), *ranked][:most]
        return [KnownUser(self._id(place), int(self.clicks[place])) for place in places]

    def _id(self, place: int) -> str:
        found: str = self.ids[place].as_py()
        return found


def users_path(repo: Repo) -> Path:
    """The feature table that lists the users."""
    return repo.tables / "user_stats.parquet"


def load_users(repo: Repo, until_us: int) -> Users:
    """Read the users with features up to a time, microseconds UTC, from the feature tables.

    Raises
    ------
    ArtifactError
        When the table is missing or damaged.
    """
    path = literal(checked(users_path(repo)))
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        table = opened.execute(
            "SELECT user_id, coalesce(max(clicks_all), 0)::BIGINT AS clicks "
            f"FROM read_parquet({path}) WHERE epoch_us(event_timestamp) <= $until GROUP BY user_id ORDER BY user_id",
            {"until": until_us},
        ).to_arrow_table()
    ids = table.column("user_id").cast(pa.large_string()).combine_chunks()
    return Users(ids, table.column("clicks").to_numpy().astype(np.int64))


def picture_column(repo: Repo, wanted: str | None) -> str | None:
    """The column of the items with addresses of pictures: the wanted one, or one with a usual name; None if there is none.

    Raises
    ------
    ConfigError
        When the wanted column does not exist or holds no text.
    """
    if wanted == NO_PICTURES:
        return None
    path = literal(read_log(repo).items)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        kinds = {row[0]: row[1] for row in opened.execute(f"DESCRIBE SELECT * FROM read_parquet({path})").fetchall()}
    texts = {name for name, kind in kinds.items() if kind == "VARCHAR" and name != "item_id"}
    if wanted is None:
        return next((name for name in _PICTURE_COLUMNS if name in texts), None)
    if wanted not in texts:
        raise ConfigError(
            f"--pictures: expected a text column of the items ({', '.join(sorted(texts)) or 'there is none'}), or "
            f"{NO_PICTURES!r}, got {wanted!r}; name one of them"
        )
    return wanted


def is_picture(address: str) -> bool:
    """Whether the page may show what lies at an address: https, or an embedded image."""
    return len(address) <= _LONGEST_PICTURE and _PICTURE.fullmatch(address) is not None


class People:
    """Describes users and items of one loaded model; everything is read at first use.

    Parameters
    ----------
    repo : Repo
        The repository.
    model : ServingModel
        The model.
    pictures : str, optional
        Column with the addresses of pictures; default: one with a usual name, if there is one.
    """

    def __init__(self, repo: Repo, model: ServingModel, pictures: str | None = None) -> None:
        self._repo = repo
        self._model = model
        self._wanted = pictures

    @cached_property
    def users(self) -> Users:
        """The users known to the materialized features."""
        return load_users(self._repo, self._model.key.until_us)

    @cached_property
    def pictures(self) -> str | None:
        """The column of the items with the addresses of pictures."""
        return picture_column(self._repo, self._wanted)

    @cached_property
    def _addresses(self) -> dict[str, str]:
        if self.pictures is None:
            return {}
        path = literal(read_log(self._repo).items)
        with connection(self._repo.settings.engine, self._repo.data / "tmp" / "duckdb") as opened:
            rows = _newest_pictures(opened, path, self.pictures)
        return {item: address for item, address in rows if is_picture(address)}

    @cached_property
    def _history(self) -> Any:
        from ranking.serving.service_reader import ServiceReader
        from sidkit.stores.feast_repo import feature_service

        scorer = self._model.scorer
        return ServiceReader(scorer.store, feature_service(scorer.store, f"{scorer.record.service}_user"))

    def described(self, item_ids: Sequence[str]) -> list[DescribedItem]:
        """Descriptions of items, in their order."""
        index = self._model.index
        categories = index.attributes.get("category")
        found = []
        for item, place in zip(item_ids, index.places(item_ids).tolist(), strict=True):
            if place < 0:
                found.append(DescribedItem(item, unknown=True))
                continue
            codes = index.codes[place].tolist()
            category = None if categories is None else categories[place].as_py()
            found.append(
                DescribedItem(
                    item,
                    title=index.titles[place] if index.titles else None,
                    picture=self._addresses.get(item),
                    category=None if category is None else str(category),
                    codes=codes if codes[0] >= 0 else None,
                    stale=bool(index.stale[place]),
                )
            )
        return found

    def history(self, user_id: str) -> tuple[bool, list[str], list[int]]:
        """Whether the online store has a row for a user, and the items and times (microseconds UTC) of the history, newest
        first.
        """
        views = self._history.read({"user_id": [user_id]})
        known = any(bool(np.any(np.asarray(view.index) >= 0)) for view in self._history.stored(views))
        view = views["user_history"]
        [row] = np.asarray(view.index).tolist()
        if row < 0:
            return known, [], []
        items = view.table.column("user_history__item_ids")[row].as_py() or []
        times = view.table.column("user_history__timestamps_us")[row].as_py() or []
        return known, items, times


def _newest_pictures(opened: duckdb.DuckDBPyConnection, path: str, column: str) -> list[tuple[str, str]]:
    present = {row[0] for row in opened.execute(f"DESCRIBE SELECT * FROM read_parquet({path})").fetchall()}
    moment = "coalesce(updated_at, created_at)" if "updated_at" in present else "created_at"
    rows: list[tuple[str, str]] = opened.execute(
        f"SELECT item_id, arg_max({quoted(column)}, {moment}) AS picture FROM read_parquet({path}) "
        "GROUP BY item_id HAVING picture IS NOT NULL"
    ).fetchall()
    return rows
