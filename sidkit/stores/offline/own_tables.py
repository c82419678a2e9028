"""Point-in-time joins with feature tables that no Feast registry describes, such as counts of shuffled codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sidkit.stores.offline.parquet import FeatureFiles
from sidkit.stores.offline.plan import ViewPlan
from sidkit.stores.offline.sources import SourceParts

_TIMES = ("event_timestamp", "created_timestamp")


def plan_table(name: str, path: Path, keys: Mapping[str, str], features: Sequence[str]) -> ViewPlan:
    """Plan the retrieval of features from a table with text keys.

    Parameters
    ----------
    name : str
        Name of the view; columns of the result are named ``<name>__<feature>``.
    path : Path
        Parquet with the keys, ``event_timestamp``, ``created_timestamp`` and the features.
    keys : mapping
        Key column of the table -> column of the entity rows.
    features : sequence of str
        Columns of the table.

    Raises
    ------
    ArtifactMissingError
        When the file does not exist.
    ContractError
        When it is not Parquet, or lacks a key or the event time.
    """
    parts = SourceParts.find(name, path, {})
    parts.check(keys, _TIMES, features)
    key_types = dict.fromkeys(keys, "STRING")
    return ViewPlan(
        name=name,
        source=lambda: parts.sql(key_types, list(_TIMES), list(features)),
        keys=tuple(keys.items()),
        timestamp=_TIMES[0],
        created=_TIMES[1],
        features=tuple((feature, f"{name}__{feature}") for feature in features),
        ttl_us=None,
        files=FeatureFiles.of(parts, list(keys), _TIMES, features),
        key_types=tuple(key_types.values()),
    )
