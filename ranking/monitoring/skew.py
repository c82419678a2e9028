"""Skew between serving and training: compare served features with a point-in-time retrieval of the same rows.

A row's *training features* are those of a retrieval as of the time of its request. A served cell that differs from them is

``stale``
    if it is what the tables had at the end of the materialization that served it, before the request: the online store was
    behind. Materialize more often, or push events;
``early``
    if it is what the tables had at the end of that materialization, after the request: a feature was served before it was
    available;
``ahead``
    if the request was later than the tables, so that a retrieval cannot know what serving knew (pushed events): build the
    tables, and audit again;
``unexplained``
    otherwise: features that serving and training compute differently, or a log that was corrected since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ranking.data.frame_builder import build_dataset
from ranking.data.frame_table import frame_table
from ranking.monitoring.compare_columns import Compared, compare, missing
from ranking.monitoring.scores import RankerScores, scores_of
from ranking.serving.served_log import LogHeader, ServedRows, log_folder, read_log
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Bools, Ints
from sidkit.core.clock import iso
from sidkit.core.errors import ArtifactMissingError, SidkitError
from sidkit.core.redact import scrubbed
from sidkit.tables import read_build

if TYPE_CHECKING:
    from feast import FeatureStore

    from ranking.data.dataset import Dataset
    from sidkit.core.repo import Repo

KINDS = ("stale", "early", "ahead", "unexplained")
SCORE = "score"


@dataclass(frozen=True)
class SkewBounds:
    """When an audit of the served log fails.

    Attributes
    ----------
    tolerance : float
        Numbers agree if they differ by at most this share of the larger one of 1 and the retrieved number.
    unexplained : float
        Largest share of the cells of a feature that may differ without an explanation.
    stale : float, optional
        Largest share of the cells of a feature that may be stale; None: any.
    """

    tolerance: float = 1e-5
    unexplained: float = 0.01
    stale: float | None = None


@dataclass(frozen=True)
class FeatureSkew:
    """One feature: how many served cells differ from training features, and why.

    ``largest`` is the largest difference of numbers, None for other values. ``missing_served`` and ``missing_retrieved`` are
    shares of the rows without a value. The feature ``score`` compares the served score with that of the training features.
    """

    name: str
    rows: int
    stale: int
    early: int
    ahead: int
    unexplained: int
    largest: float | None
    missing_served: float
    missing_retrieved: float

    @property
    def differ(self) -> int:
        """Number of cells that differ."""
        return self.stale + self.early + self.ahead + self.unexplained

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "differ": self.differ}


@dataclass(frozen=True)
class SkewAudit:
    """Result of an audit of the served log."""

    rows: int
    """Compared rows."""
    total: int
    """Rows of the log in the audited time."""
    tables_until: str
    """Up to when the tables know events; ISO 8601."""
    later: int
    """Compared rows whose request was later than that: their staleness cannot be seen until the tables are built again."""
    features: tuple[FeatureSkew, ...]
    skipped: tuple[str, ...]
    """Rows that could not be retrieved or scored again, with the reason."""
    bounds: SkewBounds

    @property
    def problems(self) -> tuple[str, ...]:
        """The features that exceed a bound, one sentence each; empty if none does."""
        found = []
        for each in self.features:
            if each.name != SCORE and each.unexplained > self.bounds.unexplained * each.rows:
                found.append(
                    f"{each.name}: {each.unexplained / each.rows:.2%} of the cells differ without an explanation, expected "
                    f"at most {self.bounds.unexplained:.2%}"
                )
            if self.bounds.stale is not None and each.name != SCORE and each.stale > self.bounds.stale * each.rows:
                found.append(
                    f"{each.name}: {each.stale / each.rows:.2%} of the cells are stale, expected at most "
                    f"{self.bounds.stale:.2%}; run `sidkit materialize` more often, or push events"
                )
        return tuple(found)

    @property
    def ok(self) -> bool:
        """Whether no bound is exceeded."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The JSON object of ``sidkit audit skew --json``."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "total": self.total,
            "tables_until": self.tables_until,
            "later": self.later,
            "problems": list(self.problems),
            "skipped": list(self.skipped),
            "bounds": vars(self.bounds),
            "features": [each.as_json() for each in self.features],
        }


