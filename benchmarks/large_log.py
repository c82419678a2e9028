"""Time and memory of a long log on the profile `local`: ingest, tables, and a frame of a share of its rows.

    python benchmarks/large_log.py [--impressions 10000000 100000000] [--share 20] [--work .work/large_log]

Writes an invented log in parts, with an item per 100 impressions and a user per 50. Ingests it, builds the tables and retrieves
the point-in-time features of one row in ``--share``, each stage in a process of its own: ``cpu_s`` is its processor time,
``seconds`` its time, ``peak_mb`` its peak memory, ``repo_mb`` the size of the repository afterwards, and ``load`` the average
of the machine's load. A finished stage is kept in ``--work``: the same command resumes. ``--memory`` is the memory limit of
the ingest and the tables, ``--store-memory`` that of the retrieval, half of which its indexes may take.
Results go to ``benchmarks/results/large_log.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before numpy is loaded

from attribute_costs import write_source
from processes import in_a_process, peak_mb

from sidkit.core.engine import connection, literal
from sidkit.core.files import write_json
from sidkit.core.repo import Repo

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "large_log.json"
WIDTH = 64
VIEWS = ("item_stats", "user_stats", "user_history")


def write(folder: Path, asked: dict[str, Any]) -> int:
    """The source, one file per million impressions, and an empty repository; returns the impressions."""
    from sidkit.datasets.data_repo import create_repo

    for each in ("source", "repo"):
        shutil.rmtree(folder / each, ignore_errors=True)
    write_source(folder / "source", asked["impressions"], asked["items"], False, WIDTH)
    repo = create_repo(folder / "repo", str(folder / "source"))
    settings = repo.path / "sidkit.toml"
    was = f'memory_limit = "{repo.settings.engine.memory_limit}"'
    text = settings.read_text()
    if was not in text:
        raise ValueError(f"expected {was} in {settings}")
    settings.write_text(text.replace(was, f'memory_limit = "{asked["memory"]}"'))
    store = repo.path / "feature_store.yaml"
    kind = "  type: sidkit.stores.offline.AsofDuckDBOfflineStore\n"
    store.write_text(store.read_text().replace(kind, f"{kind}  memory_limit: {asked['store_memory']}\n", 1))
    return int(asked["impressions"])


def read(folder: Path, asked: dict[str, Any]) -> int:
    """Ingest the source; returns the rows of the log."""
    from sidkit.tables import ingest

    repo = Repo.open(folder / "repo")
    with repo.locked():
        return ingest(repo).rows


def build(folder: Path, asked: dict[str, Any]) -> int:
    """Build the tables; returns their rows."""
    from ranking.pipeline.prepare import end_of_log
    from sidkit.tables import build_tables

    repo = Repo.open(folder / "repo")
    with repo.locked():
        return sum(build_tables(repo, end_of_log(repo)).rows.values())


def retrieve_share(folder: Path, asked: dict[str, Any]) -> int:
    """Retrieve the features of a share of the rows, chosen by hash, to a file; returns its rows."""
    from sidkit.stores.feast_repo import apply_repo, open_store
    from sidkit.stores.offline.retrieve import retrieve
    from sidkit.tables import read_log

    repo = Repo.open(folder / "repo")
    rows = folder / "rows.parquet"
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        listed = ", ".join(map(literal, read_log(repo).parts))
        opened.execute(
            f"COPY (SELECT user_id, item_id, timestamp AS event_timestamp, label FROM read_parquet([{listed}]) "
            f"WHERE hash(user_id, item_id, timestamp) % {asked['share']} = 0 ORDER BY event_timestamp, user_id) "
            f"TO {literal(rows)} (FORMAT parquet, COMPRESSION zstd)"
        )
    apply_repo(repo)
    store = open_store(repo)
    features = [f"{view.name}:{field.name}" for view in map(store.get_feature_view, VIEWS) for field in view.features]
    count = retrieve(store, rows, features, full_feature_names=True).to_parquet(folder / "frame.parquet")
    for path in (rows, folder / "frame.parquet"):
        path.unlink()
    return count


STAGES = {"source": write, "ingest": read, "tables": build, "frame": retrieve_share}


def measured(name: str, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Run a stage in this process; returns its costs."""
    began = time.monotonic(), time.process_time()
    rows = STAGES[name](folder, asked)
    size = sum(path.stat().st_size for path in (folder / "repo").rglob("*") if path.is_file())
    return {
        "stage": name,
        "rows": rows,
        "cpu_s": round(time.process_time() - began[1], 1),
        "seconds": round(time.monotonic() - began[0], 1),
        "peak_mb": peak_mb(),
        "repo_mb": round(size / 2**20, 1),
        "load": round(os.getloadavg()[2], 1),
    }


def run(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Run the missing stages of a log; returns the costs of all."""
    path = folder / "stages.json"
    held = json.loads(path.read_text()) if path.exists() else {"asked": asked, "stages": []}
    if held["asked"] != asked:
        raise SystemExit(
            f"expected the arguments of {path}, {held['asked']}, got {asked}; remove {folder} or use --work"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in STAGES:
        if name not in [each["stage"] for each in held["stages"]]:
            held["stages"].append(in_a_process(measured, name, folder, asked))
            write_json(path, held)
            print(asked["impressions"], held["stages"][-1], flush=True)
    return {**asked, "stages": held["stages"]}


def ratios(logs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Costs of the longest log divided by those of the shortest: of each stage, of all but the source, of tables and frame."""
    kinds = ("cpu_s", "seconds")
    first, last = ({each["stage"]: each for each in log["stages"]} for log in (logs[0], logs[-1]))
    result = {name: {kind: last[name][kind] / first[name][kind] for kind in kinds} for name in STAGES}
    _, *stages_of_all = STAGES
    for whole, stages in {"all": stages_of_all, "tables and frame": ("tables", "frame")}.items():
        result[whole] = {
            kind: sum(last[n][kind] for n in stages) / sum(first[n][kind] for n in stages) for kind in kinds
        }
    return {name: {kind: round(value, 2) for kind, value in each.items()} for name, each in result.items()}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impressions", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--share", type=int, default=20, help="one row in so many has its features retrieved")
    parser.add_argument("--memory", default="3GB", help="engine.memory_limit in sidkit.toml")
    parser.add_argument("--store-memory", default="7500MB", help="offline_store.memory_limit in feature_store.yaml")
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "large_log")
    options = parser.parse_args()
    held = json.loads(RESULTS.read_text())["logs"] if RESULTS.exists() else []
    logs = {log["impressions"]: log for log in held}
    for impressions in options.impressions:
        asked = {
            "impressions": impressions,
            "items": impressions // 100,
            "share": options.share,
            "memory": options.memory,
            "store_memory": options.store_memory,
        }
        logs[impressions] = run(options.work / str(impressions), asked)
        ordered = [logs[size] for size in sorted(logs)]
        result = {"command": "python benchmarks/large_log.py", "width": WIDTH, "logs": ordered}
        write_json(RESULTS, {**result, "ratios": ratios(ordered)} if len(ordered) > 1 else result)


if __name__ == "__main__":
    main()
