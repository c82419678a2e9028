"""A request brings context, and pushed clicks count at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.builders import FinishedJob, copy_of
from helpers.commands import ask, ask_well
from helpers.own_views import EXTRA, add_own_views
from ranking.serving.scorer import Scorer
from ranking.serving.served_log import log_folder
from sidkit.core.clock import from_us, iso
from sidkit.core.errors import ServingError
from sidkit.core.repo import Repo
from sidkit.serve.metrics import Metrics
from sidkit.serve.model import ModelLoader
from sidkit.serve.ranking import Answers
from sidkit.serve.served_log import LogOptions, ServedLog
from sidkit.stores.feast_repo import apply_repo, materialize, open_store

CONTEXT = {"cell_id": 2, "budget": 3.5, "device": "phone"}


@pytest.fixture(scope="module")
def own(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The finished repo with own views; its ranker does not read them."""
    repo = copy_of(finished.repo, tmp_path_factory.mktemp("own") / "repo")
    add_own_views(repo, EXTRA)
    apply_repo(repo)
    rows = materialize(repo, finished.result.as_of_us)
    users = pq.read_table(repo.path / "own" / "trips.parquet")["user_id"].unique()
    assert (rows["trips"], rows["cells"]) == (len(users), 3)
    return repo


def candidates(repo: Repo) -> tuple[str, list[str]]:
    history = pq.read_table(repo.tables / "user_history.parquet", columns=["user_id"])
    items = pq.read_table(repo.tables / "item_content.parquet", columns=["item_id"])
    return history["user_id"][0].as_py(), items["item_id"].unique().to_pylist()[:6]


def test_scores_need_the_context_that_own_views_need(own: Repo, finished: FinishedJob, tmp_path: Path) -> None:
    user, items = candidates(own)
    at_us = finished.result.as_of_us
    scorer = Scorer(own)
    before = Scorer(finished.repo).score(user, items, at_us)
    assert scorer.score(user, items, at_us, context=CONTEXT).tolist() == before.tolist()
    per_item = {**CONTEXT, "budget": [float(n) for n in range(len(items))]}
    assert scorer.score(user, items, at_us, context=per_item).tolist() == before.tolist()
    for name in CONTEXT:
        less = {other: value for other, value in CONTEXT.items() if other != name}
        with pytest.raises(ServingError, match=f"expected a value of {name}"):
            scorer.score(user, items, at_us, context=less)
    (tmp_path / "file.json").write_text(json.dumps({"budget": per_item["budget"], "device": "tv"}))
    request = ("score", "--repo", own.path, "--user", user, "--items", ",".join(items), "--at", iso(at_us), "--json")
    refused = ask(*request, "--context", "device=tv", "--context", "cell_id=2")
    assert refused.code == 1 and "context: budget=VALUE" in refused.err
    for given in (["budget=3.5", "cell_id=2", "device=phone"], [f"@{tmp_path / 'file.json'}", "cell_id=2"]):
        told = ask_well(*request, *(each for value in given for each in ("--context", value)))
        assert list(json.loads(told.out)["scores"].values()) == before.tolist()
    for wrong, said in (
        ("device", "NAME=VALUE"),
        (f"@{tmp_path}/none.json", "cannot be read"),
        ("cell_id=north", "int64"),
    ):
        refused = ask(*request, "--context", "budget=1", "--context", "device=tv", "--context", wrong)
        assert refused.code == 1 and said in refused.err, refused


def test_served_rows_are_retrieved_with_the_context_of_their_request(own: Repo, finished: FinishedJob) -> None:
    user, items = candidates(own)
    model: Any = SimpleNamespace(key=ModelLoader(own.path).wanted(), scorer=Scorer(own))
    at_us = finished.result.as_of_us
    log = ServedLog(log_folder(own), LogOptions(share=1), Metrics())
    for context in (CONTEXT, {**CONTEXT, "budget": [float(n) for n in range(len(items))]}):
        log.offer(model, "r1", Answers(Metrics()).scored(model, user, items, at_us, context), None, context)
    log.close()
    result = sidkit.open(own.path).audit_skew()
    shutil.rmtree(log_folder(own))
    assert result.rows == 2 * len(items) and not result.skipped
    assert not [each for each in result.features if each.differ]


def pushed(repo: Repo, user: str, item: str, at_us: int) -> None:
    """Push a click: the user's history with the item first."""
    store = open_store(repo)
    now: dict[str, Any] = store.get_online_features(
        ["user_history:item_ids", "user_history:timestamps_us"], [{"user_id": user}]
    ).to_dict()
    rows = pd.DataFrame(
        {
            "user_id": [user],
            "item_ids": [[item, *(now["item_ids"][0] or [])][:50]],
            "timestamps_us": [[at_us, *(now["timestamps_us"][0] or [])][:50]],
            "event_timestamp": [pd.Timestamp(from_us(at_us))],
            "created_timestamp": [pd.Timestamp(from_us(at_us))],
        }
    )
    store.push("user_history_push", rows)


@pytest.mark.own_store("online", "a later build does not replace a pushed row there")
def test_a_pushed_click_changes_the_next_score_and_a_build_keeps_it(finished: FinishedJob, tmp_path: Path) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    user, items = candidates(repo)
    at_us = finished.result.as_of_us + 60_000_000
    scorer = Scorer(repo)
    before = scorer.score(user, items, at_us)
    pushed(repo, user, items[0], at_us - 1_000_000)
    after = scorer.score(user, items, at_us)
    assert after[0] != before[0]
    ask_well("materialize", "--repo", repo.path)
    assert Scorer(repo).score(user, items, at_us).tolist() == after.tolist()
    pushed(repo, "someone new", items[1], at_us - 1_000_000)
    assert scorer.answer("someone new", items, at_us).user_known
