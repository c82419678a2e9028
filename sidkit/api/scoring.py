"""Online scores of a project's ranker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from sidkit.api.base import warn
from sidkit.core.clock import Moment, moment_us
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from semantic_ids.records import RankerRecord


class ProjectScorer:
    """Scores candidates from the online store. Loading takes seconds, a request milliseconds: create one and reuse it.

    Parameters
    ----------
    repo : Repo
        A repository with a trained ranker and materialized features.
    ranker : str, optional
        Name of the ranker; default: the one in state ``serving``.

    Raises
    ------
    UnknownVersionError, ServingError, SettingsChangedError
        See :class:`ranking.serving.scorer.Scorer`.
    """

    def __init__(self, repo: Repo, ranker: str | None = None) -> None:
        from ranking.serving.scorer import Scorer

        self._scorer = Scorer(repo, ranker)

    @property
    def record(self) -> RankerRecord:
        """The ranker's record in the catalogue."""
        return self._scorer.record

    def __repr__(self) -> str:
        return f"<scorer of {self.record.name}>"

    def score(
        self,
        user: str,
        items: str | Sequence[str],
        at: Moment | None = None,
        *,
        strict: bool = False,
        context: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Score candidates for a user: probabilities of the ranker's target, clicks by default.

        Issues a :class:`SidkitWarning` if the scores are not rates because negatives were sampled.

        Parameters
        ----------
        user : str
            User id; an unknown user is scored from the item features alone.
        items : str or sequence of str
            Candidate ids.
        at : str or datetime, optional
            Time of the request, with a time zone; default: now. A replay passes its own time.
        strict : bool
            Raise if the user or an item is unknown.
        context : mapping, optional
            Values that the request brings, such as ``{"device": "mobile"}``, for features that need them: one value for all
            items, or a list of one per item.

        Returns
        -------
        pandas.DataFrame
            One row per candidate, in their order: ``item_id``, ``score``, and ``known``, whether the online store has a row
            for the item. ``attrs`` holds ``ranker``, ``user_known``, ``at``, ``target``, ``calibrated`` (whether scores are
            rates) and ``calibration`` (the reason).

        Raises
        ------
        ServingError
            When there are no candidates, a value of the context is missing or has the wrong type, or with
            ``strict`` if an id is unknown.
        TimeError
            When the time has no zone, or is earlier than the newest row of the online store.
        """
        from sidkit.core.clock import iso

        candidates = [items] if isinstance(items, str) else [str(item) for item in items]
        at_us = moment_us(at)
        scores = self._scorer.answer(str(user), candidates, at_us, strict=strict, context=context)
        frame = pd.DataFrame({"item_id": candidates, "score": scores.values, "known": scores.known})
        calibration = self._scorer.calibration
        frame.attrs.update(
            ranker=self.record.name,
            user_known=scores.user_known,
            at=iso(at_us),
            target=self._scorer.target,
            calibrated=calibration.calibrated,
            calibration=calibration.reason,
        )
        if not calibration.calibrated:
            warn(calibration.sentence)
        return frame
