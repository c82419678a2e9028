"""Contract checks of quantizers and encoders, for authors of plug-ins.

The built-in classes have additional tests in ``tests/semantic_ids/quantizers`` and ``tests/semantic_ids/encoders``.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.base import Encoder
from semantic_ids.estimator import Estimator
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer
from sidkit.core.arrays import Floats
from sidkit.core.laws import require

_ITEMS, _DIM = 240, 8
_PARTS = [*(slice(row, row + 1) for row in range(16)), slice(16, None)]
"""Slices of a batch: sixteen single rows, and the rest."""


def check_quantizer(kind: type[Quantizer], **arguments: Any) -> None:
    """Fit a quantizer on 240 random vectors of width 8 and check the contract.

    Parameters
    ----------
    kind : type
        Subclass of :class:`~semantic_ids.quantizers.base.Quantizer`.
    **arguments
        Constructor arguments, such as ``sizes=(8, 4)``.

    Raises
    ------
    PluginError
        When the class violates the contract; the message names the first violated requirement.
    """
    rows = np.random.default_rng(0).normal(size=(_ITEMS, _DIM)).astype(np.float32)
    pairs = _pairs() if kind.needs_pairs_with(arguments) else None
    _check_arguments(kind, arguments)
    quantizer = kind(**arguments).fit(rows, pairs)
    codes, sizes, name = quantizer.encode(rows), quantizer.sizes_, kind.__name__
    shape = (_ITEMS, len(sizes))
    require(
        codes.shape == shape and codes.dtype == np.int32,
        name,
        f"encode must return int32 {shape}, got {codes.dtype} {codes.shape}",
    )
    require(
        bool(((codes >= 0) & (codes < np.array(sizes))).all()),
        name,
        f"codes must be at least 0 and less than sizes_ {sizes}",
    )
    decoded = quantizer.decode(codes)
    require(
        decoded.shape == rows.shape and decoded.dtype == np.float32,
        name,
        f"decode must return float32 {rows.shape}, got {decoded.dtype} {decoded.shape}",
    )
    require(bool(np.isfinite(decoded).all()), name, "decode must return finite vectors")
    require(
        quantizer.encode(rows[:0]).shape == (0, len(sizes)),
        name,
        f"encode of no rows must return shape (0, {len(sizes)})",
    )
    parts = np.concatenate([quantizer.encode(rows[part]) for part in _PARTS])
    require(_same(parts, codes), name, "the code of a row must not depend on the other rows of its batch")
    require(
        _same(kind(**arguments).fit(rows, pairs).encode(rows), codes),
        name,
        "the same arguments and rows must give the same codes",
    )
    if pairs is None:
        order = np.random.default_rng(1).permutation(_ITEMS)
        require(
            _same(kind(**arguments).fit(rows[order]).encode(rows), codes),
            name,
            "codes must not depend on the order of the rows in fit",
        )
    restored = kind(**json.loads(json.dumps(quantizer.config()))).load_tensors(_saved(quantizer.tensors(), name))
    require(
        restored.sizes_ == sizes and _same(restored.encode(rows), codes),
        name,
        "an object restored from config and tensors must give the same codes",
    )
    loaded = kind(**quantizer.get_params()).load_tensors(_saved(quantizer.tensors(), name))
    require(
        (loaded.sizes or loaded._sizes) is not None and loaded.sizes_ == sizes and _same(loaded.encode(rows), codes),
        name,
        "load_tensors must restore sizes_ that were chosen at fit",
    )
    require(
        _same(restored.decode(codes), decoded),
        name,
        "an object restored from config and tensors must decode the same vectors",
    )


def check_encoder(kind: type[Encoder], **arguments: Any) -> None:
    """Fit an encoder on 240 random items of two modalities, with missing values, and check the contract.

    Parameters
    ----------
    kind : type
        Subclass of :class:`~semantic_ids.encoders.base.Encoder`.
    **arguments
        Constructor arguments.

    Raises
    ------
    PluginError
        When the class violates the contract; the message names the first violated requirement.
    """
    items, name = _items(), kind.__name__
    pairs = _pairs() if kind.needs_pairs_with(arguments) else None
    _check_arguments(kind, arguments)
    encoder = kind(**arguments).fit(items, pairs)
    vectors = encoder.encode(items)
    shape = (_ITEMS, encoder.output_dim)
    valid = vectors.shape == shape and vectors.dtype == np.float32
    require(valid, name, f"encode must return float32 {shape} (output_dim), got {vectors.dtype} {vectors.shape}")
    require(bool(np.isfinite(vectors).all()), name, "vectors must be finite")
    require(not vectors[~items.any_present].any(), name, "an item without any modality must have a zero vector")
    modalities = tuple(sorted(items.matrices))
    require(getattr(encoder, "modalities_", None) == modalities, name, f"fit must set modalities_ to {modalities}")
    start, stop = encoder.content_columns
    require(
        0 <= start <= stop <= shape[1],
        name,
        f"content_columns must be within output_dim {shape[1]}, got {start}, {stop}",
    )
    index = np.arange(_ITEMS)
    parts = np.concatenate([encoder.encode(items.rows(index[part])) for part in _PARTS])
    require(_same(parts, vectors), name, "the vector of an item must not depend on the other items of its batch")
    restored = kind(**json.loads(json.dumps(encoder.config()))).load_tensors(_saved(encoder.tensors(), name))
    require(
        _same(restored.encode(items), vectors),
        name,
        "an object restored from config and tensors must give the same vectors",
    )


def _check_arguments(kind: type[Estimator], arguments: dict[str, Any]) -> None:
    """Require that the constructor stores its arguments unchanged, as ``clone`` of scikit-learn does."""
    stored = kind(**arguments).get_params()
    for key, value in arguments.items():
        require(
            key not in stored or stored[key] is value,
            kind.__name__,
            f"the constructor must store the argument {key!r} unchanged (`self.{key} = {key}`)",
        )


def _same(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> bool:
    return np.array_equal(left, right)


def _saved(tensors: dict[str, npt.NDArray[np.generic]], name: str) -> dict[str, npt.NDArray[np.generic]]:
    """Save and load tensors, as an artefact does."""
    from safetensors.numpy import load, save

    require(
        all(isinstance(tensor, np.ndarray) for tensor in tensors.values()),
        name,
        "tensors must return numpy arrays by name",
    )
    loaded: dict[str, npt.NDArray[np.generic]] = load(
        save({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()})
    )
    return loaded


def _items() -> ItemVectors:
    rng = np.random.default_rng(0)
    present = {"image": np.arange(_ITEMS) % 3 > 0, "text": np.arange(_ITEMS) % 7 > 0}
    matrices: dict[str, Floats] = {}
    for name, width in (("image", 6), ("text", _DIM)):
        matrices[name] = (rng.normal(size=(_ITEMS, width)) * present[name][:, None]).astype(np.float32)
    return ItemVectors(matrices, present)


def _pairs() -> ItemPairs:
    rng = np.random.default_rng(0)
    trigger = rng.integers(0, _ITEMS, 2000)
    target = (trigger + rng.integers(1, _ITEMS, 2000)) % _ITEMS
    clicks = np.bincount(np.concatenate([trigger, target]), minlength=_ITEMS)
    return ItemPairs(trigger, target, np.ones(2000, np.float32), clicks, 0)
