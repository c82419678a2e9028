"""The scorer: everything that can be refused is refused when it starts, not at the first request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranking.serving.features import OnlineFeatures
from ranking.serving.newest import materialized_until, newest_row_us
from ranking.training.ranker import Ranker
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.records import RankerRecord
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import iso
from sidkit.core.config import content_hash
from sidkit.core.errors import ServingError, SettingsChangedError, TimeError
from sidkit.core.id_lists import unknown_items
from sidkit.core.repo import Repo
from sidkit.tables.builder import changed_settings

if TYPE_CHECKING:
    from feast import FeatureStore


@dataclass(frozen=True)
class Scores:
    """The answer to one request.

    Parameters
    ----------
    values : numpy.ndarray
        Click probabilities ``float64 [items]``, in the order of the candidates.
    known : numpy.ndarray
        ``bool [items]``: whether the online store has anything of the item. The score of one that it does not know says
        nothing of the item: it may not exist.
    user_known : bool
        The same of the user; one who never did anything is unknown, which is ordinary.
    """

    values: npt.NDArray[np.float64]
    known: npt.NDArray[np.bool_]
    user_known: bool


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
        """Click probabilities ``float64 [items]``: the values of :meth:`answer`, which also says which ids are unknown."""
        return self.answer(user_id, item_ids, at_us).values

    def answer(self, user_id: str, item_ids: Sequence[str], at_us: int, *, strict: bool = False) -> Scores:
        """Click probabilities, and which ids the online store does not know.

        Parameters
        ----------
        user_id : str
            A user; one without features gets what the items alone say.
        item_ids : sequence of str
            Candidates.
        at_us : int
            The request's moment, microseconds UTC: ages and time gaps are taken from it.
        strict : bool
            Refuse unknown items and an unknown user.

        Raises
        ------
        ServingError
            When there are no candidates, or with ``strict`` an id is unknown.
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
        request = self._features.request(
            user_id, item_ids, at_us, rate=self._ranker.scaling.rate, history_length=config.history_length
        )
        unknown = unknown_ids(user_id, item_ids, request.known, request.user_known)
        if strict and unknown:
            raise ServingError(f"{unknown}; correct the ids, or leave --strict out to score without their features")
        return Scores(self._ranker.score(request.data), request.known, request.user_known)


def unknown_ids(user_id: str, item_ids: Sequence[str], known: npt.NDArray[np.bool_], user_known: bool) -> str:
    """One line that names the ids of a request which the online store does not know; empty when it knows all."""
    parts = [items] if (items := unknown_items(item_ids, known.tolist())) else []
    if not user_known:
        parts.append(f"unknown user {user_id!r}")
    return " and ".join(parts)


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

    from sidkit.stores.feast_repo import service_features

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
