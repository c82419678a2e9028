"""Training of one arm with one seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ranking.data.control_codes import ControlKind
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.schema import FeatureSchema
from ranking.evaluation.importance import Importance
from ranking.evaluation.slices import prior_interactions
from ranking.training.arm_spec import ArmSpec, RankerSpec
from ranking.training.control_data import SplitData, control_data
from ranking.training.liveness import PartLiveness, TableChange
from ranking.training.serving_spec import ServingSpec
from semantic_ids.decoding import decoded_vectors
from sidkit.core.arrays import Codes, Floats
from sidkit.core.artifact import discard_damaged, written_before
from sidkit.core.progress import SILENT, EpochDone, Progress, TreesGrown
from sidkit.core.records import read_record, record_json

if TYPE_CHECKING:
    from ranking.data.vocabulary import Vocabulary
    from ranking.models.ctr_model import CtrModel
    from ranking.training.load_ranker import LoadedRanker
    from ranking.training.loop import Trained
    from ranking.training.processes import Processes
    from ranking.training.ranker import Ranker, RankerConfig
    from ranking.training.reranked_ranker import RerankedRanker
    from ranking.training.sizing import Budget
    from semantic_ids.neighbour_lists import NeighbourLists
    from semantic_ids.quantizers import Quantizer


@dataclass(frozen=True)
class ArmDetails:
    """Training details of an arm; fields that do not apply to its kind are None."""

    validation_auc: tuple[float, ...] | None = None
    """Validation AUC per epoch of a neural arm."""
    best_epoch: int | None = None
    """The epoch whose weights were saved, from 0."""
    parameters: int | None = None
    """Number of model parameters."""
    dim: int | None = None
    """Embedding dimension."""
    table_parameters: int | None = None
    """Number of parameters in embedding tables, of which a row of data looks up only a few."""
    trees: int | None = None
    """Number of trees of a gbdt arm."""
    train_rows: int | None = None
    """Training rows of a gbdt arm."""
    weights: dict[str, float] | None = None
    """Member -> weight of its logit, of a blend; its mean over validation rows, if the weight depends on counts."""
    gate: dict[str, float] | None = None
    """The numbers of a count gate by name (:class:`ranking.training.count_gate.CountGate`), of a blend by counts."""
    adapter: dict[str, float] | None = None
    """How many days an adapter was fitted for (``fits``), and the numbers of the last fit."""
    reranked: tuple[float, ...] | None = None
    """Validation AUC of an arm with a re-ranker: that of the ranker, then one per epoch of the re-ranker."""
    reranker_parameters: int | None = None
    """Number of parameters of the re-ranker, besides ``parameters``."""
    features: tuple[str, ...] | None = None
    """Features besides the built-in ones that the arm reads."""
    importance: tuple[Importance, ...] | None = None
    """Permutation importance on validation rows of a gbdt arm."""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values without fields that are None."""
        return {key: value for key, value in record_json(self).items() if value is not None}


@dataclass(frozen=True)
class ArmResult:
    """The predictions of a trained arm."""

    validation_auc: float
    """Validation AUC of the best epoch."""
    validation: npt.NDArray[np.float64]
    """Click probabilities of the validation rows, ``float64 [rows]``."""
    test: npt.NDArray[np.float64]
    """Click probabilities of the test rows, ``float64 [rows]``."""
    ranker: str | None
    """Name of the ranker artefact; None for an arm that cannot serve."""
    details: ArmDetails
    test_first_epoch: npt.NDArray[np.float64] | None = None
    """Click probabilities of the test rows by the model after the first epoch."""
    liveness: tuple[PartLiveness, ...] | None = None
    """What the parts of the model contribute; None for gradient boosting, and if it was not measured."""


@dataclass(frozen=True)
class TrainedOn:
    """Training data of a job's rankers, recorded in each manifest."""

    fit_start_us: int
    """Timestamp of the first training row, microseconds UTC."""
    fit_end_us: int
    """End of the validation window, microseconds UTC; validation rows select the epoch, so they count as seen."""
    parents: tuple[str, ...]
    """Name of the codebook."""
    feature_settings: Mapping[str, Any]
    """Settings in ``sidkit.toml`` that affect features."""
    rows: int
    """Number of training rows."""

    def as_json(self) -> dict[str, Any]:
        """Return the keys to store in a manifest."""
        return {**vars(self), "parents": list(self.parents)}


