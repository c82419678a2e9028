"""Skew: served features beside a retrieval of the same rows, with the reason of each difference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers.builders import DAY, FinishedJob
from helpers.commands import ask, ask_well
from helpers.served_builders import log_rows, own_copy
from ranking.data.dataset import LabelledRows, read_rows
from ranking.monitoring.skew import SkewAudit
from ranking.serving.served_log import log_folder
from sidkit.core.clock import iso
from sidkit.core.repo import Repo

ROWS = 40


@pytest.fixture(scope="module")
def repo(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return own_copy(finished.repo, tmp_path_factory.mktemp("skew") / "repo")


@pytest.fixture(autouse=True)
def no_log(repo: Repo) -> Iterator[None]:
    yield
    for path in log_folder(repo).glob("*"):
        path.unlink()


@pytest.fixture(scope="module")
def rows(repo: Repo) -> LabelledRows:
    """Rows of the last days of the log."""
    every = read_rows(repo.labelled_rows)
    return every.take(np.arange(len(every) - 2_000, len(every), 2_000 // ROWS))


def audited(repo: Repo, **options: float) -> SkewAudit:
    return sidkit.open(repo.path).audit_skew(**options)  # type: ignore[arg-type]


def counts(result: SkewAudit) -> dict[str, int]:
    return {
        kind: sum(getattr(each, kind) for each in result.features)
        for kind in ("stale", "early", "ahead", "unexplained")
    }


def test_features_of_the_rows_own_times_agree(repo: Repo, rows: LabelledRows, finished: FinishedJob) -> None:
    log_rows(repo, rows, until_us=finished.result.as_of_us)
    result = audited(repo)
    assert result.ok and result.rows == result.total == ROWS and not result.skipped and result.later == 0
    assert counts(result) == {"stale": 0, "early": 0, "ahead": 0, "unexplained": 0}
    assert {"score", "item_sid__codes", "user_history__item_ids", "item_vector"} <= {
        each.name for each in result.features
    }


def test_a_store_that_is_behind_gives_stale_cells(repo: Repo, rows: LabelledRows) -> None:
    until_us = int(rows.at_us.min()) - 5 * DAY
    log_rows(repo, rows, until_us=until_us, read_at_us=until_us)
    result = audited(repo)
    found = counts(result)
    assert found["stale"] > ROWS and found["early"] == found["ahead"] == found["unexplained"] == 0
    # Ages depend on the time of the request, not on that of the materialization: only new items have another one.
    differ = {each.name: each.differ for each in result.features}
    assert differ["item_age_days"] == differ["item_without_content"] < ROWS / 4
    assert result.ok, "staleness has no bound unless one is given"
    strict = ask("audit", "skew", "--repo", repo.path, "--most-stale", 0.01)
    assert strict.code == 3 and "sidkit materialize" in strict.out


def test_features_before_they_were_available_are_early(repo: Repo, rows: LabelledRows) -> None:
    until_us = int(rows.at_us.max()) + DAY
    log_rows(repo, rows, until_us=until_us, read_at_us=until_us)
    found = counts(audited(repo))
    assert found["early"] > 0 and found["stale"] == found["unexplained"] == 0


def halved(table: pa.Table) -> pa.Table:
    place = table.column_names.index("item_exposures_all")
    wrong = pc.divide(table.column(place), pa.scalar(2.0, pa.float32()))
    return table.set_column(place, "item_exposures_all", wrong)


def test_a_feature_that_is_computed_otherwise_exceeds_the_bound(repo: Repo, rows: LabelledRows) -> None:
    log_rows(repo, rows, until_us=int(rows.at_us.max()), changed=halved)
    result = audited(repo)
    [feature] = [each for each in result.features if each.differ]
    assert feature.name == "item_exposures_all" and feature.unexplained > ROWS / 2
    assert feature.largest == pytest.approx(max(feature.largest or 0, 1.0)) and not result.ok
    answer = ask("audit", "skew", "--repo", repo.path, "--json")
    stated = json.loads(answer.out)
    assert answer.code == 3 and stated["ok"] is False and "item_exposures_all" in stated["problems"][0]
    assert (
        ask_well("audit", "skew", "--repo", repo.path, "--most-unexplained", 1.0).out.count("item_exposures_all") == 1
    )
    assert audited(repo, tolerance=1.0).ok, "a tolerance of the whole value accepts half of it"


def test_requests_later_than_the_tables_are_ahead_until_the_tables_are_built(
    repo: Repo, rows: LabelledRows, finished: FinishedJob
) -> None:
    as_of_us = finished.result.as_of_us
    later = LabelledRows(rows.user_ids, rows.item_ids, np.full(ROWS, as_of_us + DAY), rows.label)
    log_rows(repo, later, until_us=as_of_us, changed=halved)
    result = audited(repo)
    assert counts(result)["ahead"] > 0 and counts(result)["unexplained"] == 0 and result.later == ROWS
    assert "`sidkit tables build`" in ask("audit", "skew", "--repo", repo.path).out


def test_rows_of_a_codebook_that_changed_are_left_out_with_the_reason(repo: Repo, rows: LabelledRows) -> None:
    header = log_rows(repo, rows, until_us=int(rows.at_us.max()))
    [path] = log_folder(repo).iterdir()
    other = header.as_text().replace(header.codebook_hash, "0" * 16)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"sidkit": other.encode()}), path.with_name("served-2.parquet"))
    result = audited(repo)
    assert result.rows == ROWS and result.total == 2 * ROWS and "--since" in result.skipped[0]
    path.unlink()
    alone = ask("audit", "skew", "--repo", repo.path)
    assert alone.code == 1 and header.codebook_hash in alone.err


def test_without_served_rows_the_message_says_how_to_log_them(repo: Repo, rows: LabelledRows) -> None:
    missing = ask("audit", "skew", "--repo", repo.path)
    assert missing.code == 1 and "--log-sample" in missing.err
    log_rows(repo, rows, until_us=int(rows.at_us.max()))
    since = iso(int(rows.at_us.max()) + 1)
    assert since in ask("audit", "skew", "--repo", repo.path, "--since", since).err
    half = json.loads(
        ask_well("audit", "skew", "--repo", repo.path, "--json", "--until", iso(int(np.median(rows.at_us)))).out
    )
    assert 0 < half["rows"] < ROWS


@pytest.mark.parametrize("damage", ["bytes", "a column", "a format of another release"])
def test_a_file_that_cannot_be_read_is_named(repo: Repo, rows: LabelledRows, damage: str) -> None:
    header = log_rows(repo, rows.take(np.arange(2)), until_us=int(rows.at_us.max()))
    [path] = log_folder(repo).iterdir()
    table = pq.read_table(path)
    if damage == "bytes":
        path.write_bytes(b"PAR1 no file PAR1")
    elif damage == "a column":
        pq.write_table(table.drop_columns(["position"]), path)
    else:
        text = header.as_text().replace('"format": 1', '"format": 2')
        pq.write_table(table.replace_schema_metadata({b"sidkit": text.encode()}), path)
    answer = ask("audit", "skew", "--repo", repo.path)
    assert answer.code == 1 and str(path) in answer.err and "remove the file" in answer.err
    path.unlink()  # the advice
    log_rows(repo, rows.take(np.arange(2)), until_us=int(rows.at_us.max()))
    assert ask_well("audit", "skew", "--repo", repo.path).code == 0


def test_options_of_the_audit_do_not_stand_before_skew(repo: Repo, tmp_path: Path) -> None:
    answer = ask("audit", "--rows", 5, "skew", "--repo", repo.path)
    assert answer.code == 2 and "--rows" in answer.err
