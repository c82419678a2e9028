"""Features that stay out of the online store, such as content vectors of rankers that need none."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa

from sidkit.core.errors import OnlineStoreError


def offline_only(online: Any, view: str, features: Iterable[str]) -> frozenset[str]:
    """The features of a view that ``online_store.offline_only`` of ``feature_store.yaml`` keeps out of the online store.

    Parameters
    ----------
    online : FeastConfigBaseModel
        The settings under ``online_store``; those of other stores have no such key.
    view : str
        Name of the view.
    features : iterable of str
        Its features.

    Raises
    ------
    OnlineStoreError
        When it lists a feature that the view lacks.
    """
    listed = [name.partition(":") for name in getattr(online, "offline_only", ())]
    named = frozenset(feature for of, _, feature in listed if of == view)
    known = list(features)
    if missing := sorted(named.difference(known)):
        raise OnlineStoreError(
            f"expected online_store.offline_only with features of {view} ({', '.join(known)}), got {', '.join(missing)}; "
            "correct feature_store.yaml"
        )
    return named


def blanked(part: pa.RecordBatch, features: Collection[str]) -> pa.RecordBatch:
    """Rows with nulls instead of the values of some features."""
    for at, field in enumerate(part.schema):
        if field.name in features:
            part = part.set_column(at, field, pa.nulls(part.num_rows, field.type))
    return part


def unreadable(online: Any, service: Any) -> list[str]:
    """Full names of a feature service's features that are not in the online store."""
    listed = set(getattr(online, "offline_only", ()))
    return [
        f"{projection.name_to_use()}__{feature.name}"
        for projection in service.feature_view_projections
        for feature in projection.features
        if f"{projection.name}:{feature.name}" in listed
    ]
