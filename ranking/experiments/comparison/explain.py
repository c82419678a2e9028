"""What a trained model went by: gates and attention, for curves and examples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ranking.data.batches import Batches
from ranking.models.ctr_model import CtrModel
from ranking.models.representations.rq_opq_gate import RqOpqGateRepresentation

_ROWS = 4096


def gate_values(model: CtrModel, data: Batches) -> npt.NDArray[np.float64] | None:
    """The gate ``T`` of each row's candidate, ``float64 [rows]`` (1: the id alone, 0: the codes alone), or None for a model
    without one.

    It must rise with age and with clicks; where it does not, it has not learned what it is for.
    """
    gates = [part for part in model.parts if isinstance(part, RqOpqGateRepresentation) and part.gated]
    if not gates:
        return None
    model.eval()
    data = data.to(next(model.parameters()).device)
    with torch.inference_mode():
        parts = [gates[0].gate(batch).double().numpy(force=True) for batch in data.batches(_ROWS)]
    return np.concatenate(parts) if parts else np.zeros(0)


def attention_maps(model: CtrModel, data: Batches) -> dict[str, npt.NDArray[np.float32]]:
    """How much each history item counted, ``float32 [rows, heads, length]`` per score map, newest first; padding has 0.

    ``attention`` under ``target_attention``, ``modality`` and ``behaviour`` under ``bidirectional``, nothing under ``mean``.
    """
    model.eval()
    data = data.to(next(model.parameters()).device)
    found: dict[str, list[npt.NDArray[np.float32]]] = {}
    with torch.inference_mode():
        for batch in data.batches(_ROWS):
            for name, weights in model.history.weights(*model.spaces(batch), batch).items():
                found.setdefault(name, []).append(weights.numpy(force=True))
    return {name: np.concatenate(parts) for name, parts in found.items()}
