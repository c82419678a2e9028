"""Costs of codebooks of large catalogues: k-means beside faiss, and every command.

    python benchmarks/codebook_costs.py kmeans [--rows 1000000] [--dim 384] [--iterations 5] [--rounds 2]
    python benchmarks/codebook_costs.py commands [--items 100000] [--dim 64] [--sizes 256 256 256] [--keep] [--only fit publish]
    python benchmarks/codebook_costs.py tables [--items 1000000] [--dim 384] [--work .work/codebook_costs]
    python benchmarks/codebook_costs.py shards [--items 100000] [--dim 64] [--rows 1000000] [--work .work/codebook_costs]
    python benchmarks/codebook_costs.py read [--rows 1000000] [--dim 384] [--work .work/codebook_costs]

``kmeans`` fits three levels of 256 codes on clustered vectors: ours, and the same steps written on faiss, on the same sample
and with the same number of iterations, in turns in one process; ``peak_mb`` is of a process that fits ours alone, and
``rows_mb`` are the vectors in it. ``commands`` runs each command on a repository of invented items in a process of its own;
its source has white noise as vectors, which clustered ones replace in the table of content. ``--sizes`` fixes the codes per
level, and ``--only`` runs some commands on the repository that ``--keep`` left. ``assign`` encodes all items as the one shard
of a publish, and ``publish`` does the rest. ``tables`` is ingest, and then the build of the tables, of as many impressions as
items with the default settings, each in a process of its own.
``shards`` assigns codes in one shard and in two, each in a process of its own, after imports, and learns from ``--rows``
vectors that come in blocks. ``read`` reads the vectors of a file as a fit does, and as fits did before: through a window of
DuckDB; ``encode`` also fits the content encoder and encodes all items, and ``mapped`` does so with the vectors in a temporary
file instead of in memory. Times are processor seconds of one thread. Results go
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
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from attribute_costs import write_source
from processes import in_a_process, peak_mb

from sidkit.core.arrays import Floats
from sidkit.core.engine import GROUP_ROWS
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
        spill = path.parent if how == "mapped" else None
        items = ItemVectors.from_parquet(path, table.column("file_row_number").to_numpy(), ["text"], spill)
    if how in {"encode", "mapped"}:
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
        for start in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - start)
            flat = pa.array(rng.standard_normal(count * dim, dtype=np.float32))
            vectors = pa.FixedSizeListArray.from_arrays(flat, dim).cast(pa.list_(pa.float32()))
            ids = [f"i{number}" for number in range(start, start + count)]
            writer.write_table(pa.table({"item_id": ids, "text": vectors}, schema=schema), row_group_size=GROUP_ROWS)


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


ADDING = "refresh, 1,000 new items"
COMMANDS = (
    "tables", "fit", "assign", "publish", "refresh, nothing new", "report", "health", "similar", "export", "suffixes",
    "hit rate of vectors", "hit rate of codes", ADDING,
)  # fmt: skip


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("kmeans", "commands", "tables", "shards", "read"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000])
    parser.add_argument("--dim", type=int)
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="codes per level (default: chosen at fit)")
    parser.add_argument("--only", nargs="*", default=[], choices=COMMANDS, help="run these commands only")
    parser.add_argument("--keep", action="store_true", help="keep the repository")
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
        for how in ("file", "encode", "mapped", "window"):
            read[how] = in_a_process(read_cell, path, how)
            keep("read", f"{asked.rows} x {asked.dim or 384}", read)
        path.unlink()
        return
    for items in asked.items:
        of_items = {"commands": command_costs, "tables": table_costs, "shards": shard_costs}[asked.part]
        of_items(asked, items, asked.work / str(items), cells["commands"], keep)


Keep = Callable[[str, str, dict[str, Any]], None]


def new_repo(folder: Path, items: int, width: int) -> None:
    """Write a source of invented items, and create a repository of it."""
    from sidkit.datasets.data_repo import create_repo

    shutil.rmtree(folder, ignore_errors=True)
    write_source(folder / "source", items, items, False, width)
    create_repo(folder / "repo", str(folder / "source"))


def table_costs(asked: argparse.Namespace, items: int, folder: Path, _: dict[str, Any], keep: Keep) -> None:
    """Costs of ingest and tables of wide vectors."""
    dim, repo = asked.dim or 384, folder / "repo"
    new_repo(folder, items, dim)
    keep("tables", f"{items} x {dim}", {step: in_a_process(build_cell, repo, step) for step in ("ingest", "tables")})
    shutil.rmtree(folder)


def shard_costs(asked: argparse.Namespace, items: int, folder: Path, _: dict[str, Any], keep: Keep) -> None:
    """Costs of shards, and of fits of blocks."""
    dim, repo = asked.dim or 64, folder / "repo"
    new_repo(folder, items, dim)
    for name in ("tables", "fit"):
        in_a_process(command, name, repo)
    for text in ("1/1", "1/2", "2/2"):
        keep("shards", f"{items} x {dim}, shard {text}", in_a_process(shard, repo, text, dim))
    for rows in (asked.rows // 4, asked.rows):
        keep("shards", f"blocks of 65536, {rows} x {dim}", in_a_process(blocks, rows, dim, 65_536))
    shutil.rmtree(folder)


def command_costs(asked: argparse.Namespace, items: int, folder: Path, known: dict[str, Any], keep: Keep) -> None:
    """Costs of the commands; those that are not asked for stay."""
    dim, repo = asked.dim or 64, folder / "repo"
    if not asked.only:
        new_repo(folder, items, dim)
    key = f"{items} x {dim}" + (f", sizes {' x '.join(map(str, asked.sizes))}" if asked.sizes else "")
    before = known.get(key, {}) if asked.only else {}
    costs: dict[str, Any] = {name: cost for name, cost in before.items() if name != "load"}
    for name in asked.only or COMMANDS:
        if name == ADDING:
            in_a_process(write_content, repo, dim, 1000)
        costs[name] = in_a_process(command, name, repo, asked.sizes)
        keep("commands", key, costs)  # a long run leaves what it measured
        if name == "tables":
            in_a_process(write_content, repo, dim)
    if not asked.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
