"""The laws that every quantizer and encoder keeps, as one call each for the author of a plug-in.

The kit's own classes are tested more closely in ``tests/semantic_ids/quantizers`` and ``tests/semantic_ids/encoders``.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.base import Encoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer
from sidkit.core.arrays import Floats
from sidkit.core.errors import PluginError

_ITEMS, _DIM = 240, 8
_PARTS = [*(slice(row, row + 1) for row in range(16)), slice(16, None)]
"""A batch in parts: sixteen rows alone, and the rest."""


def check_quantizer(kind: type[Quantizer], **arguments: Any) -> None:
    """Fit a quantizer on 240 random vectors of width 8 and check what fitting, publishing and serving rely on.

    Parameters
    ----------
    kind : type
        A class on :class:`~semantic_ids.quantizers.base.Quantizer`.
    **arguments
        Of its constructor, such as ``sizes=(8, 4)``.

    Raises
    ------
    PluginError
        At the first law that is broken; it says which.
    """
    rows = np.random.default_rng(0).normal(size=(_ITEMS, _DIM)).astype(np.float32)
    pairs = _pairs() if kind.needs_pairs_with(arguments) else None
    quantizer = kind(**arguments).fit(rows, pairs)
    codes, sizes, who = quantizer.encode(rows), quantizer.sizes, kind.__name__
    shape = (_ITEMS, len(sizes))
    _law(
        codes.shape == shape and codes.dtype == np.int32,
        who,
        f"encode gives int32 {shape}, got {codes.dtype} {codes.shape}",
    )
    _law(bool(((codes >= 0) & (codes < np.array(sizes))).all()), who, f"codes lie within 0 and sizes {sizes}")
    decoded = quantizer.decode(codes)
    _law(decoded.shape == rows.shape and decoded.dtype == np.float32, who, f"decode gives float32 {rows.shape}")
    _law(bool(np.isfinite(decoded).all()), who, "decode gives finite vectors")
    _law(quantizer.encode(rows[:0]).shape == (0, len(sizes)), who, "no rows have no codes, with as many levels")
    parts = np.concatenate([quantizer.encode(rows[part]) for part in _PARTS])
    _law(_same(parts, codes), who, "the code of a row does not depend on the other rows of its batch")
    _law(
        _same(kind(**arguments).fit(rows, pairs).encode(rows), codes),
        who,
        "the same arguments and rows give the same codes",
    )
    if pairs is None:
        order = np.random.default_rng(1).permutation(_ITEMS)
        _law(
            _same(kind(**arguments).fit(rows[order]).encode(rows), codes),
            who,
            "the order of the rows at fit changes nothing",
        )
    again = kind(**json.loads(json.dumps(quantizer.config()))).load_tensors(_saved(quantizer.tensors(), who))
    _law(again.sizes == sizes and _same(again.encode(rows), codes), who, "config and tensors give the same codes again")
    _law(_same(again.decode(codes), decoded), who, "config and tensors give the same vectors again")


def check_encoder(kind: type[Encoder], **arguments: Any) -> None:
    """Fit an encoder on 240 random items of two modalities, with gaps, and check what the codebook relies on.

    Parameters
    ----------
    kind : type
        A class on :class:`~semantic_ids.encoders.base.Encoder`.
    **arguments
        Of its constructor.

    Raises
    ------
    PluginError
        At the first law that is broken; it says which.
    """
    items, who = _items(), kind.__name__
    pairs = _pairs() if kind.needs_pairs_with(arguments) else None
    encoder = kind(**arguments).fit(items, pairs)
    vectors = encoder.encode(items)
    shape = (_ITEMS, encoder.output_dim)
    right = vectors.shape == shape and vectors.dtype == np.float32
    _law(right, who, f"encode gives float32 {shape} (output_dim), got {vectors.dtype} {vectors.shape}")
    _law(bool(np.isfinite(vectors).all()), who, "vectors are finite")
    _law(not vectors[~items.any_present].any(), who, "an item without any modality has a vector of zeros")
    modalities = tuple(sorted(items.matrices))
    _law(getattr(encoder, "modalities_", None) == modalities, who, f"fit sets modalities_ to {modalities}")
    start, stop = encoder.content_columns
    _law(0 <= start <= stop <= shape[1], who, "content_columns lie within output_dim")
    index = np.arange(_ITEMS)
    parts = np.concatenate([encoder.encode(items.rows(index[part])) for part in _PARTS])
    _law(_same(parts, vectors), who, "the vector of an item does not depend on the other items of its batch")
    again = kind(**json.loads(json.dumps(encoder.config()))).load_tensors(_saved(encoder.tensors(), who))
    _law(_same(again.encode(items), vectors), who, "config and tensors give the same vectors again")


def _law(kept: bool, who: str, law: str) -> None:
    if not kept:
        raise PluginError(f"{who} breaks a law of its contract: {law}")


def _same(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    return np.array_equal(one, other)


def _saved(tensors: dict[str, npt.NDArray[np.generic]], who: str) -> dict[str, npt.NDArray[np.generic]]:
    """Tensors as an artefact gives them back."""
    from safetensors.numpy import load, save

    _law(all(isinstance(each, np.ndarray) for each in tensors.values()), who, "tensors gives numpy arrays by name")
    found: dict[str, npt.NDArray[np.generic]] = load(
        save({key: np.ascontiguousarray(each) for key, each in tensors.items()})
    )
    return found


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
