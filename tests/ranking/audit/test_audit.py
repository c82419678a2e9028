"""`sidkit audit`: sound frames pass, and every planted leak is named with its row, its feature and its moment."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from helpers.builders import DAY, FinishedJob, complete, fresh_repo, moments, reseal, set_world
from helpers.commands import ask_well
from helpers.restored import RestoredRepo
from oracle.features import Oracle
from oracle.logs import LAST, random_world
from ranking.audit.artifacts import audit_artifacts
from ranking.audit.frames import sample_rows
from ranking.audit.reference import log_reference
from ranking.audit.run import run_audit
from ranking.data.export import write_frame
from ranking.data.numeric_features import numeric_columns
from ranking.data.storage import NUMERIC, load_dataset
from semantic_ids.catalog import Catalog, table_path
from semantic_ids.codebook import Codebook
from semantic_ids.lifecycle import refresh
from sidkit.cli.audit import LEAK
from sidkit.core.artifact import write_artifact
from sidkit.core.clock import iso
from sidkit.core.errors import ArtifactMissingError, ConfigError, UnknownVersionError
from sidkit.core.integrity import write_sealed
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest, read_build

ROWS = 300


def audited(*arguments: Any, **options: Any) -> dict[str, Any]:
    """The audit as JSON."""
    return run_audit(*arguments, **options).as_json()


@pytest.fixture(scope="module")
def restored(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> RestoredRepo:
    return RestoredRepo(finished.repo, tmp_path_factory.mktemp("audit"))


@pytest.fixture
def repo(restored: RestoredRepo) -> Repo:
    return restored.restore()


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], None], **only: str) -> None:
    """Change the rows of a Parquet file as Python objects; or only those of one key, where they are many."""
    table = pq.read_table(path)
    places = np.arange(len(table))
    for key, value in only.items():
        places = np.flatnonzero(np.array(table.column(key).to_pylist(), dtype=object) == value)
    rows = table.take(pa.array(places)).to_pylist()
    change(rows)
    order = np.arange(len(table))
    order[places] = len(table) + np.arange(len(places))
    changed = pa.concat_tables([table, pa.Table.from_pylist(rows, table.schema)]).take(pa.array(order))
    write(path, changed)


def write(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)
    if path.parent.name == "tables":
        reseal(path)


def micros(row: dict[str, Any], name: str = "event_timestamp") -> int:
    return round(row[name].timestamp() * 1e6)


def sampled(repo: Repo, seed: int = 0) -> list[dict[str, Any]]:
    table = pq.read_table(repo.labelled_rows)
    return table.take(pa.array(sample_rows(len(table), ROWS, seed))).to_pylist()


def seen(rows: list[dict[str, Any]], key: str, value: str, at_us: int) -> dict[str, Any]:
    """The feature row that a key sees at a moment."""
    return max((row for row in rows if row[key] == value and micros(row) <= at_us), key=micros)


def frame_of(repo: Repo, queries: list[tuple[str, str, int]], out: Path) -> Path:
    """A file of `sidkit frame` on some rows."""
    users, items, at = zip(*queries, strict=True)
    rows = pa.table({"user_id": list(users), "item_id": list(items), "event_timestamp": moments(at)})
    pq.write_table(rows, out.with_name("asked.parquet"))
    write_frame(repo, out.with_name("asked.parquet"), out)
    return out


def test_a_sound_repo_passes_whatever_frame_is_asked(finished: FinishedJob, tmp_path: Path) -> None:
    table = pq.read_table(finished.repo.labelled_rows).slice(20_000, 400)
    asked = list(
        zip(
            table.column("user_id").to_pylist(),
            table.column("item_id").to_pylist(),
            table.column("event_timestamp").cast(pa.int64()).to_pylist(),
            strict=True,
        )
    )
    file = frame_of(finished.repo, asked, tmp_path / "frame.parquet")
    for given in ({}, {"preset": "fast"}, {"frame": file}, {"service": Catalog.open(finished.repo).serving_codebook().service_name}):  # fmt: skip  # noqa: E501
        told = audited(finished.repo, rows=ROWS, seed=1, **given)
        assert told["ok"], told
        assert told["rows"]["rows"] == ROWS and told["rows"]["cells"] >= 28 * ROWS
        assert not told["rows"]["not_audited"] and told["rows"]["not_recomputable"] == 0
        assert told["artifacts"]["checked"] == 1 + len(Catalog.open(finished.repo).rankers())


def test_every_column_of_a_kept_frame_is_told_again(finished: FinishedJob) -> None:
    told = audited(finished.repo, rows=20, seed=0, preset="fast")
    # All numeric columns; and candidate, two of the history, codes, vector, codes of the history, had_before.
    schema = load_dataset(finished.repo.runs / "fast" / "frame").schema
    # Hours since the last click, three affinities to the item, two ages; and of one depth 22 counts and rates of prefixes, 3
    # affinities to them, and of items 4 rates.
    assert len(schema.numbers) == 6 + 22 + 3 + 4
    assert told["rows"]["cells"] == 20 * (len(numeric_columns(schema)) + 7)


def test_one_future_click_in_a_count_is_named(repo: Repo) -> None:
    row = [row for row in sampled(repo) if row["label"] == 1][-1]

    def one_more(rows: list[dict[str, Any]]) -> None:
        seen(rows, "item_id", row["item_id"], micros(row))["clicks_all"] += 1

    rewrite(repo.tables / "item_stats.parquet", one_more, item_id=row["item_id"])
    told = audited(repo, rows=ROWS, seed=0)
    found = told["rows"]["difference"]
    assert not told["ok"] and found["feature"] == "item_stats__clicks_all"
    assert found["item_id"] == row["item_id"] and found["found"] == found["expected"] + 1
    # The click that was planted is one to come: the clicked row's own at the latest for that row.
    assert found["expected_known_from"] <= found["at"] < found["found_known_from"]
    assert pq.read_table(repo.labelled_rows, columns=["item_id"]).column(0)[found["row"]].as_py() == row["item_id"]


@pytest.mark.parametrize("view", ["item_stats", "user_stats"])
def test_counts_of_the_next_window_are_named(repo: Repo, view: str) -> None:
    key = "item_id" if view == "item_stats" else "user_id"

    path = repo.tables / f"{view}.parquet"
    table = pq.read_table(path).sort_by([(key, "ascending"), ("event_timestamp", "ascending")])
    keys = np.array(table.column(key).to_pylist(), dtype=object)
    later = pa.array(np.arange(len(table)) + np.append(keys[:-1] == keys[1:], False))
    for place, name in enumerate(table.column_names):
        if name.startswith(("exposures", "clicks")):
            table = table.set_column(place, table.schema.field(place), table.column(name).take(later))
    write(path, table)
    found = audited(repo, rows=ROWS, seed=0)["rows"]["difference"]
    assert found["feature"].startswith(f"{view}__") and found["expected"] != found["found"]


def test_a_history_with_the_click_to_be_predicted_is_named(repo: Repo) -> None:
    first = dict[str, int]()
    for history in pq.read_table(
        repo.tables / "user_history.parquet", columns=["user_id", "event_timestamp"]
    ).to_pylist():
        first[history["user_id"]] = min(first.get(history["user_id"], 2**62), micros(history))
    row = next(row for row in sampled(repo) if row["label"] == 1 and first.get(row["user_id"], 2**62) < micros(row))
    at_us = micros(row)

    def plant(rows: list[dict[str, Any]]) -> None:
        history = seen(rows, "user_id", row["user_id"], at_us)
        history["item_ids"] = [row["item_id"], *history["item_ids"]][:50]
        history["timestamps_us"] = [at_us, *history["timestamps_us"]][:50]

    rewrite(repo.tables / "user_history.parquet", plant, user_id=row["user_id"])
    found = audited(repo, rows=ROWS, seed=0)["rows"]["difference"]
    assert found["feature"] == "user_history__item_ids" and found["user_id"] == row["user_id"]
    assert found["found"][0] == row["item_id"] and found["found"][1:] == found["expected"][:49]
    told = ask_well("audit", "--repo", repo.path, "--rows", ROWS, expect=LEAK).out
    assert f"user {row['user_id']}" in told and "user_history__item_ids" in told and "STOPPED" in told


def test_a_history_read_a_microsecond_too_early_is_named(repo: Repo, tmp_path: Path) -> None:
    [history] = pq.read_table(repo.tables / "user_history.parquet").slice(500, 1).to_pylist()
    available = micros(history)
    asked = [(history["user_id"], "i1", available - 1), (history["user_id"], "i1", available)]
    assert audited(repo, rows=9, seed=0, frame=frame_of(repo, asked, tmp_path / "sound.parquet"))["ok"]

    table = pq.read_table(repo.tables / "user_history.parquet")
    early = moments([us - 1 for us in table.column("event_timestamp").cast(pa.int64()).to_pylist()])
    place = table.column_names.index("event_timestamp")
    pq.write_table(table.set_column(place, "event_timestamp", early), repo.tables / "user_history.parquet")
    reseal(repo.tables / "user_history.parquet")
    found = audited(repo, rows=9, seed=0, frame=frame_of(repo, asked, tmp_path / "early.parquet"))["rows"]["difference"]
    assert found["row"] == 0 and found["feature"] == "user_history__item_ids"
    assert found["found_known_from"] == iso(available) and found["at"] == iso(available - 1)


def test_codes_available_too_early_are_named(repo: Repo, tmp_path: Path) -> None:
    name = Catalog.open(repo).serving_codebook().name
    path = table_path(repo, name)
    row = next(row for row in pq.read_table(path).to_pylist() if row["codes"])
    available = micros(row)
    asked = [("u1", row["item_id"], available - 3600 * 10**6)]

    def early(rows: list[dict[str, Any]]) -> None:
        for each in rows:
            if each["item_id"] == row["item_id"]:
                each["event_timestamp"] = each["created_timestamp"] = each["event_timestamp"].replace(year=2000)

    rewrite(path, early)
    found = audited(repo, rows=9, seed=0, frame=frame_of(repo, asked, tmp_path / "early.parquet"))["rows"]["difference"]
    assert (found["feature"], found["expected"], found["found"]) == ("item_sid__codes", None, row["codes"])
    assert found["expected_known_from"] is None and found["found_known_from"] == iso(available)


def test_codes_of_another_item_are_named(repo: Repo) -> None:
    path = table_path(repo, Catalog.open(repo).serving_codebook().name)

    def rolled(rows: list[dict[str, Any]]) -> None:
        codes = [row["codes"] for row in rows]
        for row, other in zip(rows, codes[7:] + codes[:7], strict=True):
            row["codes"] = other

    rewrite(path, rolled)
    assert audited(repo, rows=50, seed=0)["rows"]["difference"]["feature"] == "item_sid__codes"


def corrupt_arrays(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    arrays = load_file(folder / "arrays.safetensors")
    change(arrays)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "arrays.safetensors")
    reseal(folder / "arrays.safetensors")


def more_clicks(arrays: dict[str, Any]) -> None:
    clicks = arrays[NUMERIC][:, numeric_columns().index("item_clicks_7d")]
    clicks += clicks + 1


def a_better_rate(arrays: dict[str, Any]) -> None:
    arrays[NUMERIC][:, numeric_columns().index("user_rate_all")] = arrays["label"]


def newer_histories(arrays: dict[str, Any]) -> None:
    arrays["history"] = np.roll(arrays["history"], -1000)


def the_candidate_first(arrays: dict[str, Any]) -> None:
    lists = arrays["history_items"]
    lists[arrays["history"], 0] = np.where(lists[arrays["history"], 0] > 0, arrays["candidate"], 0)


def other_codes(arrays: dict[str, Any]) -> None:
    arrays["codes"] = np.roll(arrays["codes"], 5, axis=0)


def other_content(arrays: dict[str, Any]) -> None:
    arrays["content"] = arrays["content"] * np.float32(1.1)


def test_a_kept_frame_that_was_corrupted_is_named(repo: Repo) -> None:
    folder = repo.runs / "fast" / "frame"
    sound = (folder / "arrays.safetensors").read_bytes()
    for change, features in (
        (more_clicks, {"item_stats__clicks_7d"}),
        (a_better_rate, {"user_rate_all"}),
        (newer_histories, {"user_history__item_ids", "user_history__timestamps_us"}),
        (the_candidate_first, {"user_history__item_ids"}),
        (other_codes, {"item_sid__codes", "codes of the history"}),
        (other_content, {"item_content"}),
    ):
        corrupt_arrays(folder, change)
        found = audited(repo, rows=60, seed=0, preset="fast")["rows"]["difference"]
        assert found is not None, change.__name__
        assert found["feature"] in features, (change.__name__, found)
        (folder / "arrays.safetensors").write_bytes(sound)
        reseal(folder / "arrays.safetensors")
    assert audited(repo, rows=60, seed=0, preset="fast")["ok"]


def test_content_that_was_corrected_in_place_is_audited_from_the_correction_on(repo: Repo, tmp_path: Path) -> None:
    row, other = sampled(repo)[-1], sampled(repo)[-2]
    assert row["item_id"] != other["item_id"]
    source = Path(repo.settings.source.url) / "item_embeddings.parquet"
    before = read_build(repo)["as_of_us"]

    def corrected(rows: list[dict[str, Any]]) -> None:
        for each in rows:
            if each["item_id"] == row["item_id"]:
                each["text"] = [-value for value in each["text"]]

    rewrite(source, corrected)
    ingest(repo)
    with pytest.raises(ArtifactMissingError, match="sidkit tables build"):
        audited(repo, rows=5, seed=0)
    build_tables(repo, before + DAY)
    with pytest.raises(ArtifactMissingError, match="codebooks refresh"):
        audited(repo, rows=5, seed=0)
    refresh(repo)
    asked = [("u1", item["item_id"], at) for item in (row, other) for at in (before, before + DAY)]
    told = audited(repo, rows=9, seed=0, frame=frame_of(repo, asked, tmp_path / "frame.parquet"))
    # Five of content, two of codes, on the one row before the correction: the log no longer tells them.
    assert told["ok"] and told["rows"]["not_recomputable"] == 7
    assert told["rows"]["cells"] == 4 * (30 + 16) - 7  # 16 counts of prefixes


# Artefacts.


def problems(repo: Repo) -> dict[str, str]:
    return {problem.artifact: problem.problem for problem in audit_artifacts(repo).problems}


def test_a_parent_that_was_fitted_after_the_evaluation_begins_is_named(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    record, name = catalog.rankers()[0], "late_ranker"
    book = catalog.codebook(record.codebook)
    for parents, late in (([book.name], book.name), ([{"name": "spm", "fit_end_us": record.fit_end_us + 1}], "spm")):
        ranker = f"{name}_{len(parents[0])}"
        end = book.fit_end_us - DAY if late == book.name else record.fit_end_us
        described = {"kind": "ranker", "name": ranker, "fit_start_us": 0, "fit_end_us": end, "parents": parents}
        manifest = write_artifact(
            repo.rankers / ranker, described, lambda folder: (folder / "x").write_text("x") and None
        )
        catalog.add_ranker(
            ranker, content_hash=manifest["content_hash"], codebook=book.name, service=book.service_name, arm="id",
            fit_end_us=end,
        )  # fmt: skip
        assert f"its parent {late} was fitted up to" in problems(repo)[ranker]


def test_a_ranker_trained_on_rows_that_its_codebook_learned_from_is_named(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problems(repo) == {}
    monkeypatch.setattr(Codebook, "learned_from_clicks", True)
    catalog = Catalog.open(repo)
    assert set(problems(repo)) == {ranker.name for ranker in catalog.rankers()}
    for record in catalog.rankers():
        found = problems(repo)[record.name]
        assert "They have seen labels of the training rows" in found and f"{record.codebook} (fit_end" in found


def test_changed_missing_and_left_over_artefacts_are_named(repo: Repo) -> None:
    catalog = Catalog.open(repo)
    assert problems(repo) == {}
    book, (first, second, *_) = catalog.serving_codebook(), catalog.rankers()
    (repo.rankers / first.name / "config.json").write_text("{}")
    (repo.rankers / second.name).rename(repo.rankers / "elsewhere")
    stamp = table_path(repo, book.name).with_suffix(".json")
    write_sealed(stamp, {**json.loads(stamp.read_text()), "codebook_hash": "0"})
    found = problems(repo)
    assert "does not match its SHA-256" in found[first.name] and "does not exist" in found[second.name]
    assert "codes of another codebook" in found[book.name]
    told = ask_well("audit", "--repo", repo.path, "--rows", 5, "--json", expect=LEAK).out
    assert {problem["artifact"] for problem in json.loads(told)["artifacts"]["problems"]} == set(found)


def test_other_feature_settings_are_named(repo: Repo) -> None:
    settings = repo.path / "sidkit.toml"
    settings.write_text(settings.read_text().replace("stats_cadence_seconds = 60", "stats_cadence_seconds = 600"))
    found = problems(Repo.open(repo.path))
    assert {"data/tables"} | {record.name for record in Catalog.open(repo).rankers()} <= set(found)
    assert all("time.stats_cadence_seconds: made with 60, now 600" in problem for problem in found.values())


def test_what_cannot_be_audited_is_refused_with_the_remedy(repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="runs with a saved frame: fast"):
        audited(repo, rows=5, seed=0, preset="nothing")
    with pytest.raises(UnknownVersionError, match="ctr_"):
        audited(repo, rows=5, seed=0, service="none")
    with pytest.raises(ConfigError, match="expected either --preset .* or --frame .*, got both"):
        audited(repo, rows=5, seed=0, preset="fast", frame=tmp_path)
    path = table_path(repo, Catalog.open(repo).serving_codebook().name)
    pq.write_table(pq.read_table(path).slice(3), path)
    with pytest.raises(ArtifactMissingError, match="codebooks refresh"):
        audited(repo, rows=5, seed=0)


# The second opinion against a third.


class NoCodes:
    """A codebook that says nothing of codes, so that worlds without one can be asked."""

    name = "none"

    def __init__(self, modalities: tuple[str, ...]) -> None:
        self.encoder = SimpleNamespace(modalities_=modalities)

    def assign(self, items: Any) -> Any:
        none = np.zeros((len(items), 1), np.int32)
        return SimpleNamespace(codes=none, residual_norm=none[:, 0], encodable=np.zeros(len(items), bool))

    def vectors(self, items: Any) -> Any:
        return np.zeros((len(items), 1), np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_the_log_tells_what_the_brute_force_oracle_tells(tmp_path: Path, seed: int) -> None:
    world = complete(random_world(random.Random(seed), n_users=20, n_items=25, n_events=500, n_queries=200))
    repo = fresh_repo(tmp_path / "repo", tmp_path / "source", modalities=("text", "image"))
    repo = set_world(repo.path, tmp_path / "source", world)
    ingest(repo)
    build_tables(repo, LAST + 60 * DAY)
    assert read_build(repo)["as_of_us"] == LAST + 60 * DAY
    oracle = Oracle(world.settings, world.events, world.items, world.embeddings, world.modalities)
    asked = [query for query in world.queries if query[2] <= LAST + 60 * DAY]
    users, items, at = (np.array(column) for column in zip(*asked, strict=True))
    codebook: Any = NoCodes(tuple(world.modalities))
    with log_reference(repo, codebook) as reference:
        told = reference.cells(users.astype(object), items.astype(object), at.astype(np.int64))
        for (user, item, moment), row in zip(asked, told, strict=True):
            views = {
                "item_content": oracle.item_content(item, moment), "item_stats": oracle.item_stats(item, moment),
                "user_stats": oracle.user_stats(user, moment), "user_history": oracle.user_history(user, moment),
            }  # fmt: skip
            for cell, value in row.items():
                view, _, name = cell.partition("__")
                if name and view in views:
                    assert value == (views[view] or {}).get(name), (cell, user, item, moment)
        user, item, _ = asked[0]
        for feature in ("item_stats__clicks_7d", "user_history__item_ids", "item_content__category"):
            for since, value in reference.timeline(feature, user, item, LAST)[:8]:
                told_then = reference.cells([user], np.array([item], dtype=object), np.array([since]))[0][feature]
                assert told_then is None or told_then == value
