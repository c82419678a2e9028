"""Reference features: the values that serving could have read for a row, recomputed from the ingested log with plain SQL.

It uses no feature table, running sum or as-of join: each query is one scan of the log up to the time of the row. This is slow,
but independent of the code under audit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ranking.audit.attributes import AttributeReference
from ranking.audit.context import ContextReference
from ranking.audit.counts_by_code import CODE_FEATURES, CountsByCode
from ranking.audit.counts_by_value import CountsByValue
from ranking.audit.event_times import WINDOWS_US
from semantic_ids.codebook import Codebook
from semantic_ids.item_vectors import ItemVectors
from sidkit.core.arrays import Ints
from sidkit.core.engine import connection, literal, quoted
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, USER_ATTRIBUTES
from sidkit.core.repo import Repo
from sidkit.tables import read_build, read_log

Cells = dict[str, Any]
"""Feast's full feature name -> value, None if it is missing at serving time."""

_ROWS = 1_000
"""Rows of one query: its memory grows with the events of their users and items."""


@contextmanager
def log_reference(repo: Repo, codebook: Codebook) -> Iterator[LogReference]:
    """Open the reference of a repository; codes are computed by ``codebook`` from the content in the log."""
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        yield LogReference(repo, codebook, opened)


class LogReference:
    """Features of keys at given times, computed from the log alone; open it with :func:`log_reference`.

    Times after the last build of the tables are clipped to the as-of time of that build.
    """

    def __init__(self, repo: Repo, codebook: Codebook, opened: duckdb.DuckDBPyConnection) -> None:
        self._opened = opened
        self.codebook = codebook
        self.modalities = repo.settings.source.content_vectors
        self.delay_us = repo.settings.time.delay_us
        self.cadence_us = repo.settings.time.cadence_us
        self.history_length = repo.settings.time.history_length
        self.as_of_us: int = read_build(repo)["as_of_us"]
        self._unknown = {
            "exposures": repo.settings.source.feedback == "positives_only",
            "clicks": False,
            "conversions": not repo.settings.source.conversions,
        }
        log = read_log(repo)
        listed = ", ".join(literal(part) for part in log.parts)
        opened.execute(f"""
            CREATE TEMP VIEW events AS
            SELECT user_id, item_id, epoch_us(timestamp) AS ts_us, 1 AS exposures, label AS clicks,
                   coalesce(converted, 0) AS conversions
            FROM read_parquet([{listed}])
        """)
        self._items, self._vectors = (
            f"read_parquet({literal(path)}, file_row_number = true)" for path in (log.items, log.embeddings)
        )
        self._read_versions()
        self.attributes = AttributeReference(repo)
        self.by_value = CountsByValue(repo, opened, self.attributes)
        self.by_code = CountsByCode(repo, codebook.name, opened)
        self.context = ContextReference(repo, opened)
        self._contents: list[Cells] = [{}]
        self._number: dict[tuple[int, int], int] = {}

    def _read_versions(self) -> None:
        columns = {
            source: {row[0] for row in self._opened.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
            for source in (self._items, self._vectors)
        }
        since = "coalesce(updated_at, created_at)" if "updated_at" in columns[self._items] else "created_at"
        changed = "epoch_us(updated_at)" if "updated_at" in columns[self._vectors] else "NULL::BIGINT"
        self._attributes = ", ".join(
            f"items.{name}" if name in columns[self._items] else f"NULL AS {name}" for name in ("category", "price")
        )
        self._opened.execute(f"""
            CREATE TEMP TABLE item_versions AS
            SELECT item_id, epoch_us({since}) AS since_us, file_row_number AS place FROM {self._items};
            CREATE TEMP TABLE vector_versions AS
            SELECT item_id, greatest(coalesce({changed}, born_us), born_us) AS since_us,
                   coalesce({changed}, -9223372036854775807) AS changed_us, file_row_number AS place
            FROM {self._vectors}
            INNER JOIN (SELECT item_id, min(epoch_us(created_at)) AS born_us FROM {self._items} GROUP BY ALL)
                USING (item_id)
        """)

    def cells(
        self, user_ids: Sequence[str] | npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints
    ) -> list[Cells]:
        """Compute all features of rows, one mapping per row; all features of a view without a row are None."""
        cells: list[Cells] = []
        for start in range(0, len(at_us), _ROWS):
            rows = slice(start, start + _ROWS)
            cells += self._cells(user_ids[rows], item_ids[rows], at_us[rows])
        return cells

    def _cells(
        self, user_ids: Sequence[str] | npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints
    ) -> list[Cells]:
        count = len(at_us)
        at = np.minimum(at_us, self.as_of_us)
        end = (at - self.delay_us) // self.cadence_us * self.cadence_us
        queries = pa.table(
            {
                "place": np.arange(count),
                "user_id": pa.array(list(user_ids), pa.string()),
                "item_id": pa.array(list(item_ids), pa.string()),
                "until_us": at - self.delay_us,
                "end_us": end,
            }
        )
        cells: list[Cells] = [{} for _ in range(count)]
        self._opened.register("queries", queries)
        try:
            for side, kinds in (("item", ("exposures", "clicks", "conversions")), ("user", ("exposures", "clicks"))):
                self._add_counts(side, kinds, cells)
            self._add_histories(cells)
        finally:
            self._opened.unregister("queries")
        for row, us in zip(cells, at_us.tolist(), strict=True):
            newest_us = (row["user_history__timestamps_us"] or [None])[0]
            row["user_recency__hours_since_last_click"] = None if newest_us is None else (us - newest_us) / 3.6e9
        numbers, attributes = self.content_numbers(item_ids, at), self.attributes.cells(user_ids, item_ids, at)
        return [row | self.content(number) | own for row, number, own in zip(cells, numbers, attributes, strict=True)]

    def _add_counts(self, side: str, kinds: Sequence[str], cells: list[Cells]) -> None:
        names = [f"{kind}_{window}" for window in WINDOWS_US for kind in kinds]
        sums = ", ".join(
            f"sum({kind})" + (f" FILTER (ts_us > end_us - {length})" if length else "")
            for length in WINDOWS_US.values()
            for kind in kinds
        )
        for row in cells:
            row.update(dict.fromkeys((f"{side}_stats__{name}" for name in names), None))
        results = self._opened.execute(
            f"SELECT place, {sums} FROM queries INNER JOIN events USING ({side}_id) WHERE ts_us <= end_us GROUP BY place"
        ).fetchall()
        for place, *values in results:
            for name, value in zip(names, values, strict=True):
                unknown = self._unknown[name.split("_")[0]]
                cells[place][f"{side}_stats__{name}"] = None if unknown else int(value or 0)

    def _add_histories(self, cells: list[Cells]) -> None:
        for row in cells:
            row.update({"user_history__item_ids": None, "user_history__timestamps_us": None})
        results = self._opened.execute(f"""
            SELECT place, list(events.item_id ORDER BY ts_us DESC, events.item_id)[:{self.history_length}],
                   list(ts_us ORDER BY ts_us DESC, events.item_id)[:{self.history_length}]
            FROM queries INNER JOIN events USING (user_id) WHERE clicks = 1 AND ts_us <= until_us GROUP BY place
        """).fetchall()
        for place, ids, times_us in results:
            cells[place].update({"user_history__item_ids": ids, "user_history__timestamps_us": times_us})

    def had_before(
        self, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints
    ) -> list[bool]:
        """Whether the user of each row had an earlier positive with its item that serving could read."""
        flags: list[bool] = []
        for start in range(0, len(at_us), _ROWS):
            rows = slice(start, start + _ROWS)
            flags += self._had_before(user_ids[rows], item_ids[rows], at_us[rows])
        return flags

    def _had_before(
        self, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints
    ) -> list[bool]:
        keys = {"place": np.arange(len(at_us)), "user_id": user_ids, "item_id": item_ids}
        self._opened.register("query_pairs", pa.table({**keys, "until_us": at_us - self.delay_us}))
        try:
            places = self._opened.execute("""
                SELECT DISTINCT place FROM query_pairs INNER JOIN events USING (user_id, item_id)
                WHERE clicks = 1 AND ts_us <= until_us
            """).fetchnumpy()["place"]
        finally:
            self._opened.unregister("query_pairs")
        flags: list[bool] = np.isin(np.arange(len(at_us)), places).tolist()
        return flags

    def content_numbers(self, item_ids: Sequence[str] | npt.NDArray[np.object_], at_us: Ints) -> list[int]:
        """Return the content version of each item at a time, as a number for :meth:`content`; 0 if it had none."""
        queries = pa.table(
            {
                "place": np.arange(len(at_us)),
                "item_id": pa.array(list(item_ids), pa.string()),
                "until_us": np.minimum(at_us, self.as_of_us) - self.delay_us,
            }
        )
        self._opened.register("query_items", queries)
        try:
            results = self._opened.execute("""
                SELECT place, item_place, vector_place FROM (
                    SELECT query_items.place, max(struct_pack(a := since_us, b := versions.place)).b AS item_place
                    FROM query_items INNER JOIN item_versions AS versions USING (item_id)
                    WHERE since_us <= until_us GROUP BY ALL
                ) LEFT JOIN (
                    SELECT query_items.place,
                           max(struct_pack(a := since_us, c := changed_us, b := versions.place)).b AS vector_place
                    FROM query_items INNER JOIN vector_versions AS versions USING (item_id)
                    WHERE since_us <= until_us GROUP BY ALL
                ) USING (place)
            """).fetchall()
        finally:
            self._opened.unregister("query_items")
        fresh = {(item, -1 if vector is None else vector) for _, item, vector in results} - set(self._number)
        if fresh:
            self._read_contents(sorted(fresh))
        numbers = [0] * len(at_us)
        for place, item, vector in results:
            numbers[place] = self._number[item, -1 if vector is None else vector]
        return numbers

    def _read_contents(self, fresh: Sequence[tuple[int, int]]) -> None:
        """Read the attributes and vectors of content versions, and encode them with the codebook."""
        columns = ", ".join(f"vectors.{quoted(name)}" for name in self.modalities)
        places = np.array(fresh, dtype=np.int64)
        keyed = pa.table({"nth": np.arange(len(fresh)), "item_place": places[:, 0], "vector_place": places[:, 1]})
        self._opened.register("fresh", keyed)
        try:
            table = self._opened.execute(f"""
                SELECT epoch_us(items.created_at) AS created_at_us, {self._attributes}, {columns}
                FROM fresh
                INNER JOIN {self._items} AS items ON items.file_row_number = item_place
                LEFT JOIN {self._vectors} AS vectors ON vectors.file_row_number = vector_place
                ORDER BY nth
            """).to_arrow_table()
        finally:
            self._opened.unregister("fresh")
        items = ItemVectors.from_arrow(table, self.codebook.encoder.modalities_)
        assigned, encoded = self.codebook.assign(items), self.codebook.vectors(items)
        for at, row in enumerate(table.to_pylist()):
            coded = bool(assigned.encodable[at])
            self._number[fresh[at]] = len(self._contents)
            self._contents.append(
                {f"item_content__{name}": value for name, value in row.items()}
                | {
                    "item_sid__codes": assigned.codes[at].tolist() if coded else None,
                    "item_sid__residual_norm": float(assigned.residual_norm[at]) if coded else None,
                    "item_content": encoded[at],
                }
            )

    def content(self, number: int) -> Cells:
        """Return content and codes of a number from :meth:`content_numbers`; ``item_content`` is the encoder's vector."""
        if number:
            return self._contents[number]
        names = [*(f"item_content__{name}" for name in (*self.modalities, "category", "price", "created_at_us"))]
        return dict.fromkeys([*names, "item_sid__codes", "item_sid__residual_norm", "item_content"])

    def timeline(self, feature: str, user_id: str, item_id: str, at_us: int) -> list[tuple[int, Any]]:
        """Return pairs (first time served in microseconds UTC, value) of a feature of a key, oldest first.

        ``at_us`` is the time of the row, at which counts per value or code prefix take those of the item.
        """
        view, _, name = feature.partition("__")
        if view in self.by_value.views:
            return self.by_value.timeline(feature, user_id, item_id, at_us)
        if feature.startswith(CODE_FEATURES):
            return self.by_code.timeline(feature, user_id, item_id, at_us)
        if view.endswith("_stats"):
            return self._count_timeline(view, name, user_id if view.startswith("user") else item_id)
        if view in {ITEM_ATTRIBUTES, USER_ATTRIBUTES}:
            return self.attributes.timeline(view, name, user_id if view == USER_ATTRIBUTES else item_id)
        if view in {"user_history", "user_recency"}:
            times_us = self._query_times(
                "SELECT DISTINCT ts_us FROM events WHERE user_id = $key AND clicks = 1", user_id
            )
            at = np.array(times_us, dtype=np.int64) + self.delay_us
            rows = self.cells([user_id] * len(at), np.array([item_id] * len(at), dtype=object), at)
            return [(int(us), row[feature]) for us, row in zip(at, rows, strict=True)]
        times_us = self._query_times(
            "SELECT since_us FROM item_versions WHERE item_id = $key UNION "
            "SELECT since_us FROM vector_versions WHERE item_id = $key",
            item_id,
        )
        at = np.array(times_us, dtype=np.int64) + self.delay_us
        numbers = self.content_numbers([item_id] * len(at), at)
        return [(int(us), self.content(number).get(feature)) for us, number in zip(at, numbers, strict=True)]

    def _query_times(self, query: str, key: str) -> list[int]:
        return sorted(row[0] for row in self._opened.execute(query, {"key": key}).fetchall())

    def _count_timeline(self, view: str, name: str, key: str) -> list[tuple[int, Any]]:
        kind, _, window = name.partition("_")
        side, length = view.removesuffix("_stats"), WINDOWS_US[window]
        events = self._opened.execute(
            f"SELECT ts_us, {kind} FROM events WHERE {side}_id = $key ORDER BY ts_us", {"key": key}
        ).fetchnumpy()
        times_us, weights = events["ts_us"].astype(np.int64), events[kind].astype(np.int64)
        total = np.concatenate([[0], np.cumsum(weights)])
        expiry_us = [times_us + length] if length else []
        ends = np.unique(-(-np.concatenate([times_us, *expiry_us]) // self.cadence_us) * self.cadence_us)
        counts = total[np.searchsorted(times_us, ends, side="right")]
        if length:
            counts = counts - total[np.searchsorted(times_us, ends - length, side="right")]
        return list(zip((ends + self.delay_us).tolist(), counts.tolist(), strict=True))
