"""Costs of codebooks of large catalogues: k-means beside faiss, and every command.

    python benchmarks/codebook_costs.py kmeans [--rows 1000000] [--dim 384] [--iterations 5] [--rounds 2]
    python benchmarks/codebook_costs.py commands [--items 100000] [--dim 64] [--work .work/codebook_costs]
    python benchmarks/codebook_costs.py shards [--items 100000] [--dim 64] [--rows 1000000] [--work .work/codebook_costs]
    python benchmarks/codebook_costs.py read [--rows 1000000] [--dim 384] [--work .work/codebook_costs]

``kmeans`` fits three levels of 256 codes on clustered vectors: ours, and the same steps written on faiss, on the same sample
and with the same number of iterations, in turns in one process; ``peak_mb`` is of a process that fits ours alone, and
``rows_mb`` are the vectors in it. ``commands`` runs each command on a repository of invented items in a process of its own.
``shards`` assigns codes in one shard and in two, each in a process of its own, after imports, and learns from ``--rows``
vectors that come in blocks. ``read`` reads the vectors of a file as a fit does, and as fits did before: through a window of
DuckDB; ``encode`` also fits the content encoder and encodes all items. Times are processor seconds of one thread. Results go
to ``benchmarks/results/codebook_costs.json``; cells that are not asked for stay as they were measured.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy, faiss and torch are loaded

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from attribute_costs import write_source
from processes import in_a_process, peak_mb

from sidkit.core.arrays import Floats
from sidkit.core.files import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "codebook_costs.json"
SIZES = (256, 256, 256)
CLUSTERS = 1000
TRIGGERS = 2000


def clustered(rows: int, dim: int) -> Floats:
    """Vectors ``float32 [rows, dim]`` around random centres."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(CLUSTERS, dim)).astype(np.float32)
    vectors = np.empty((rows, dim), dtype=np.float32)
    for start in range(0, rows, 65_536):
        part = vectors[start : start + 65_536]
        rng.standard_normal(out=part, dtype=np.float32)
        part += centres[rng.integers(CLUSTERS, size=len(part))]
    return vectors


def ours(vectors: Floats, iterations: int) -> None:
    from semantic_ids import ResidualKMeans

    ResidualKMeans(SIZES, iterations).fit(vectors)


def on_faiss(vectors: Floats, iterations: int) -> None:
    """The steps of residual k-means, written on faiss, on the sample that ours learns from."""
    from quantizers import faiss_fit

    from semantic_ids.quantizers.training_sample import training_sample

    sample = vectors[training_sample(vectors, SIZES, 0)]
    began = time.process_time()
    faiss_fit(sample, 0, iterations)
    ON_FAISS.append(time.process_time() - began)


ON_FAISS: list[float] = []


def kmeans(rows: int, dim: int, iterations: int, rounds: int) -> dict[str, Any]:
    """Processor seconds of both, in turns."""
    vectors = clustered(rows, dim)
    seconds: list[float] = []
    for _ in range(rounds):
        began = time.process_time()
        ours(vectors, iterations)
        seconds.append(time.process_time() - began)
        on_faiss(vectors, iterations)
    ratio = statistics.median(seconds) / statistics.median(ON_FAISS)
    return {"ours_s": seconds, "faiss_s": ON_FAISS, "ratio": round(ratio, 3)}


def memory(rows: int, dim: int) -> dict[str, Any]:
    """Peak memory of one fit of one iteration."""
    vectors = clustered(rows, dim)
    ours(vectors, 1)
    return {"rows_mb": round(vectors.nbytes / 2**20, 1), "peak_mb": peak_mb()}


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


def blocks(rows: int, dim: int, block: int) -> dict[str, Any]:
    """Peak memory of one fit of one iteration of vectors that are made when they are read."""
    from semantic_ids import ResidualKMeans

    rng = np.random.default_rng(0)
    made = (rng.standard_normal((min(block, rows - at), dim), dtype=np.float32) for at in range(0, rows, block))
    cpu = time.process_time()
    ResidualKMeans(SIZES, 1).fit_blocks(made)
    return {"rows": rows, "cpu_s": round(time.process_time() - cpu, 2), "peak_mb": peak_mb()}


def read_cell(path: Path, how: str) -> dict[str, Any]:
    """Read the vectors of all items of a file, in the order of their ids."""
    import duckdb

    from semantic_ids.encoders.content import ContentEncoder
    from semantic_ids.item_vectors import ItemVectors

    began = time.process_time()
    with duckdb.connect(
        config={"threads": 1, "memory_limit": "1500MB", "temp_directory": str(path.parent / "spill")}
    ) as opened:
        column, file = (
            ("text", f"'{path}'")
            if how == "window"
            else ("file_row_number", f"read_parquet('{path}', file_row_number = true)")
        )
        table = opened.execute(
            f"SELECT item_id, {column} FROM {file} QUALIFY row_number() OVER (PARTITION BY item_id) = 1 ORDER BY item_id"
        ).to_arrow_table()
    if how == "window":
        items = ItemVectors.from_arrow(table, ["text"])
    else:
        items = ItemVectors.from_parquet(path, table.column("file_row_number").to_numpy(), ["text"])
    if how == "encode":
        ContentEncoder().fit(items).encode(items)
    rows_mb = round(items.matrices["text"].nbytes / 2**20, 1)
    return {"cpu_s": round(time.process_time() - began, 2), "rows_mb": rows_mb, "peak_mb": peak_mb()}


