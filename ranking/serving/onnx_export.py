"""Export a ranker to an ONNX file, checked against the ranker before the file is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ranking.serving.golden import TOLERANCE, check_golden, golden_path, golden_rows, read_golden
from sidkit.core.errors import ArtifactCorruptError, ServingError, StorageError
from sidkit.core.extras import require
from sidkit.core.files import check_output, written_beside

if TYPE_CHECKING:
    from ranking.data.batch import Batch
    from ranking.data.dataset import Dataset
    from ranking.serving.scorer import Scorer
    from ranking.training.ranker import Ranker, RankerConfig
    from sidkit.core.repo import Repo

_PREFIX = "sidkit."
_LARGEST = 1_900_000_000
"""Bytes of weights: an ONNX file is one protobuf message of at most 2 GiB."""
_LEAST = 3
"""Rows of the example: a size of 0 or 1 would be fixed in the graph."""
_SUBSETS = (7, 1)
"""Sizes of further batches of golden rows that are compared: the graph must not have the sizes of its example."""
_MEANINGS = {
    "numeric": "scaled numeric features, in the order of sidkit.numeric",
    "candidate": "row of the item inputs that holds the candidate",
    "history": "rows of the item inputs that hold the user's history, newest first",
    "mask": "false for padding of the history",
    "gap_bucket": "bucket of the time between a history item and the request",
    "item_index": "number of the item in the ranker's vocabulary: 0 padding, 1 unknown",
    "item_codes": "codes, coarse to fine; -1 without codes",
    "item_content": "content vector",
}


@dataclass(frozen=True)
class GraphInput:
    """An input of the graph: ``rows``, ``items`` and ``length`` in a shape are free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class ExportedRanker:
    """What was written.

    Attributes
    ----------
    path : Path
    ranker : str
    inputs : tuple of GraphInput
    bytes : int
        Size of the file.
    rows : int
        Golden rows that were compared.
    difference : float
        Largest difference of their probabilities from the ranker's.
    """

    path: Path
    ranker: str
    inputs: tuple[GraphInput, ...]
    bytes: int
    rows: int
    difference: float

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "path": str(self.path)}


class OnnxRanker:
    """Scores datasets with an exported ranker.

    Parameters
    ----------
    path : Path or bytes
        The file, or its content.
    ranker : Ranker
        The ranker that was exported: it makes the inputs.
    threads : int
        Threads of onnxruntime.

    Raises
    ------
    MissingExtraError
        When onnxruntime is not installed.
    ArtifactCorruptError
        When the file cannot be read.
    """

    def __init__(self, path: Path | bytes, ranker: Ranker, threads: int = 1) -> None:
        require("onnxruntime", purpose="scoring with an ONNX file", extra="onnx")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                path if isinstance(path, bytes) else path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            if isinstance(path, bytes):
                raise
            raise ArtifactCorruptError(
                path, f"cannot be read ({type(error).__name__})", "export the ranker again with `sidkit ranker export`"
            ) from error
        self._ranker = ranker
        self._names = [each.name for each in self._session.get_inputs()]

    @property
    def config(self) -> RankerConfig:
        """Configuration of the ranker."""
        return self._ranker.config

    @property
    def smoothing_rate(self) -> float:
        """See :class:`ranking.training.ranker.Ranker`."""
        return self._ranker.smoothing_rate

    @property
    def positive_rate(self) -> float:
        """See :class:`ranking.training.ranker.Ranker`."""
        return self._ranker.positive_rate

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata in the file."""
        found: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        return found

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Logits ``float32 [rows]`` of a batch."""
        from ranking.serving.onnx_graph import inputs_of

        given = inputs_of(batch)
        logits: npt.NDArray[np.float32] = self._session.run(None, {name: given[name] for name in self._names})[0]
        return logits

    def score(self, data: Dataset) -> npt.NDArray[np.float64]:
        """Probabilities ``float64 [rows]`` of a dataset, as those of the ranker."""
        from ranking.data.batches import SCAN_ROWS
        from ranking.serving.onnx_graph import sigmoid

        parts = [sigmoid(self.logits(batch)) for batch in self._ranker.batches(data).batches(SCAN_ROWS)]
        return np.concatenate(parts) if parts else np.zeros(0)


def export_ranker(repo: Repo, scorer: Scorer, out: Path) -> ExportedRanker:
    """Write a ranker's forward pass as an ONNX file: from the tensors of a batch to logits.

    The file is left only if its probabilities are those of the ranker within 1e-5 on the golden rows, in batches of several
    sizes. Its metadata name the ranker, the codebook, the inputs and the scaling of the numeric features.

    Parameters
    ----------
    repo : Repo
        The repository.
    scorer : Scorer
        The loaded ranker.
    out : Path
        The file to write.

    Raises
    ------
    MissingExtraError
        When an optional package is not installed.
    ServingError
        When the ranker has no torch model, an operation cannot be exported, or the exported scores differ.
    StorageError
        When the file cannot be written; where that is known before the export, there is none.
    """
    check_output(out)
    content, made = _checked_graph(repo, scorer)
    with written_beside(out) as temporary:
        temporary.write_bytes(content)
    return ExportedRanker(out, scorer.record.name, bytes=len(content), **made)


