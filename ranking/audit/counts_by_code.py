"""Reference of code statistics: trailing counts and rates per code prefix, and affinities to it; plain Python over the log.

An event counts for the prefixes of the codes that serving could read at its time: those of the row of the table of codes with
the newest event timestamp at or before it. The table of codes is an input here; its codes are compared elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.audit.event_times import NO_EVENTS, EventTimes, smoothed, window_end
from semantic_ids.catalog import table_path
from sidkit.core.arrays import Ints
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import DAY_US, MICROS
from sidkit.core.code_stats import CODE_WINDOWS, USER_CODE_WINDOWS, code_stats_alias, user_code_stats_alias
from sidkit.core.repo import Repo
from sidkit.tables import read_build

CODE_FEATURES = ("code_stats_", "user_code_stats_", "code_affinity_")
"""Beginnings of the names of all features that this module recomputes."""
_CHUNK = 100_000

Prefix = tuple[int, ...]


class CountsByCode:
    """Code statistics of rows under one codebook, from the log and the table of codes.

    Parameters
    ----------
    repo : Repo
        Repository of the log and of the codebook.
    codebook : str
        Name of the codebook.
    opened : duckdb.DuckDBPyConnection
        Connection with the view ``events(user_id, item_id, ts_us, clicks, conversions)``.

    Attributes
    ----------
    depths : tuple of int
        Lengths of the prefixes, ascending; empty for a codebook without code statistics.
    """

    def __init__(self, repo: Repo, codebook: str, opened: duckdb.DuckDBPyConnection) -> None:
        folder = repo.codebooks / codebook
        stats = read_manifest(folder).get("stats", {}) if folder.is_dir() else {}
        self.depths: tuple[int, ...] = tuple(sorted(stats.get("depths", ())))
        finest_us = repo.settings.time.cadence_us
        self._cadence_us = max(int(stats.get("cadence_seconds", 0)) * MICROS, finest_us)
        self._user_cadence_us = max(int(stats.get("user_cadence_seconds", 0)) * MICROS, finest_us)
        self._delay_us, self._as_of_us = repo.settings.time.delay_us, int(read_build(repo)["as_of_us"])
        self._without_exposures = repo.settings.source.feedback == "positives_only"
        self._conversions = repo.settings.source.conversions
        self._path, self._opened = table_path(repo, codebook), opened
        self._versions: dict[str, tuple[list[int], list[Prefix | None]]] | None = None

    def codes(self, item_id: str, at_us: int) -> Prefix | None:
        """Codes of an item that serving could read at a time; None without."""
        if self._versions is None:
            self._versions = self._read_versions()
        times_us, codes = self._versions.get(item_id, ((), ()))
        place = bisect_right(times_us, at_us)
        return codes[place - 1] if place else None

    def saved_cells(
        self,
        user_ids: npt.NDArray[np.object_],
        item_ids: npt.NDArray[np.object_],
        at_us: Ints,
        plain: Sequence[Mapping[str, Any]],
        user_rates: Sequence[Mapping[str, Any]],
        rate: float,
    ) -> list[dict[str, float]]:
        """Cells of a saved frame.

        Parameters
        ----------
        user_ids, item_ids : object [rows]
            Users and candidates.
        at_us : int64 [rows]
            Times of the rows, microseconds UTC.
        plain : sequence of mappings
            Per row, the counts of the item and the history by Feast's full names.
        user_rates : sequence of mappings
            Per row, the cells ``user_rate_<window>``.
        rate : float
            Positive rate of the training rows.
        """
        cells: list[dict[str, float]] = [{} for _ in at_us]
        if not self.depths:
            return cells
        of_prefix, of_user = self._events(user_ids, item_ids, at_us)
        for row, (user, item, at) in enumerate(zip(user_ids, item_ids, at_us.tolist(), strict=True)):
            codes = self.codes(item, at)
            cells[row] |= self._rates(codes, at, of_prefix, plain[row], rate)
            cells[row] |= self._user_rates(user, codes, at, of_user, user_rates[row])
            cells[row] |= self._affinities(codes, at, plain[row])
        return cells

    def plain_cells(
        self, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints
    ) -> list[dict[str, int | None]]:
        """Counts of rows by Feast's full names; None where unknown, and where serving had no row of the prefix."""
        cells: list[dict[str, int | None]] = [{} for _ in at_us]
        if not self.depths:
            return cells
        of_prefix, of_user = self._events(user_ids, item_ids, at_us)
        for row, (user, item, at) in enumerate(zip(user_ids, item_ids, at_us.tolist(), strict=True)):
            codes = self.codes(item, at)
            for depth in self.depths:
                prefix = codes[:depth] if codes else ()
                for alias, events, cadence_us, windows, kinds in (
                    (code_stats_alias(depth), of_prefix.get(prefix), self._cadence_us, CODE_WINDOWS, _KINDS),
                    (
                        user_code_stats_alias(depth), of_user.get((user, prefix)), self._user_cadence_us,
                        USER_CODE_WINDOWS, _KINDS[:2],
                    ),
                ):  # fmt: skip
                    end_us = self._end(at, cadence_us)
                    known = events if events is not None and events.began(end_us) else None
                    cells[row] |= {
                        f"{alias}__{kind}_{window}": None if known is None else self._known(known, kind, window, end_us)
                        for kind in kinds
                        for window in windows
                    }
        return cells

    def timeline(self, feature: str, user_id: str, item_id: str, at_us: int) -> list[tuple[int, float]]:
        """Pairs (first time served in microseconds UTC, count) for the prefix that an item has at a time, oldest first.

        Empty for other features than counts.
        """
        view, _, name = feature.partition("__")
        kind, _, window = name.partition("_")
        codes = self.codes(item_id, at_us)
        if kind not in _KINDS or codes is None:
            return []
        prefix = codes[: int(view.rpartition("_d")[2])]
        of_prefix, of_user = self._events(
            np.array([user_id], dtype=object), np.array([item_id], dtype=object), np.array([at_us], dtype=np.int64)
        )
        of_both = view.startswith("user_")
        events = of_user.get((user_id, prefix)) if of_both else of_prefix.get(prefix)
        cadence_us = self._user_cadence_us if of_both else self._cadence_us
        if events is None:
            return []
        ends = events.window_ends(window, cadence_us)
        return [(end_us + self._delay_us, float(events.count(kind, window, end_us))) for end_us in ends]

    def _rates(
        self,
        codes: Prefix | None,
        at_us: int,
        of_prefix: Mapping[Prefix, EventTimes],
        plain: Mapping[str, Any],
        rate: float,
    ) -> dict[str, float]:
        end_us = self._end(at_us, self._cadence_us)
        cells: dict[str, float] = {}
        rates = dict.fromkeys(CODE_WINDOWS, rate)
        for depth in self.depths:
            events = of_prefix.get(codes[:depth], NO_EVENTS) if codes else NO_EVENTS
            for window in CODE_WINDOWS:
                stem = code_stats_alias(depth)
                rates[window] = self._add(cells, stem, window, events, end_us, rates[window])
                if self._conversions:
                    cells[f"{stem}__conversions_{window}"] = float(events.count("conversions", window, end_us))
        for window in CODE_WINDOWS:
            clicks, exposures = (plain[f"item_stats__{kind}_{window}"] for kind in ("clicks", "exposures"))
            cells[f"code_stats__item_rate_{window}"] = smoothed(clicks or 0, exposures, rates[window])
        return cells

    def _add(
        self, cells: dict[str, float], stem: str, window: str, events: EventTimes, end_us: int, prior: float
    ) -> float:
        """Add the counts and the rate of a window that ends at a time; returns the rate."""
        clicks, exposures = (self._known(events, kind, window, end_us) for kind in ("clicks", "exposures"))
        rate = smoothed(clicks or 0, exposures, prior)
        cells[f"{stem}__clicks_{window}"] = float(clicks or 0)
        cells[f"{stem}__exposures_{window}"] = float(exposures or 0)
        cells[f"{stem}__rate_{window}"] = rate
        return rate

    def _user_rates(
        self,
        user_id: str,
        codes: Prefix | None,
        at_us: int,
        of_user: Mapping[tuple[str, Prefix], EventTimes],
        user_rates: Mapping[str, Any],
    ) -> dict[str, float]:
        end_us = self._end(at_us, self._user_cadence_us)
        cells: dict[str, float] = {}
        rates = {window: float(user_rates[f"user_rate_{window}"]) for window in USER_CODE_WINDOWS}
        for depth in self.depths:
            events = of_user.get((user_id, codes[:depth]), NO_EVENTS) if codes else NO_EVENTS
            for window in USER_CODE_WINDOWS:
                stem = user_code_stats_alias(depth)
                rates[window] = self._add(cells, stem, window, events, end_us, rates[window])
        return cells

    def _affinities(self, codes: Prefix | None, at_us: int, plain: Mapping[str, Any]) -> dict[str, float]:
        past = [
            (self.codes(item, at_us), us)
            for item, us in zip(
                plain["user_history__item_ids"] or (), plain["user_history__timestamps_us"] or (), strict=True
            )
        ]
        cells = {}
        for depth in self.depths:
            same_us = [us for theirs, us in past if codes and theirs and theirs[:depth] == codes[:depth]]
            stem = f"code_affinity_d{depth}"
            cells[f"{stem}__count"] = float(len(same_us))
            cells[f"{stem}__share"] = len(same_us) / max(len(past), 1)
            cells[f"{stem}__gap_days"] = max(at_us - same_us[0], 0) / DAY_US if same_us else float("nan")
        return cells

    def _known(self, events: EventTimes, kind: str, window: str, end_us: int) -> int | None:
        unknown = {"exposures": self._without_exposures, "conversions": not self._conversions}
        return None if unknown.get(kind, False) else events.count(kind, window, end_us)

    def _end(self, at_us: int, cadence_us: int) -> int:
        return window_end(min(at_us, self._as_of_us), self._delay_us, cadence_us)

    def _events(
        self, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints
    ) -> tuple[dict[Prefix, EventTimes], dict[tuple[str, Prefix], EventTimes]]:
        """The events of the prefixes of rows, and those of their users."""
        of_prefix: dict[Prefix, EventTimes] = {}
        of_user: dict[tuple[str, Prefix], EventTimes] = {}
        for user, item, at in zip(user_ids, item_ids, at_us.tolist(), strict=True):
            codes = self.codes(item, at)
            for depth in self.depths if codes else ():
                prefix = codes[:depth] if codes else ()
                of_prefix.setdefault(prefix, EventTimes())
                of_user.setdefault((user, prefix), EventTimes())
        for user, item, us, clicked, converted in self._log():
            codes = self.codes(item, us)
            if codes is None:
                continue
            for depth in self.depths:
                for events in (of_prefix.get(codes[:depth]), of_user.get((user, codes[:depth]))):
                    if events is not None:
                        events.add(us, clicked, converted)
        return of_prefix, of_user

    def _log(self) -> Iterator[tuple[str, str, int, int, int]]:
        """User, item, time, label and conversion of all events, oldest first."""
        found = self._opened.execute("SELECT user_id, item_id, ts_us, clicks, conversions FROM events ORDER BY ts_us")
        while rows := found.fetchmany(_CHUNK):
            yield from rows

    def _read_versions(self) -> dict[str, tuple[list[int], list[Prefix | None]]]:
        """Item -> times from which serving could read its codes, ascending, and the codes."""
        table = pq.read_table(self._path, columns=["item_id", "event_timestamp", "codes"])
        times_us = table["event_timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
        versions: dict[str, tuple[list[int], list[Prefix | None]]] = {}
        known = zip(table["item_id"].to_pylist(), times_us, table["codes"].to_pylist(), strict=True)
        for item, us, codes in sorted(known, key=lambda version: version[1]):
            since_us, each = versions.setdefault(item, ([], []))
            since_us.append(us)
            each.append(tuple(codes) if codes else None)
        return versions


_KINDS = ("exposures", "clicks", "conversions")
