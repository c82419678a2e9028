"""Bytes per item against AUC: the same ranker on ids, on decoded codes, and on content vectors of three precisions.

    python benchmarks/bytes_per_item.py --data DATA... [--work .work/bytes] [--seeds 3] [--max-train-rows 20000]

All arms read the same built-in features (no statistics of codes) with the settings of the preset ``rqkmeans``; they differ in
the vectors of items alone. Quantizers are fitted on the encoder's vectors of the items known at the end of training.

The first step scores candidates of 8 bytes on the validation rows of all data sets; the best mean names the arm ``codes``. The
second step scores the test rows, once: results that exist are not measured again. All figures go to
``benchmarks/results/bytes_per_item.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

import numpy as np
from arms import ROOT, data_name

from ranking.data.dataset import read_rows
from ranking.data.split import TimeSplit
from ranking.evaluation.metrics import auc
from ranking.pipeline.evaluation import evaluate_arms
from ranking.pipeline.prepare import Prepared, end_of_log, feature_inputs, prepare_repo, training_context
from ranking.pipeline.presets import load_preset
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import TrainingContext, train_arm
from semantic_ids.code_stats import CodeStatsSpec
from semantic_ids.codebook import Codebook
from semantic_ids.fitting import CodebookSpec, build_models
from semantic_ids.pairs.known_items import known_items
from semantic_ids.quantizers import Quantizer
from sidkit.core.arrays import Floats
from sidkit.core.files import read_json, write_json
from sidkit.core.records import record_json
from sidkit.core.stages import Stages
from sidkit.datasets.user_sample import thin_by_user
from sidkit.tables.labelled_rows import log_moments

RESULTS = ROOT / "benchmarks" / "results" / "bytes_per_item.json"
BAR = 0.003
"""How far below ``content`` the codes may be, over all rows."""
SHOWN = ("all", "cold")
CONTENT = "content float32"
IDS = "ids"
PRESET = "codes of the preset"
"""The three codes per item of ``rqkmeans`` with its default sizes, one byte each or less."""
BEAM = 4
CANDIDATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "residual_kmeans content": ("residual_kmeans", ("content",)),
    "residual_kmeans mba": ("residual_kmeans", ("mba",)),
    "opq content": ("opq", ("content",)),
}
WITH_ID = {"residual_kmeans id+content": ("residual_kmeans", ("id", "content"))}
"""Measured for the choice of the shipped arm; the bar is about codes without ids."""


class World:
    """The frame of one data set, and the items that quantizers are fitted on."""

    def __init__(self, data: str, options: argparse.Namespace) -> None:
        repo = prepare_repo(data, options.work / data_name(data).replace(":", "_"))
        preset = load_preset("rqkmeans")
        spec = preset.codebook.model_copy(update={"stats": CodeStatsSpec(depths=())})
        limits = {
            "epochs": options.epochs,
            "max_train_rows": options.max_train_rows,
            "max_evaluation_rows": options.max_evaluation_rows,
        }
        ranker = preset.ranker.model_copy(update={"training": preset.ranker.training.model_copy(update=limits)})
        folder = repo.runs / "bytes"
        with repo.locked():
            prepared = Prepared(repo, Stages(folder / "stages.json"), data, 100_000)
            log = prepared.ingest()
            split = TimeSplit.of(log_moments(repo), repo.settings.split)
            caps = ranker.training.caps
            sample = caps.sample_of(repo, split)
            rows = prepared.rows(log, sample)
            tables = prepared.tables(log, end_of_log(repo))
            inputs = [log, tables.facts, split.train_end_us]
            name = prepared.codebook("bytes", spec, split.train_end_us, inputs)
            self.parts = prepared.frame(
                "frame",
                [*inputs, name, rows.facts, *feature_inputs(repo.settings.features)],
                name,
                read_rows(rows.files[0], context=tuple(repo.settings.features.context)),
                split,
                caps if sample is None else type(caps)(),
                folder / "frame",
            ).facts["parts"]
            known = known_items(repo, split.train_end_us)
        context = training_context(repo, name, split, folder / "frame", ranker, None, threads=1)
        kept = thin_by_user(context.validation.rows.user_ids, options.validation_rows)
        self.context = dataclasses.replace(context, validation=context.validation.take(kept))
        self.codebook = Codebook.load(repo.codebooks / name)
        self.fitted_on = self.codebook.vectors(known.content)
        self._quantizers: dict[tuple[str, int], Quantizer] = {}

    def quantizer(self, name: str, item_bytes: int) -> Quantizer:
        """A quantizer of so many one-byte codes, fitted on the items known at the end of training."""
        if (name, item_bytes) not in self._quantizers:
            made = build_models(CodebookSpec(quantizer=name, item_bytes=item_bytes), len(self.fitted_on))[1]
            self._quantizers[name, item_bytes] = made.fit(self.fitted_on)
        return self._quantizers[name, item_bytes]

    def coded(self, name: str, item_bytes: int) -> TrainingContext:
        """The context with the codes of a quantizer."""
        quantizer, items = self.quantizer(name, item_bytes), self.context.train.items
        present = (items.codes >= 0).all(axis=1)
        codes = np.full((len(items), len(quantizer.sizes_)), -1, dtype=np.int32)
        codes[present] = quantizer.encode(items.content[present], beam=BEAM)
        serving = dataclasses.replace(
            self.context.serving, sizes=quantizer.sizes_, residual_levels=quantizer.residual_levels
        )
        context = with_items(self.context, codes=codes)
        return dataclasses.replace(context, quantizer=quantizer, serving=serving)

    def explained(self, name: str, item_bytes: int) -> float:
        """Share of the squared length of the vectors that decoded codes keep, over the items of the frame."""
        content = self.context.train.items.content
        decoded = self.coded(name, item_bytes).of_arm(DECODED, 0).train.items.content
        return float(1 - ((content - decoded) ** 2).sum() / (content**2).sum())

    def rounded(self, precision: str) -> TrainingContext:
        """The context with content vectors of a precision."""
        content = self.context.train.items.content
        return with_items(self.context, content=self._rounded(content, precision))

    def _rounded(self, content: Floats, precision: str) -> Floats:
        if precision == "float16":
            return content.astype(np.float16).astype(np.float32)
        if precision == "int8":
            scale = np.maximum(np.abs(self.fitted_on).max(axis=0), 1e-9) / 127
            return (np.clip(np.rint(content / scale), -127, 127) * scale).astype(np.float32)
        return content

    def variants(self, chosen: str) -> dict[str, tuple[float, TrainingContext, ArmSpec]]:
        """Arm -> bytes per item, its data, and its spec."""
        quantizer, parts = CANDIDATES[chosen]
        content, dim = ArmSpec(representations=("content",)), self.context.train.items.content.shape[1]
        rows = 4 * self.context.spec.model.dim
        found: dict[str, tuple[float, TrainingContext, ArmSpec]] = {
            IDS: (rows, self.context, ArmSpec(representations=("id",)))
        }
        arm = ArmSpec(representations=parts, vectors="decoded")
        for count in (2, 4, 8):
            found[f"codes {count}"] = (count, self.coded(quantizer, count), arm)
        found[PRESET] = (len(self.codebook.sizes), self.context, DECODED)
        found["pq 8"] = (8, self.coded("pq", 8), DECODED)
        for precision, width in (("int8", 1), ("float16", 2), ("float32", 4)):
            found[f"content {precision}"] = (width * dim, self.rounded(precision), content)
        return found


DECODED = ArmSpec(representations=("content",), vectors="decoded")


def with_items(context: TrainingContext, **changes: Any) -> TrainingContext:
    """The context with other codes or content vectors of items."""
    items = dataclasses.replace(context.train.items, **changes)
    parts = {name: dataclasses.replace(getattr(context, name), items=items) for name in ("train", "validation", "test")}
    return dataclasses.replace(context, **parts)


def validated(world: World) -> dict[str, float]:
    """Candidate -> AUC on validation rows, of one seed; test rows are not scored."""
    label = world.context.validation.rows.label
    found = {}
    plain = {PRESET: (None, ("content",)), CONTENT: (None, ("content",))}
    for name, (quantizer, parts) in {**CANDIDATES, **WITH_ID, **plain}.items():
        context = world.coded(quantizer, 8) if quantizer else world.context
        context = dataclasses.replace(context, test=context.validation)
        arm = ArmSpec(representations=parts, vectors="content" if name == CONTENT else "decoded")
        found[name] = round(auc(label, train_arm(context, "arm", arm, 0, "arm").validation), 5)
        print(f"  validation {name}: {found[name]:.4f}", flush=True)
    return found


def choice(validation: Mapping[str, Mapping[str, float]]) -> str:
    """The candidate with the best mean distance to ``content`` over the data sets."""
    return max(CANDIDATES, key=lambda name: np.mean([by[name] - by[CONTENT] for by in validation.values()]))


def tested(world: World, chosen: str, seeds: int) -> Iterator[dict[str, Any]]:
    """Metrics of all variants on the test rows, and their differences from content and from ids, after each seed."""
    variants = world.variants(chosen)
    predictions: dict[str, list[Any]] = {name: [] for name in variants}
    kept = {f"codes {count}": round(world.explained(CANDIDATES[chosen][0], count), 4) for count in (2, 4, 8)}
    kept["pq 8"] = round(world.explained("pq", 8), 4)
    for seed in range(seeds):
        for name, (_, context, arm) in variants.items():
            predictions[name].append(train_arm(context, "arm", arm, seed, "arm").test)
            print(f"  test {name}, seed {seed}: trained", flush=True)
        evaluation = evaluate_arms(world.context.test, predictions, [CONTENT, IDS], None)
        yield {
            "seeds": seed + 1,
            "rows": world.parts,
            "items": len(world.fitted_on),
            "preset_sizes": list(world.codebook.sizes),
            "bytes": {name: size for name, (size, _, _) in variants.items()},
            "kept": kept,
            "auc": {arm: {part: by[part].auc for part in SHOWN if part in by} for arm, by in evaluation.arms.items()},
            "positives": {part: evaluation.rows[part].positives for part in SHOWN if part in evaluation.rows},
            "differences": [record_json(each) for each in evaluation.differences if each.slice in SHOWN],
        }


def main() -> None:
    """Choose on validation rows, then measure the test rows that are not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "bytes")
    parser.add_argument("--seeds", type=int, default=3, help="of the test; the validation has one")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--max-train-rows", type=int, default=20_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=20_000)
    parser.add_argument("--validation-rows", type=int, default=8_000, help="of a sample of users")
    parser.add_argument("--validate-only", action="store_true", help="leave the choice and the test to a later call")
    options = parser.parse_args()
    for data in options.data:
        if data_name(data) not in results()["validation"]:
            measured = validated(World(data, options))
            write_results({"validation": {**results()["validation"], data_name(data): measured}})
    if options.validate_only:
        return
    if "chosen" not in results():
        write_results({"chosen": choice(results()["validation"]), "seeds": options.seeds, "bar": BAR})
    for data in options.data:
        if results()["test"].get(data_name(data), {}).get("seeds") == options.seeds:
            continue
        for measured in tested(World(data, options), results()["chosen"], options.seeds):
            write_results({"test": {**results()["test"], data_name(data): measured}})
            print(json.dumps(measured["auc"], indent=1), flush=True)


def results() -> dict[str, Any]:
    """The results so far; read again each time, because data sets may be measured by processes of their own."""
    held: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() else {"validation": {}, "test": {}}
    return held


def write_results(changes: dict[str, Any]) -> None:
    """Update the results."""
    write_json(RESULTS, results() | changes)


if __name__ == "__main__":
    main()
