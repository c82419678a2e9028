"""The scorer: checks ranker, codebook, settings and features when it starts, not at the first request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.data.code_schema import codebook_of
from ranking.data.dataset import Dataset
from ranking.data.targets import Target
from ranking.serving.context import Context
from ranking.serving.features import OnlineFeatures, Request
from ranking.serving.newest import materialized_until, newest_row_us
from ranking.serving.static_items import STATIC_BYTES
from ranking.training.calibration import Calibration
from ranking.training.load_ranker import LoadedRanker, load_ranker
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.records import RankerRecord
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import iso
from sidkit.core.code_stats import codes_service
from sidkit.core.config import content_hash
from sidkit.core.errors import ServingError, SettingsChangedError, TimeError
from sidkit.core.id_lists import unknown_items
from sidkit.core.repo import Repo
from sidkit.tables.builder import changed_settings

if TYPE_CHECKING:
    from feast import FeatureStore

_NOT_READ = frozenset({"item_sid__assigned_at_us"})
"""A feature of services of earlier definitions: the wall clock of the assignment, which no ranker reads."""


@dataclass(frozen=True)
class Scores:
    """Scores of one request.

    Parameters
    ----------
    values : numpy.ndarray
        Probabilities ``float64 [items]`` of the ranker's target, in the order of the candidates; rates only if the scorer's
        ``calibration`` says so.
    known : numpy.ndarray
        ``bool [items]``: whether the online store has a row for the item. The score of an unknown item is uninformative: the
        item may not exist.
    user_known : bool
        The same for the user. A user without interactions is unknown, which is common.
    """

    values: npt.NDArray[np.float64]
    known: npt.NDArray[np.bool_]
    user_known: bool


class Scorer:
    """Scores candidates for a user from the online store.

    Parameters
    ----------
    repo : Repo
        A repository with a trained ranker and materialized features.
    ranker : str, optional
        Name of the ranker; default: the one in state ``serving``.
    static_bytes : int
        Bound of the memory for features of items; see :class:`ranking.serving.static_items.StaticItems`.
    like : Scorer, optional
        Another scorer of the repository, whose items in memory are used too if they have the same features.
    store : FeatureStore, optional
        The repository's store if it is open, with the registry and the configuration as they are now; default: it is opened.

    Raises
    ------
    MissingExtraError
        When torch or safetensors is not installed, and the ranker needs it.
    UnknownVersionError
        When the ranker does not exist.
    ServingError
        When the ranker's codebook is not published, or the feature service has other features or types than the ranker was
        trained on.
    SettingsChangedError
        When the repository's feature settings changed after training.
    """

    def __init__(
        self,
        repo: Repo,
        ranker: str | None = None,
        static_bytes: int = STATIC_BYTES,
        like: Scorer | None = None,
        store: FeatureStore | None = None,
    ) -> None:
        from sidkit.stores.feast_repo import open_store

        catalog = Catalog.open(repo)
        self.record = catalog.ranker(ranker) if ranker else catalog.serving_ranker()
        manifest = read_manifest(repo.rankers / self.record.name)
        _refuse_other_settings(manifest, repo)
        record = catalog.codebook(self.record.codebook)
        self._ranker = load_ranker(repo.rankers / self.record.name, record, "scoring")
        self.calibration = Calibration.of(repo.settings, self.target, self._ranker.positive_rate)
        self.codebook = _codebook(repo, catalog, self.record, self._ranker)
        self._store = open_store(repo) if store is None else store
        _refuse_other_features(self._store, self._ranker)
        config = self._ranker.config
        shared: OnlineFeatures | None = None
        if like is not None and like._codebook_id == self._codebook_id:
            shared = like._features
        self._features: OnlineFeatures = OnlineFeatures(
            self._store,
            self.record.service,
            self.codebook,
            config.schema,
            config.vectors,
            static_bytes,
            getattr(self._ranker, "vocabulary", None),
            shared,
        )
        if self._features.vocabulary is not None:  # an equal one, in which the items are numbered
            self._ranker.vocabulary = self._features.vocabulary  # type: ignore[attr-defined]
        self._tables = repo.tables
        self._services = [self.record.service]
        if config.schema.reads_code_stats:
            self._services.append(codes_service(codebook_of(self.record.service)))
        self._materialized_until_us = materialized_until(self._store, self._services)

    @property
    def _codebook_id(self) -> tuple[str, str]:
        return self.record.codebook, self._ranker.config.codebook_hash

    @property
    def target(self) -> Target:
        """What scores predict."""
        return self._ranker.config.target

    @property
    def ranker(self) -> LoadedRanker:
        """The model with its configuration."""
        return self._ranker

    def use(self, ranker: LoadedRanker) -> None:
        """Score with another implementation of the same ranker, such as its exported graph."""
        self._ranker = ranker

    @property
    def store(self) -> FeatureStore:
        """The feature store that requests read."""
        return self._store

    @property
    def materialized_until_us(self) -> int:
        """The latest end of the materialized intervals when the scorer was loaded, microseconds UTC; 0 if none."""
        return self._materialized_until_us

    @cached_property
    def _newest_us(self) -> int:
        return newest_row_us(self._store, self._services, self._tables)

    def score(
        self, user_id: str, item_ids: Sequence[str], at_us: int, *, context: Context | None = None
    ) -> npt.NDArray[np.float64]:
        """Return probabilities ``float64 [items]``; :meth:`answer` also returns which ids are unknown."""
        return self.answer(user_id, item_ids, at_us, context=context).values

    def answer(
        self,
        user_id: str,
        item_ids: Sequence[str],
        at_us: int,
        *,
        strict: bool = False,
        context: Context | None = None,
    ) -> Scores:
        """Return probabilities, with flags for ids that are missing from the online store.

        Parameters
        ----------
        user_id : str
            User id; an unknown user is scored from the item features alone.
        item_ids : sequence of str
            Candidates.
        at_us : int
            Time of the request, microseconds UTC; ages and time gaps are relative to it.
        strict : bool
            Raise if an item or the user is unknown.
        context : mapping, optional
            Values that the request brings, for features that need them: one for all items, or a list of one per item.

        Raises
        ------
        ServingError
            When there are no candidates, a value of the context is missing or has the wrong type, or with
            ``strict`` if an id is unknown.
        TimeError
            When the time is earlier than the newest row of the online store, which has no past values.
        """
        request = self.read(user_id, item_ids, at_us, context=context)
        unknown = unknown_ids(user_id, item_ids, request.known, request.user_known)
        if strict and unknown:
            raise ServingError(f"{unknown}; correct the ids, or omit --strict to score without their features")
        return self.score_request(request)

    def read(self, user_id: str, item_ids: Sequence[str], at_us: int, *, context: Context | None = None) -> Request:
        """Read the features of a request, as arrays; the first half of :meth:`answer`, with its parameters and errors."""
        if not item_ids:
            raise ServingError("expected at least one item id, got none; pass the candidates")
        if at_us < self._materialized_until_us and at_us < self._newest_us:
            raise TimeError(
                f"expected a time no earlier than the newest row of the online store ({iso(self._newest_us)}), got "
                f"{iso(at_us)}; use that time or a later one (--at), or materialize as of an earlier time into an empty "
                "online store"
            )
        return self._features.request(
            user_id,
            item_ids,
            at_us,
            rate=self._ranker.smoothing_rate,
            history_length=self._ranker.config.history_length,
            context=context,
        )

    def preload(self, item_ids: Sequence[str], at_us: int) -> int:
        """See :meth:`ranking.serving.features.OnlineFeatures.preload`."""
        return self._features.preload(item_ids, at_us)

    def known(self, item_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Whether the online store has a row for each item, ``bool [items]``."""
        return self._features.known(item_ids)

    def score_request(self, request: Request) -> Scores:
        """Score the features of a request; the second half of :meth:`answer`."""
        return Scores(self.probabilities(request.data), request.known, request.user_known)

    def probabilities(self, data: Dataset) -> npt.NDArray[np.float64]:
        """Scores ``float64 [rows]`` of a dataset with the ranker's features."""
        return self.calibration.apply(self._ranker.score(data))


