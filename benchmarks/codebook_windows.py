"""Where to end the window of a codebook that learns from clicks: what rankers gain on validation rows.

    python benchmarks/codebook_windows.py --data DATA... [--work .work/codebook_windows] [--presets saviorrec smile]

Codebooks of a preset are fitted at several cut-offs; boosting and the arm ``content`` are trained with each, and compared on
the validation rows of the split; test rows are not read. Variants:

- ``share S``: the codebook saw the first share S of the log, and rankers train on the rows after it (``[split] codebook``);
- ``rolling``: a codebook of content, and of each row the cosines and code matches with the history that the newest codebook
  before the row gives, as numbers; rankers train on all rows;
- ``own rows``: as before this setting existed: the codebook saw the clicks of the training rows, and what learned from clicks
  is not matched with the history;
- ``content``: the codebook of the preset ``rqkmeans``, which learns from no click; rankers train on all rows.

Differences are to ``own rows``, with 95 % intervals over users, items and trainings. Results go to
``benchmarks/results/codebook_windows.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from ranking.data.dataset import Dataset, read_rows
from ranking.data.schema import ExtraFeature, FeatureSchema
from ranking.data.split import TimeSplit, codebook_end
from ranking.data.storage import load_dataset
from ranking.experiments.comparison.comparison import data_name
from ranking.pipeline.evaluation import evaluate_arms
from ranking.pipeline.prepare import Prepared, end_of_log, prepare_repo, training_context
from ranking.pipeline.presets import Preset, load_preset
from ranking.training.arms import TrainingContext, train_arm
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.gbdt import boosted_features
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Floats
from sidkit.core.files import read_json, write_json
from sidkit.core.records import record_json
from sidkit.core.repo import Repo
from sidkit.core.stages import Stages
from sidkit.tables.labelled_rows import log_moments

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "codebook_windows.json"
SHARES = (0.2, 0.3, 0.4, 0.5)
ARMS = ("gbdt", "content")
BEFORE = "own rows"
SLICES = ("all", "cold")
SIMILARITIES = BoostingSpec(
    content_axes=0, history_axes=0, similarities=("mean", "nearest", "nearest_5", "newest", "newest_5")
)
_CHUNK = 20_000


@dataclasses.dataclass(frozen=True)
class Sources:
    """A repository with frames of all rows, one per codebook."""

    repo: Repo
    prepared: Prepared
    log: Any
    split: TimeSplit
    at_us: Any
    options: argparse.Namespace

    @classmethod
    def of(cls, data: str, options: argparse.Namespace) -> Sources:
        """Ingest the data and build the tables."""
        repo = prepare_repo(data, options.work / data_name(data))
        with repo.locked():
            prepared = Prepared(repo, Stages(repo.runs / "windows" / "stages.json"), data, options.impressions)
            log = prepared.ingest()
            prepared.tables(log, end_of_log(repo))
            at_us = log_moments(repo)
        return cls(repo, prepared, log, TimeSplit.of(at_us, repo.settings.split), at_us, options)

    def codebook(self, preset_name: str, preset: Preset, share: float | None) -> str:
        """Fit the codebook of a preset on a share of the log; None: on all training rows."""
        end_us = self.split.train_end_us if share is None else codebook_end(self.at_us, share)
        with self.repo.locked():
            return self.prepared.codebook(preset_name, preset.codebook, end_us, [self.log], f":{preset_name}:{share}")

    def frame(self, codebook: str, preset: Preset) -> Path:
        """The folder of the features of all rows, thinned."""
        training = preset.ranker.training.model_copy(
            update={
                "max_train_rows": self.options.max_train_rows,
                "max_evaluation_rows": self.options.max_evaluation_rows,
            }
        )
        folder = self.repo.runs / "windows" / codebook
        with self.repo.locked():
            sample = training.caps.sample_of(self.repo, self.split)
            rows = self.prepared.rows(self.log, sample)
            caps = training.caps if sample is None else type(training.caps)()
            inputs = [self.log, rows.facts, codebook, dataclasses.asdict(training.caps)]
            context = tuple(self.repo.settings.features.context)
            labelled = read_rows(rows.files[0], context=context)
            self.prepared.frame(f"frame:{codebook}", inputs, codebook, labelled, self.split, caps, folder)
        return folder

    def data(self, codebook: str, preset: Preset) -> Dataset:
        """The rows of :meth:`frame`."""
        return load_dataset(self.frame(codebook, preset))


def matches(data: Dataset) -> Floats:
    """Cosines with the history, and the share of the history with the candidate's prefix of each level: ``[rows, numbers]``."""
    cosines = boosted_features(data, None, SIMILARITIES)[:, data.features.shape[1] :][
        :, : len(SIMILARITIES.similarities)
    ]
    codes = data.items.codes
    shares = np.zeros((len(data), codes.shape[1]), np.float32)
    for start in range(0, len(data), _CHUNK):
        rows = slice(start, start + _CHUNK)
        history = data.history_items[data.history[rows]]
        own = codes[data.candidate[rows]][:, None]
        same = np.logical_and.accumulate((codes[history] == own) & (own >= 0), axis=2) & (history != 0)[:, :, None]
        shares[rows] = same.sum(axis=1) / np.maximum((history != 0).sum(axis=1, keepdims=True), 1)
    return np.concatenate([cosines, shares], axis=1)


