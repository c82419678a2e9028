"""Metrics of served scores once the labels have arrived: served rows joined with the labelled rows of the log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ranking.data.dataset import LabelledRows, read_rows
from ranking.data.targets import Target
from ranking.evaluation.influence import auc_influence, log_loss_influence
from ranking.evaluation.metrics import auc, calibration, log_loss
from ranking.serving.served_log import ServedRows, log_folder, read_log
from sidkit.core.clock import MICROS
from sidkit.core.extras import require
from sidkit.core.integrity import checked
from sidkit.core.intervals import Clusters, Influence, Interval, Support

if TYPE_CHECKING:
    from sidkit.core.repo import Repo

_COLUMNS = ("request_id", "event_timestamp", "user_id", "item_id", "score")


@dataclass(frozen=True)
class RankerOutcome:
    """Metrics of the scores that one ranker served.

    ``rows`` are the labelled impressions that a served row was found for, ``impressions`` those in the time of the served
    rows. AUC and log loss have 95 % intervals over users and items; all metrics are None without both labels. ``calibration``
    is the mean score divided by the share of positives.
    """

    ranker: str
    target: Target
    impressions: int
    rows: int
    positives: int
    auc: Interval | None
    log_loss: Interval | None
    calibration: float | None

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **vars(self),
            "auc": None if self.auc is None else self.auc.as_json(),
            "log_loss": None if self.log_loss is None else self.log_loss.as_json(),
        }


def outcomes(
    repo: Repo,
    *,
    ranker: str | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    within_seconds: float = 3600.0,
) -> list[RankerOutcome]:
    """AUC and log loss of served scores, per ranker.

    A labelled impression belongs to the last served row of the same user and item that is at most ``within_seconds`` older; a
    served row has one impression, the first.
    Where rows have request ids that both logs know (the answer's header ``X-Request-ID``), they are joined by request and item
    instead. Sampled negatives are left out, so a log of positives has no metrics.

    Parameters
    ----------
    repo : Repo
        A repository with a served log.
    ranker : str, optional
        Default: all rankers of the log.
    since_us, until_us : int, optional
        Served rows at or after the first, and before the second, microseconds UTC.
    within_seconds : float
        Time between request and impression.

    Returns
    -------
    list of RankerOutcome
        Empty if nothing was served or there are no labelled rows.

    Raises
    ------
    MissingExtraError
        When scipy is not installed.
    """
    require("scipy", purpose="metrics of served scores", extra="rank")
    parts, _ = read_log(log_folder(repo), since_us=since_us, until_us=until_us, ranker=ranker, columns=_COLUMNS)
    if not parts or not repo.labelled_rows.is_file():
        return []
    within_us = int(within_seconds * MICROS)
    first, last = min(int(part.at_us.min()) for part in parts), max(int(part.at_us.max()) for part in parts)
    table = _between(checked(repo.labelled_rows), first, last + within_us)
    labelled = {target: _impressions(table, target) for target in {part.header.target for part in parts}}
    by_ranker: dict[tuple[str, Target], list[ServedRows]] = {}
    for part in parts:
        by_ranker.setdefault((part.header.ranker, part.header.target), []).append(part)
    return [
        _outcome(name, target, _served(group), labelled[target], within_us)
        for (name, target), group in by_ranker.items()
    ]


def _between(path: Path, first_us: int, last_us: int) -> pa.Table:
    """The labelled rows of a time, both ends included."""
    moments = [pa.scalar(each, pa.timestamp("us", "UTC")) for each in (first_us, last_us)]
    time = pc.field("event_timestamp")
    return pq.read_table(path, filters=(time >= moments[0]) & (time <= moments[1]))


def _impressions(table: pa.Table, target: Target) -> pd.DataFrame:
    rows: LabelledRows = read_rows(table, target=target, may_be_empty=True)
    frame = pd.DataFrame(
        {
            "user_id": rows.user_ids,
            "item_id": rows.item_ids,
            "at_us": rows.at_us,
            "label": rows.label,
            "request_id": rows.request_ids if rows.request_ids is not None else None,
        }
    )
    return frame if rows.sampled is None else frame[~rows.sampled]


def _served(parts: list[ServedRows]) -> pd.DataFrame:
    frame = pa.concat_tables([part.table.select(list(_COLUMNS)) for part in parts]).to_pandas()
    frame["served_us"] = np.concatenate([part.at_us for part in parts])
    return frame.drop(columns="event_timestamp")


def _outcome(
    name: str, target: Target, served: pd.DataFrame, impressions: pd.DataFrame, within_us: int
) -> RankerOutcome:
    first, last = int(served["served_us"].min()), int(served["served_us"].max()) + within_us
    impressions = impressions[(impressions["at_us"] >= first) & (impressions["at_us"] <= last)]
    joined = _joined(served, impressions, within_us)
    label, score = joined["label"].to_numpy(np.int8), joined["score"].to_numpy(np.float64)
    positives = int(label.sum())
    if not 0 < positives < len(label):
        return RankerOutcome(name, target, len(impressions), len(label), positives, None, None, None)
    clusters = Clusters.of(joined["user_id"].to_numpy(str), joined["item_id"].to_numpy(str))
    support = Support.of(label, clusters)

    def interval(value: float, influence: Influence, most: float) -> Interval:
        return Interval.of(value, influence.changes(clusters).variance(support)).within(0.0, most)

    return RankerOutcome(
        name,
        target,
        len(impressions),
        len(label),
        positives,
        interval(auc(label, score), auc_influence(label, score), 1.0),
        interval(log_loss(label, score), log_loss_influence(label, score), math.inf),
        calibration(label, score),
    )


def _joined(served: pd.DataFrame, impressions: pd.DataFrame, within_us: int) -> pd.DataFrame:
    """Labelled impressions with the score that they were served with."""
    known = set(served["request_id"])
    by_request = impressions["request_id"].isin(known)
    unique = served.drop_duplicates(["request_id", "item_id"], keep="last").drop(columns="user_id")
    first = impressions[by_request].merge(unique, on=["request_id", "item_id"])
    second = pd.merge_asof(
        impressions[~by_request].drop(columns="request_id").sort_values("at_us", kind="stable"),
        served.sort_values("served_us", kind="stable").assign(row=np.arange(len(served))),
        left_on="at_us",
        right_on="served_us",
        by=["user_id", "item_id"],
        tolerance=within_us,
        direction="backward",
    ).dropna(subset=["score"])
    second = second.drop_duplicates("row")  # in the order of time
    columns = ["user_id", "item_id", "label", "score"]
    return pd.concat([first[columns], second[columns]], ignore_index=True)