def write_vectors(path: Path, rows: int, dim: int) -> None:
    """A file of items and their vectors, in row groups of 122,880 rows, as tables have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"item_id": pa.string(), "text": pa.list_(pa.float32())})
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 122_880):
            count = min(122_880, rows - start)
            flat = pa.array(rng.standard_normal(count * dim, dtype=np.float32))
            vectors = pa.FixedSizeListArray.from_arrays(flat, dim).cast(pa.list_(pa.float32()))
            ids = [f"i{number}" for number in range(start, start + count)]
            writer.write_table(pa.table({"item_id": ids, "text": vectors}, schema=schema), row_group_size=122_880)


def build(repo: Path) -> None:
    """Ingest, and build the tables."""
    from ranking.pipeline.prepare import end_of_log
    from sidkit.core.repo import Repo
    from sidkit.tables import build_tables, ingest

    opened = Repo.open(repo)
    with opened.locked():
        ingest(opened)
        build_tables(opened, end_of_log(opened))


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


def command(name: str, repo: Path) -> dict[str, Any]:
    """Run one command; returns its costs."""
    import sidkit

    commands: dict[str, Callable[[], Any]] = {
        "tables": lambda: build(repo),
        "fit": lambda: sidkit.open(repo).fit("c"),
        "publish": lambda: sidkit.open(repo).publish("c"),
        "refresh, nothing new": lambda: sidkit.open(repo).refresh("c"),
        "report": lambda: sidkit.open(repo).codebook_report("c", repo / "c.html"),
        "health": lambda: sidkit.open(repo).health("c"),
        "similar": lambda: sidkit.open(repo).codebook("c").similar("i5"),
        "export": lambda: sidkit.open(repo).codebook("c").export(repo / "c.parquet"),
        "suffixes": lambda: sidkit.open(repo).suffixes("c"),
        "hit rate of vectors": lambda: hits(repo, "vectors"),
        "hit rate of codes": lambda: hits(repo, "codes"),
    }
    began, cpu = time.perf_counter(), time.process_time()
    commands[name]()
    return {
        "cpu_s": round(time.process_time() - cpu, 2),
        "seconds": round(time.perf_counter() - began, 2),
        "peak_mb": peak_mb(),
    }


COMMANDS = (
    "tables", "fit", "publish", "refresh, nothing new", "report", "health", "similar", "export", "suffixes",
    "hit rate of vectors", "hit rate of codes",
)  # fmt: skip


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("kmeans", "commands", "shards", "read"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000])
    parser.add_argument("--dim", type=int)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "codebook_costs")
    asked = parser.parse_args()
    cells = {"kmeans": {}, "commands": {}, "read": {}, **(json.loads(RESULTS.read_text()) if RESULTS.exists() else {})}

    def keep(part: str, name: str, cell: dict[str, Any]) -> None:
        cells.setdefault(part, {})[name] = {**cell, "load": round(os.getloadavg()[1], 1)}
        print(name, cells[part][name], flush=True)
        write_json(RESULTS, cells)

    if asked.part == "kmeans":
        dim = asked.dim or 384
        alone = in_a_process(memory, asked.rows, dim)
        turns = in_a_process(kmeans, asked.rows, dim, asked.iterations, asked.rounds)
        keep("kmeans", f"{asked.rows} x {dim}, {asked.iterations} iterations", {**alone, **turns})
        return
    if asked.part == "read":
        asked.work.mkdir(parents=True, exist_ok=True)
        path, read = asked.work / "vectors.parquet", {}
        write_vectors(path, asked.rows, asked.dim or 384)
        for how in ("file", "encode", "window"):
            read[how] = in_a_process(read_cell, path, how)
            keep("read", f"{asked.rows} x {asked.dim or 384}", read)
        path.unlink()
        return
    from sidkit.datasets.data_repo import create_repo

    dim = asked.dim or 64
    for items in asked.items:
        folder = asked.work / str(items)
        shutil.rmtree(folder, ignore_errors=True)
        write_source(folder / "source", items, items, False, dim)
        repo = create_repo(folder / "repo", str(folder / "source")).path
        if asked.part == "shards":
            for name in ("tables", "fit"):
                in_a_process(command, name, repo)
            for text in ("1/1", "1/2", "2/2"):
                keep("shards", f"{items} x {dim}, shard {text}", in_a_process(shard, repo, text, dim))
            continue
        costs: dict[str, Any] = {}
        for name in COMMANDS:
            costs[name] = in_a_process(command, name, repo)
            keep("commands", f"{items} x {dim}", costs)  # a long run leaves what it measured
        shutil.rmtree(folder)

    if asked.part == "shards":
        for rows in (asked.rows // 4, asked.rows):
            keep("shards", f"blocks of 65536, {rows} x {dim}", in_a_process(blocks, rows, dim, 65_536))
            shutil.rmtree(asked.work, ignore_errors=True)


if __name__ == "__main__":
    main()