def unknown_ids(user_id: str, item_ids: Sequence[str], known: npt.NDArray[np.bool_], user_known: bool) -> str:
    """Return a line that lists the ids of a request that are missing from the online store; empty if all are known."""
    parts = [items] if (items := unknown_items(item_ids, known.tolist())) else []
    if not user_known:
        parts.append(f"unknown user {user_id!r}")
    return " and ".join(parts)


def _refuse_other_settings(manifest: dict[str, object], repo: Repo) -> None:
    made_with, current = manifest["feature_settings"], repo.settings.feature_settings()
    if isinstance(made_with, dict) and content_hash(made_with) != content_hash(current):
        raise SettingsChangedError(
            f"ranker {manifest['name']}",
            changed_settings(made_with, current),
            "Restore the old values, or train the ranker again.",
        )


def _codebook(repo: Repo, catalog: Catalog, record: RankerRecord, ranker: LoadedRanker) -> Codebook:
    codebook = catalog.codebook(record.codebook)
    if codebook.state not in {"published", "serving"}:
        raise ServingError(
            f"ranker {record.name} was trained on codebook {codebook.name}, which is {codebook.state}; score with a ranker "
            "on a published codebook (`sidkit ranker list`)"
        )
    if codebook.content_hash != ranker.config.codebook_hash:
        raise ServingError(
            f"ranker {record.name} was trained on codebook {codebook.name} with hash {ranker.config.codebook_hash}, the "
            f"catalogue has {codebook.content_hash}, so its codes have another meaning. Train a ranker on the current codebook"
        )
    return Codebook.load(repo.codebooks / codebook.name)


def _refuse_other_features(store: FeatureStore, ranker: LoadedRanker) -> None:
    from feast.errors import FeatureServiceNotFoundException

    from ranking.data.service_schema import pinned_features
    from sidkit.stores.feast_repo import feature_service
    from sidkit.stores.online.offline_only import unreadable

    try:
        features = pinned_features(store, ranker.config.service, allow_cache=True)
    except FeatureServiceNotFoundException as error:
        raise ServingError(
            f"expected feature service {ranker.config.service!r}, which the ranker reads, in the registry; it is missing. Run "
            "`sidkit apply`"
        ) from error
    service = feature_service(store, ranker.config.service, allow_cache=True)
    hidden = [name for name in unreadable(store.config.online_store, service) if name in ranker.config.features]
    if hidden:
        raise ServingError(
            f"expected {', '.join(hidden)} in the online store, which the ranker reads, but online_store.offline_only of "
            "feature_store.yaml keeps them out of it. Remove them there and run `sidkit materialize`, or serve a ranker with "
            'vectors = "decoded"'
        )
    changed = {
        name for name, kind in ranker.config.features.items() if name not in _NOT_READ and features.get(name) != kind
    }
    if changed:
        listed = ", ".join(
            f"{name} (expected {ranker.config.features[name]}, got {features.get(name, 'nothing')})"
            for name in sorted(changed)
        )
        raise ServingError(
            f"feature service {ranker.config.service} differs from the one the ranker was trained on: {listed}. Restore its "
            "definition and run `sidkit apply`, or train the ranker again"
        )
