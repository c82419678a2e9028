"""The forward pass of a ranker as an ONNX graph: from the tensors of a batch to logits."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ranking.data.batch import Batch, ItemBatch
from ranking.data.plain import plain_operations
from sidkit.core.errors import ServingError

if TYPE_CHECKING:
    from ranking.models.ctr_model import CtrModel

LOGIT = "logit"
_OPSET = 18
_ROW_INPUTS = ("numeric", "candidate", "history", "mask", "gap_bucket")
_ITEM_INPUTS = ("item_index", "item_codes", "item_content")


class ForwardPass(nn.Module):
    """A model that takes the tensors of a batch one by one: those of rows, those of items, and the coded features.

    Parameters
    ----------
    model : CtrModel
        The model.
    """

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Logits ``float32 [rows]``."""
        numeric, candidate, history, mask, gap_bucket, index, codes, content, *coded = tensors
        return self.model.forward(
            Batch(
                numeric=numeric,
                items=ItemBatch(index, codes, content),
                candidate=candidate,
                history=history,
                mask=mask,
                gap_bucket=gap_bucket,
                label=numeric.new_zeros((numeric.shape[0],)),  # neither is read in a forward pass
                at_us=candidate,
                coded=tuple(coded),
            )
        )


def input_names(batch: Batch) -> list[str]:
    """Names of the graph's inputs, in order."""
    return [*_ROW_INPUTS, *_ITEM_INPUTS, *(f"coded_{at}" for at in range(len(batch.coded)))]


def inputs_of(batch: Batch) -> dict[str, npt.NDArray[Any]]:
    """A batch as the graph's inputs, by name."""
    return {name: value.numpy(force=True) for name, value in zip(input_names(batch), _tensors(batch), strict=True)}


def graph_of(model: CtrModel, batch: Batch) -> bytes:
    """Export a model; the numbers of rows, of items and of history items are free.

    Parameters
    ----------
    model : CtrModel
        The model, on the CPU.
    batch : Batch
        An example with at least three rows, and as many items.

    Raises
    ------
    ServingError
        When a part of the model has an operation that cannot be exported.
    """
    dim = torch.export.Dim
    count, distinct, length = dim("rows"), dim("items"), dim("length")
    by_row = ({0: count}, {0: count}, *({0: count, 1: length} for _ in range(3)))
    shapes = ((*by_row, *({0: distinct} for _ in _ITEM_INPUTS), *({0: count} for _ in batch.coded)),)
    model.eval()
    try:
        with _silent(), plain_operations(), torch.no_grad():
            program = torch.onnx.export(
                ForwardPass(model),
                (_tensors(batch),),
                input_names=input_names(batch),
                output_names=[LOGIT],
                dynamic_shapes=shapes,
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        parts = ", ".join(model.names)
        raise ServingError(
            f"expected a ranker whose operations ONNX has, got one of {parts} (history {model.history_name}) that cannot be "
            f"exported ({type(error).__name__}: {_first_line(error)}); serve it with `sidkit serve`, or export a ranker of "
            "other representations"
        ) from error
    assert program is not None
    written: bytes = program.model_proto.SerializeToString()
    return written


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    rows = (batch.numeric, batch.candidate, batch.history, batch.mask, batch.gap_bucket)
    items = (batch.items.index, batch.items.codes, batch.items.content)
    return (*rows, *items, *batch.coded)


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or ["no message"])[0][:200]


@contextlib.contextmanager
def _silent() -> Any:
    """The exporter reports its steps on stdout and in logs."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities ``float64 [rows]`` of logits, as the ranker computes them."""
    probabilities: npt.NDArray[np.float64] = torch.sigmoid(torch.from_numpy(logits).double()).numpy()
    return probabilities
