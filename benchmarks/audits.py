"""Audit saved frames of real data sets: every cell recomputed from the log by independent code, code statistics included.

    python benchmarks/audits.py --data DATA... [--work .work/audits] [--rows 10000] [--preset rqkmeans]

Runs the stages of `sidkit run` up to the frame, with counts per user and category and per user and item (``affinity``),
then `sidkit audit` on the frame. Results go to ``benchmarks/results/audits.json``, one entry per data set.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from arms import ROOT, data_name

from ranking.audit.run import run_audit
from ranking.data.dataset import read_rows
from ranking.data.split import TimeSplit
from ranking.pipeline.prepare import Prepared, end_of_log, feature_inputs, prepare_repo
from ranking.pipeline.presets import load_preset
from semantic_ids.code_stats import CodeStatsSpec
from sidkit.core.files import read_json, write_json
from sidkit.core.repo import Repo
from sidkit.core.stages import Stages
from sidkit.tables.labelled_rows import log_moments

RESULTS = ROOT / "benchmarks" / "results" / "audits.json"
CATEGORIES = {"ml_latest_small": ("category", "genres", "language"), "xwines_slim": ("category", "country", "grapes")}
"""Data set -> attributes with counts per user and value."""
DEPTHS = (1, 2, 3)
"""Depths of code statistics: more than a fit would choose, so that every formula is audited."""
CONTEXT = {"uci_online_retail": "basket_id"}


def count_more(repo: Repo, name: str) -> Repo:
    """State counts per user and category, and per user and item, and a context column in the settings of a repo."""
    path = repo.path / "sidkit.toml"
    text = path.read_text()
    listed = json.dumps([*CATEGORIES.get(name, ()), "item_id"])
    if "affinity =" not in text:
        text = text.replace("[features]\n", f"[features]\naffinity = {listed}\n", 1)
    if name in CONTEXT:
        text = text.replace(f"# {CONTEXT[name]} =", f"{CONTEXT[name]} =")
    path.write_text(text)
    return Repo.open(repo.path)


def saved_frame(data: str, work: Path, options: argparse.Namespace) -> tuple[Repo, Any]:
    """Run the stages up to the frame; the repo and the frame's facts."""
    repo = count_more(prepare_repo(data, work), data_name(data))
    preset = load_preset(options.preset)
    folder = repo.runs / "audits"
    with repo.locked():
        prepared = Prepared(repo, Stages(folder / "stages.json"), data, options.impressions)
        log = prepared.ingest()
        as_of_us = end_of_log(repo)
        split = TimeSplit.of(log_moments(repo), repo.settings.split)
        rows = prepared.rows(log)
        tables = prepared.tables(log, as_of_us)
        inputs = [log, tables.facts, split.train_end_us]
        spec = preset.codebook.model_copy(update={"stats": CodeStatsSpec(depths=DEPTHS)})
        codebook = prepared.codebook(options.preset, spec, split.train_end_us, inputs)
        labelled = read_rows(rows.files[0], context=tuple(repo.settings.features.context))
        frame_inputs = [*inputs, codebook, rows.facts, *feature_inputs(repo.settings.features)]
        caps = preset.ranker.training.caps
        return repo, prepared.frame("frame", frame_inputs, codebook, labelled, split, caps, folder / "frame").facts


def family(name: str) -> str:
    """A feature without its depth and window."""
    return re.sub(r"_(1d|7d|30d|all)$", "", re.sub(r"_d\d+__", "__", name))


def audited(data: str, options: argparse.Namespace) -> dict[str, Any]:
    """Audit one data set."""
    from ranking.data.storage import load_dataset

    began = time.monotonic()
    repo, facts = saved_frame(data, options.work / data_name(data), options)
    made = time.monotonic()
    result = run_audit(repo, rows=options.rows, seed=options.seed, preset="audits")
    names = load_dataset(repo.runs / "audits" / "frame").schema.names
    return {
        "rows": result.rows.rows,
        "of": result.rows.total,
        "cells": result.rows.cells,
        "ok": result.ok,
        "difference": result.as_json()["rows"]["difference"],
        "problems": [f"{each.artifact}: {each.problem}" for each in result.artifacts.problems],
        "not_audited": list(result.rows.not_audited),
        "not_recomputable": result.rows.not_recomputable,
        "columns": dict(sorted(Counter(map(family, names)).items())),
        "frame_rows": facts["parts"],
        "seconds_frame": round(made - began),
        "seconds_audit": round(time.monotonic() - made),
    }


def main() -> None:
    """Audit each data set and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "audits")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="rqkmeans")
    parser.add_argument("--impressions", type=int, default=20_000)
    options = parser.parse_args()
    for data in options.data:
        result = audited(data, options)
        print(json.dumps({"data": data_name(data), **result}, indent=1), flush=True)
        known = read_json(RESULTS) or {} if RESULTS.exists() else {}
        write_json(RESULTS, {**known, data_name(data): result})


if __name__ == "__main__":
    main()
