"""Records of the catalogue: codebooks, rankers and the input of the feature definitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from semantic_ids.code_stats import CodeStats
from semantic_ids.own_views import own_views
from sidkit.core.clock import iso
from sidkit.core.code_stats import stats_views
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, USER_ATTRIBUTES, FeatureSettings, affinity_view
from sidkit.core.names import neighbours_view

BUILT_IN_VIEWS = ("item_content", "item_stats", "user_history", "user_stats", ITEM_ATTRIBUTES, USER_ATTRIBUTES)
"""Names of the feature views of every repository, besides those of codebooks and of ``features.affinity``."""


@dataclass(frozen=True)
class CodebookRecord:
    """One codebook of the catalogue. Times are microseconds UTC."""

    name: str
    state: str
    defined: bool
    content_hash: str
    quantizer: str
    encoder: str
    sizes: tuple[int, ...]
    fit_start_us: int
    fit_end_us: int
    changed_at_us: int

    @property
    def levels(self) -> int:
        """Codes per item."""
        return len(self.sizes)

    @property
    def has_codes(self) -> bool:
        """Whether its table of codes exists: published, and not purged."""
        return self.state in {"published", "serving", "retired"}

    @property
    def view_name(self) -> str:
        """Name of the codebook's feature view and of its table in ``data/tables``."""
        return f"item_sid_{self.name}"

    @property
    def service_name(self) -> str:
        """Name of the feature service for rankers that use this codebook."""
        return f"ctr_{self.name}"

    @property
    def summary(self) -> str:
        """A one-line description."""
        return f"{self.quantizer} of {'x'.join(map(str, self.sizes))} codes on {self.encoder} vectors"

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the codebook's view and services."""
        return {
            "codebook": self.name,
            "codebook_hash": self.content_hash,
            "fit_start": iso(self.fit_start_us),
            "fit_end": iso(self.fit_end_us),
            "quantizer": self.quantizer,
            "encoder": self.encoder,
            "sizes": "x".join(map(str, self.sizes)),
        }


@dataclass(frozen=True)
class RankerRecord:
    """One ranker of the catalogue. Times are microseconds UTC."""

    name: str
    state: str
    content_hash: str
    codebook: str
    service: str
    arm: str
    fit_end_us: int
    changed_at_us: int


@dataclass(frozen=True)
class Definitions:
    """Input of ``feature_repo/*.py``: content modalities, codebooks with a view, attributes, owner and tags.

    ``code_stats`` has the statistics of codes, and ``neighbours`` the names of the neighbour lists, by the names of the
    codebooks that have any. ``tables`` is the engine that builds the feature tables; ``partitions``
    says whether their sources are folders of days.
    """

    modalities: tuple[str, ...]
    codebooks: tuple[CodebookRecord, ...]
    features: FeatureSettings
    owner: str
    tags: dict[str, str]
    code_stats: dict[str, CodeStats] = field(default_factory=dict)
    neighbours: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tables: str = "duckdb"
    partitions: str = "none"

    def own_views(self, imported: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Own feature views that ``features.extra`` names, by the keys that they need; see :mod:`semantic_ids.own_views`.

        Parameters
        ----------
        imported : mapping
            Variables of ``services.py`` (``globals()``), among which the views are looked up by name.

        Raises
        ------
        ConfigError
            When a view is not imported, lacks a feature, or is in every service anyway.
        """
        counts = map(affinity_view, self.features.affinity)
        of_codebooks = {
            view
            for each in self.codebooks
            for view in (each.view_name, *stats_views(each.name), neighbours_view(each.name))
        }
        built_in = {*BUILT_IN_VIEWS, *counts, *of_codebooks}
        return own_views(self.features.extra, imported, built_in)
