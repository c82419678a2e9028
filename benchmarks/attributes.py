"""What attributes, affinities and the ages of the last events add, on real data sets: the same rows with and without them.

    python benchmarks/attributes.py --data DATA... [--work .work/attributes] [--seeds 3] [--max-train-rows 100000]

Runs the stages of `sidkit run` up to the frame with the preset `rqkmeans`, then trains boosting and the arm `content` with
every feature and with the built-in ones only (`features = []`), with the same seeds on the same rows, and compares them on the
test window. The permutation importance of every feature is that of boosting and of one `content` ranker, on validation rows.
Results go to ``benchmarks/results/attributes.json``, one entry per data set.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from arms import ROOT, data_name

from ranking.data.dataset import read_rows
from ranking.data.split import TimeSplit
from ranking.evaluation.importance import permutation_importance
from ranking.pipeline.evaluation import evaluate_arms
from ranking.pipeline.prepare import Prepared, end_of_log, feature_inputs, prepare_repo, training_context
from ranking.pipeline.presets import Preset, load_preset
from ranking.training.arms import TrainingContext, train_arm
from sidkit.core.files import read_json, write_json
from sidkit.core.records import record_json
from sidkit.core.repo import Repo
from sidkit.core.stages import Stages
from sidkit.tables.labelled_rows import log_moments

RESULTS = ROOT / "benchmarks" / "results" / "attributes.json"
ARMS = ("gbdt", "content")
PLAIN = "_plain"
"""Suffix of an arm with the built-in features only."""


def framed(repo: Repo, data: str, options: argparse.Namespace) -> tuple[TrainingContext, Preset, dict[str, Any]]:
    """Run the stages up to the frame; finished ones are used again. Also the numbers of rows."""
    preset = load_preset("rqkmeans")
    training = preset.ranker.training.model_copy(
        update={"max_train_rows": options.max_train_rows, "max_evaluation_rows": options.max_evaluation_rows}
    )
    ranker = preset.ranker.model_copy(update={"training": training})
    folder = repo.runs / "attributes"
    with repo.locked():
        prepared = Prepared(repo, Stages(folder / "stages.json"), data, 100_000)
        log = prepared.ingest()
        as_of_us = end_of_log(repo)
        split = TimeSplit.of(log_moments(repo), repo.settings.split)
        sample = training.caps.sample_of(repo, split)
        rows = prepared.rows(log, sample)
        tables = prepared.tables(log, as_of_us)
        inputs = [log, tables.facts, split.train_end_us]
        codebook = prepared.codebook("rqkmeans", preset.codebook, split.train_end_us, inputs)
        caps = training.caps if sample is None else type(training.caps)()
        frame_inputs = [*inputs, codebook, rows.facts, *feature_inputs(repo.settings.features)]
        context_columns = tuple(repo.settings.features.context)
        frame = prepared.frame(
            "frame",
            frame_inputs,
            codebook,
            read_rows(rows.files[0], context=context_columns),
            split,
            caps,
            folder / "frame",
        )
    context = training_context(repo, codebook, split, folder / "frame", ranker, None, threads=2, importance=True)
    return context, preset, frame.facts["parts"]


def measured(data: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and compare both arms on one data set."""
    began = time.monotonic()
    repo = prepare_repo(data, options.work / data_name(data))
    context, preset, rows = framed(repo, data, options)
    predictions: dict[str, list[Any]] = {}
    importance: dict[str, Any] = {}
    for arm in ARMS:
        for suffix, features in (("", None), (PLAIN, ())):
            spec = preset.arms[arm].model_copy(update={"features": features})
            results = [train_arm(context, arm, spec, seed, f"{arm}-{seed}") for seed in range(options.seeds)]
            predictions[arm + suffix] = [result.test for result in results]
            if suffix == "" and results[0].details.importance:
                importance[arm] = [record_json(each) for each in results[0].details.importance]
            print(f"{data}: {arm}{suffix} trained, {time.monotonic() - began:.0f} s", flush=True)
    importance["content"] = [record_json(each) for each in _importance_of_content(context, preset)]
    evaluation = evaluate_arms(context.test, predictions, [f"{arm}{PLAIN}" for arm in ARMS] + ["gbdt"], None)
    return {
        "seeds": options.seeds,
        "rows": rows,
        "features": list(context.train.schema.names),
        "settings": repo.settings.features.model_dump(mode="json"),
        "arms": {arm: {name: metrics.auc for name, metrics in by.items()} for arm, by in evaluation.arms.items()},
        "differences": [
            record_json(each)
            for each in evaluation.differences
            if each.arm + PLAIN == each.baseline or (each.arm, each.baseline) == ("content", "gbdt")
        ],
        "importance": importance,
        "seconds": round(time.monotonic() - began),
    }


def _importance_of_content(context: Any, preset: Any) -> Any:
    import dataclasses
    import tempfile

    from ranking.training.ranker import Ranker

    with tempfile.TemporaryDirectory() as folder:
        saved = dataclasses.replace(context, rankers=Path(folder))
        train_arm(saved, "content", preset.arms["content"], 0, "content")
        return permutation_importance(Ranker.load(Path(folder) / "content").score, context.validation)


def main() -> None:
    """Measure the data sets that are not in the results yet, or all with ``--again``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "attributes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-train-rows", type=int, default=100_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=60_000)
    options = parser.parse_args()
    for data in options.data:
        result = measured(data, options)
        known = read_json(RESULTS) or {} if RESULTS.exists() else {}
        write_json(RESULTS, {**known, data_name(data): result})
        print(json.dumps({"data": data_name(data), "arms": result["arms"]}, indent=1))
        for each in result["differences"]:
            print(f"{each['arm']} on {each['slice']}: {each['value']:+.4f} [{each['low']}, {each['high']}]")


if __name__ == "__main__":
    main()
