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
from ranking.training.serving_spec import ServingSpec
from sidkit.core.artifact import discard_damaged, written_before
from sidkit.core.records import read_record, record_json
from sidkit.core.sealed_table import read_kept_table, write_kept_table

if TYPE_CHECKING:
    from ranking.models.ctr_model import CtrModel
    from ranking.training.ranker import Ranker, RankerConfig
    from ranking.training.sizing import Budget
    from semantic_ids.quantizers import Quantizer


@dataclass(frozen=True)
class ArmDetails:
    """What a training came to; None for what its kind of arm does not have."""

    validation_auc: tuple[float, ...] | None = None
    """Of each epoch of a neural arm."""
    best_epoch: int | None = None
    """The epoch whose weights were saved, from 0."""
    parameters: int | None = None
    dim: int | None = None
    """Width of the embeddings."""
    table_parameters: int | None = None
    """Parameters that are rows of embedding tables, of which one row of data touches a few only."""
    trees: int | None = None
    """Of boosting."""
    train_rows: int | None = None
    """Rows that boosting learned from."""

    def as_json(self) -> dict[str, Any]:
        """JSON values, without what the arm does not have."""
        return {key: value for key, value in record_json(self).items() if value is not None}


@dataclass(frozen=True)
class ArmResult:
    """The predictions of a trained arm."""

    validation_auc: float
    """The best epoch's."""
    validation: npt.NDArray[np.float64]
    """Click probabilities of the validation rows, ``float64 [rows]``."""
    test: npt.NDArray[np.float64]
    """The same of the test rows."""
    ranker: str | None
    """The name of its artefact; None for an arm that cannot serve."""
    details: ArmDetails
    test_first_epoch: npt.NDArray[np.float64] | None = None
    """Of the test rows, by the model of the first epoch."""


@dataclass(frozen=True)
class TrainedOn:
    """What rankers of a job learned from; it stands in the manifest of each."""

    fit_start_us: int
    """The first training row, microseconds UTC."""
    fit_end_us: int
    """The end of the validation rows, which chose the epoch and so have been seen too."""
    parents: tuple[str, ...]
    """The codebook."""
    feature_settings: Mapping[str, Any]
    """The settings in ``sidkit.toml`` that decide features."""
    rows: int
    """Training rows."""

    def as_json(self) -> dict[str, Any]:
        """Keys of a manifest."""
        return {**vars(self), "parents": list(self.parents)}


@dataclass(frozen=True)
class TrainingContext:
    """What all arms of a job share: the split frame, the specs, and what a ranker's artefact must name."""

    train: Dataset | DiskDataset
    validation: Dataset
    test: Dataset
    spec: RankerSpec
    rate: float
    threads: int
    trained_on: TrainedOn
    serving: ServingSpec
    rankers: Path | None
    """Where artefacts of rankers go; None saves none."""
    quantizer: Quantizer | None = None
    """The codebook's, for representations that learn from its codewords."""
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
    """Train one arm with one seed; a neural arm that is no control is saved as a ranker artefact.

    With a budget its model is first brought to that many parameters.

    The test rows are scored by the model that validation chose (and, where the context asks for it, by that of the first
    epoch, which decides nothing).
    """
    if spec.kind == "gbdt":
        from ranking.training.gbdt import boost

        columns = context.serving.content_columns
        others = (context.validation, context.test)
        held = context.train_in_memory()
        boosted = boost(held, context.validation, others, seed=seed, columns=columns)
        details = ArmDetails(trees=boosted.trees, train_rows=len(held))
        return ArmResult(boosted.validation_auc, boosted.predictions[0], boosted.predictions[1], None, details)
    return _train_neural(context, arm, spec, seed, name, budget)


