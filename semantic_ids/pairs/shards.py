"""Pairs mined in shards of users: each worker counts what its users add, and a fit puts the counts together.

Counts of triggers, scores of Swing (integers) and clicks are sums over users, so that the pairs are those of one process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semantic_ids.pairs.backtest import Mine, cut_before_newest
from semantic_ids.pairs.known_items import KnownItems
from semantic_ids.pairs.mining import (
    EVALUATION_PAIRS,
    ItemPairs,
    PairSpec,
    in_id_order,
    pairs_of,
    prepare,
    unit_vectors,
)
from semantic_ids.pairs.sources import SCORES, clicks_of, fill_scores, shares, top_scores, trigger_counts
from sidkit.core.arrays import Floats, Ints
from sidkit.core.engine import connection, into, literal, working_on
from sidkit.core.repo import Repo
from sidkit.core.shards import Shard, ShardedWork, Shards, check_shards
from sidkit.tables import read_log

Window = tuple[PairSpec, int, int | None]
"""Spec, end and start of one mining, microseconds UTC; see :func:`semantic_ids.pairs.mining.mine_pairs`."""
TRIGGERS, SWING, CLICKS = "triggers.parquet", "scores.parquet", "clicks.parquet"


@dataclass(frozen=True)
class PairShards:
    """The mining of a fit's pairs, in shards.

    Parameters
    ----------
    repo : Repo
        With a validated log.
    known : KnownItems
        The items to mine pairs for.
    vectors : float32 [items, dim]
        For finding the most similar item of a history.
    end_us : int
        The cut-off, microseconds UTC.
    spec : PairSpec
        Sources and caps.
    name : str
        The codebook to be fitted.
    command : sequence of str
        Arguments of ``sidkit`` that mine a shard, but ``--shard K/N``.
    """

    repo: Repo
    known: KnownItems
    vectors: Floats
    end_us: int
    spec: PairSpec
    name: str
    command: Sequence[str]

    def shards(self, of: int) -> Shards:
        """The shards of the present log and items."""
        check_shards(of)
        inputs = {
            "log": read_log(self.repo).mark,
            "items": hashlib.sha256("\0".join(map(str, self.known.ids)).encode()).hexdigest(),
            "vectors": hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes()).hexdigest(),
            "pairs": self.spec.model_dump(mode="json"),
            "cut-off": self.end_us,
            "delay": self.repo.settings.time.delay_us,
        }
        return Shards(self.repo.data / "tmp" / "shards" / f"pairs-{self.name}", of, inputs, self.command)

    def windows(self) -> dict[str, Window]:
        """The minings of a fit by name: all clicks, and the two halves of the backtest split, if the spec sets one."""
        windows: dict[str, Window] = {"all": (self.spec, self.end_us, None)}
        if not self.spec.rehearsal:
            return windows
        settings = self.repo.settings
        cut_us = cut_before_newest(
            read_log(self.repo).parts, self.spec.rehearsal, self.end_us,
            delay_us=settings.time.delay_us, engine=settings.engine, spill=self.repo.data / "tmp" / "duckdb",
        )  # fmt: skip
        if cut_us < self.end_us:
            windows["earlier"] = (self.spec, cut_us, None)
            windows["later"] = (EVALUATION_PAIRS, self.end_us, cut_us)
        return windows

    def make(self, shard: Shard) -> bool:
        """Mine the pairs of a shard's users; returns whether it was not finished before. The lock is not needed."""
        windows = self.windows()

        def write(folder: Path) -> None:
            for name, window in windows.items():
                self._count(window, shard, folder, name)

        return self.shards(shard.of).make(shard.number, write)

    def miner(self, work: ShardedWork) -> Mine:
        """A function that gives the pairs of a window from finished shards.

        Raises
        ------
        ArtifactMissingError, ProcessesError, ArtifactCorruptError
            When a shard is missing, was made from other inputs, or is damaged, or its worker failed.
        """
        folders = work.folders(self.shards(work.shards))
        names = {window[1:]: name for name, window in self.windows().items()}

        def mine(spec: PairSpec, end_us: int, start_us: int | None) -> ItemPairs:
            return self._joined(folders, names[end_us, start_us], spec, end_us)

        return mine

    def _count(self, window: Window, shard: Shard, folder: Path, name: str) -> None:
        spec, end_us, start_us = window
        settings = self.repo.settings
        ids, order = in_id_order(list(self.known.ids))
        unit = unit_vectors(self.vectors, len(ids))[order]
        with connection(settings.engine, self.repo.data / "tmp" / "duckdb") as opened:
            log = read_log(self.repo).parts
            prepare(opened, log, ids, end_us, start_us, settings.time.delay_us, spec, shard)
            _write(folder / f"{name}-{CLICKS}", {"clicks": clicks_of(opened, len(ids))})
            if "user_to_item" in spec.sources:
                keys, counts = trigger_counts(opened, unit, spec.history_length)
                _write(folder / f"{name}-{TRIGGERS}", {"key": keys, "count": counts})
            opened.execute("DROP TABLE clicks")
            if "swing" in spec.sources:
                fill_scores(opened)
                with working_on("mining pairs of items"):
                    opened.execute(
                        "COPY (SELECT first_item, second_item, CAST(sum(score) AS BIGINT) AS score FROM scores GROUP BY ALL) "
                        f"{into(folder / f'{name}-{SWING}')}"
                    )

    def _joined(self, folders: Sequence[Path], name: str, spec: PairSpec, end_us: int) -> ItemPairs:
        _, order = in_id_order(list(self.known.ids))
        items = len(order)
        clicks = np.zeros(items, dtype=np.int64)
        for folder in folders:
            clicks += _read(folder / f"{name}-{CLICKS}")["clicks"]
        mined = []
        if "user_to_item" in spec.sources:
            parts = [_read(folder / f"{name}-{TRIGGERS}") for folder in folders]
            keys, place = np.unique(np.concatenate([part["key"] for part in parts]), return_inverse=True)
            counts = np.zeros(len(keys), dtype=np.int64)
            np.add.at(counts, place, np.concatenate([part["count"] for part in parts]))
            mined.append((keys, shares(keys // items, counts)))
        if "swing" in spec.sources:
            files = ", ".join(literal(folder / f"{name}-{SWING}") for folder in folders)
            with connection(self.repo.settings.engine, self.repo.data / "tmp" / "duckdb") as opened:
                opened.execute(f"CREATE TEMP TABLE {SCORES}")
                opened.execute(f"INSERT INTO scores SELECT * FROM read_parquet([{files}])")
                mined.append(top_scores(opened, items, spec.swing_top))
        return pairs_of(mined, order, clicks, spec, end_us)


def _write(path: Path, columns: Mapping[str, Ints]) -> None:
    pq.write_table(pa.table(dict(columns)), path, compression="zstd")


def _read(path: Path) -> dict[str, Any]:
    table = pq.read_table(path)
    return {name: table.column(name).to_numpy() for name in table.column_names}
