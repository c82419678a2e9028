"""Extract gate values and attention weights from a trained model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ranking.data.batches import Batches
from ranking.models.ctr_model import CtrModel
from ranking.models.representations.rq_opq_gate import RqOpqGateRepresentation

_ROWS = 4096


def gate_values(model: CtrModel, data: Batches) -> npt.NDArray[np.float64] | None:
    """Return the gate ``T`` of each candidate, ``float64 [rows]`` (1: id only, 0: codes only); None for a model without a gate.

    A gate that works as intended rises with the item's age and clicks.
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
    """Return attention weights ``float32 [rows, heads, length]`` per attention map, newest item first; padding has weight 0.

    Keys: ``attention`` for ``target_attention``; ``modality`` and ``behaviour`` for ``bidirectional``; these and ``shared`` for
    ``shared_gated``; none for ``mean``.
    """
    model.eval()
    data = data.to(next(model.parameters()).device)
    collected: dict[str, list[npt.NDArray[np.float32]]] = {}
    with torch.inference_mode():
        for batch in data.batches(_ROWS):
            for name, weights in model.history.weights(*model.spaces(batch), batch).items():
                collected.setdefault(name, []).append(weights.numpy(force=True))
    return {name: np.concatenate(parts) for name, parts in collected.items()}