def _train_neural(
    context: TrainingContext, arm: str, spec: ArmSpec, seed: int, name: str, budget: Budget | None
) -> ArmResult:
    from ranking.data.batches import Batches, seen_in, vocabulary_of
    from ranking.data.disk_batches import training_tensors
    from ranking.training.loop import train
    from ranking.training.ranker import METRICS, Ranker, fit_representations, make_model
    from ranking.training.sizing import sized

    folder = context.rankers / name if context.rankers is not None and spec.can_serve else None
    describe = {"kind": "ranker", "name": name, "seed": seed, **context.trained_on.as_json()}
    if folder is not None:
        discard_damaged(folder)
    if folder is not None and not context.first_epoch and written_before(folder, describe) is not None:
        # Killed after the artefact, before its predictions.
        ranker, details = Ranker.load(folder), read_record(ArmDetails, folder / METRICS)
        return _scored(context.validation, context.test, ranker, details, name)

    seen_rows, validation_rows, test_rows = context.train, context.validation, context.test
    if spec.is_control:
        items = context.train.items
        items = shuffled_codes(items, seed) if spec.shuffle_codes else random_codes(items, context.serving.sizes, seed)
        seen_rows = dataclasses.replace(seen_rows, items=items)
        validation_rows, test_rows = (dataclasses.replace(part, items=items) for part in (validation_rows, test_rows))
    config = _config(context, arm, spec)
    scaling = config.scaling
    vocabulary = vocabulary_of(seen_rows)
    training = training_tensors(seen_rows, scaling, vocabulary)
    validation = Batches(validation_rows, scaling, vocabulary)
    quantizer = context.quantizer
    seen = seen_in(seen_rows, vocabulary, quantizer.decode_flat if quantizer is not None else None)
    fitted = fit_representations(config, vocabulary, seen)
    if budget is not None:
        config = sized(config, vocabulary, fitted, budget)
    # A resumed run cannot recover the first-epoch model.
    checkpoints = None if context.first_epoch else context.rankers
    checkpoint = checkpoints / f".checkpoint-{name}.safetensors" if checkpoints is not None else None
    first: list[npt.NDArray[np.float64]] = []

    def after_epoch(epoch: int, model: CtrModel) -> None:
        if context.first_epoch and epoch == 0:
            first.append(Ranker(model, vocabulary, config).score(test_rows))

    trained = train(
        lambda: make_model(config, vocabulary, fitted),
        training,
        validation,
        context.spec.training,
        seed=seed,
        threads=context.threads,
        checkpoint=checkpoint,
        after_epoch=after_epoch,
    )
    ranker = Ranker(trained.model, vocabulary, config)
    details = ArmDetails(
        validation_auc=trained.validation_auc,
        best_epoch=trained.best_epoch,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        dim=config.model.dim,
        table_parameters=_table_parameters(trained.model),
    )
    if folder is not None:
        ranker.save(folder, describe, details.as_json())
    result = _scored(validation_rows, test_rows, ranker, details, name if folder is not None else None)
    return dataclasses.replace(result, test_first_epoch=first[0] if first else None)


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
        model=model,
        numeric=feature_names(),
        scaling=scaling,
        content_dim=context.train.items.content.shape[1],
        **vars(context.serving),
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


def _scored(validation: Dataset, test: Dataset, ranker: Ranker, details: ArmDetails, name: str | None) -> ArmResult:
    return ArmResult(max(details.validation_auc or ()), ranker.score(validation), ranker.score(test), name, details)


FIRST_EPOCH = "test, first epoch"


def write_predictions(path: Path, result: ArmResult, facts: Mapping[str, Any] | None = None) -> None:
    """Save an arm's predictions (Parquet: part, probability) with its facts in the file's metadata."""
    parts = {"validation": result.validation, "test": result.test}
    if result.test_first_epoch is not None:
        parts[FIRST_EPOCH] = result.test_first_epoch
    table = pa.table(
        {
            "part": np.repeat(list(parts), [len(values) for values in parts.values()]),
            "probability": np.concatenate(list(parts.values())),
        }
    )
    write_kept_table(path, table, {**result.details.as_json(), **(facts or {})})


def read_predictions(path: Path, part: str = "test") -> npt.NDArray[np.float64]:
    """The predictions of an arm on one part, by default the test rows; none where the file lacks the part."""
    table, _ = read_kept_table(path)
    table = table.filter(pc.equal(table.column("part"), part))
    found: npt.NDArray[np.float64] = table.column("probability").to_numpy()
    return found


def read_details(path: Path) -> dict[str, Any]:
    """The facts that were saved with an arm's predictions."""
    return read_kept_table(path)[1]
