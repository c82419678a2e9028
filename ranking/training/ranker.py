"""A trained ranker on disk: weights, vocabulary, scaling, and the names of all that it must be served with."""

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
from ranking.data.batches import Batches, Vocabulary
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import Scaling, feature_names
from ranking.models.ctr_model import CtrModel, Fitted
from ranking.models.representations import representation
from ranking.models.representations.base import FITTED, ItemShape
from ranking.models.spec import ModelSpec
from ranking.training.loop import predict
from sidkit.core.artifact import read_manifest, tensors_under, write_artifact
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json

TENSORS, CONFIG, METRICS, VOCABULARY = "tensors.safetensors", "config.json", "metrics.json", "vocabulary.parquet"


@dataclass(frozen=True)
class RankerConfig:
    """What decides a ranker's scores besides its weights.

    ``features`` maps the feature names that the service must give to their Feast types; ``codebook_hash`` is the content
    hash of the codebook it was trained with; ``residual_levels`` how many of its codes refine each other (None: all);
    ``content_columns`` which columns of its vectors learned from no click, from where to where (None: all), and
    ``match_codes`` whether its codes did not.
    """

    arm: str
    representations: tuple[str, ...]
    model: dict[str, Any]
    sizes: tuple[int, ...]
    content_dim: int
    codebook: str
    codebook_hash: str
    service: str
    features: dict[str, str]
    numeric: tuple[str, ...]
    history_length: int
    scaling: dict[str, Any]
    residual_levels: int | None = None
    content_columns: tuple[int, int] | None = None
    match_codes: bool = True


class Ranker:
    """A trained ranker: arrays in, click probabilities out.

    Parameters
    ----------
    model : CtrModel
        Trained.
    vocabulary : Vocabulary
        Item ids of the training window.
    config : RankerConfig
        Everything else.
    """

    def __init__(self, model: CtrModel, vocabulary: Vocabulary, config: RankerConfig) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.config = config

    @property
    def scaling(self) -> Scaling:
        """Of the numeric features."""
        return scaling_of(self.config)

    def score(self, data: Dataset) -> npt.NDArray[np.float64]:
        """Click probabilities ``float64 [rows]``; no score depends on the other rows."""
        return predict(self.model, Batches(data, self.scaling, self.vocabulary))

    def save(self, folder: Path, describe: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write the artefact; see :func:`sidkit.core.artifact.write_artifact`."""
        from safetensors.torch import save_file

        def write_files(temporary: Path) -> None:
            save_file({key: value.contiguous() for key, value in self.model.state_dict().items()}, temporary / TENSORS)
            pq.write_table(pa.table({"item_id": self.vocabulary.names.cast(pa.string())}), temporary / VOCABULARY)
            (temporary / CONFIG).write_text(json.dumps(asdict(self.config), indent=2, sort_keys=True) + "\n")
            (temporary / METRICS).write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")

        return write_artifact(folder, {**describe, "kind": "ranker"}, write_files)

    @classmethod
    def load(cls, folder: Path) -> Ranker:
        """Read an artefact and verify its hashes.

        Raises
        ------
        ArtifactError
            When the folder is missing or was changed.
        """
        from safetensors.torch import load_file

        read_manifest(folder)
        try:
            config = RankerConfig(**{key: _tupled(value) for key, value in read_json(folder / CONFIG).items()})
            vocabulary = Vocabulary(pq.read_table(folder / VOCABULARY).column("item_id"))
            tensors = load_file(folder / TENSORS)
            model = make_model(config, vocabulary, _fitted_in(tensors, config))
            model.load_state_dict(tensors)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ArtifactCorruptError(folder, f"cannot be read ({type(error).__name__}: {error})") from error
        if config.numeric != feature_names():
            raise ArtifactCorruptError(
                folder, "was trained on other numeric features than this version of sidkit computes"
            )
        model.eval()
        return cls(model, vocabulary, config)


def scaling_of(config: RankerConfig) -> Scaling:
    """Of the numeric features."""
    told = config.scaling
    return Scaling(
        float(told["rate"]), tuple(told["mean"]), tuple(told["scale"]), tuple(map(tuple, told.get("edges", ())))
    )


def make_model(config: RankerConfig, vocabulary: Vocabulary, fitted: Fitted | None = None) -> CtrModel:
    """An untrained model of a configuration, with the state that its representations were fitted to."""
    return CtrModel(
        config.representations, _shape(config, vocabulary), len(config.numeric), ModelSpec(**config.model), fitted,
        scaling_of(config).edges,
    )  # fmt: skip


def fit_representations(config: RankerConfig, vocabulary: Vocabulary, seen: Seen) -> Fitted:
    """The fitted state of a configuration's representations, from what the training rows showed."""
    shape, spec = _shape(config, vocabulary), ModelSpec(**config.model)
    return {name: representation(name).fit(shape, spec, seen) for name in config.representations}


def _shape(config: RankerConfig, vocabulary: Vocabulary) -> ItemShape:
    return ItemShape(
        vocabulary.size, config.sizes, config.content_dim, config.residual_levels, len(config.numeric),
        config.content_columns, config.match_codes,
    )  # fmt: skip


def _fitted_in(tensors: Mapping[str, Tensor], config: RankerConfig) -> Fitted:
    """The fitted state among a model's tensors; its shapes are known from nowhere else."""
    return {
        name: tensors_under(tensors, f"representations.{place}.{FITTED}")
        for place, name in enumerate(config.representations)
    }


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
