"""Training one arm: one competitor, one seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ranking.data.control_codes import random_codes, shuffled_codes
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.numeric_features import Scaling, feature_names
from ranking.training.arm_spec import ArmSpec, RankerSpec
from sidkit.core.artifact import discard_damaged, written_before
from sidkit.core.files import read_json
from sidkit.core.sealed_table import read_kept_table, write_kept_table

if TYPE_CHECKING:
    from ranking.models.ctr_model import CtrModel
    from ranking.training.ranker import Ranker, RankerConfig
    from ranking.training.sizing import Budget
    from semantic_ids.quantizers import Quantizer


@dataclass(frozen=True)
class ArmResult:
    """What an arm says of validation and test rows, and where its ranker lies (None for what cannot serve)."""

    validation_auc: float
    validation: npt.NDArray[np.float64]
    test: npt.NDArray[np.float64]
    ranker: str | None
    details: dict[str, Any]
    test_first_epoch: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class TrainingContext:
    """What all arms of a job share: the split frame, the specs, and what a ranker's artefact must name."""

    train: Dataset | DiskDataset
    validation: Dataset
    test: Dataset
    spec: RankerSpec
    rate: float
    threads: int
    describe: dict[str, Any]
    serving: Mapping[str, Any]
    rankers: Path | None
    """Where artefacts of rankers go; None keeps none."""
    quantizer: Quantizer | None = None
    """The codebook's, for representations that learn from what its codes stand for."""
    first_epoch: bool = False
    """Also score the test rows by the model of the first epoch, so that one-epoch overfitting can be seen."""

    def train_in_memory(self) -> Dataset:
        """The training rows; where they are streamed, those of a sample of users, as many rows as may lie in memory."""
        if isinstance(self.train, Dataset):
            return self.train
        return self.train.thinned(self.spec.training.stream_rows)


def train_arm(
    context: TrainingContext, arm: str, spec: ArmSpec, seed: int, name: str, budget: Budget | None = None
) -> ArmResult:
    """Train one arm with one seed; a neural arm that is no control is kept as a ranker artefact.

    With a budget its model is first brought to that many parameters.

    The test rows are scored by the model that validation chose (and, where the context asks for it, by that of the first
    epoch, which decides nothing).
    """
    if spec.kind == "gbdt":
        from ranking.training.gbdt import boost

        columns = context.serving.get("content_columns")
        others = (context.validation, context.test)
        held = context.train_in_memory()
        boosted = boost(held, context.validation, others, seed=seed, columns=columns)
        details = {"trees": boosted.trees, "train_rows": len(held)}
        return ArmResult(boosted.validation_auc, boosted.predictions[0], boosted.predictions[1], None, details)
    return _train_neural(context, arm, spec, seed, name, budget)


def _train_neural(
    context: TrainingContext, arm: str, spec: ArmSpec, seed: int, name: str, budget: Budget | None
) -> ArmResult:
    from ranking.data.batches import Batches, seen_in, vocabulary_of
    from ranking.data.disk_batches import training_tensors
    from ranking.training.loop import train
    from ranking.training.ranker import METRICS, Ranker, fit_representations, make_model, scaling_of
    from ranking.training.sizing import sized

    folder = context.rankers / name if context.rankers is not None and spec.can_serve else None
    describe = {"kind": "ranker", "name": name, "seed": seed, **context.describe}
    if folder is not None:
        discard_damaged(folder)
    if folder is not None and not context.first_epoch and written_before(folder, describe) is not None:
        # Killed after the artefact, before its predictions.
        ranker, details = Ranker.load(folder), read_json(folder / METRICS)
        return _told(context.validation, context.test, ranker, details, name)

    seen_rows, validation_rows, test_rows = context.train, context.validation, context.test
    if spec.is_control:
        items = context.train.items
        items = (
            shuffled_codes(items, seed) if spec.shuffle_codes else random_codes(items, context.serving["sizes"], seed)
        )
        seen_rows = dataclasses.replace(seen_rows, items=items)
        validation_rows, test_rows = (dataclasses.replace(part, items=items) for part in (validation_rows, test_rows))
    config = _config(context, arm, spec)
    scaling = scaling_of(config)
    vocabulary = vocabulary_of(seen_rows)
    training = training_tensors(seen_rows, scaling, vocabulary)
    validation = Batches(validation_rows, scaling, vocabulary)
    quantizer = context.quantizer
    seen = seen_in(seen_rows, vocabulary, quantizer.decode_flat if quantizer is not None else None)
    fitted = fit_representations(config, vocabulary, seen)
    if budget is not None:
        config = sized(config, vocabulary, fitted, budget)
    # A training that goes on after its first epoch could not tell what that epoch was.
    kept_in = None if context.first_epoch else context.rankers
    checkpoint = kept_in / f".checkpoint-{name}.safetensors" if kept_in is not None else None
    first: list[npt.NDArray[np.float64]] = []

    def after_epoch(epoch: int, model: CtrModel) -> None:
        if context.first_epoch and epoch == 0:
            first.append(Ranker(model, vocabulary, config).score(test_rows))

    trained = train(
        lambda: make_model(config, vocabulary, fitted), training, validation, context.spec.training, seed=seed,
        threads=context.threads, checkpoint=checkpoint, after_epoch=after_epoch,
    )  # fmt: skip
    ranker = Ranker(trained.model, vocabulary, config)
    details = {
        "validation_auc": list(trained.validation_auc),
        "best_epoch": trained.best_epoch,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "dim": config.model["dim"],
        "table_parameters": _table_parameters(trained.model),
    }
    if folder is not None:
        ranker.save(folder, describe, details)
    told = _told(validation_rows, test_rows, ranker, details, name if folder is not None else None)
    return dataclasses.replace(told, test_first_epoch=first[0] if first else None)


