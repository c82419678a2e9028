"""Where to end the window of a codebook that learns from clicks: what rankers gain on validation rows.

    python benchmarks/codebook_windows.py --data DATA... [--work .work/codebook_windows] [--presets saviorrec smile]

Codebooks of a preset are fitted at several cut-offs; boosting and the neural arm ``content`` are trained with each, and
compared on validation rows: those between 60 and 90 % of the log, so that enough users have some. Test rows are not read. A
share S is relative to the default split, whose training rows are the first 80 %: the codebook sees the first S / .8 of the
training rows.

- ``share S``: rankers train on the rows after the codebook's window, limited after the cut: every share has the same number;
- ``share S, fewer rows`` (boosting): the rows are limited before the cut, so that a later cut leaves fewer, as on a log without
  a limit;
- ``share S, same rows`` (boosting): rankers of all shares train on the same rows, after the latest cut, so that only codebooks
  differ;
- ``rolling`` (boosting): a codebook of content, and of each row the cosines and code matches with the history that the newest
  codebook before the row gives, as numbers; rankers train on all rows;
- ``own rows``: as before this setting existed: the codebook saw the clicks of the training rows, and what learned from clicks
  is not matched with the history;
- ``content``: the codebook of the preset ``rqkmeans``, which learns from no click; rankers train on all rows.

Rule of the default, written before any result with these limits was seen: the shares are ranked by AUC on cold validation
rows in every cell of data, preset, arm and family of training rows (``share S`` and ``share S, fewer rows``); the share with
the best mean rank is the default, the smaller one if two are equal. ``same rows`` explains and does not count. Added later:
presets with the same figures count once, as `saviorrec` and `smile` have the same encoder, and these arms read no codes.

Differences are to ``own rows`` (those on the same rows: to ``content, same rows``), with 95 % intervals over users, items and,
with several seeds, trainings. Results go to ``benchmarks/results/codebook_windows.json``; predictions are kept in the work
folder, and an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from codebook_windows_page import print_results
from window_rows import FIRST, Limits, WindowRows

from ranking.data.caps import Caps
from ranking.data.dataset import Dataset, LabelledRows, read_rows
from ranking.data.schema import ExtraFeature, FeatureSchema
from ranking.data.split import TimeSplit, codebook_end
from ranking.data.storage import load_dataset
from ranking.experiments.comparison.comparison import data_name
from ranking.pipeline.evaluation import evaluate_arms
from ranking.pipeline.prepare import Prepared, end_of_log, prepare_repo, training_context
from ranking.pipeline.presets import Preset, load_preset
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import TrainingContext, train_arm
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.gbdt import boosted_features
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Doubles, Floats, Ints
from sidkit.core.config import SplitSettings, content_hash
from sidkit.core.files import read_json, write_json
from sidkit.core.records import record_json
from sidkit.core.repo import Repo
from sidkit.core.stages import Stages
from sidkit.tables.labelled_rows import log_moments

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "codebook_windows.json"
SPLIT, OF = SplitSettings(train=0.6, validation=0.3), 0.8
"""Validation rows are wide; shares are of a split whose training rows are the first ``OF``."""
SHARES = (0.2, 0.3, 0.4, 0.5)
ARMS = ("gbdt", "content")
BEFORE, CONTENT = "own rows", "content"
SAME, FEWER = ", same rows", ", fewer rows"
NEURAL = (CONTENT, BEFORE, *(f"share {share:g}" for share in SHARES))
"""Variants of the neural arm."""
SLICES = ("all", "cold")
SIMILARITIES = BoostingSpec(
    content_axes=0, history_axes=0, similarities=("mean", "nearest", "nearest_5", "newest", "newest_5")
)
TREES = {"trees": 200, "learning_rate": 0.1}
_CHUNK = 20_000


@dataclasses.dataclass(frozen=True)
class Sources:
    """A repository with frames of the chosen rows, one per codebook."""

    repo: Repo
    prepared: Prepared
    log: Any
    split: TimeSplit
    at_us: Any
    limits: Limits

    @classmethod
    def of(cls, data: str, options: argparse.Namespace) -> Sources:
        """Ingest the data and build the tables."""
        repo = prepare_repo(data, options.work / data_name(data))
        with repo.locked():
            prepared = Prepared(repo, Stages(repo.runs / "windows" / "stages.json"), data, options.impressions)
            log = prepared.ingest()
            prepared.tables(log, end_of_log(repo))
            at_us = log_moments(repo)
        limits = Limits(options.max_train_rows, options.max_evaluation_rows, options.rows_per_user)
        return cls(repo, prepared, log, TimeSplit.of(at_us, SPLIT), at_us, limits)

    def cut(self, share: float) -> int:
        """Where the window of a share ends, microseconds UTC."""
        return codebook_end(self.at_us, share * SPLIT.train / OF)

    @cached_property
    def labelled(self) -> LabelledRows:
        """All labelled rows."""
        with self.repo.locked():
            rows = self.prepared.rows(self.log)
        return read_rows(rows.files[0], context=tuple(self.repo.settings.features.context))

    @cached_property
    def chosen(self) -> WindowRows:
        """The rows of all variants."""
        return WindowRows.of(self.labelled, self.split, [self.cut(share) for share in SHARES], self.limits)

    def codebook(self, preset_name: str, preset: Preset, share: float | None) -> str:
        """Fit the codebook of a preset on a share of the log; None: on all training rows."""
        end_us = self.split.train_end_us if share is None else self.cut(share)
        # No arm here reads statistics of codes.
        spec = preset.codebook.model_copy(update={"stats": preset.codebook.stats.model_copy(update={"depths": ()})})
        with self.repo.locked():
            return self.prepared.codebook(preset_name, spec, end_us, [self.log], f":{preset_name}:{share}")

    def frame(self, codebook: str) -> Path:
        """The folder of the features of the chosen rows."""
        folder = self.repo.runs / "windows" / codebook
        inputs = [self.log, codebook, dataclasses.asdict(self.limits)]
        rows = self.labelled.take(self.chosen.index)
        with self.repo.locked():
            self.prepared.frame(f"frame:{codebook}", inputs, codebook, rows, self.split, Caps(), folder)
        return folder

    def data(self, codebook: str) -> Dataset:
        """The rows of :meth:`frame`."""
        data = load_dataset(self.frame(codebook))
        assert np.array_equal(data.rows.at_us, self.labelled.at_us[self.chosen.index]), "expected the chosen rows"
        return data


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


def with_rows(
    base: TrainingContext, data: Dataset, train_rows: Ints, validation_rows: Ints, **serving: Any
) -> TrainingContext:
    """The context of other rows; ``serving`` changes the serving spec. A few validation rows stand in for test rows."""
    train, validation = data.take(train_rows), data.take(validation_rows)
    spec = dataclasses.replace(base.serving, **serving)
    test = validation.take(np.arange(100))
    return dataclasses.replace(base, train=train, validation=validation, test=test, rate=train.click_rate, serving=spec)


def variants(sources: Sources, preset_name: str) -> dict[str, TrainingContext]:
    """Variant -> what rankers are trained and validated on."""
    preset, plain, rows = load_preset(preset_name), load_preset("rqkmeans"), sources.chosen
    cuts = {share: sources.cut(share) for share in SHARES}
    latest, catalog = cuts[SHARES[-1]], Catalog.open(sources.repo)
    name = sources.codebook("rqkmeans", plain, None)
    content = sources.data(name)
    base = training_context(sources.repo, name, sources.split, sources.frame(name), preset.ranker, None, threads=1)

    def on(context: TrainingContext, data: Dataset, train: Ints, **serving: Any) -> TrainingContext:
        return with_rows(context, data, train, rows.validation, **serving)

    found = {CONTENT: on(base, content, rows.train[FIRST]), CONTENT + SAME: on(base, content, rows.train[latest])}
    by_end = {}
    for share in (*SHARES, None):
        book_name = sources.codebook(preset_name, preset, share)
        end_us, data = catalog.codebook(book_name).fit_end_us, sources.data(book_name)
        book = Codebook.load(sources.repo.codebooks / book_name)
        assert book.learned_from_clicks, f"{book_name} fell back to content; use more data"
        context = dataclasses.replace(base, quantizer=book.quantizer)
        serving: dict[str, Any] = {"sizes": book.sizes, "residual_levels": book.quantizer.residual_levels}
        by_end[end_us] = data
        if share is None:
            serving |= {"content_columns": book.encoder.content_columns, "match_codes": False}
            found[BEFORE] = on(context, data, rows.train[FIRST], **serving)
            continue
        cut, label = cuts[share], f"share {share:g}"
        assert end_us <= cut, f"{book_name} saw clicks of the rankers' rows"
        found[label] = on(context, data, rows.train[cut], **serving)
        found[label + FEWER] = on(context, data, rows.thinned[cut], **serving)
        found[label + SAME] = on(context, data, rows.train[latest], **serving) if cut < latest else found[label]
    found["rolling"] = on(base, rolling(content, by_end), rows.train[FIRST])
    return found


def trained_as(variant: str) -> str:
    """The folder of a variant's predictions; rows after the latest cut are the same rows for the latest share."""
    latest = f"share {SHARES[-1]:g}"
    return (latest if variant == latest + SAME else variant).replace(" ", "_")


