"""Ranker artefacts: weights, vocabulary, scaling, and the codebook and feature service required for serving."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from ranking.data.batch import Seen
from ranking.data.batches import NO_INPUTS, Batches, Vocabulary, known_neighbours, seen_in
from ranking.data.coded_inputs import CodedInputs
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.numeric_features import Scaling, feature_names
from ranking.data.schema import FeatureSchema
from ranking.models.ctr_model import CtrModel, Fitted
from ranking.models.histories import HISTORY_NAMES
from ranking.models.item_statistics import CountScaling
from ranking.models.representations import REPRESENTATION_NAMES, representation
from ranking.models.representations.base import FITTED, ItemShape
from ranking.models.spec import ModelSpec
from ranking.training.loop import predict
from ranking.training.serving_spec import ServingSpec
from semantic_ids.neighbour_lists import NeighbourLists
from semantic_ids.quantizers import Quantizer
from sidkit.core.artifact import of_another_version, read_manifest, reading, tensors_under, write_artifact
from sidkit.core.files import read_json
from sidkit.core.integrity import verify_all
from sidkit.core.plugins import described, load_plugins, write_sources

TENSORS, CONFIG, METRICS, VOCABULARY = "tensors.safetensors", "config.json", "metrics.json", "vocabulary.parquet"


@dataclass(frozen=True, kw_only=True)
class RankerConfig(ServingSpec):
    """Configuration of a ranker: everything besides its weights that affects scores."""

    arm: str
    representations: tuple[str, ...]
    """Item representations, concatenated."""
    model: ModelSpec
    content_dim: int
    """Width of the content vectors."""
    numeric: tuple[str, ...]
    """Names of the numeric features, in column order."""
    scaling: Scaling
    """Scaling of the numeric features."""
    inputs: CodedInputs = NO_INPUTS
    """What the model reads of coded features."""

    def as_json(self) -> dict[str, Any]:
        """Return the values of ``config.json``."""
        written = {**vars(self), "model": self.model.model_dump(mode="json"), "scaling": asdict(self.scaling)}
        return {**written, "schema": self.schema.as_json(), "inputs": self.inputs.as_json()}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> RankerConfig:
        """Build from the values of :meth:`as_json`; missing or unknown keys raise TypeError, KeyError or ValueError."""
        scaling = values["scaling"]
        read: dict[str, Any] = {
            "model": ModelSpec(**values["model"]),
            "scaling": Scaling(
                float(scaling["rate"]),
                tuple(scaling["mean"]),
                tuple(scaling["scale"]),
                tuple(map(tuple, scaling.get("edges", ()))),
            ),
            "schema": FeatureSchema.of_json(values.get("schema", ())),
            "inputs": CodedInputs.of_json(values.get("inputs", ())),
        }
        return cls(**{key: _tupled(value) for key, value in values.items() if key not in read}, **read)


class Ranker:
    """A trained ranker: arrays in, click probabilities out.

    Parameters
    ----------
    model : CtrModel
        The trained model.
    vocabulary : Vocabulary
        Item ids of the training window.
    config : RankerConfig
        Configuration of the model and of serving.
    """

    def __init__(self, model: CtrModel, vocabulary: Vocabulary, config: RankerConfig) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.config = config

    @property
    def scaling(self) -> Scaling:
        """Scaling of the numeric features."""
        return self.config.scaling

    @property
    def smoothing_rate(self) -> float:
        """Share of positives towards which click rates are smoothed: that of the training rows."""
        return self.config.scaling.rate

    @property
    def positive_rate(self) -> float:
        """Share of positives among the training rows."""
        return self.config.scaling.rate

    def score(self, data: Dataset) -> npt.NDArray[np.float64]:
        """Predict click probabilities ``float64 [rows]``; scores do not depend on other rows."""
        return predict(self.model, self.batches(data))

    def batches(self, data: Dataset) -> Batches:
        """The model's input of a dataset, which has at least the ranker's features.

        Raises
        ------
        EvaluationError
            When the dataset lacks a feature, or has other item vectors than the ranker was trained on.
        """
        rows = data.narrowed(self.config.schema)
        rows.refuse_other_vectors(self.config.vectors)
        return Batches(rows, self.scaling, self.vocabulary, self.config.inputs)

    def save(self, folder: Path, describe: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write the artefact; see :func:`sidkit.core.artifact.write_artifact`.

        Plug-ins are recorded in the manifest and their source files are copied; see :mod:`sidkit.core.plugins`.
        """
        from safetensors.torch import save_file

        plugins = [REPRESENTATION_NAMES.plugin(name) for name in self.config.representations]
        plugins.append(HISTORY_NAMES.plugin(self.config.model.history))

        def write_files(temporary: Path) -> None:
            save_file({key: value.contiguous() for key, value in self.model.state_dict().items()}, temporary / TENSORS)
            pq.write_table(pa.table({"item_id": self.vocabulary.names.cast(pa.string())}), temporary / VOCABULARY)
            (temporary / CONFIG).write_text(json.dumps(self.config.as_json(), indent=2, sort_keys=True) + "\n")
            (temporary / METRICS).write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
            write_sources(temporary, plugins)

        return write_artifact(folder, {**describe, "kind": "ranker", **described(plugins)}, write_files)

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """Read an artefact and verify its hashes.

        Raises
        ------
        ArtifactError
            When the folder is missing or modified, or a plug-in differs from the one used in training.
        PluginError
            When a plug-in cannot be imported.
        """
        from safetensors.torch import load_file

        manifest = read_manifest(folder, verify=False)
        load_plugins(folder, manifest)
        verify_all(folder, manifest)
        with reading(folder, manifest):
            config = RankerConfig.of_json(read_json(folder / CONFIG))
            vocabulary = Vocabulary(pq.read_table(folder / VOCABULARY).column("item_id"))
            tensors = load_file(folder / TENSORS)
            model = make_model(config, vocabulary, _fitted_in(tensors, config))
            model.load_state_dict(tensors)
        if config.numeric != feature_names(config.schema):
            raise of_another_version(folder, manifest, "trained on other numeric features than this version computes")
        model.eval()
        return cls(model, vocabulary, config)


