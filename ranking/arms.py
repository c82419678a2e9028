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

from ranking.control_codes import random_codes, shuffled_codes
from ranking.features import Scaling, feature_names
from ranking.presets import ArmSpec, RankerSpec
from ranking.training_set import TrainingSet
from sidkit.artifact import written_before
from sidkit.files import read_json, written_beside

if TYPE_CHECKING:
    from ranking.artifact import Ranker
    from semantic_ids.quantizers import Quantizer


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
    quantizer: Quantizer | None = None
    """The codebook's, for representations that learn from what its codes stand for."""


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
    from ranking.artifact import METRICS, Ranker, RankerConfig, fit_representations, make_model
    from ranking.tensors import TensorSet, Vocabulary, seen_in
    from ranking.train import train

    folder, describe = context.rankers / name, {"kind": "ranker", "name": name, "seed": seed, **context.describe}
    if written_before(folder, describe) is not None:  # killed after the artefact, before its predictions
        ranker, details = Ranker.load(folder), read_json(folder / METRICS)
        return _told(context.validation, context.test, ranker, details, name)

    parts = [context.train, context.validation, context.test]
    if spec.is_control:
        items = context.train.items
        items = (
            shuffled_codes(items, seed) if spec.shuffle_codes else random_codes(items, context.serving["sizes"], seed)
        )
        parts = [dataclasses.replace(part, items=items) for part in parts]
    scaling = Scaling.fit(parts[0].numeric, context.rate)
    vocabulary = Vocabulary.fit(parts[0].rows.item_ids)
    config = RankerConfig(
        arm=arm,
        representations=spec.representations,
        model=spec.model_spec(context.spec.model).model_dump(mode="json"),
        numeric=feature_names(),
        scaling=dataclasses.asdict(scaling),
        content_dim=parts[0].items.content.shape[1],
        **context.serving,
    )
    training, validation = (TensorSet(part, scaling, vocabulary) for part in parts[:2])
    quantizer = context.quantizer
    seen = seen_in(parts[0], vocabulary, quantizer.decode_flat if quantizer is not None else None)
    fitted = fit_representations(config, vocabulary, seen)
    trained = train(
        lambda: make_model(config, vocabulary, fitted), training, validation, context.spec.training, seed=seed,
        threads=context.threads,
        checkpoint=context.rankers / f".checkpoint-{name}.safetensors",
    )  # fmt: skip
    ranker = Ranker(trained.model, vocabulary, config)
    details = {
        "validation_auc": list(trained.validation_auc),
        "best_epoch": trained.best_epoch,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
    }
    if spec.can_serve:
        ranker.save(folder, describe, details)
    return _told(parts[1], parts[2], ranker, details, name if spec.can_serve else None)


def _told(
    validation: TrainingSet, test: TrainingSet, ranker: Ranker, details: dict[str, Any], name: str | None
) -> ArmResult:
    return ArmResult(max(details["validation_auc"]), ranker.score(validation), ranker.score(test), name, details)


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