def arm_spec(preset: Preset, arm: str) -> ArmSpec:
    """The preset's arm; boosting grows fewer and faster trees than by default."""
    spec = preset.arms[arm]
    return spec.model_copy(update={"boosting": spec.boosting.model_copy(update=TREES)}) if spec.kind == "gbdt" else spec


def predicted(folder: Path, context: TrainingContext, preset: Preset, arm: str, seed: int) -> Doubles:
    """Click probabilities of the validation rows, trained unless an earlier run did."""
    path = folder / f"{arm}-{seed}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        trained = train_arm(context, arm, arm_spec(preset, arm), seed, f"{arm}-{seed}").validation
        np.save(path.with_suffix(".part.npy"), trained)
        path.with_suffix(".part.npy").rename(path)
    found: Doubles = np.load(path)
    return found


def measured(data: str, options: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> None:
    """Train the arms with every variant of every preset, and compare them on validation rows; results are saved per arm."""
    began, sources = time.process_time(), Sources.of(data, options)
    results: dict[str, Any] = {}
    marked = content_hash([dataclasses.asdict(sources.limits), sources.log])[:8]
    for preset_name in options.presets:
        preset = load_preset(preset_name)
        contexts = variants(sources, preset_name)
        print(f"{data}, {preset_name}: prepared after {time.process_time() - began:.0f} s", flush=True)
        kept = sources.repo.runs / "windows" / f"predictions-{marked}" / preset_name
        for arm in options.arms:
            seeds = range(options.seeds)
            predictions = {
                variant: [predicted(kept / trained_as(variant), context, preset, arm, seed) for seed in seeds]
                for variant, context in contexts.items()
                if arm == "gbdt" or variant in NEURAL
            }
            validation = contexts[CONTENT].validation
            same = {name: each for name, each in predictions.items() if name.endswith(SAME)}
            other = {name: each for name, each in predictions.items() if name not in same}
            arms: dict[str, Any] = {}
            for compared, baseline in ((other, BEFORE), (same, CONTENT + SAME)) if same else ((other, BEFORE),):
                evaluation = evaluate_arms(validation, compared, [baseline], None)
                for variant, by in evaluation.arms.items():
                    arms[variant] = {
                        "train_rows": len(contexts[variant].train),
                        "auc": {name: by[name].auc for name in SLICES if name in by},
                        "difference": {
                            each.slice: record_json(each)
                            for each in evaluation.differences
                            if each.arm == variant and each.slice in SLICES
                        },
                    }
            results.setdefault(preset_name, {})[arm] = {"seeds": len(seeds), "variants": arms}
            save(
                {
                    "impressions": options.impressions if data.startswith("synthetic") else None,
                    "limits": dataclasses.asdict(sources.limits),
                    "validation": {name: record_json(evaluation.rows[name]) for name in SLICES},
                    "cpu_seconds": round(time.process_time() - began),
                    "presets": results,
                }
            )
            print(f"{data}, {preset_name}, {arm}: {time.process_time() - began:.0f} s", flush=True)


def _saved(name: str, facts: dict[str, Any]) -> None:
    """Save the results of a data set, beside those of other presets on the same rows."""
    results = read_json(RESULTS) if RESULTS.exists() else {}
    before = results.get(name, {})
    if before.get("limits") == facts["limits"]:
        facts = {**facts, "presets": {**before["presets"], **facts["presets"]}}
    write_json(RESULTS, {**results, name: facts})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "codebook_windows")
    parser.add_argument("--presets", nargs="+", default=["saviorrec", "smile"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--impressions", type=int, default=100_000, help="of a synthetic world")
    parser.add_argument("--max-train-rows", type=int, default=12_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=20_000)
    parser.add_argument("--rows-per-user", type=int, default=60, help="validation rows of one user")
    options = parser.parse_args(arguments)
    for data in options.data:
        measured(data, options, partial(_saved, data_name(data)))
    print_results(read_json(RESULTS))


if __name__ == "__main__":
    main()
