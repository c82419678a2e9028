"""The scorer: everything that can be refused is refused when it starts, not at the first request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.artifact import Ranker
from ranking.serving.features import OnlineFeatures
from ranking.serving.newest import materialized_until, newest_row_us
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.records import RankerRecord
from sidkit.artifact import read_manifest
from sidkit.clock import iso
from sidkit.config import content_hash
from sidkit.errors import ServingError, SettingsChangedError, TimeError
from sidkit.repo import Repo
from sidkit.tables.builder import changed_settings

if TYPE_CHECKING:
    from feast import FeatureStore


class Scorer:
    """Scores candidates for a user from the online store.

    Parameters
    ----------
    repo : Repo
        With a trained ranker and materialized features.
    ranker : str, optional
        Its name; by default the one in state ``serving``.

    Raises
    ------
    UnknownVersionError
        When there is no such ranker.
    ServingError
        When the ranker's codebook is not in use, or the feature service gives other features or types than it was
        trained on.
    SettingsChangedError
        When the repo's feature settings changed since it was trained.
    """

    def __init__(self, repo: Repo, ranker: str | None = None) -> None:
        from sidkit.stores.feast_repo import open_store

        catalog = Catalog.open(repo)
        self.record = catalog.ranker(ranker) if ranker else catalog.serving_ranker()
        manifest = read_manifest(repo.rankers / self.record.name)
        _refuse_other_settings(manifest, repo)
        self._ranker = Ranker.load(repo.rankers / self.record.name)
        codebook = _codebook(repo, catalog, self.record, self._ranker)
        self._store = open_store(repo)
        _refuse_other_features(self._store, self._ranker)
        self._features = OnlineFeatures(self._store, self.record.service, codebook)
        self._tables = repo.tables
        self._materialized_until_us = materialized_until(self._store, self.record.service)

    @cached_property
    def _newest_us(self) -> int:
        return newest_row_us(self._store, self.record.service, self._tables)

    def score(self, user_id: str, item_ids: Sequence[str], at_us: int) -> npt.NDArray[np.float64]:
        """Click probabilities.

        Parameters
        ----------
        user_id : str
            A user; one without features gets what the items alone say.
        item_ids : sequence of str
            Candidates.
        at_us : int
            The request's moment, microseconds UTC: ages and time gaps are taken from it.

        Returns
        -------
        numpy.ndarray
            ``float64 [items]``, in the order of ``item_ids``.

        Raises
        ------
        ServingError
            When there are no candidates.
        TimeError
            When the moment lies before the newest row of the online store: it knows no past.
        """
        if not item_ids:
            raise ServingError("no candidates came; give at least one item id")
        if at_us < self._materialized_until_us and at_us < self._newest_us:
            raise TimeError(
                f"the online store was filled as of {iso(self._newest_us)}, its newest row, and cannot answer for "
                f"{iso(at_us)}; ask for that moment or a later one (--at), or materialize as of an earlier one into a fresh "
                "online store"
            )
        config = self._ranker.config
        data = self._features.request(
            user_id, item_ids, at_us, rate=self._ranker.scaling.rate, history_length=config.history_length
        )
        return self._ranker.score(data)


def service_features(store: FeatureStore, service_name: str) -> dict[str, str]:
    """Full feature name -> Feast type of a feature service."""
    service = store.get_feature_service(service_name)
    return {
        f"{projection.name_to_use()}__{feature.name}": str(feature.dtype)
        for projection in service.feature_view_projections
        for feature in projection.features
    }


def _refuse_other_settings(manifest: dict[str, object], repo: Repo) -> None:
    made_with, stated = manifest["feature_settings"], repo.settings.feature_settings()
    if isinstance(made_with, dict) and content_hash(made_with) != content_hash(stated):
        raise SettingsChangedError(
            f"ranker {manifest['name']}", changed_settings(made_with, stated), "Put the old values back, or train anew."
        )


def _codebook(repo: Repo, catalog: Catalog, record: RankerRecord, ranker: Ranker) -> Codebook:
    codebook = catalog.codebook(record.codebook)
    if codebook.state not in {"published", "serving"}:
        raise ServingError(
            f"ranker {record.name} was trained on codebook {codebook.name}, which is {codebook.state}; score with a ranker "
            "on a published codebook (`sidkit ranker list`)"
        )
    if codebook.content_hash != ranker.config.codebook_hash:
        raise ServingError(
            f"ranker {record.name} was trained on codebook {codebook.name} with hash {ranker.config.codebook_hash}, the "
            f"catalogue's has {codebook.content_hash}: its codes mean something else. Train a ranker on the present one"
        )
    return Codebook.load(repo.codebooks / codebook.name)


def _refuse_other_features(store: FeatureStore, ranker: Ranker) -> None:
    from feast.errors import FeatureServiceNotFoundException

    try:
        found = service_features(store, ranker.config.service)
    except FeatureServiceNotFoundException as error:
        raise ServingError(
            f"the registry has no feature service {ranker.config.service!r}, which the ranker reads; run `sidkit apply`"
        ) from error
    wrong = {name for name, kind in ranker.config.features.items() if found.get(name) != kind}
    if wrong:
        listed = ", ".join(
            f"{name} ({ranker.config.features[name]}, now {found.get(name, 'gone')})" for name in sorted(wrong)
        )
        raise ServingError(
            f"feature service {ranker.config.service} differs from what the ranker was trained on: {listed}"
        )
