"""Training one arm: one competitor, one seed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.features import Scaling, feature_names
from ranking.item_table import ItemTable
from ranking.presets import ArmSpec, RankerSpec
from ranking.training_set import TrainingSet
from sidkit.artifact import written_before
from sidkit.files import read_json, written_beside

if TYPE_CHECKING:
    from ranking.artifact import Ranker


@dataclass(frozen=True)
class ArmResult:
    """What an arm says of validation and test rows, and where its ranker lies (None for what cannot serve)."""

    validation_auc: float
    validation: npt.NDArray[np.float64]
    test: npt.NDArray[np.float64]
    ranker: str | None
    details: dict[str, Any]


@dataclass(frozen=True)
class TrainingContext:
    """What all arms of a job share: the split frame, the specs, and what a ranker's artefact must name."""

    train: TrainingSet
    validation: TrainingSet
    test: TrainingSet
    spec: RankerSpec
    rate: float
    threads: int
    describe: dict[str, Any]
    serving: dict[str, Any]
    rankers: Path


def train_arm(context: TrainingContext, arm: str, spec: ArmSpec, seed: int, name: str) -> ArmResult:
    """Train one arm with one seed; a neural arm that is no control is kept as a ranker artefact.

    The test rows are scored once, by the model that validation chose.
    """
    if spec.kind == "gbdt":
        from ranking.gbdt import boost

        boosted = boost(context.train, context.validation, (context.validation, context.test), seed=seed)
        return ArmResult(
            boosted.validation_auc, boosted.predictions[0], boosted.predictions[1], None, {"trees": boosted.trees}
        )
    return _train_neural(context, arm, spec, seed, name)


def _train_neural(context: TrainingContext, arm: str, spec: ArmSpec, seed: int, name: str) -> ArmResult:
    from ranking.artifact import METRICS, Ranker, RankerConfig, make_model
    from ranking.tensors import TensorSet, Vocabulary
    from ranking.train import train

    folder, describe = context.rankers / name, {"kind": "ranker", "name": name, "seed": seed, **context.describe}
    if written_before(folder, describe) is not None:  # killed after the artefact, before its predictions
        ranker, details = Ranker.load(folder), read_json(folder / METRICS)
        return _told(context.validation, context.test, ranker, details, name)

    parts = [context.train, context.validation, context.test]
    if spec.shuffle_codes:
        items = shuffled_codes(context.train.items, seed)
        parts = [dataclasses.replace(part, items=items) for part in parts]
    scaling = Scaling.fit(parts[0].numeric, context.rate)
    vocabulary = Vocabulary.fit(parts[0].rows.item_ids)
    config = RankerConfig(
        arm=arm,
        representations=spec.representations,
        model=context.spec.model.model_dump(mode="json"),
        numeric=feature_names(),
        scaling=dataclasses.asdict(scaling),
        content_dim=parts[0].items.content.shape[1],
        **context.serving,
    )
    training, validation = (TensorSet(part, scaling, vocabulary) for part in parts[:2])
    trained = train(
        lambda: make_model(config, vocabulary), training, validation, context.spec.training, seed=seed,
        threads=context.threads,
    )  # fmt: skip
    ranker = Ranker(trained.model, vocabulary, config)
    details = {
        "validation_auc": list(trained.validation_auc),
        "best_epoch": trained.best_epoch,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
    }
    if not spec.shuffle_codes:
        ranker.save(folder, describe, details)
    return _told(parts[1], parts[2], ranker, details, None if spec.shuffle_codes else name)


def _told(
    validation: TrainingSet, test: TrainingSet, ranker: Ranker, details: dict[str, Any], name: str | None
) -> ArmResult:
    return ArmResult(max(details["validation_auc"]), ranker.score(validation), ranker.score(test), name, details)


def shuffled_codes(items: ItemTable, seed: int) -> ItemTable:
    """Give each item the codes of another: the same codes with the same frequencies, without meaning.

    All versions of an item get the codes of one other item, so that an item keeps one identity.
    """
    coded = np.flatnonzero((items.codes >= 0).all(axis=1))
    names, first, back = np.unique(items.ids[coded].astype(str), return_index=True, return_inverse=True)
    # One cycle through all items, so that nobody keeps their own.
    order = np.random.default_rng(seed).permutation(len(names))
    donor = np.empty_like(order)
    donor[order] = np.roll(order, 1)
    codes = items.codes.copy()
    codes[coded] = items.codes[coded[first[donor[back.ravel()]]]]
    return dataclasses.replace(items, codes=codes)


def write_predictions(path: Path, result: ArmResult) -> None:
    """Keep an arm's predictions (Parquet: part, probability) with its facts in the file's metadata."""
    table = pa.table(
        {
            "part": ["validation"] * len(result.validation) + ["test"] * len(result.test),
            "probability": np.concatenate([result.validation, result.test]),
        }
    ).replace_schema_metadata({"details": json.dumps(result.details)})
    with written_beside(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_predictions(path: Path) -> npt.NDArray[np.float64]:
    """The test predictions of an arm."""
    table = pq.read_table(path, filters=[("part", "=", "test")])
    found: npt.NDArray[np.float64] = table.column("probability").to_numpy()
    return found
