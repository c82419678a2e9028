"""Costs of the commands of a codebook, of its tables and of its shards, on a repository of invented items."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from attribute_costs import write_source
from codebook_learning import CLUSTERS
from processes import peak_mb

from sidkit.core.engine import GROUP_ROWS

TRIGGERS = 2000
ADDING = "refresh, 1,000 new items"
COMMANDS = (
    "tables", "fit", "assign", "publish", "refresh, nothing new", "report", "health", "similar", "export", "suffixes",
    "hit rate of vectors", "hit rate of codes", ADDING,
)  # fmt: skip


def new_repo(folder: Path, items: int, width: int) -> None:
    """Write a source of invented items, and create a repository of it."""
    from sidkit.datasets.data_repo import create_repo

    shutil.rmtree(folder, ignore_errors=True)
    write_source(folder / "source", items, items, False, width)
    create_repo(folder / "repo", str(folder / "source"))


def write_content(repo: Path, dim: int, more: int = 0) -> None:
    """Put vectors of another width into the table of content, or add items to it, and seal it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sidkit.core.integrity import hashes_of, read_sealed, write_sealed

    tables = repo / "data" / "tables"
    path, beside = tables / "item_content.parquet", tables / "item_content.new"
    rng = np.random.default_rng(more)
    centres = 2 * np.random.default_rng(0).normal(size=(CLUSTERS, dim)).astype(np.float32)

    def with_vectors(part: pa.Table) -> pa.Table:
        rows = rng.standard_normal((len(part), dim), dtype=np.float32) + centres[rng.integers(CLUSTERS, size=len(part))]
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), dim).cast(part.schema.field("text").type)
        return part.set_column(part.schema.get_field_index("text"), part.schema.field("text"), lists)

    with pq.ParquetFile(path) as file, pq.ParquetWriter(beside, file.schema_arrow, compression="zstd") as writer:
        for group in range(file.num_row_groups):
            part = file.read_row_group(group)
            writer.write_table(part if more else with_vectors(part), row_group_size=GROUP_ROWS)
        if more:
            added = part.slice(0, more).append_column("number", pa.array(range(more)))
            ids = pa.array([f"new{number}" for number in range(more)])
            for name in ("event_timestamp", "created_timestamp"):
                later = pa.array(
                    [part.column(name)[-1].as_py() + timedelta(seconds=1)] * more, part.schema.field(name).type
                )
                added = added.set_column(added.schema.get_field_index(name), name, later)
            added = added.set_column(added.schema.get_field_index("item_id"), "item_id", ids).drop_columns("number")
            writer.write_table(with_vectors(added).cast(file.schema_arrow))
    beside.rename(path)
    manifest = read_sealed(tables / "manifest.json")
    write_sealed(tables / "manifest.json", {**manifest, "files": manifest["files"] | hashes_of(tables, [path.name])})


def build(repo: Path, steps: Sequence[str] = ("ingest", "tables")) -> None:
    """Ingest, and build the tables."""
    from ranking.pipeline.prepare import end_of_log
    from sidkit.core.repo import Repo
    from sidkit.tables import build_tables, ingest

    opened = Repo.open(repo)
    with opened.locked():
        if "ingest" in steps:
            ingest(opened)
        if "tables" in steps:
            build_tables(opened, end_of_log(opened))


def build_cell(repo: Path, step: str) -> dict[str, Any]:
    """Costs of ingest or of the tables."""
    began, at = time.process_time(), time.perf_counter()
    build(repo, [step])
    seconds = {"cpu_s": round(time.process_time() - began, 2), "seconds": round(time.perf_counter() - at, 2)}
    return seconds | {"peak_mb": peak_mb(), "load": round(os.getloadavg()[1], 1)}


def shard(repo: Path, text: str, dim: int) -> dict[str, Any]:
    """Assign codes to the items of one shard, in a process that has imported what it needs."""
    import sidkit
    from semantic_ids.codebook import Codebook

    project = sidkit.open(repo)
    Codebook.load(project.repo.codebooks / "c").encode(np.zeros((1, dim), np.float32))
    cpu = time.process_time()
    rows = project.assign_shard("c", text) or 0
    seconds = time.process_time() - cpu
    return {"rows": rows, "cpu_s": round(seconds, 2), "items_per_cpu_s": round(rows / seconds)}


def assign(repo: Path) -> None:
    """Assign codes to all items as the one shard of a publish."""
    import sidkit

    sidkit.open(repo).assign_shard("c", "1/1")


def fit(repo: Path, sizes: Sequence[int]) -> None:
    """Fit a codebook, with the default sizes if none are given."""
    import sidkit
    from semantic_ids.fitting import CodebookSpec
    from semantic_ids.lifecycle import fit as fit_codebook

    project = sidkit.open(repo)
    if not sizes:
        project.fit("c")
        return
    with project.repo.locked():
        fit_codebook(project.repo, "c", CodebookSpec(sizes=tuple(sizes)))


def similar(repo: Path) -> dict[str, Any]:
    """Look up similar items twice; returns the costs of the second time, which reads nothing."""
    import sidkit

    codebook = sidkit.open(repo).codebook("c")
    codebook.similar("i5")
    cpu = time.process_time()
    codebook.similar("i7")
    return {"next_cpu_s": round(time.process_time() - cpu, 3)}


def hits(repo: Path, kind: str) -> None:
    """Expected hits of random pairs of 2,000 triggers, by vectors or by codes."""
    import sidkit
    from semantic_ids.pairs.known_items import known_items
    from semantic_ids.quality.hit_rate import HitPairs, by_codes, by_vectors, expected_hits
    from sidkit.tables import read_build

    project = sidkit.open(repo)
    book = project.codebook("c").model
    vectors = book.vectors(known_items(project.repo, read_build(project.repo)["as_of_us"]).content)
    rng = np.random.default_rng(0)
    trigger = np.repeat(rng.choice(len(vectors), TRIGGERS, replace=False), 3)
    target = rng.integers(len(vectors), size=len(trigger))
    scores = by_vectors(vectors) if kind == "vectors" else by_codes(book.quantizer.encode(vectors))
    expected_hits(scores, HitPairs(trigger, target, np.ones(len(trigger), bool), len(vectors)))


def command(name: str, repo: Path, sizes: Sequence[int] = ()) -> dict[str, Any]:
    """Run one command; returns its costs."""
    import sidkit

    commands: dict[str, Callable[[], Any]] = {
        "tables": lambda: build(repo),
        "fit": lambda: fit(repo, sizes),
        "assign": lambda: assign(repo),
        "publish": lambda: sidkit.open(repo).publish("c", shards=1, merge=True),
        "refresh, nothing new": lambda: sidkit.open(repo).refresh("c"),
        ADDING: lambda: sidkit.open(repo).refresh("c"),
        "report": lambda: sidkit.open(repo).codebook_report("c", repo / "c.html"),
        "health": lambda: sidkit.open(repo).health("c"),
        "similar": lambda: similar(repo),
        "export": lambda: sidkit.open(repo).codebook("c").export(repo / "c.parquet"),
        "suffixes": lambda: sidkit.open(repo).suffixes("c"),
        "hit rate of vectors": lambda: hits(repo, "vectors"),
        "hit rate of codes": lambda: hits(repo, "codes"),
    }
    began, cpu = time.perf_counter(), time.process_time()
    further = commands[name]()
    return {
        **(further if isinstance(further, dict) else {}),
        "cpu_s": round(time.process_time() - cpu, 2),
        "seconds": round(time.perf_counter() - began, 2),
        "peak_mb": peak_mb(),
    }