def parameters_before_training(context: TrainingContext, arm: str, spec: ArmSpec) -> int:
    """How many parameters a neural arm's model will have."""
    from ranking.data.batches import seen_in, vocabulary_of
    from ranking.training.ranker import fit_representations
    from ranking.training.sizing import parameters_of

    config = _config(context, arm, spec)
    vocabulary = vocabulary_of(context.train)
    seen = seen_in(context.train, vocabulary, context.quantizer.decode_flat if context.quantizer else None)
    return parameters_of(config, vocabulary, fit_representations(config, vocabulary, seen))


def _config(context: TrainingContext, arm: str, spec: ArmSpec) -> RankerConfig:
    """What an arm's ranker is, before any training."""
    from ranking.models.numeric_bins import binned
    from ranking.training.ranker import RankerConfig

    rows, model = context.train, spec.model_spec(context.spec.model)
    scaling = Scaling.fit_chunks(rows.feature_chunks(), context.rate)
    if model.numeric_bins:
        scaling = binned(scaling, rows.feature_chunks(), model.numeric_bins)
    return RankerConfig(
        arm=arm,
        representations=spec.representations,
        model=model.model_dump(mode="json"),
        numeric=feature_names(),
        scaling=dataclasses.asdict(scaling),
        content_dim=context.train.items.content.shape[1],
        **context.serving,
    )


def _table_parameters(model: CtrModel) -> int:
    """How many of the parameters are rows of embedding tables, of which one row of data touches a few only."""
    from torch import nn

    tables = {
        id(each): each.numel()
        for part in model.modules()
        if isinstance(part, nn.Embedding)
        for each in part.parameters()
    }
    return sum(tables.values())


def _told(validation: Dataset, test: Dataset, ranker: Ranker, details: dict[str, Any], name: str | None) -> ArmResult:
    return ArmResult(max(details["validation_auc"]), ranker.score(validation), ranker.score(test), name, details)


FIRST_EPOCH = "test, first epoch"


def write_predictions(path: Path, result: ArmResult, facts: Mapping[str, Any] | None = None) -> None:
    """Keep an arm's predictions (Parquet: part, probability) with its facts in the file's metadata."""
    parts = {"validation": result.validation, "test": result.test}
    if result.test_first_epoch is not None:
        parts[FIRST_EPOCH] = result.test_first_epoch
    table = pa.table(
        {
            "part": np.repeat(list(parts), [len(values) for values in parts.values()]),
            "probability": np.concatenate(list(parts.values())),
        }
    )
    write_kept_table(path, table, {**result.details, **(facts or {})})


def read_predictions(path: Path, part: str = "test") -> npt.NDArray[np.float64]:
    """The predictions of an arm on one part, by default the test rows; none where the file lacks the part."""
    table, _ = read_kept_table(path)
    table = table.filter(pc.equal(table.column("part"), part))
    found: npt.NDArray[np.float64] = table.column("probability").to_numpy()
    return found


def read_details(path: Path) -> dict[str, Any]:
    """The facts that were kept with an arm's predictions."""
    return read_kept_table(path)[1]
