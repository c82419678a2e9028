"""What one count or one age alone says of the label on sampled logs: next to nothing, and the audit measures it."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers.builders import FAST_PRESET, FinishedJob, fresh_repo, run_fast_job
from ranking.audit.single_features import auc_within
from ranking.data.rows_used import rows_summary
from sidkit.cli import build_app
from sidkit.core.repo import Repo
from sidkit.datasets.news import write_news
from sidkit.tables import ingest
from sidkit.tables.labelled_rows import RowSample, SampledWindow, build_labelled_rows, log_moments

FEATURES = ("clicks_1d", "clicks_7d", "clicks_30d", "clicks_all", "age")


def features_alone(repo: Repo, every: int = 1) -> dict[str, float]:
    """Within-request AUC of counts and age, asked of the log by plain SQL, for one of ``every`` requests."""
    parts = [str(path) for path in (repo.log / "interactions").glob("*.parquet")]
    items = str(next(repo.log.glob("items-*.parquet")))
    windows = ", ".join(
        f"count(*) FILTER (ts > ending_us - {days} * 86400000000) AS clicks_{name}"
        for name, days in (("1d", 1), ("7d", 7), ("30d", 30), ("all", 100_000))
    )
    told = duckdb.execute(
        f"""
        WITH asked AS (
            SELECT *, epoch_us(event_timestamp) AS at_us, (at_us - 60000000) // 60000000 * 60000000 AS ending_us
            FROM read_parquet($rows) WHERE hash(request_id) % $every = 0
        ),
        counted AS (
            SELECT asked.request_id, asked.item_id, {windows}
            FROM asked INNER JOIN (
                SELECT item_id, epoch_us(timestamp) AS ts FROM read_parquet($parts)
            ) AS events ON events.item_id = asked.item_id AND ts <= ending_us
            GROUP BY ALL
        )
        SELECT request_id, label, coalesce(clicks_1d, 0) AS clicks_1d, coalesce(clicks_7d, 0) AS clicks_7d,
               coalesce(clicks_30d, 0) AS clicks_30d, coalesce(clicks_all, 0) AS clicks_all,
               at_us - epoch_us(created_at) AS age
        FROM asked LEFT JOIN counted USING (request_id, item_id) INNER JOIN read_parquet($items) AS items USING (item_id)
        """,
        {"rows": str(repo.labelled_rows), "every": every, "parts": parts, "items": items},
    ).df()
    assert len(told) > 2000
    group = told["request_id"].astype("category").cat.codes.to_numpy(np.int64)
    label = told["label"].to_numpy(np.int8)
    return {name: auc_within(label, told[name].to_numpy(), group)[0] for name in FEATURES}


@pytest.mark.parametrize("removed_at", [True, False], ids=["removed", "forgotten"])
def test_no_count_and_no_age_tells_positives_from_negatives_of_a_news_log(tmp_path: Path, removed_at: bool) -> None:
    write_news(tmp_path / "news", days=8, items_per_day=120, clicks_per_day=1000, removed_at=removed_at)
    repo = fresh_repo(tmp_path / "repo", tmp_path / "news", feedback="positives_only")
    ingest(repo)
    report = build_labelled_rows(repo)
    assert report.sampled == 4 * log_moments(repo).size
    found = features_alone(repo, every=3)
    assert all(0.4 < value < 0.6 for value in found.values()), found


def test_uniform_negatives_of_the_same_log_are_told_apart(tmp_path: Path) -> None:
    write_news(tmp_path / "news", days=5, items_per_day=120, clicks_per_day=600, removed_at=False)
    toml = {'strategy = "stratified"': 'strategy = "uniform"'}
    repo = fresh_repo(tmp_path / "repo", tmp_path / "news", feedback="positives_only", toml=toml)
    ingest(repo)
    build_labelled_rows(repo)
    found = features_alone(repo, every=2)
    assert found["clicks_1d"] > 0.7, found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 4)), max_size=30))
def test_the_auc_within_requests_is_the_share_of_pairs(rows: list[tuple[int, int, int]]) -> None:
    pairs = [(mine, other) for g, y, mine in rows for h, z, other in rows if g == h and (y, z) == (1, 0)]
    expected = sum((mine > other) + (mine == other) / 2 for mine, other in pairs) / len(pairs) if pairs else 0.5
    group, label, value = (np.array([row[at] for row in rows], dtype=np.int64) for at in range(3))
    assert auc_within(label.astype(np.int8), value.astype(float), group) == (pytest.approx(expected), len(pairs))


def test_a_sample_holds_the_same_negatives_as_the_whole(tmp_path: Path) -> None:
    write_news(tmp_path / "news", days=4, items_per_day=60, clicks_per_day=400, users=50)
    repo = fresh_repo(tmp_path / "repo", tmp_path / "news", feedback="positives_only")
    ingest(repo)
    moments = log_moments(repo)
    cut, end = int(moments[len(moments) // 2]), int(moments[-1])
    sample = RowSample(repo.data / "rows-some.parquet", (SampledWindow(0, cut, 1000), SampledWindow(cut, end)))
    report = build_labelled_rows(repo, sample)
    assert not repo.labelled_rows.exists()
    events = (moments < cut).sum(), ((moments >= cut) & (moments < end)).sum()
    assert report.available == tuple(5 * int(each) for each in events)
    build_labelled_rows(repo)
    whole, part = pq.read_table(repo.labelled_rows).to_pylist(), pq.read_table(sample.path).to_pylist()
    early = [row for row in part if row["event_timestamp"].timestamp() * 1e6 < cut]
    users = {row["user_id"] for row in early}
    assert 0 < len(early) < 2000 and len(users) < 45
    stamp = {id(row): round(row["event_timestamp"].timestamp() * 1e6) for row in whole}
    assert part == [row for row in whole if stamp[id(row)] < end and (stamp[id(row)] >= cut or row["user_id"] in users)]
    assert build_labelled_rows(repo, sample).unchanged


def test_chosen_rows_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    write_news(tmp_path / "news", days=3, items_per_day=40, clicks_per_day=300, users=60)
    repo = fresh_repo(tmp_path / "repo", tmp_path / "news", feedback="positives_only")
    ingest(repo)
    command, since = ["tables", "rows", "--repo", str(repo.path)], "2024-01-03T00:00:00Z"
    refused = CliRunner().invoke(build_app(), [*command, "--since", since])
    assert refused.exit_code == 1 and "--out" in str(refused.exception) and "--since" in str(refused.exception)
    out = tmp_path / "late.parquet"
    found = CliRunner().invoke(build_app(), [*command, "--since", since, "--max-rows", "500", "--out", str(out)])
    assert found.exit_code == 0, found.output
    rows = pq.read_table(out)
    events = int((log_moments(repo) >= 1_704_240_000_000_000).sum())
    assert f"{len(rows):,} of {5 * events:,} rows" in found.stdout.replace("\n", "")
    assert 0 < len(rows) < 5 * events
    assert rows.column("event_timestamp").cast("int64").to_numpy().min() >= 1_704_240_000_000_000
    assert not repo.labelled_rows.exists()


@pytest.fixture(scope="module")
def thinned(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """The main job on a news log, with caps."""
    folder = tmp_path_factory.mktemp("thinned")
    write_news(folder / "news", days=8, items_per_day=60, clicks_per_day=700, users=400)
    text = FAST_PRESET.read_text().replace("max_train_rows = 15000", "max_train_rows = 6000")
    text = text.replace("epochs = 2", "epochs = 1").split("[arms.id]")[0].replace('["id", "content", "id_codes"]', "[]")
    (folder / "fast.toml").write_text(text + '[arms.gbdt]\nkind = "gbdt"\n')
    return run_fast_job(folder / "repo", folder / "fast.toml", str(folder / "news"))


def test_a_job_says_what_it_uses_and_draws_for_nothing_else(thinned: FinishedJob) -> None:
    rows, repo = thinned.output["rows"], thinned.repo
    assert not repo.labelled_rows.exists()
    file = next(repo.data.glob("rows-*.parquet"))
    assert sum(part["used"] for part in rows.values()) == pq.read_metadata(file).num_rows
    events = log_moments(repo).size
    assert sum(part["available"] for part in rows.values()) == 5 * events
    assert rows["train"]["used"] == pytest.approx(6000, rel=0.2)
    assert rows["train"]["used"] < rows["train"]["available"]
    for name in ("validation", "test"):
        assert rows[name]["used"] == rows[name]["available"] > 0
    said = rows_summary(rows)
    assert f"train {rows['train']['used']:,} of {rows['train']['available']:,}" in said
    assert f"test all {rows['test']['used']:,}" in said


def test_the_audit_measures_single_features_and_warns(thinned: FinishedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["audit", "--repo", str(thinned.repo.path), "--preset", "fast", "--rows", "20"]
    found = CliRunner().invoke(build_app(), [*command, "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)["single_features"]
    assert told["suspects"] == []
    assert {"item_clicks_1d", "item_clicks_7d", "item_clicks_all", "item_age_days"} <= set(told["auc"])
    assert {"user_clicks_1d", "history_length"} <= set(told["same"])
    assert all(0.4 <= value <= 0.6 for value in told["auc"].values())
    monkeypatch.setattr("ranking.audit.single_features.SUSPECT", 0.5)
    said = CliRunner().invoke(build_app(), command).stdout
    assert "item_clicks_1d" in said and "WARNING" in said and "sidkit tables rows" in said
