"""Counts and rates of the prefixes of a candidate's codes: of all users, and of the row's user.

They are the second read of a row: their keys are the prefixes of the candidate's codes as of the row's time. A rate is
smoothed towards that of the next shallower prefix, the rate of the shallowest towards the training rate, or, of a user,
towards the user's own rate. The item's rate smoothed towards that of its deepest prefix is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.code_schema import ITEM_RATE, affinity_depths, codebook_of, stats_depths
from ranking.data.feature_views import ITEM_STATS, USER_STATS, Reader, numbers
from ranking.data.numeric_features import smoothed_rate, trailing_rate
from ranking.data.schema import FeatureSchema
from sidkit.core.arrays import Doubles, Ints
from sidkit.core.code_stats import (
    CODE_WINDOWS,
    USER_CODE_WINDOWS,
    code_stats_alias,
    codes_service,
    prefix_column,
    prefix_keys,
    user_code_stats_alias,
)
from sidkit.stores.offline.plan import ViewRows

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class CodeReader:
    """Reads the counts per prefix of a codebook.

    Attributes
    ----------
    codebook : str
        The codebook of the prefixes.
    depths : tuple of int
        Depths with counts, ascending.
    read : callable
        Reads the views of the service of counts by ``user_id`` and a prefix per depth.
    """

    codebook: str
    depths: tuple[int, ...]
    read: Reader


def has_code_counts(store: FeatureStore, service_name: str, *, allow_cache: bool = False) -> bool:
    """Whether there are counts per prefix for a rankers' service: not for codebooks of earlier releases, or without codes."""
    wanted = codes_service(codebook_of(service_name))
    services = store.registry.list_feature_services(store.project, allow_cache=allow_cache)
    return any(service.name == wanted for service in services)


def code_reader(store: FeatureStore, service_name: str, reader_of: Callable[[FeatureService], Reader]) -> CodeReader:
    """The reader of the counts per prefix that belong to a feature service ``ctr_<codebook>``.

    Parameters
    ----------
    store : FeatureStore
        The repo's store.
    service_name : str
        The rankers' service.
    reader_of : callable
        Makes the reader of a service.

    Raises
    ------
    UnknownVersionError
        When the registry has no service of these counts.
    """
    from sidkit.stores.feast_repo import feature_service

    codebook = codebook_of(service_name)
    service = feature_service(store, codes_service(codebook))
    names = [projection.name_to_use() for projection in service.feature_view_projections]
    return CodeReader(codebook, stats_depths(names), reader_of(service))


def prefix_numbers(schema: FeatureSchema, codes: Codes) -> dict[str, Ints]:
    """A number per item version, the same for items that share a prefix, 0 without codes; of the depths of affinities.

    Parameters
    ----------
    schema : FeatureSchema
        Its affinities to prefixes name the depths.
    codes : int32 [items, levels]
        Codes of the item versions; -1 in an item without.

    Returns
    -------
    dict
        Column of the prefix -> ``int64 [items]``.
    """
    return {prefix_column(depth): _group(codes, depth) for depth in affinity_depths(schema)}


def _group(codes: Codes, depth: int) -> Ints:
    group = np.zeros(len(codes), dtype=np.int64)
    for level in range(depth):
        group = group * (int(codes[:, level].max(initial=0)) + 1) + codes[:, level]
    return np.where((codes[:, :depth] < 0).any(axis=1), 0, group + 1)


def code_counts(
    reader: CodeReader,
    codes: Codes,
    views: Mapping[str, ViewRows],
    user_ids: npt.NDArray[np.object_],
    at_us: Ints,
    rate: float,
) -> dict[str, Doubles]:
    """The counts and rates of rows per depth and window, ``float64 [rows]`` each; counts are 0 where nothing was counted.

    Parameters
    ----------
    reader : CodeReader
        Reads the counts.
    codes : int32 [rows, levels]
        The codes of the candidates as of the row's time; -1 in a candidate without.
    views : mapping
        The rows' other views, ``item_stats`` and ``user_stats`` among them.
    user_ids : object [rows]
        The users.
    at_us : int64 [rows]
        The rows' times, microseconds UTC.
    rate : float
        The share of positives among the training rows.
    """
    read = _Read.of(reader, codes, user_ids, at_us)
    columns: dict[str, Doubles] = {}
    parents: dict[str, Doubles] = {window: np.full(len(at_us), rate) for window in CODE_WINDOWS}
    for depth in reader.depths:
        view = code_stats_alias(depth)
        parents = _add(columns, read, view, parents)
        for window in CODE_WINDOWS:
            columns[f"{view}__conversions_{window}"] = np.nan_to_num(read.column(view, f"conversions_{window}"))
    for window, parent in parents.items():
        columns[f"{ITEM_RATE}_{window}"] = trailing_rate(views[ITEM_STATS], window, parent)
    parents = {window: trailing_rate(views[USER_STATS], window, rate) for window in USER_CODE_WINDOWS}
    for depth in reader.depths:
        parents = _add(columns, read, user_code_stats_alias(depth), parents)
    return columns


def _add(columns: dict[str, Doubles], read: _Read, view: str, parents: Mapping[str, Doubles]) -> dict[str, Doubles]:
    """Add the counts and rates of one depth; also its rates per window, the parents of the next depth."""
    rates = {}
    for window, parent in parents.items():
        exposures, clicks = (read.column(view, f"{event}_{window}") for event in ("exposures", "clicks"))
        rates[window] = smoothed_rate(exposures, clicks, parent)
        columns[f"{view}__exposures_{window}"] = np.nan_to_num(exposures)
        columns[f"{view}__clicks_{window}"] = np.nan_to_num(clicks)
        columns[f"{view}__rate_{window}"] = rates[window]
    return rates


@dataclass(frozen=True)
class _Read:
    """The views of distinct keys; ``row`` and ``place`` ``int64 [rows with codes]`` are rows and their places in the views."""

    views: Mapping[str, ViewRows]
    rows: int
    row: Ints
    place: Ints

    @classmethod
    def of(cls, reader: CodeReader, codes: Codes, user_ids: npt.NDArray[np.object_], at_us: Ints) -> _Read:
        """Read each user, deepest prefix and time once; candidates without codes have no keys."""
        row = np.flatnonzero((codes >= 0).all(axis=1))
        user, users = pd.factorize(user_ids[row])
        moment, moments = pd.factorize(at_us[row])
        deepest = codes[row, : max(reader.depths)]
        prefix, places, of_row = np.unique(_group(deepest, deepest.shape[1]), return_index=True, return_inverse=True)
        shape = (max(len(users), 1), max(len(prefix), 1), max(len(moments), 1))
        place, distinct = pd.factorize(np.ravel_multi_index((user, of_row.ravel(), moment), shape))
        of_user, of_prefix, of_moment = np.unravel_index(distinct, shape)
        keys = {"user_id": users[of_user]}
        for depth in reader.depths:
            keys[prefix_column(depth)] = prefix_keys(reader.codebook, deepest[places], depth)[of_prefix]
        return cls(reader.read(keys, moments[of_moment]) if len(row) else {}, len(codes), row, place)

    def column(self, view: str, name: str) -> Doubles:
        """A column of all rows, ``float64 [rows]``; NaN where unknown."""
        column = np.full(self.rows, np.nan)
        if len(self.row):
            column[self.row] = numbers(self.views[view], name)[self.place]
        return column