def rolling(content: Dataset, by_end: Mapping[int, Dataset]) -> Dataset:
    """The rows of a codebook of content, with matches by the newest learned codebook before each row; 0 before the first."""
    at_us = content.rows.at_us
    numbers: Floats | None = None
    for end_us, data in sorted(by_end.items()):
        assert np.array_equal(data.rows.at_us, at_us), "expected the same rows in every frame"
        found = matches(data)
        numbers = np.zeros_like(found) if numbers is None else numbers
        numbers[at_us >= end_us] = found[at_us >= end_us]
    assert numbers is not None
    added = tuple(ExtraFeature(f"match_{place}", "share") for place in range(numbers.shape[1]))
    schema = FeatureSchema((*content.schema.features, *added))
    return dataclasses.replace(content, schema=schema, numeric=np.concatenate([content.numeric, numbers], axis=1))


def with_rows(base: TrainingContext, data: Dataset, split: TimeSplit, **serving: Any) -> TrainingContext:
    """The context of other rows; ``serving`` changes the serving spec."""
    parts = {name: data.take(rows) for name, rows in split.parts(data.rows.at_us).items()}
    spec = dataclasses.replace(base.serving, **serving)
    train, validation, test = (parts[name] for name in ("train", "validation", "test"))
    return dataclasses.replace(base, train=train, validation=validation, test=test, rate=train.click_rate, serving=spec)


def variants(sources: Sources, preset_name: str) -> dict[str, TrainingContext]:
    """Variant -> what rankers are trained and validated on."""
    preset, plain, split = load_preset(preset_name), load_preset("rqkmeans"), sources.split
    catalog = Catalog.open(sources.repo)
    name = sources.codebook("rqkmeans", plain, None)
    content = sources.data(name, plain)
    folder = sources.frame(name, plain)
    base = training_context(sources.repo, name, split, folder, preset.ranker, None, threads=1)
    found, by_end = {"content": base}, {}
    for share in (*SHARES, None):
        book_name = sources.codebook(preset_name, preset, share)
        end_us, data = catalog.codebook(book_name).fit_end_us, sources.data(book_name, preset)
        book = Codebook.load(sources.repo.codebooks / book_name)
        assert book.learned_from_clicks, f"{book_name} fell back to content; use more data"
        context = dataclasses.replace(base, quantizer=book.quantizer)
        serving: dict[str, Any] = {"sizes": book.sizes, "residual_levels": book.quantizer.residual_levels}
        if share is None:
            serving |= {"content_columns": book.encoder.content_columns, "match_codes": False}
            found[BEFORE] = with_rows(context, data, split, **serving)
        else:
            found[f"share {share:g}"] = with_rows(context, data, split.training_from(end_us), **serving)
        by_end[end_us] = data
    found["rolling"] = with_rows(base, rolling(content, by_end), split)
    return found


def measured(data: str, options: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    """Train the arms with every variant of every preset, and compare them on validation rows; results are saved per arm."""
    began, sources = time.monotonic(), Sources.of(data, options)
    results: dict[str, Any] = {}
    for preset_name in options.presets:
        preset = load_preset(preset_name)
        contexts = variants(sources, preset_name)
        print(f"{data}, {preset_name}: prepared after {time.monotonic() - began:.0f} s", flush=True)
        for arm in options.arms:
            predictions = {
                variant: [
                    train_arm(context, arm, preset.arms[arm], seed, f"{arm}-{seed}").validation
                    for seed in range(options.seeds)
                ]
                for variant, context in contexts.items()
            }
            validation = contexts["content"].validation
            evaluation = evaluate_arms(validation, predictions, [BEFORE], None)
            results.setdefault(preset_name, {})[arm] = {
                variant: {
                    "train_rows": len(contexts[variant].train),
                    "auc": {name: by[name].auc for name in SLICES if name in by},
                    "difference": {
                        each.slice: record_json(each)
                        for each in evaluation.differences
                        if each.arm == variant and each.slice in SLICES
                    },
                }
                for variant, by in evaluation.arms.items()
            }
            save(
                {
                    "seeds": options.seeds,
                    "impressions": options.impressions if data.startswith("synthetic") else None,
                    "max_train_rows": options.max_train_rows,
                    "validation_rows": len(validation),
                    "seconds": round(time.monotonic() - began),
                    "presets": results,
                }
            )
            print(f"{data}, {preset_name}, {arm}: {time.monotonic() - began:.0f} s", flush=True)


def table(results: Mapping[str, Any]) -> list[str]:
    """Markdown rows: the difference of each variant to ``own rows``."""
    lines = [
        "| data | preset | arm | variant | training rows | AUC | difference, all rows | cold rows |",
        "|" + " --- |" * 8,
    ]
    for data, facts in results.items():
        for preset, arms in facts["presets"].items():
            for arm, by in arms.items():
                for variant, one in by.items():
                    cells = [_cell(one["difference"].get(name)) for name in SLICES]
                    auc = f"{one['auc']['all']:.4f}".lstrip("0")
                    lines.append(
                        f"| {data} | `{preset}` | {arm} | {variant} | {one['train_rows']:,} | {auc} | {' | '.join(cells)} |"
                    )
    return lines


def _saved(results: dict[str, Any], name: str, facts: dict[str, Any]) -> None:
    write_json(RESULTS, {**results, name: facts})
    results[name] = facts


def _cell(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "-"
    numbers = [difference[name] for name in ("value", "low", "high")]
    texts = ["-" if number is None else f"{number:+.4f}".replace("0.", ".") for number in numbers]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "codebook_windows")
    parser.add_argument("--presets", nargs="+", default=["saviorrec", "smile"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--impressions", type=int, default=60_000, help="of a synthetic world")
    parser.add_argument("--max-train-rows", type=int, default=30_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=15_000)
    options = parser.parse_args(arguments)
    results = read_json(RESULTS) if RESULTS.exists() else {}
    for data in options.data:
        measured(data, options, partial(_saved, results, data_name(data)))
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