def make_model(config: RankerConfig, vocabulary: Vocabulary, fitted: Fitted | None = None) -> CtrModel:
    """Build an untrained model from a configuration and the fitted state of its representations."""
    return CtrModel(
        config.representations,
        _shape(config, vocabulary),
        len(config.numeric),
        config.model,
        fitted,
        config.scaling.edges,
        config.inputs,
    )


def fit_representations(config: RankerConfig, vocabulary: Vocabulary, seen: Seen) -> Fitted:
    """Fit a configuration's representations on the training rows."""
    shape = _shape(config, vocabulary)
    return {name: representation(name).fit(shape, config.model, seen) for name in config.representations}


def fit_on(
    train: Dataset | DiskDataset,
    config: RankerConfig,
    vocabulary: Vocabulary,
    quantizer: Quantizer | None,
    neighbours: NeighbourLists | None,
) -> Fitted:
    """Fit a configuration's representations on training rows, with the codewords and neighbour lists of the codebook."""
    known = known_neighbours(neighbours, config.model.neighbour_lists, vocabulary)
    flat = quantizer.decode_flat if quantizer is not None else None
    return fit_representations(config, vocabulary, seen_in(train, vocabulary, flat, known))


def _shape(config: RankerConfig, vocabulary: Vocabulary) -> ItemShape:
    reads_counts = config.model.prior_strength > 0 or any(
        representation(name).reads_counts for name in config.representations
    )
    return ItemShape(
        vocabulary.size,
        config.sizes,
        config.content_dim,
        config.residual_levels,
        len(config.numeric),
        config.content_columns,
        config.match_codes,
        CountScaling.of(config.scaling) if reads_counts else None,
    )


def _fitted_in(tensors: Mapping[str, Tensor], config: RankerConfig) -> Fitted:
    """Extract the fitted state of the representations from a model's tensors, which alone determine its shapes."""
    return {
        name: tensors_under(tensors, f"representations.{place}.{FITTED}")
        for place, name in enumerate(config.representations)
    }


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
