"""Served logs without a service: rows with features as of any time, written as a service writes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ranking.data.dataset import LabelledRows
from ranking.data.frame_builder import build_dataset
from ranking.monitoring.scores import RankerScores
from ranking.serving.served_log import LogHeader, log_folder, served_table, write_file
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import open_store


def own_copy(repo: Repo, path: Path) -> Repo:
    """A copy of a repo with its registry, and without a served log."""
    shutil.copytree(repo.path, path)
    shutil.rmtree(log_folder(Repo.open(path)), ignore_errors=True)
    return Repo.open(path)


def header_of(repo: Repo, features_until_us: int) -> LogHeader:
    """What the serving ranker's rows are logged with."""
    catalog = Catalog.open(repo)
    record = catalog.serving_ranker()
    codebook = catalog.codebook(record.codebook)
    ranker = RankerScores(repo, record.name).ranker
    config = ranker.config
    return LogHeader(
        record.name,
        record.content_hash,
        codebook.name,
        codebook.content_hash,
        record.service,
        features_until_us,
        ranker.smoothing_rate,
        config.history_length,
        config.vectors,
        config.schema,
        config.target,
    )


def log_rows(
    repo: Repo,
    rows: LabelledRows,
    *,
    until_us: int,
    read_at_us: int | None = None,
    requests: list[str] | None = None,
    scores: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None,
    changed: Callable[[pa.Table], pa.Table] = lambda table: table,
    name: str = "served-1",
) -> LogHeader:
    """Log rows, each as a request of its own, with the features that the tables had at ``read_at_us`` (default: at the rows'
    times), as a service that was materialized until ``until_us`` logs them.
    """
    header = header_of(repo, until_us)
    data = build_dataset(
        open_store(repo),
        header.service,
        Codebook.load(repo.codebooks / header.codebook),
        replace(rows, label=np.zeros(len(rows), np.int8)),
        rate=header.rate,
        history_length=header.history_length,
        schema=header.schema,
        vectors=header.vectors,
        read_at_us=read_at_us,
    )
    values = RankerScores(repo, header.ranker)(data) if scores is None else scores
    tables = [
        served_table(
            data.take(np.array([at])),
            values[at : at + 1],
            np.ones(1, dtype=np.bool_),
            True,
            requests[at] if requests else f"r{at}",
            int(rows.at_us[at]),
            1,
        )
        for at in range(len(rows))
    ]
    write_file(log_folder(repo) / f"{name}.parquet", header, [changed(pa.concat_tables(tables))])
    return header
