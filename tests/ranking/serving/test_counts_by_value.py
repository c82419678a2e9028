"""Counts per user and value through a repository: their worth where habits cause clicks, online as offline, and the audit."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers import own_rankers
from helpers.attribute_world import set_features
from helpers.builders import copy_of
from helpers.habit_world import END, FEATURES, ITEMS, habit_repo
from ranking.audit.compare_cells import RowsAudit, audit_rows
from ranking.audit.frames import rows_of_run
from ranking.audit.reference import log_reference
from ranking.data.numeric_features import numeric_columns
from ranking.data.project_dataset import ProjectDataset
from ranking.data.schema import FeatureSchema
from ranking.data.storage import save_dataset
from ranking.evaluation.metrics import auc
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.gbdt import boost
from semantic_ids.codebook import Codebook
from sidkit.api import Project
from sidkit.core.clock import from_us
from sidkit.core.errors import ServingError

COUNTS = "user_category_stats__*"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return sidkit.open(habit_repo(tmp_path_factory.mktemp("habits")).path)


@pytest.fixture(scope="module")
def data(project: Project) -> ProjectDataset:
    rows = project.rows()
    return project.dataset(rows.sort_values("event_timestamp", kind="stable"), rate=0.25)


def test_boosting_with_the_counts_beats_boosting_without(data: ProjectDataset) -> None:
    cut = [0, len(data) * 6 // 10, len(data) * 8 // 10, len(data)]
    parts = [data.data.take(np.arange(*each)) for each in itertools.pairwise(cut)]
    label = parts[2].rows.label
    measured = {}
    for name, schema in (("without", FeatureSchema()), ("with", data.data.schema.select([COUNTS]))):
        train, validation, test = (part.narrowed(schema) for part in parts)
        measured[name] = auc(
            label, boost(train, validation, (test,), seed=0, spec=BoostingSpec(trees=20)).predictions[0]
        )
    assert measured["without"] + 0.1 < measured["with"], measured


def test_the_counts_are_those_of_the_log_before_each_row(project: Project, data: ProjectDataset) -> None:
    rows, numeric = data.data.rows, data.numeric
    values = project_values(project)
    log = pd.DataFrame({"user": rows.user_ids, "item": rows.item_ids, "at": rows.at_us, "label": rows.label})
    log["category"] = [values(item, at) for item, at in zip(log["item"], log["at"], strict=True)]
    for row in range(0, len(log), 97):
        one = log.iloc[row]
        end = (one["at"] - 60_000_000) // 60_000_000 * 60_000_000  # the delay and the cadence are a minute
        past = log[(log["user"] == one["user"]) & (log["category"] == one["category"]) & (log["at"] <= end)]
        week = past[past["at"] > end - 7 * 86_400_000_000]
        told = numeric.iloc[row]
        assert told["user_category_stats__exposures_all"] == len(past)
        assert told["user_category_stats__clicks_7d"] == week["label"].sum()
        rate = (week["label"].sum() + 10 * 0.25) / (len(week) + 10)
        assert told["user_category_stats__rate_7d"] == pytest.approx(rate, rel=1e-5)


def project_values(project: Project):  # type: ignore[no-untyped-def]
    items = pq.read_table(project.repo.tables / "item_attributes.parquet").to_pandas()
    since = {item: group.sort_values("event_timestamp") for item, group in items.groupby("item_id")}

    def value(item: str, at_us: int) -> str:
        known = since[item]
        return str(known["category"][known["event_timestamp"] <= from_us(at_us)].iloc[-1])

    return value


def test_a_registered_ranker_scores_online_as_offline(project: Project, data: ProjectDataset) -> None:
    linear = own_rankers.Linear.fit(data)
    project.register_ranker("linear", linear, trained_on=data)
    items = [*(f"i{n}" for n in range(ITEMS)), "nothing"]
    scorer = project.scorer(ranker="linear")
    for user in ("u1", "u7", "nobody"):
        asked = pd.DataFrame({"user_id": user, "item_id": items, "event_timestamp": from_us(END)})
        offline = project.dataset(asked, rate=0.25)
        scores = scorer.score(user, items, from_us(END).isoformat())
        np.testing.assert_allclose(scores["score"], linear.score(offline), atol=1e-6)
        counts = offline.numeric.filter(like="user_genres_stats__exposures_all").to_numpy()
        assert (counts.max() > 0) == (user != "nobody") and counts[7] == 0  # i7 has no genres


def test_without_the_counts_only_a_ranker_that_reads_them_is_refused(
    project: Project, data: ProjectDataset, tmp_path: Path
) -> None:
    own = sidkit.open(copy_of(project.repo, tmp_path / "repo").path)
    own.register_ranker("other", own_rankers.Linear.fit(data), trained_on=data)
    without = ProjectDataset(data.data.narrowed(FeatureSchema()), data.codebook, labelled=True, rate=0.25)
    own.register_ranker("plain", own_rankers.Linear.fit(without), trained_on=without)
    set_features(own.repo, FEATURES.replace('["category", "genres"]', '["category"]'))
    own.build(as_of=from_us(END))
    own.apply()
    with pytest.raises(ServingError, match=r"user_genres_stats__clicks_1d \(expected Int64, got nothing\)"):
        own.scorer("other")
    assert len(own.scorer("plain").score("u1", ["i1", "i2"], from_us(END).isoformat())) == 2  # it reads none of them


def test_the_audit_recomputes_them_from_the_log(
    project: Project, data: ProjectDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ranking.audit.frames.read_facts", lambda *_: {"rate": 0.25})
    codebook = Codebook.load(project.repo.codebooks / data.codebook.name)

    def audited(numeric: np.ndarray) -> RowsAudit:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        save_dataset(replace(data.data, numeric=numeric), folder / "frame")
        with log_reference(project.repo, codebook) as reference:
            return audit_rows(project.repo, rows_of_run(project.repo, folder, 200, 0), reference)

    sound = audited(data.data.numeric)
    assert sound.difference is None and sound.not_recomputable == 0
    assert not [name for name in sound.not_audited if "_stats__" in name]
    leaking = data.data.numeric.copy()
    column = numeric_columns(data.data.schema).index("user_genres_stats__clicks_all")
    leaking[:, column] += 1
    difference = audited(leaking).difference
    assert difference is not None and difference.feature == "user_genres_stats__clicks_all"
    assert difference.found == difference.expected + 1