@dataclass(frozen=True)
class TrainingContext:
    """Inputs shared by all arms of a job: the split data, the specs, and the metadata of ranker artefacts."""

    train: Dataset | DiskDataset
    validation: Dataset
    test: Dataset
    spec: RankerSpec
    rate: float
    """Share of clicked training rows, towards which click rates are smoothed."""
    threads: int
    trained_on: TrainedOn
    serving: ServingSpec
    rankers: Path | None
    """Folder for ranker artefacts; None saves none."""
    quantizer: Quantizer | None = None
    """The codebook's quantizer, for representations that use its codewords."""
    neighbours: NeighbourLists | None = None
    """The codebook's neighbour lists."""
    first_epoch: bool = False
    """Also score the test rows after the first epoch, to expose one-epoch overfitting."""
    liveness: bool = False
    """Also measure what the parts of the model contribute, on validation rows."""
    importance: bool = False
    """Also measure the permutation importance of the features for gbdt arms, on validation rows."""
    controls: Mapping[ControlKind, Path] = field(default_factory=dict)
    """Control parts of the frame (:mod:`ranking.data.control_part`), for controls that read statistics of codes."""
    served: frozenset[str] = frozenset()
    """Arms of boosting whose artefacts are saved, because they, or blends of them, may serve; neural arms always are."""
    processes: Processes | None = None
    """The processes that train neural arms together; None: this one alone."""
    before_training: Callable[[], None] | None = None
    """Called when a neural arm is about to be trained, so that the other processes join in."""

    def narrowed(self, arm: ArmSpec) -> TrainingContext:
        """The same data with the features that an arm reads, and what serving needs for it.

        Raises
        ------
        ConfigError
            When the arm, or the preset, names a feature that the data lack.
        """
        context = dataclasses.replace(self, serving=self.serving.of_vectors(arm.vectors))
        schema = arm.schema_of(self.train.schema, self.spec.features)
        return dataclasses.replace(
            context,
            train=self.train.narrowed(schema),
            validation=self.validation.narrowed(schema),
            test=self.test.narrowed(schema),
        )

    def of_arm(self, arm: ArmSpec, seed: int) -> TrainingContext:
        """The data of an arm: the features that it reads, the codes of a control, and decoded item vectors.

        Raises
        ------
        ConfigError
            When the arm, or the preset, names a feature that the data lack, or a control lacks what it reads.
        FitError
            When item vectors are to be decoded, and the codebook's quantizer cannot decode.
        """
        data = SplitData(self.train, self.validation, self.test)
        if arm.is_control:
            data = control_data(data, arm, self.spec.features, seed, self.serving, self.controls)
        if arm.is_decoded:
            data = data.with_items(data.train.items.decoded(self.decode))
        return dataclasses.replace(self, **data._asdict()).narrowed(arm)

    def decode(self, codes: Codes) -> Floats:
        """Decode codes ``int32 [items, levels]`` into the encoder's space, ``float32 [items, dim]``; see
        :func:`semantic_ids.decoding.decoded_vectors`.
        """
        assert self.quantizer is not None, "decoding needs the codebook's quantizer"
        return decoded_vectors(self.quantizer, codes, self.train.items.content.shape[1])

    def train_in_memory(self) -> Dataset:
        """Return the training rows; streamed rows are thinned by user to ``training.stream_rows`` rows."""
        if isinstance(self.train, Dataset):
            return self.train
        return self.train.thinned(self.spec.training.stream_rows)


