"""The features of a repository's rankers: sources, types, how complete they are, and which arms read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from ranking.data.code_schema import family_of
from ranking.data.dataset import Dataset
from ranking.data.numeric_features import numeric_columns
from ranking.data.schema import ExtraFeature, FeatureSchema
from ranking.evaluation.importance import FAMILIES
from ranking.pipeline.feature_importance import read_importance
from ranking.training.predictions import read_details
from semantic_ids.catalog import Catalog
from sidkit.core.errors import ArtifactMissingError
from sidkit.core.names import check_codebook_name
from sidkit.core.repo import Repo
from sidkit.core.stages import read_facts
from sidkit.presets import preset_name

_VIEW_OF = {
    "item_stats": "item_stats",
    "user_stats": "user_stats",
    "item_age": "item_content",
    "item_price": "item_content",
    "user_history": "user_history",
}


FAMILY = "statistics"
"""Kind of a family of statistics of codes."""


@dataclass(frozen=True)
class FeatureFacts:
    """A feature.

    Attributes
    ----------
    name : str
        Full name; a family of built-in counts has one entry, and one of statistics of codes too: the pattern of its features.
    source : str
        The feature view, ``context`` for a column of the rows, or ``history`` for what derives from it.
    kind : str
        How rankers read it; see :data:`ranking.data.schema.Kind`, and :data:`FAMILY`.
    filled : float or None
        Share of the run's validation and test rows with a value; None without a run.
    distinct : int or None
        Distinct values in these rows.
    arms : tuple of str
        Arms of the run that read it.
    drops : dict
        Arm -> drop of the validation AUC when the feature is shuffled, where it was measured.
    """

    name: str
    source: str
    kind: str
    filled: float | None
    distinct: int | None
    arms: tuple[str, ...]
    drops: dict[str, float]


def list_features(repo: Repo, preset: str | None = None) -> list[FeatureFacts]:
    """List the features of the rankers of a repository.

    Parameters
    ----------
    repo : Repo
        A repository with a published codebook.
    preset : str, optional
        A finished run; default: the newest one. Without any, completeness, arms and importance are unknown.

    Raises
    ------
    ArtifactMissingError
        When the preset has no run.
    """
    from ranking.data.disk_frame import DiskFrame
    from ranking.data.service_schema import service_schema
    from sidkit.stores.feast_repo import open_store

    folder = _run(repo, preset)
    if folder is None:
        record = Catalog.open(repo).serving_codebook()
        schema = service_schema(
            open_store(repo),
            record.service_name,
            repo.settings.features,
            conversions=repo.settings.source.conversions,
        )
        return [_facts(name, source, kind, None, {}, {}) for name, source, kind in _named(schema)]
    data = DiskFrame.load(folder / "frame").data
    arms = {
        path.name.removesuffix("-s0.parquet"): read_details(path)
        for path in sorted((folder / "predictions").glob("*-s0.parquet"))
    }
    reads = {
        arm: set(details.get("features") or ()) for arm, details in arms.items() if details.get("features") is not None
    }
    measured = read_importance(folder)
    on_all = measured[measured["slice"] == "all"]
    drops: dict[str, dict[str, float]] = {}
    for arm, feature, drop in on_all[["arm", "feature", "drop"]].itertuples(index=False):
        drops.setdefault(feature, {})[arm] = float(drop)
    return [_facts(name, source, kind, data, reads, drops.get(name, {})) for name, source, kind in _named(data.schema)]


def features_frame(facts: list[FeatureFacts]) -> pd.DataFrame:
    """The features as a table, one row each; ``arms`` is text, and each measured arm has a column ``drop <arm>``."""
    measured = list(dict.fromkeys(arm for each in facts for arm in each.drops))
    rows = [
        {
            "feature": each.name,
            "source": each.source,
            "kind": each.kind,
            "filled": each.filled,
            "distinct": each.distinct,
            "arms": ", ".join(each.arms),
            **{f"drop {arm}": each.drops.get(arm) for arm in measured},
        }
        for each in facts
    ]
    return pd.DataFrame(rows)


def _run(repo: Repo, preset: str | None) -> Path | None:
    if preset is not None:
        folder = repo.runs / preset_name(preset)
        if not (folder / "frame").is_dir():
            raise ArtifactMissingError(
                f"expected a finished run of the preset {preset}, got none in {folder}; run `sidkit run --preset "
                f"{preset} --repo {repo.path}` first"
            )
        return folder
    folders = [path.parent for path in repo.runs.glob("*/frame")]
    codebooks = {record.name for record in Catalog.open(repo).codebooks() if record.defined}
    usable = [
        folder
        for folder in folders
        if (folder / "stages.json").exists()
        and check_codebook_name(read_facts(folder / "stages.json", "codebook")["name"]) in codebooks
    ]
    return max(usable, key=lambda folder: (folder / "stages.json").stat().st_mtime_ns, default=None)


def _named(schema: FeatureSchema) -> list[tuple[str, str, str]]:
    built_in = [(name, _VIEW_OF[name], "built-in") for name in FAMILIES]
    return [*built_in, *dict.fromkeys(_line(each) for each in schema.features)]


def _line(feature: ExtraFeature) -> tuple[str, str, str]:
    family = family_of(feature.name)
    return family, feature.view or "history", feature.kind if family == feature.name else FAMILY


def _facts(
    name: str, source: str, kind: str, data: Dataset | None, reads: dict[str, set[str]], drops: dict[str, float]
) -> FeatureFacts:
    filled, distinct = (None, None) if data is None or kind in {"built-in", FAMILY} else _measured(data, name)
    arms = tuple(arm for arm, names in reads.items() if kind == "built-in" or name in map(family_of, names))
    return FeatureFacts(name, source, kind, filled, distinct, arms, drops)


def _measured(data: Dataset, name: str) -> tuple[float | None, int | None]:
    """Share of rows with a value, and number of distinct values; of a family neither."""
    columns = numeric_columns(data.schema)
    if name in columns:
        values = data.numeric[:, columns.index(name)]
        known = values[np.isfinite(values)]
        return len(known) / max(len(values), 1), len(np.unique(known))
    for feature, distinct, codes in data.coded_columns():
        if feature.name == name:
            missing = pc.is_null(distinct).to_numpy(zero_copy_only=False)[codes]
            return float(1 - missing.mean()), len(np.unique(codes[~missing]))
    return None, None