def served_graph(repo: Repo, scorer: Scorer) -> OnnxRanker:
    """The scorer's ranker as an exported graph, which is stored beside its golden rows and read again at the next load.

    Raises
    ------
    MissingExtraError, ServingError
        See :func:`export_ranker`.
    """
    ranker = _torch_ranker(scorer)
    path = golden_path(repo, scorer.record.name, scorer.record.content_hash).with_suffix(f".{version('sidkit')}.onnx")
    if path.exists():
        with suppress(ArtifactCorruptError):  # it is written again
            return OnnxRanker(path, ranker)
    content, _ = _checked_graph(repo, scorer)
    with (
        suppress(OSError, StorageError),
        written_beside(path) as temporary,
    ):  # in a read-only repository it stays in memory
        temporary.write_bytes(content)
    return OnnxRanker(content, ranker)


def _torch_ranker(scorer: Scorer) -> Ranker:
    require("torch", "safetensors", purpose="ranker export", extra="rank")
    from ranking.training.ranker import Ranker

    ranker = scorer.ranker
    if not isinstance(ranker, Ranker):
        raise ServingError(
            f"expected a ranker with a torch model, got {scorer.record.name}, whose scores come from elsewhere (boosted "
            "trees, a blend, or a registered model); export another one (`sidkit ranker list`)"
        )
    return ranker


def _checked_graph(repo: Repo, scorer: Scorer) -> tuple[bytes, dict[str, Any]]:
    """The graph with its metadata, and what was compared."""
    require("onnx", "onnxruntime", "onnxscript", purpose="ranker export", extra="onnx")
    from ranking.serving.onnx_graph import graph_of

    ranker = _torch_ranker(scorer)
    weights = sum(each.numel() * each.element_size() for each in ranker.model.state_dict().values())
    if weights > _LARGEST:
        raise ServingError(
            f"expected at most {_LARGEST:,} bytes of weights, as an ONNX file is one message of at most 2 GiB, got "
            f"{weights:,}; train a ranker with smaller tables ([ranker.model] dim)"
        )
    check_golden(repo, scorer)  # stores the rows at the first time
    path = golden_path(repo, scorer.record.name, scorer.record.content_hash)
    data = read_golden(path, scorer)[0] if path.exists() else golden_rows(repo, scorer)
    example = data.take(np.resize(np.arange(len(data)), max(len(data), _LEAST)))
    [batch] = ranker.batches(example).batches(len(example))
    inputs = _inputs(batch, ranker)
    content = _described(graph_of(ranker.model, batch), scorer, ranker, inputs)
    exported = OnnxRanker(content, ranker)
    difference = check_golden(repo, scorer, exported.score)
    for size in _SUBSETS:
        some = data.take(np.arange(min(size, len(data))))
        difference = max(difference, float(np.abs(_scores(exported, some, scorer) - ranker.score(some)).max(initial=0)))
    if not difference <= TOLERANCE:
        raise ServingError(
            f"expected the exported scores of ranker {scorer.record.name} within {TOLERANCE:g} of its own in batches of every "
            f"size, got a difference of {difference:.3g}; a representation or history of your own may use len() of a tensor "
            "in its forward pass: use .shape[0]"
        )
    return content, {"inputs": inputs, "rows": len(data), "difference": difference}


def _scores(exported: OnnxRanker, data: Dataset, scorer: Scorer) -> npt.NDArray[np.float64]:
    try:
        return exported.score(data)
    except Exception as error:  # onnxruntime has many kinds of errors
        raise ServingError(
            f"expected an exported graph of ranker {scorer.record.name} for any number of rows, got one that refuses "
            f"{len(data)} ({type(error).__name__}); a representation or history of your own may use len() of a tensor in its "
            "forward pass: use .shape[0]"
        ) from error


def _inputs(batch: Batch, ranker: Ranker) -> tuple[GraphInput, ...]:
    from ranking.serving.onnx_graph import inputs_of

    features = [each.name for each in ranker.config.inputs.features]
    found = []
    for name, value in inputs_of(batch).items():
        first = "items" if name.startswith("item_") else "rows"
        rest: Sequence[int | str] = ["length"] if name in {"history", "mask", "gap_bucket"} else value.shape[1:]
        meaning = _MEANINGS.get(name) or f"the feature {features[int(name.rpartition('_')[2])]}"
        found.append(GraphInput(name, str(value.dtype), (first, *rest), meaning))
    return tuple(found)


def _described(graph: bytes, scorer: Scorer, ranker: Ranker, inputs: tuple[GraphInput, ...]) -> bytes:
    """The graph with its metadata."""
    import onnx

    config = ranker.config
    model = onnx.load_model_from_string(graph)
    model.producer_name, model.producer_version = "sidkit", version("sidkit")
    model.doc_string = "Click ranker: the tensors of a batch to logits; their sigmoid is the probability of the target."
    facts: dict[str, Any] = {
        "ranker": scorer.record.name,
        "ranker_hash": scorer.record.content_hash,
        "codebook": config.codebook,
        "codebook_hash": config.codebook_hash,
        "service": config.service,
        "target": config.target,
        "inputs": [asdict(each) for each in inputs],
        "output": {"name": "logit", "dtype": "float32", "shape": ["rows"]},
        "numeric": config.numeric,
        "scaling": {name: value for name, value in asdict(config.scaling).items() if name != "edges"},
        "history_length": config.history_length,
    }
    for name, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"{_PREFIX}{name}", value if isinstance(value, str) else json.dumps(value)
    written: bytes = model.SerializeToString()
    return written
