"""A loaded ranker with its codebook and item index, verified and warmed up; it is replaced as a whole."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ranking.serving.golden import check_golden
from ranking.serving.newest import materialized_ends
from ranking.serving.scorer import Scorer
from ranking.serving.static_items import STATIC_BYTES
from semantic_ids.catalog import Catalog
from sidkit.core.clock import present_us
from sidkit.core.code_stats import codes_service
from sidkit.core.repo import Repo
from sidkit.serve.bodies import Version
from sidkit.serve.candidates import Candidates
from sidkit.serve.item_index import ItemIndex, load_index
from sidkit.serve.options import Engine
from sidkit.stores.registry_files import RegistryFiles

if TYPE_CHECKING:
    from feast import FeatureStore

    from semantic_ids.records import RankerRecord

_WARM_UP_ITEMS = 100


@dataclass(frozen=True)
class ModelKey:
    """What a loaded model was made of; another key means that another model should be loaded."""

    ranker: str
    ranker_hash: str
    codebook: str
    codebook_hash: str
    until_us: int


@dataclass(frozen=True)
class WarmUp:
    """A request that every new model answers before it serves."""

    user_id: str
    item_ids: tuple[str, ...]
    context: dict[str, object] | None = None


@dataclass(frozen=True)
class ServingModel:
    """One version of everything that answers depend on, besides the online store.

    Attributes
    ----------
    key : ModelKey
    scorer : Scorer
    candidates : Candidates
    difference : float
        Largest difference from the offline model on the golden rows.
    registry : str
        Hash of the registry and of ``feature_store.yaml`` that the scorer's store was opened with.
    """

    key: ModelKey
    scorer: Scorer
    candidates: Candidates
    difference: float
    registry: str = field(compare=False, default="")
    loaded_seconds: float = field(compare=False, default=0.0)

    @property
    def index(self) -> ItemIndex:
        """The items."""
        return self.candidates.index

    @property
    def ranker(self) -> Version:
        """The ranker."""
        return Version(self.key.ranker, self.key.ranker_hash)

    @property
    def codebook(self) -> Version:
        """The codebook."""
        return Version(self.key.codebook, self.key.codebook_hash)


class ModelLoader:
    """Loads models of a repository; used by one thread at a time.

    Parameters
    ----------
    repo : Repo
        The repository.
    ranker : str, optional
        The ranker to load; default: the one in state ``serving``.
    static_bytes : int
        See :class:`ranking.serving.scorer.Scorer`.
    engine : str
        What computes scores: ``torch``, or ``onnx``.
    """

    def __init__(
        self,
        repo: Path | str,
        ranker: str | None = None,
        static_bytes: int = STATIC_BYTES,
        engine: Engine = "torch",
    ) -> None:
        self._engine = engine
        self._path = Path(repo)
        self._ranker = ranker
        self._static_bytes = static_bytes
        self._store: FeatureStore | None = None
        self._registry = RegistryFiles()
        self.ends_us: dict[str, int] = {}
        """End of the materialized features of each view, microseconds UTC, as of the last look."""

    def repo(self) -> Repo:
        """The repository with its present settings."""
        return Repo.open(self._path)

    def wanted(self) -> ModelKey:
        """What should be loaded now: the catalogue is read, and the registry is refreshed.

        Raises
        ------
        UnknownVersionError
            When there is no such ranker, or none is serving.
        """
        from sidkit.stores.feast_repo import open_store

        repo = self.repo()
        catalog = Catalog.open(repo, create=False)
        record = catalog.ranker(self._ranker) if self._ranker else catalog.serving_ranker()
        codebook = catalog.codebook(record.codebook)
        changed = self._registry.changed(repo)  # before the registry is read: a later change is seen next time
        if self._store is None:
            self._store = open_store(repo)
        elif changed:
            self._store.refresh_registry()
        self.ends_us = materialized_ends(self._store, _services(self._store, record))
        until_us = max(self.ends_us.values(), default=0)
        return ModelKey(record.name, record.content_hash, codebook.name, codebook.content_hash, until_us)

    def load(self, key: ModelKey, like: ServingModel | None = None, warm_up: WarmUp | None = None) -> ServingModel:
        """Load, verify and warm up a model; nothing that serves is touched.

        Parameters
        ----------
        key : ModelKey
            The result of :meth:`wanted`.
        like : ServingModel, optional
            The model that serves; its index is shared if codebook and features are the same.
        warm_up : WarmUp, optional
            A request; default: one of the golden rows' kind, with the first items of the index.

        Raises
        ------
        ArtifactError, ServingError, SettingsChangedError
            When artefacts are damaged, versions disagree, the online store does not answer, or scores differ from the offline
            model's on the golden rows.
        """
        began = time.monotonic()
        repo = self.repo()
        registry = self._registry_hash(repo)
        # Opening a store reads and checks the registry, which takes most of the time of a promotion.
        same = like.scorer if like is not None and registry and like.registry == registry else None
        scorer = Scorer(
            repo,
            key.ranker,
            self._static_bytes,
            None if like is None else like.scorer,
            None if same is None else same.store,
        )
        difference = check_golden(repo, scorer)
        if self._engine == "onnx":
            from ranking.serving.onnx_export import served_graph

            scorer.use(served_graph(repo, scorer))
            difference = check_golden(repo, scorer)
        if like is not None and _same_items(like.key, key):
            candidates = like.candidates
        else:
            candidates = Candidates(load_index(repo, scorer.codebook, key.codebook, key.until_us))
        if warm_up is None and not scorer.ranker.config.schema.context:
            some = np.linspace(0, len(candidates.index) - 1, min(_WARM_UP_ITEMS, len(candidates.index))).astype(
                np.int64
            )
            warm_up = WarmUp("", tuple(candidates.index.ids[np.unique(some)].tolist()))
        now_us = max(present_us(), key.until_us)
        scorer.preload(candidates.by_clicks(), now_us)
        if warm_up is not None and warm_up.item_ids:
            for _ in range(3):
                scorer.answer(warm_up.user_id, warm_up.item_ids, now_us, context=warm_up.context)
        return ServingModel(key, scorer, candidates, difference, registry, time.monotonic() - began)

    def _registry_hash(self, repo: Repo) -> str:
        """Hash of the registry as of the last look, and of ``feature_store.yaml`` now."""
        if self._store is None:
            return ""
        registered = getattr(self._store.registry, "cached_registry_proto", None) or self._store.registry.proto()
        registry = registered.SerializeToString(deterministic=True)
        return hashlib.sha256(registry + (repo.path / "feature_store.yaml").read_bytes()).hexdigest()


def _services(store: FeatureStore, record: RankerRecord) -> list[str]:
    """The feature services of a ranker that the registry has: its own, and that of code statistics."""
    of_codes = codes_service(record.codebook)
    names = {service.name for service in store.list_feature_services()}
    return [record.service, *([of_codes] if of_codes in names else [])]


def _same_items(one: ModelKey, other: ModelKey) -> bool:
    return (one.codebook, one.codebook_hash, one.until_us) == (other.codebook, other.codebook_hash, other.until_us)
