"""Steps on adapters: small corrections of a frozen ranker, refitted on the newest rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sidkit.api.base import ProjectBase, warn
from sidkit.core.clock import Moment, moment_us

if TYPE_CHECKING:
    from ranking.serving.adapt import AdaptedRankerFacts


class AdaptSteps(ProjectBase):
    """Methods of a project on adapters."""

    def adapt_ranker(
        self,
        adapter: str = "bias",
        *,
        ranker: str | None = None,
        arm: str | None = None,
        other: str | None = None,
        days: float = 1.0,
        until: Moment | None = None,
        reindex: bool = False,
        promote: bool | None = None,
    ) -> AdaptedRankerFacts:
        """Correct a frozen ranker by the labelled rows of the last days, and promote the result.

        The frozen ranker is not trained again; the adapted one is a small artefact that names it. A running service takes it
        over as any promoted ranker. To go back, promote the ranker that served before (``before`` of the result). An adapted
        ranker is never adapted itself: its frozen scorer is.

        Parameters
        ----------
        adapter : str
            ``bias``: a scale and a shift of the logit per item; ``gate``: mix it with ``other``, or else with the item's click
            rate of 30 days; or a plug-in.
        ranker : str, optional
            The ranker to adapt; default: the serving one.
        arm : str, optional
            Instead of ``ranker``: the ranker of this arm.
        other : str, optional
            Of a gate: the second ranker.
        days : float
            Fit on the rows of so many days before ``until``, as far as they are later than the fits of the rankers.
        until : str or datetime, optional
            Fit on rows whose labels were known by this time; default: when the label of the last row was known.
        reindex : bool
            Also give items that are newer than the ranker rows of its id table, predicted from their content.
        promote : bool, optional
            Whether the result serves; default: if the same frozen ranker serves now, adapted or not.

        Raises
        ------
        ConfigError
            When there is no such adapter, or the rankers do not fit together.
        UnknownVersionError
            When there is no such ranker.
        LeakageError
            When all rows are from before the end of the ranker's fit.
        EvaluationError
            When the window has no rows.
        FitError
            When there are no ids to reindex.
        """
        from ranking.serving.adapt import adapt_ranker, frozen_ranker
        from ranking.serving.scorer import Scorer
        from semantic_ids.catalog import Catalog

        with self.repo.locked():
            scorer = frozen_ranker(self.repo, ranker, arm)
            second = frozen_ranker(self.repo, other) if other is not None else None
            until_us = None if until is None else moment_us(until)
            facts = adapt_ranker(
                self.repo, scorer, adapter=adapter, other=second, days=days, until_us=until_us, reindex=reindex
            )
            catalog = Catalog.open(self.repo)
            serving = next((record for record in catalog.rankers() if record.state == "serving"), None)
            same = serving is not None and frozen_ranker(self.repo, serving.name) == scorer
            if not facts.serving and (promote or (promote is None and same)):
                Scorer(self.repo, facts.name)  # raises if the ranker cannot serve
                catalog.set_ranker_state(facts.name, "serving")
                facts = replace(facts, serving=True, before=serving.name if serving is not None else None)
        if facts.after_tables:
            warn(
                f"{facts.after_tables:,} of the {facts.rows:,} rows are later than the feature tables, and get the features of "
                "their as-of time. Run `sidkit tables build` first"
            )
        return facts
