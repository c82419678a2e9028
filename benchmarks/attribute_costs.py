"""What ten attributes of items cost: time and memory of the tables, and of an online read of 500 candidates.

    python benchmarks/attribute_costs.py [--impressions 10000000] [--items 100000] [--work .work/attribute_costs]

Writes one invented log twice, as a source with ten attributes of items and as one without, and builds the tables of each in a
process of its own. Then reads 500 candidates from the online store, with and without the attributes, in turns: as the service
does for a ranker, with the reader of feature services, and with Feast. Times are processor time. Results go to
``benchmarks/results/attribute_costs.json``.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from processes import peak_mb

from sidkit.core.files import write_json
from sidkit.core.repo import Repo

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "attribute_costs.json"
START_US, DAY_US = 1_704_067_200_000_000, 86_400_000_000
CHUNK = 1_000_000
WIDTH = 384
"""Of the vectors, as those of MiniLM."""
CANDIDATES, ROUNDS, WARM = 500, 200, 20
FEAST_ROUNDS = 40


def write_source(folder: Path, impressions: int, items: int, attributes: bool, width: int = WIDTH) -> None:
    """The same log twice, with and without ten attributes."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    utc = pa.timestamp("us", "UTC")
    columns: dict[str, Any] = {
        "item_id": [f"i{n}" for n in range(items)],
        "created_at": pa.array([START_US - DAY_US] * items, pa.int64()).cast(utc),
    }
    if attributes:
        columns |= {f"kind_{n}": [f"v{value}" for value in rng.integers(20 * (n + 1), size=items)] for n in range(5)}
        columns |= {f"size_{n}": rng.gamma(2, size=items) for n in range(3)}
        columns["fresh"] = rng.random(items) < 0.5
        columns["topics"] = [[f"t{a}", f"t{b}"] for a, b in rng.integers(30, size=(items, 2))]
    pq.write_table(pa.table(columns), folder / "items.parquet")
    vectors = rng.normal(size=(items, width)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width).cast(pa.list_(pa.float32()))
    pq.write_table(pa.table({"item_id": columns["item_id"], "text": lists}), folder / "item_embeddings.parquet")
    (folder / "interactions").mkdir()
    for part, first in enumerate(range(0, impressions, CHUNK)):
        count = min(CHUNK, impressions - first)
        at_us = START_US + (first + np.sort(rng.integers(0, count, count))) * (30 * DAY_US // impressions)
        table = {
            "user_id": np.char.add("u", rng.integers(impressions // 50 + 1, size=count).astype(str)),
            "item_id": np.char.add("i", np.minimum(rng.zipf(1.2, count), items - 1).astype(str)),
            "timestamp": pa.array(at_us, pa.int64()).cast(utc),
            "label": (rng.random(count) < 0.1).astype(np.int8),
        }
        pq.write_table(pa.table(table), folder / "interactions" / f"{part:04d}.parquet")


def build(repo_path: str) -> None:
    """Ingest and build in this process; print seconds of processor time and the peak of memory in MB."""
    from ranking.pipeline.prepare import end_of_log
    from sidkit.tables import build_tables, ingest

    repo = Repo.open(repo_path)
    seconds = {}
    with repo.locked():
        began = time.process_time()
        ingest(repo)
        seconds["ingest"] = time.process_time() - began
        began = time.process_time()
        build_tables(repo, end_of_log(repo))
        seconds["tables"] = time.process_time() - began
    print(json.dumps({**seconds, "peak_mb": peak_mb()}))


def cpu_ms(reads: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of processor time of each read, in turns, and the median ``ratio`` of two reads of a turn."""
    took: dict[str, list[float]] = {name: [] for name in reads}
    for round_ in range(rounds + WARM):
        for name, read in list(reads.items())[:: 1 if round_ % 2 else -1]:  # neither is always the first one
            began = time.process_time_ns()
            read()
            if round_ >= WARM:
                took[name].append((time.process_time_ns() - began) / 1e6)
    ratio = statistics.median(a / b for a, b in zip(took["with"], took["without"], strict=True))
    return {**{name: statistics.median(each) for name, each in took.items()}, "ratio": ratio}


def read_times(repo: Repo) -> dict[str, dict[str, float]]:
    """Processor time of reads of 500 candidates, with and without the attributes.

    ``request`` reads and gathers the features of a ranker as the service does, whose items are held in arrays; ``request_read``
    is its read. ``arrays`` is the reader of feature services, ``arrays_cold`` without cached rows, and ``feast``
    ``get_online_features``.
    """
    from ranking.data.schema import FeatureSchema
    from ranking.data.service_schema import service_schema
    from ranking.serving.features import OnlineFeatures
    from semantic_ids import lifecycle
    from semantic_ids.codebook import Codebook
    from sidkit.api import open_project
    from sidkit.stores.feast_repo import apply_repo, materialize, open_store
    from sidkit.stores.online import open_reader

    apply_repo(repo)
    now_us = START_US + 40 * DAY_US
    with repo.locked():
        lifecycle.fit(repo, "c", lifecycle.CodebookSpec(force=True, sizes=(32, 32)))
    open_project(repo.path).publish("c")
    with repo.locked():
        materialize(repo, now_us, ["item_content", "item_stats", "item_attributes", "user_stats", "user_history"])
    store = open_store(repo)
    from feast import FeatureService

    views = {name: store.get_feature_view(name) for name in ("item_content", "item_stats", "item_attributes")}
    services = {
        "without": FeatureService(name="plain", features=[views["item_content"], views["item_stats"]]),
        "with": FeatureService(name="whole", features=list(views.values())),
    }
    ids = [f"i{n}" for n in range(CANDIDATES)]
    readers = {name: open_reader(store, service) for name, service in services.items()}

    def cold(reader: Any) -> None:
        reader.database.forget()
        reader.read({"item_id": ids})

    listed = {
        name: [f"{each.name}:{feature.name}" for each in service.feature_view_projections for feature in each.features]
        for name, service in services.items()
    }

    def by_feast(service: str) -> None:
        store.get_online_features(listed[service], {"item_id": ids}, full_feature_names=True).to_dict()

    codebook = Codebook.load(repo.codebooks / "c")
    whole = service_schema(store, "ctr_c", repo.settings.features)
    assert any(name.startswith("item_attributes__") for name in whole.names)
    attributes = [feature.name for feature in views["item_attributes"].features]
    plain = FeatureSchema(
        tuple(each for each in whole.features if not any(name in f"{each.name} {each.of}" for name in attributes))
    )
    rankers = {
        "without": OnlineFeatures(store, "ctr_c", codebook, plain),
        "with": OnlineFeatures(store, "ctr_c", codebook, whole),
    }

    def read_request(ranker: Any) -> None:
        with ranker._fast.sides.database.reading() as reading:
            ranker._fast.read(reading, "u1", ids, now_us, 50)

    def request(ranker: Any) -> None:
        ranker.request("u1", ids, now_us, rate=0.1, history_length=50)

    gc.collect()
    gc.freeze()
    ways: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
        "request_read": (read_request, rankers),
        "request": (request, rankers),
        "arrays": (lambda reader: reader.read({"item_id": ids}), readers),
        "arrays_cold": (cold, readers),
        "feast": (by_feast, {name: name for name in services}),
    }
    return {
        way: cpu_ms(
            {name: functools.partial(read, what) for name, what in of.items()},
            FEAST_ROUNDS if way == "feast" else ROUNDS,
        )
        for way, (read, of) in ways.items()
    }


def main() -> None:
    """Measure and write the results."""
    if len(sys.argv) == 3 and sys.argv[1] == "build":
        build(sys.argv[2])
        return
    from sidkit.datasets.data_repo import create_repo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impressions", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "attribute_costs")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    results: dict[str, Any] = {"impressions": options.impressions, "items": options.items}
    for name, attributes in (("without", False), ("with", True)):
        write_source(options.work / name / "source", options.impressions, options.items, attributes)
        repo = create_repo(options.work / name / "repo", str(options.work / name / "source"))
        done = subprocess.run(
            [sys.executable, __file__, "build", str(repo.path)], capture_output=True, text=True, check=True
        )
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, results[name], flush=True)
    results["read_cpu_ms"] = read_times(Repo.open(options.work / "with" / "repo"))
    results["ratio"] = {
        "tables": results["with"]["tables"] / results["without"]["tables"],
        "memory": results["with"]["peak_mb"] / results["without"]["peak_mb"],
        **{way: each["ratio"] for way, each in results["read_cpu_ms"].items()},
    }
    write_json(RESULTS, results)
    print(json.dumps(results, indent=1))
    shutil.rmtree(options.work)


if __name__ == "__main__":
    main()
