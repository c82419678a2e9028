"""Settings that benchmarks/mechanisms.py compares: keys of ``[ranker]``, and those of an arm after ``arm.``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ARM = "arm."
_COSINE = {"model.attention": "cosine", "model.attention_scale": 10.0, "training.learning_rate": 1e-3}
_GENTLE = {"model.attention": "cosine", "model.attention_scale": 2.0}
_LEARNT = {
    "training.table_learning_rate": 5e-4,
    "training.code_table_learning_rate": 2e-3,
    "model.id_table_start": 0.1,
    "model.code_table_start": 0.1,
}
"""Tables of ids and codes that training moves by more than their start."""
_TRANSFER = {**_LEARNT, "model.transfer_weight": 1.0, "model.transfer_temperature": 0.1}
_CONTRAST = {**_LEARNT, "model.contrast_weight": 1.0, "model.opq_scale": 2.0}
_NO_STATISTICS = {"arm.features": ("!*code_*",)}


def of_ranker(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some settings that are keys of ``[ranker]``."""
    return {key: value for key, value in settings.items() if not key.startswith(ARM)}


def of_arm(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some settings that are keys of an arm, by these keys."""
    return {key.removeprefix(ARM): value for key, value in settings.items() if key.startswith(ARM)}


SETTINGS: dict[str, dict[str, Any]] = {
    "before": {},
    "codes": {"training.code_table_learning_rate": 5e-4},
    "gentle": {**_GENTLE, "training.code_table_learning_rate": 5e-4},
    "read": {**_GENTLE, "training.code_table_learning_rate": 5e-4, "model.history_scale": 0.2},
    "read fully": {**_GENTLE, "training.code_table_learning_rate": 5e-4, "model.history_scale": 1.0},
    "code rates": {**_COSINE, "training.code_table_learning_rate": 2e-3, "model.code_table_start": 0.1},
    "row-wise": {
        **_COSINE,
        "training.table_optimiser": "rowwise_adagrad",
        "training.table_learning_rate": 5e-3,
        "training.code_table_learning_rate": 2e-2,
        "model.code_table_start": 0.1,
    },
    "strong losses": {
        **_COSINE,
        "training.table_learning_rate": 5e-4,
        "training.code_table_learning_rate": 5e-3,
        "model.id_table_start": 0.1,
        "model.code_table_start": 0.1,
        "model.transfer_weight": 0.1,
        "model.transfer_temperature": 0.1,
        "model.contrast_weight": 0.2,
    },
    "all at once": {
        "model.attention": "cosine",
        "model.attention_scale": 10.0,
        "model.history_scale": 1.0,
        "training.table_learning_rate": 5e-4,
        "training.code_table_learning_rate": 2e-3,
        "model.id_table_start": 0.1,
        "model.code_table_start": 0.1,
        "model.transfer_weight": 0.1,
        "model.transfer_temperature": 0.1,
        "model.contrast_weight": 0.2,
    },
    "learnt": _LEARNT,
    "transfer .1": {**_TRANSFER, "model.transfer_weight": 0.1},
    "transfer 1": _TRANSFER,
    "transfer to codes": {**_TRANSFER, "model.transfer_terms": "codes", "model.gate_bias": 2.0},
    "transfer to ids": {**_TRANSFER, "model.transfer_terms": "ids"},
    "transfer to codes, no statistics": {
        **_TRANSFER,
        **_NO_STATISTICS,
        "model.transfer_terms": "codes",
        "model.gate_bias": 2.0,
    },
    "contrast .2": {**_LEARNT, "model.contrast_weight": 0.2},
    "contrast 1": _CONTRAST,
    "contrast 1, soft": {**_CONTRAST, "model.contrast_temperature": 0.5},
    "contrast 1, batches of 2,048": {
        **_CONTRAST,
        "training.batch_rows": 2048,
        "training.learning_rate": 1e-3,
        "model.contrast_negatives": 2048,
    },
    "contrast 1, no statistics": {**_CONTRAST, **_NO_STATISTICS},
    "codes alone": {
        **_LEARNT,
        **_NO_STATISTICS,
        "model.id_dropout": 0.95,
        "model.opq_scale": 2.0,
    },
    "strong prior": {"training.table_learning_rate": 1.5e-4, "model.prior_strength": 100.0},
    "prior, ids learn": {
        "training.table_learning_rate": 5e-4,
        "model.id_table_start": 0.1,
        "training.table_weight_decay": 0.01,
        "model.id_dropout": 0.2,
    },
    "prior, ids alone": {
        "training.table_learning_rate": 5e-4,
        "model.id_table_start": 0.1,
        "training.table_weight_decay": 0.01,
        "model.id_dropout": 0.2,
        "arm.representations": ("id",),
        **_NO_STATISTICS,
    },
    "no statistics": _NO_STATISTICS,
    "no statistics, code rates": {
        **_GENTLE,
        **_NO_STATISTICS,
        "training.code_table_learning_rate": 2e-3,
        "model.code_table_start": 0.1,
    },
}
"""Settings that are compared; ``before`` are those of the presets."""
_RQ, _OPQ, _PRIOR = ("smile_rq",), ("smile_opq",), ("id_content_prior",)
FOR_ARMS: dict[str, tuple[str, ...]] = {
    **{name: _RQ for name in SETTINGS if name.startswith("transfer")},
    **{name: _OPQ for name in SETTINGS if name.startswith("contrast")},
    **{name: _PRIOR for name in SETTINGS if "prior" in name},
    "codes alone": ("smile",),
}
"""The arms that a setting is for; settings without an entry are for all arms."""