def train_arm(
    context: TrainingContext,
    arm: str,
    spec: ArmSpec,
    seed: int,
    name: str,
    budget: Budget | None = None,
    progress: Progress = SILENT,
) -> ArmResult:
    """Train one neural or gbdt arm with one seed; neural arms other than controls are saved as ranker artefacts, and so are the
    gbdt arms of ``context.served``.

    With a budget, the model is first resized to that number of parameters. The test rows are scored by the model with the
    best validation AUC and, if ``context.first_epoch`` is set, also by the model after the first epoch.
    """
    context = context.of_arm(spec, seed)
    if spec.kind == "gbdt":
        return _boost(context, arm, spec, seed, name, progress)
    assert spec.kind == "neural", "a blend is not trained: see ranking.training.blend"
    return _train_neural(context, arm, spec, seed, name, budget, progress)


def _boost(context: TrainingContext, arm: str, spec: ArmSpec, seed: int, name: str, progress: Progress) -> ArmResult:
    from ranking.training.gbdt import boost

    rows = context.train_in_memory()
    folder = context.rankers / name if context.rankers is not None and arm in context.served else None
    boosted = boost(
        rows,
        context.validation,
        (context.validation, context.test),
        seed=seed,
        spec=spec.boosting,
        columns=context.serving.content_columns,
        importance=context.importance,
        save=folder is not None,
    )
    progress.trees_grown(TreesGrown(arm, seed, boosted.trees, boosted.grown, boosted.validation_auc))
    details = ArmDetails(
        trees=boosted.trees,
        train_rows=len(rows),
        features=rows.schema.names,
        importance=boosted.importance or None,
    )
    if folder is not None and boosted.saved is not None:
        from ranking.training.boosted_ranker import save_trees

        discard_damaged(folder)
        describe = {"name": name, "seed": seed, **context.trained_on.as_json()}
        stated = {"arm": arm, "rate": context.rate, "boosting": spec.boosting, **served_by(context, rows.schema)}
        save_trees(boosted.saved, folder, describe, details.as_json(), **stated)
    validation, test = boosted.predictions
    return ArmResult(boosted.validation_auc, validation, test, name if folder is not None else None, details)


def served_by(context: TrainingContext, schema: FeatureSchema) -> dict[str, Any]:
    """What serving needs, with the features that an arm reads."""
    from ranking.data.service_schema import features_read

    features = features_read(schema, context.serving.features)
    return {**vars(context.serving), "schema": schema, "features": features}


def _train_neural(
    context: TrainingContext, arm: str, spec: ArmSpec, seed: int, name: str, budget: Budget | None, progress: Progress
) -> ArmResult:
    from ranking.training.load_ranker import load_trained
    from ranking.training.ranker import METRICS, Ranker
    from ranking.training.sizing import table_parameters

    folder = context.rankers / name if context.rankers is not None and spec.can_serve else None
    kind = "ranker" if spec.reranker is None else "reranked_ranker"
    describe = {"kind": kind, "name": name, "seed": seed, **context.trained_on.as_json()}
    if folder is not None:
        discard_damaged(folder)
    if folder is not None and not context.first_epoch and written_before(folder, describe) is not None:
        # Interrupted after saving the ranker, before saving its predictions.
        details = read_record(ArmDetails, folder / METRICS)
        return _scored(context.validation, context.test, load_trained(folder), details, name)

    if context.before_training is not None:
        context.before_training()
    first: list[npt.NDArray[np.float64]] = []
    trained, vocabulary, config = _trained(context, arm, spec, seed, name, budget, progress, first)
    ranker = Ranker(trained.model, vocabulary, config)
    details = ArmDetails(
        validation_auc=trained.validation_auc,
        best_epoch=trained.best_epoch,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        dim=config.model.dim,
        table_parameters=table_parameters(trained.model),
        features=config.schema.names,
    )
    liveness = _liveness(ranker, context.validation, trained.tables) if context.liveness else None
    scored: Ranker | RerankedRanker = ranker
    if spec.reranker is not None:
        scored, details, context_part = _reranked(context, spec, seed, ranker, details, progress)
        liveness = (*liveness, *context_part) if liveness is not None else None
    if folder is not None:
        scored.save(folder, describe, details.as_json())
    result = _scored(context.validation, context.test, scored, details, name if folder is not None else None)
    return dataclasses.replace(result, test_first_epoch=first[0] if first else None, liveness=liveness)


