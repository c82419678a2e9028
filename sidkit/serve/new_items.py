"""Codes of items that are newer than the arrays of the service: those that a tick wrote to the online store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from sidkit.serve.bodies import CodesAnswer

if TYPE_CHECKING:
    from sidkit.serve.model import ServingModel


def online_codes(model: ServingModel, item_ids: Sequence[str]) -> dict[str, list[int]]:
    """Codes in the online store of some items, without those that it does not have."""
    store, view = model.scorer.store, f"item_sid_{model.key.codebook}"
    rows = [{"item_id": item} for item in item_ids]
    codes = store.get_online_features([f"{view}:codes"], rows).to_dict()["codes"]
    return {item: list(each) for item, each in zip(item_ids, codes, strict=True) if each is not None and len(each)}


def unknown_of(answer: CodesAnswer) -> list[str]:
    """Distinct ids that the arrays of the service do not have."""
    return list(dict.fromkeys(each.item_id for each in answer.items if each.unknown))


def with_codes(answer: CodesAnswer, codes: dict[str, list[int]]) -> CodesAnswer:
    """The answer with codes of items that were unknown."""
    items = [
        msgspec.structs.replace(each, codes=codes[each.item_id], unknown=False)
        if each.unknown and each.item_id in codes
        else each
        for each in answer.items
    ]
    return msgspec.structs.replace(answer, items=items)
