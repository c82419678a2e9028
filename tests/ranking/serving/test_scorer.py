"""Online is offline: the same features, the same scores; and what serving refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from helpers.builders import FinishedJob, copy_of, forked_sidkit
from helpers.commands import ask_well
from ranking.data.dataset import LabelledRows
from ranking.data.frame_builder import build_dataset
from ranking.serving.scorer import Scorer
from ranking.training.ranker import Ranker
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.clock import from_us, iso
from sidkit.core.errors import (
    ArtifactCorruptError,
    LifeCycleError,
    ServingError,
    SettingsChangedError,
    TimeError,
    UnknownVersionError,
)
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, materialize, open_store


def keys_of(repo: Repo) -> tuple[list[str], list[str]]:
    users = pq.read_table(repo.tables / "user_stats.parquet", columns=["user_id"])["user_id"].unique().to_pylist()
    items = pq.read_table(repo.tables / "item_content.parquet", columns=["item_id"])["item_id"].unique().to_pylist()
    return [*users, "nobody"], [*items, "nothing"]


def same(left: Any, right: Any) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, float) and isinstance(right, float):
        return np.float32(left) == np.float32(right)
    return bool(left == right)


def test_the_offline_frame_at_materialization_equals_the_online_read_cell_by_cell(finished: FinishedJob) -> None:
    store = open_store(finished.repo)
    service = store.get_feature_service(finished.output["artifacts"]["feature_service"])
    users, items = keys_of(finished.repo)
    count = max(len(users), len(items))
    keys = {
        "user_id": [users[k % len(users)] for k in range(count)],
        "item_id": [items[k % len(items)] for k in range(count)],
    }
    keys["at_us"] = [finished.result.as_of_us] * count
    online = store.get_online_features(features=service, entity_rows=keys, full_feature_names=True).to_dict()
    entities = pd.DataFrame(keys)
    entities["event_timestamp"] = pd.to_datetime(finished.result.as_of_us, unit="us", utc=True)
    entities["row"] = range(count)  # Feast's own store loses the order
    asked = store.get_historical_features(entities, features=service, full_feature_names=True)
    offline = asked.to_arrow().sort_by("row").to_pydict()
    names = [name for name in offline if "__" in name]
    assert len(names) == 30 and set(names) <= set(online)
    for name in names:
        wrong = [k for k in range(count) if not same(offline[name][k], online[name][k])]
        assert not wrong, f"{name}: {len(wrong)} cells, first {keys['user_id'][wrong[0]]}, {keys['item_id'][wrong[0]]}"


def offline_scores(repo: Repo, user: str, items: list[str], at_us: int) -> np.ndarray:
    record = Catalog.open(repo).serving_ranker()
    ranker = Ranker.load(repo.rankers / record.name)
    rows = LabelledRows(
        np.array([user] * len(items), dtype=object), np.array(items, dtype=object),
        np.full(len(items), at_us), np.zeros(len(items), np.int8),
    )  # fmt: skip
    codebook = Codebook.load(repo.codebooks / record.codebook)
    length = ranker.config.history_length
    rate = ranker.scaling.rate
    data = build_dataset(
        open_store(repo), record.service, codebook, rows,
        rate=rate, history_length=length, schema=ranker.config.schema,
    )  # fmt: skip
    return ranker.score(data)


def test_score_in_a_process_of_its_own_equals_the_offline_model(finished: FinishedJob, elsewhere: Path) -> None:
    users, items = keys_of(finished.repo)
    as_of = finished.result.as_of_us
    for user, zone in ((users[0], "Asia/Tokyo"), ("nobody", "America/Los_Angeles")):
        asked = [*items[:40], "nothing"]
        done = forked_sidkit(
            "score", "--repo", finished.repo.path, "--user", user, "--items", ",".join(asked), "--at", iso(as_of), "--json",
            cwd=elsewhere, TZ=zone,
        )  # fmt: skip
        told = json.loads(done.stdout)
        offline = offline_scores(finished.repo, user, asked, as_of)
        assert list(told["scores"]) == asked
        np.testing.assert_allclose(list(told["scores"].values()), offline, atol=1e-6)
        assert len(set(np.round(offline, 4))) > 10


@pytest.mark.own_store("online", "this test switches it from the kit's and back")
def test_feasts_own_online_store_gives_the_same_scores(finished: FinishedJob, tmp_path: Path) -> None:
    repo, as_of = copy_of(finished.repo, tmp_path / "repo"), finished.result.as_of_us
    yaml = repo.path / "feature_store.yaml"
    packed = "sidkit.stores.online.PackedSqliteOnlineStore"
    assert f"type: {packed}\n" in yaml.read_text()
    yaml.write_text(yaml.read_text().replace(packed, "sqlite"))
    apply_repo(repo)
    rows = materialize(repo, as_of)
    assert rows == finished_rows(finished.repo)
    assert type(open_store(repo)._get_provider().online_store).__name__ == "SqliteOnlineStore"
    users, items = keys_of(repo)
    for user in (users[0], users[3], "nobody"):
        ours, theirs = (Scorer(one).score(user, [*items[:30], "nothing"], as_of) for one in (finished.repo, repo))
        np.testing.assert_array_equal(ours, theirs)
        assert len(set(np.round(ours, 4))) > 10
    # And back again: the packed rows are still there.
    yaml.write_text(yaml.read_text().replace("type: sqlite\n", f"type: {packed}\n"))
    apply_repo(repo)
    np.testing.assert_array_equal(
        Scorer(repo).score(users[0], items, as_of), Scorer(finished.repo).score(users[0], items, as_of)
    )


def finished_rows(repo: Repo) -> dict[str, int]:
    """Keys per table."""
    told = {}
    for view in open_store(repo).list_feature_views():
        table = pq.read_table(repo.tables / f"{view.name}.parquet", columns=view.join_keys)
        told[view.name] = len(table.group_by(view.join_keys).aggregate([]))
    return told


def test_scores_do_not_depend_on_the_other_candidates(finished: FinishedJob) -> None:
    users, items = keys_of(finished.repo)
    scorer, as_of = Scorer(finished.repo), finished.result.as_of_us
    together = scorer.score(users[3], items[:30], as_of)
    alone = [scorer.score(users[3], [item], as_of)[0] for item in items[:30:7]]
    np.testing.assert_allclose(together[::7], alone, atol=1e-7)


def test_ages_and_gaps_are_taken_from_the_request_moment(finished: FinishedJob) -> None:
    users, items = keys_of(finished.repo)
    scorer, as_of = Scorer(finished.repo), finished.result.as_of_us
    later = scorer.score(users[3], items[:5], as_of + 30 * 86_400_000_000)
    assert not np.allclose(scorer.score(users[3], items[:5], as_of), later, atol=1e-4)


def test_a_moment_before_the_last_materialization_is_refused(finished: FinishedJob) -> None:
    with pytest.raises(TimeError, match="newest row of the online store"):
        Scorer(finished.repo).score("u1", ["i1"], finished.result.as_of_us - 1)


def test_an_interval_that_ends_years_after_the_newest_row_refuses_no_request_after_that_row(
    finished: FinishedJob, tmp_path: Path
) -> None:
    repo, as_of = copy_of(finished.repo, tmp_path / "repo"), finished.result.as_of_us
    store = open_store(repo)
    # What `feast materialize-incremental 2030-01-01T00:00:00` notes.
    for view in store.list_feature_views():
        store.registry.apply_materialization(
            view, store.project, from_us(as_of), from_us(as_of + 4000 * 86_400_000_000)
        )
    users, items = keys_of(repo)
    np.testing.assert_array_equal(
        Scorer(repo).score(users[0], items[:9], as_of), Scorer(finished.repo).score(users[0], items[:9], as_of)
    )
    with pytest.raises(TimeError, match=r"expected a time no earlier than the newest row of the online store .*, got"):
        Scorer(repo).score(users[0], items[:9], as_of - 1)


def test_no_candidates_and_unknown_rankers_are_refused(finished: FinishedJob) -> None:
    with pytest.raises(ServingError, match="at least one item id"):
        Scorer(finished.repo).score("u1", [], finished.result.as_of_us)
    with pytest.raises(UnknownVersionError, match="no ranker named 'other'; available: fast_"):
        Scorer(finished.repo, "other")


def test_a_retired_codebook_is_refused_at_start(finished: FinishedJob, tmp_path: Path) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    catalog = Catalog.open(repo)
    name = catalog.serving_ranker().codebook
    with pytest.raises(LifeCycleError, match="promote another codebook first"):
        lifecycle.retire(repo, name)
    catalog.set_state(name, "published")
    with pytest.raises(LifeCycleError, match="the serving ranker .* uses it"):
        lifecycle.retire(repo, name)
    catalog.set_state(name, "retired")
    with pytest.raises(ServingError, match="which is retired"):
        Scorer(repo)
    told = ask_well("score", "--repo", repo.path, "--user", "u1", "--items", "i1", expect=1)
    assert "which is retired" in told.err and "Traceback" not in told.err


def test_a_hand_edited_ranker_is_refused_at_start(finished: FinishedJob, tmp_path: Path) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    config = repo.rankers / Catalog.open(repo).serving_ranker().name / "config.json"
    config.write_text(config.read_text().replace('"history_length": 50', '"history_length": 51'))
    with pytest.raises(ArtifactCorruptError, match=r"config\.json: the file does not match its SHA-256"):
        Scorer(repo)


def test_other_feature_settings_are_refused_at_start(finished: FinishedJob, tmp_path: Path) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    toml = repo.path / "sidkit.toml"
    toml.write_text(toml.read_text().replace("availability_delay_seconds = 60.0", "availability_delay_seconds = 5.0"))
    with pytest.raises(SettingsChangedError, match=r"availability_delay_seconds: made with 60.0, now 5.0"):
        Scorer(Repo.open(repo.path))


def test_a_service_with_other_feature_types_is_refused_at_start(
    finished: FinishedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    views = repo.path / "item_views.py"
    views.write_text(
        views.read_text().replace('Field(name="price", dtype=Float32)', 'Field(name="price", dtype=Int64)')
    )
    monkeypatch.setattr("sidkit.stores.doctor.refuse", lambda *_: None)  # plain `feast apply` asks no doctor
    apply_repo(repo)
    with pytest.raises(ServingError, match=r"item_content__price \(expected Float32, got Int64\)"):
        Scorer(repo)
