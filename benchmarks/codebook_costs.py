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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codebook_commands import ADDING, COMMANDS, build_cell, command, new_repo, shard, write_content
from codebook_learning import blocks, kmeans, memory
from codebook_reading import read_cell, write_vectors
from processes import in_a_process

from sidkit.core.files import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "codebook_costs.json"
Keep = Callable[[str, str, dict[str, Any]], None]


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