def audit_skew(
    repo: Repo,
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    ranker: str | None = None,
    rows: int = 10_000,
    seed: int = 0,
    bounds: SkewBounds | None = None,
) -> SkewAudit:
    """Compare the features of the served log with a point-in-time retrieval of the same rows (user, item, time).

    Parameters
    ----------
    repo : Repo
        A repository with a served log (``sidkit serve --log-sample``).
    since_us, until_us : int, optional
        Rows whose request was at or after the first, and before the second, microseconds UTC.
    ranker : str, optional
        Rows of this ranker; default: of all.
    rows, seed : int
        Number of sampled rows, and random seed of the sample.
    bounds : SkewBounds, optional
        When the audit fails.

    Raises
    ------
    ArtifactMissingError
        When the served log has no such rows, or there are no tables.
    SidkitError
        When none of the rows can be retrieved again.
    """
    from sidkit.stores.feast_repo import open_store

    limits = bounds or SkewBounds()
    tables_us = int(read_build(repo)["as_of_us"])
    parts, total = served_rows(repo, since_us=since_us, until_us=until_us, ranker=ranker, most=rows, seed=seed)
    store = open_store(repo)
    found: list[dict[str, _Cells]] = []
    skipped: dict[str, int] = {}
    later = 0
    unscored: dict[str, int] = {}
    failure: SidkitError | None = None
    for part in parts:
        try:
            score = scores_of(repo, part.header.ranker, part.header.ranker_hash)
            if isinstance(score, str):
                unscored[f"no scores: {score}"] = unscored.get(f"no scores: {score}", 0) + len(part)
            found.append(_compared(repo, store, part, tables_us, limits.tolerance, score))
            later += int((part.at_us > tables_us).sum())
        except SidkitError as error:
            failure = error
            reason = f"codebook {part.header.codebook}: {scrubbed(error)}"
            skipped[reason] = skipped.get(reason, 0) + len(part)
    if not found and failure is not None:
        raise failure
    names = list(dict.fromkeys(name for cells in found for name in cells))
    features = tuple(_joined(name, [cells[name] for cells in found if name in cells]) for name in names)
    compared = sum(len(part) for part in parts) - sum(skipped.values())
    listed = tuple(f"{count:,} rows: {reason}" for reason, count in (skipped | unscored).items())
    return SkewAudit(compared, total, iso(tables_us), later, features, listed, limits)


def served_rows(
    repo: Repo, *, since_us: int | None, until_us: int | None, ranker: str | None, most: int | None, seed: int = 0
) -> tuple[list[ServedRows], int]:
    """A sample of the served log, and the number of its rows; see :func:`ranking.serving.served_log.read_log`.

    Raises
    ------
    ArtifactMissingError
        When there are no such rows.
    """
    folder = log_folder(repo)
    parts, total = read_log(folder, since_us=since_us, until_us=until_us, ranker=ranker, most=most, seed=seed)
    if not total:
        within = [f"since {iso(since_us)}"] if since_us is not None else []
        within += [f"until {iso(until_us)}"] if until_us is not None else []
        within += [f"of ranker {ranker}"] if ranker is not None else []
        raise ArtifactMissingError(
            f"expected rows {' '.join(within)}{' ' if within else ''}in the served log {folder}, got none; serve with "
            "`sidkit serve --log-sample 0.01`, and wait until a file is written (--log-seconds)"
        )
    return parts, total


@dataclass(frozen=True)
class _Cells:
    """One feature of the rows of one header."""

    compared: Compared
    kind: Ints
    """Index into :data:`KINDS` per row, of the cells that differ."""
    missing_served: Bools
    missing_retrieved: Bools


def _compared(
    repo: Repo, store: FeatureStore, part: ServedRows, tables_us: int, tolerance: float, score: RankerScores | str
) -> dict[str, _Cells]:
    codebook = _codebook(repo, part.header)
    now = _retrieved(store, codebook, part, None)
    then = _retrieved(store, codebook, part, part.header.features_until_us)
    tables = [_with_score(each, score) for each in (now, then)]
    at_us = part.at_us
    late = np.where(at_us > tables_us, KINDS.index("ahead"), KINDS.index("unexplained"))
    then_is = np.where(part.header.features_until_us > at_us, KINDS.index("early"), KINDS.index("stale"))
    cells = {}
    for name in (*part.features, SCORE):
        if name not in tables[0].column_names:
            continue
        served = part.table.column(name)
        differs = compare(served, tables[0].column(name), tolerance)
        explained = ~compare(served, tables[1].column(name), tolerance).differ
        kind = np.where(explained, then_is, late)
        cells[name] = _Cells(differs, kind, missing(served), missing(tables[0].column(name)))
    return cells


def _codebook(repo: Repo, header: LogHeader) -> Codebook:
    record = Catalog.open(repo).codebook(header.codebook)
    if record.content_hash != header.codebook_hash:
        raise ArtifactMissingError(
            f"expected codebook {header.codebook} with hash {header.codebook_hash}, with which the rows were served, got "
            f"{record.content_hash}; audit later rows with --since"
        )
    return Codebook.load(repo.codebooks / record.name)


def _retrieved(store: FeatureStore, codebook: Codebook, part: ServedRows, read_at_us: int | None) -> Dataset:
    header = part.header
    return build_dataset(
        store,
        header.service,
        codebook,
        part.labelled(),
        rate=header.rate,
        history_length=header.history_length,
        schema=header.schema,
        vectors=header.vectors,
        read_at_us=read_at_us,
    )


def _with_score(data: Dataset, score: RankerScores | str) -> pa.Table:
    table = frame_table(data)
    return table if isinstance(score, str) else table.append_column(SCORE, pa.array(score(data), pa.float64()))


def _joined(name: str, parts: Sequence[_Cells]) -> FeatureSkew:
    differ = np.concatenate([part.compared.differ for part in parts])
    kinds = np.concatenate([part.kind for part in parts])[differ]
    stale, early, ahead, unexplained = (int((kinds == kind).sum()) for kind in range(len(KINDS)))
    sizes = Compared(differ, np.concatenate([part.compared.size for part in parts]))
    return FeatureSkew(
        name,
        len(differ),
        stale,
        early,
        ahead,
        unexplained,
        sizes.largest,
        float(np.concatenate([part.missing_served for part in parts]).mean()),
        float(np.concatenate([part.missing_retrieved for part in parts]).mean()),
    )
