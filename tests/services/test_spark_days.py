"""Spark reads sources partitioned by day as it reads the files, and opens the days that a request needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.attribute_world import attribute_repo, attribute_tables
from helpers.builders import copy_of, write_tables
from helpers.pit_oracle import cells, entity_frame, in_order
from helpers.spark_builders import needs_spark, on_spark
from sidkit.core.errors import ArtifactCorruptError
from sidkit.stores.feast_repo import apply_repo, materialize, open_store
from sidkit.tables import build_tables, ingest, read_build, read_log

pytestmark = [
    needs_spark,
    pytest.mark.filterwarnings("ignore:The spark data source API is an experimental feature:RuntimeWarning"),
]
REFS = ["item_stats:clicks_7d", "user_stats:exposures_1d", "user_history:item_ids", "item_content:text"]


def test_days_have_the_cells_of_the_files_and_the_online_features(tmp_path: Path) -> None:
    write_tables(tmp_path / "source", attribute_tables(300))
    local = attribute_repo(tmp_path / "local", tmp_path / "source")
    ingest(local)
    log = read_log(local)
    middle = (log.first_us + log.last_us) // 2
    build_tables(local, middle)
    days = on_spark(copy_of(local, tmp_path / "days"))
    rng = np.random.default_rng(0)
    frame = entity_frame(
        {name: [f"{name[0]}{n}" for n in rng.integers(0, 62, 40)] for name in ("user_id", "item_id")},
        [int(at) for at in rng.integers(log.first_us, log.last_us, 40)],
    ).assign(row=range(40))
    answers: list[Any] = []
    for repo in (local, days):
        build_tables(repo, log.last_us + 60_000_000)
        apply_repo(repo)
        store = open_store(repo)
        asked = {"features": REFS, "full_feature_names": True}
        wide = store.get_historical_features(frame.copy(), **asked).to_arrow()
        first = frame[frame.event_timestamp <= frame.event_timestamp.min()]
        narrow = store.get_historical_features(first.copy(), **asked).to_arrow()
        keys = materialize(repo, read_build(repo)["as_of_us"], [ref.split(":")[0] for ref in REFS])
        rows = frame[["user_id", "item_id"]].to_dict("records")
        online = store.get_online_features(REFS, rows, full_feature_names=True).to_dict()
        names = [ref.replace(":", "__") for ref in REFS]
        answers.append([cells(in_order(wide), names), cells(in_order(narrow), names), keys, online])
    assert answers[0] == answers[1]
    source = open_store(days).get_feature_view("user_stats").batch_source
    assert (source.date_partition_column, Path(source.path).parent) == ("event_date", days.sources)
    # Without the days after the first request, its answer is the same: they are not opened.
    latest = first.event_timestamp.max().date().isoformat()
    for path in days.sources.glob("user_stats/event_date=*"):
        if path.name > f"event_date={latest}":
            (path / "part-0.parquet").write_bytes(b"not Parquet")
    again = open_store(days).get_historical_features(first.copy(), features=["user_stats:exposures_1d"]).to_arrow()
    assert cells(again, ["exposures_1d"])["exposures_1d"] == answers[0][1]["user_stats__exposures_1d"]


def test_days_older_than_their_table_are_refused(tmp_path: Path) -> None:
    write_tables(tmp_path / "source", attribute_tables(200))
    repo = on_spark(attribute_repo(tmp_path / "repo", tmp_path / "source"))
    ingest(repo)
    log = read_log(repo)
    build_tables(repo, (log.first_us + log.last_us) // 2)
    apply_repo(repo)
    older = tmp_path / "older"
    shutil.copytree(repo.sources, older)
    build_tables(repo, log.last_us)
    shutil.rmtree(repo.sources)
    shutil.copytree(older, repo.sources)
    frame = entity_frame({"user_id": ["u1"], "item_id": ["i1"]}, [log.last_us])
    with pytest.raises(ArtifactCorruptError, match="its days do not have the rows of user_stats.parquet"):
        open_store(repo).get_historical_features(frame, features=["user_stats:exposures_1d"])