def train_beside(context: TrainingContext, arm: str, spec: ArmSpec, seed: int, name: str) -> None:
    """Take part in the training of a neural arm as a process other than 0, which saves the result."""
    _trained(context.of_arm(spec, seed), arm, spec, seed, name, None, SILENT, [])


def _trained(
    context: TrainingContext,
    arm: str,
    spec: ArmSpec,
    seed: int,
    name: str,
    budget: Budget | None,
    progress: Progress,
    first: list[npt.NDArray[np.float64]],
) -> tuple[Trained, Vocabulary, RankerConfig]:
    """Train the model; ``first`` receives the test predictions after the first epoch, if they are wanted."""
    from ranking.data.batches import Batches, vocabulary_of
    from ranking.data.disk_batches import training_tensors
    from ranking.training.arm_config import ranker_config
    from ranking.training.loop import Epoch, train
    from ranking.training.processes import ALONE
    from ranking.training.ranker import Ranker, fit_on, make_model
    from ranking.training.sizing import sized

    served = served_by(context, context.train.schema)
    config = ranker_config(arm, spec, context.spec.model, context.train, context.rate, served)
    scaling = config.scaling
    vocabulary = vocabulary_of(context.train)
    training = training_tensors(context.train, scaling, vocabulary, config.inputs)
    validation = Batches(context.validation, scaling, vocabulary, config.inputs)
    fitted = fit_on(context.train, config, vocabulary, context.quantizer, context.neighbours)
    if budget is not None:
        config = sized(config, vocabulary, fitted, budget)
    # A resumed run cannot recover the first-epoch model.
    checkpoints = None if context.first_epoch else context.rankers
    checkpoint = checkpoints / f".checkpoint-{name}.safetensors" if checkpoints is not None else None

    def after_epoch(epoch: int, model: CtrModel) -> None:
        if context.first_epoch and epoch == 0:
            first.append(Ranker(model, vocabulary, config).score(context.test))

    def report(epoch: Epoch) -> None:
        epochs = context.spec.training.epochs
        progress.epoch_finished(EpochDone(arm, seed, epoch.number, epochs, epoch.loss, epoch.validation_auc))

    trained = train(
        lambda: make_model(config, vocabulary, fitted),
        training,
        validation,
        context.spec.training,
        seed=seed,
        threads=context.threads,
        checkpoint=checkpoint,
        after_epoch=after_epoch,
        report=report,
        trace_tables=context.liveness,
        processes=context.processes or ALONE,
    )
    return trained, vocabulary, config


def _liveness(ranker: Ranker, validation: Dataset, tables: Mapping[str, TableChange]) -> tuple[PartLiveness, ...]:
    from ranking.training.measure_liveness import liveness_rows, measure_liveness

    rows = liveness_rows(validation)
    return measure_liveness(ranker.model, ranker.batches(rows), tables, counts=prior_interactions(rows))


def _reranked(
    context: TrainingContext, spec: ArmSpec, seed: int, ranker: Ranker, details: ArmDetails, progress: Progress
) -> tuple[RerankedRanker, ArmDetails, tuple[PartLiveness, ...]]:
    """The ranker with its re-ranker, what training it gave, and, if it is measured, the liveness of the context."""
    from ranking.training.device import training_device
    from ranking.training.measure_liveness import liveness_rows
    from ranking.training.rerank_arm import context_liveness, rerank

    device = training_device(context.spec.training.device)
    reranked, trained = rerank(ranker, spec, context.train_in_memory(), context.validation, seed, device, progress)
    parts = (context_liveness(reranked, liveness_rows(context.validation)),) if context.liveness else ()
    own = sum(parameter.numel() for parameter in reranked.reranker.parameters())
    return reranked, dataclasses.replace(details, reranked=trained.validation_auc, reranker_parameters=own), parts


def _scored(
    validation: Dataset, test: Dataset, ranker: LoadedRanker, details: ArmDetails, name: str | None
) -> ArmResult:
    reached = max(details.reranked or details.validation_auc or ())
    return ArmResult(reached, ranker.score(validation), ranker.score(test), name, details)
