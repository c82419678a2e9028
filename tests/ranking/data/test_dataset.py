"""The arrays that the ranker trains on: history, second hop, and what must never be in them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import DAY, FinishedJob, complete, fresh_repo, set_world, write_tables
from helpers.commands import ask_well
from oracle.features import Oracle
from oracle.logs import LAST, World, random_world
from ranking.data.dataset import Dataset, LabelledRows, read_rows
from ranking.data.frame_builder import build_dataset
from ranking.data.numeric_features import feature_names
from ranking.data.storage import load_dataset, save_dataset
from semantic_ids.codebook import Codebook
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.lifecycle import CodebookSpec, fit, publish
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import open_store
from sidkit.tables import build_tables, ingest


def rows_of(queries: list[tuple[str, str, int]]) -> LabelledRows:
    users, items, moments = zip(*queries, strict=True)
    return LabelledRows(
        np.array(users, dtype=object), np.array(items, dtype=object), np.array(moments), np.zeros(len(users), np.int8)
    )


@pytest.fixture(scope="module")
def versioned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repo, World, Codebook]:
    """A world whose items change their content, with a published codebook."""
    folder = tmp_path_factory.mktemp("versioned")
    world = complete(random_world(random.Random(5), n_users=12, n_items=40, n_events=1500, n_queries=400))
    fresh_repo(folder / "repo", folder / "source", modalities=("text", "image"))
    repo = set_world(folder / "repo", folder / "source", world)
    ingest(repo)
    build_tables(repo, LAST + 60 * DAY)
    spec = CodebookSpec(sizes=(4, 3), force=True, encoder_arguments={"dim": 4})
    fit(repo, "tiny", spec, LAST)
    publish(repo, "tiny")
    return repo, world, Codebook.load(repo.codebooks / "tiny")


class Seen:
    """Codes and content vector of an item as of a moment; -1 and zeros where there are none."""

    def __init__(self, world: World, codebook: Codebook) -> None:
        self.oracle = Oracle(world.settings, world.events, world.items, world.embeddings, world.modalities)
        self.codebook = codebook
        self.known: dict[str, tuple[list[int], np.ndarray]] = {}

    def __call__(self, item: str, at: int) -> tuple[list[int], np.ndarray]:
        content = self.oracle.item_content(item, at) or {"text": None, "image": None}
        vectors = {name: content[name] for name in ("text", "image")}
        if str(vectors) not in self.known:
            self.known[str(vectors)] = self._of(vectors)
        return self.known[str(vectors)]

    def _of(self, vectors: dict[str, list[float] | None]) -> tuple[list[int], np.ndarray]:
        table = pa.table({name: pa.array([vector], pa.list_(pa.float32())) for name, vector in vectors.items()})
        items = ItemVectors.from_arrow(table, ("text", "image"))
        assigned = self.codebook.assign(items)
        if not assigned.encodable[0]:
            return [-1] * len(self.codebook.sizes), np.zeros(self.codebook.encoder.output_dim, np.float32)
        return assigned.codes[0].tolist(), self.codebook.vectors(items)[0]


def test_candidates_and_histories_hold_content_and_codes_as_of_the_row(versioned: tuple[Repo, World, Codebook]) -> None:
    repo, world, codebook = versioned
    rows = rows_of(world.queries)
    length = world.settings.history_length
    data = build_dataset(open_store(repo), "ctr_tiny", codebook, rows, rate=0.5, history_length=length)
    seen = Seen(world, codebook)
    changed = 0
    for row, (user, item, at) in enumerate(world.queries):
        codes, vector = seen(item, at)
        number = data.candidate[row]
        assert data.items.ids[number] == item
        assert data.items.codes[number].tolist() == codes
        np.testing.assert_allclose(data.items.content[number], vector, atol=1e-5)
        history = seen.oracle.user_history(user, at) or {"item_ids": [], "timestamps_us": []}
        listed = data.history_items[data.history[row]]
        moments = data.history_us[data.history[row]]
        assert moments[: len(history["timestamps_us"])].tolist() == history["timestamps_us"]
        assert not moments[len(history["timestamps_us"]) :].any()
        assert not listed[len(history["item_ids"]) :].any()
        for place, past in zip(listed, history["item_ids"], strict=False):
            codes, vector = seen(past, at)
            assert data.items.ids[place] == past
            assert data.items.codes[place].tolist() == codes
            np.testing.assert_allclose(data.items.content[place], vector, atol=1e-5)
            changed += codes != seen(past, LAST + DAY)[0]
    assert changed > 50, "the world must change codes, or the second hop is not tested"


def test_history_excludes_the_click_it_predicts(finished: FinishedJob) -> None:
    data = load_dataset(finished.repo.runs / "fast" / "frame")
    positives = np.flatnonzero(data.rows.label == 1)
    assert len(positives) > 500
    delay = finished.repo.settings.time.delay_us
    for row in positives:
        moments = data.history_us[data.history[row]]
        assert (moments[moments > 0] + delay <= data.rows.at_us[row]).all()


def test_a_planted_feature_that_equals_the_label_is_in_no_frame(tmp_path: Path, finished: FinishedJob) -> None:
    source = Path(finished.repo.settings.source.url)
    log = pq.read_table(source / "interactions.parquet")
    clicked = set(log.filter(log["label"].cast(pa.bool_()))["item_id"].to_pylist())
    items = pq.read_table(source / "items.parquet")
    planted = write_tables(
        tmp_path / "planted",
        {
            "interactions": log.append_column("answer", log["label"]),
            "items": items.append_column(
                "answer", pa.array([item in clicked for item in items["item_id"].to_pylist()])
            ),
            "item_embeddings": pq.read_table(source / "item_embeddings.parquet"),
        },
    )
    repo = fresh_repo(tmp_path / "repo", planted, modalities=("text", "image"), conversions=True)
    ingest(repo)
    build_tables(repo, finished.result.as_of_us)
    fit(repo, "book", CodebookSpec(sizes=(8,), force=True), finished.result.as_of_us)
    publish(repo, "book")
    rows = log.slice(5000, 3000).select(["user_id", "item_id", "timestamp", "label"])
    pq.write_table(rows.rename_columns(["user_id", "item_id", "event_timestamp", "label"]), tmp_path / "rows.parquet")
    ask_well("frame", "--repo", repo.path, "--rows", tmp_path / "rows.parquet", "--out", tmp_path / "frame.parquet")
    frame = pq.read_table(tmp_path / "frame.parquet")
    assert not [name for name in frame.column_names if "answer" in name]
    label = frame["label"].to_numpy()
    for name in frame.column_names:
        if name != "label" and pa.types.is_integer(frame.schema.field(name).type):
            values = np.nan_to_num(frame[name].cast(pa.float64()).to_numpy())
            if values.std() > 0:
                assert abs(np.corrcoef(values, label)[0, 1]) < 0.6, name


def test_every_feature_has_a_value_on_a_replayed_old_log(finished: FinishedJob) -> None:
    rows = read_rows(finished.repo.labelled_rows)
    late = rows.take(np.arange(len(rows) - 2000, len(rows)))
    store = open_store(finished.repo)
    service = store.get_feature_service(finished.output["artifacts"]["feature_service"])
    import pandas as pd

    entities = pd.DataFrame(
        {
            "user_id": late.user_ids,
            "item_id": late.item_ids,
            "event_timestamp": pd.to_datetime(late.at_us, unit="us", utc=True),
            "at_us": late.at_us,
        }
    )
    for cut_off in (False, True):
        frame = store.get_historical_features(
            entities, features=service, full_feature_names=True, filter_by_created_timestamp=cut_off
        ).to_arrow()
        shares = {name: 1 - frame[name].null_count / len(frame) for name in frame.column_names}
        assert min(shares.values()) > 0.5, shares


def test_a_row_does_not_depend_on_the_other_rows(versioned: tuple[Repo, World, Codebook]) -> None:
    repo, world, codebook = versioned
    store, length = open_store(repo), world.settings.history_length
    whole = build_dataset(store, "ctr_tiny", codebook, rows_of(world.queries[:300]), rate=0.5, history_length=length)
    few = build_dataset(store, "ctr_tiny", codebook, rows_of(world.queries[100:110]), rate=0.5, history_length=length)
    np.testing.assert_array_equal(whole.numeric[100:110], few.numeric)
    for row in range(10):
        own, other = few.history_items[few.history[row]], whole.history_items[whole.history[100 + row]]
        np.testing.assert_array_equal(few.items.codes[own], whole.items.codes[other])
        np.testing.assert_array_equal(few.items.ids[own], whole.items.ids[other])


@pytest.mark.own_store("offline", "Feast's gives a copy of a history to every row")
def test_rows_that_come_again_add_no_item_and_no_history(versioned: tuple[Repo, World, Codebook]) -> None:
    repo, world, codebook = versioned
    store, length = open_store(repo), world.settings.history_length
    once, often = (
        build_dataset(
            store, "ctr_tiny", codebook, rows_of(world.queries[:200] * times), rate=0.5, history_length=length
        )
        for times in (1, 20)
    )
    assert len(often) == 20 * len(once)
    assert len(often.items) == len(once.items)
    np.testing.assert_array_equal(often.history_items, once.history_items)
    np.testing.assert_array_equal(often.candidate, np.tile(once.candidate, 20))
    np.testing.assert_array_equal(often.numeric, np.tile(once.numeric, (20, 1)))


def test_a_user_and_an_item_that_nobody_knows_give_finite_features(versioned: tuple[Repo, World, Codebook]) -> None:
    repo, world, codebook = versioned
    rows = rows_of([("nobody", "nothing", LAST), ("nobody", "i1", LAST)])
    length = world.settings.history_length
    data = build_dataset(open_store(repo), "ctr_tiny", codebook, rows, rate=0.5, history_length=length)
    assert np.isfinite(data.numeric).all()
    assert data.history.tolist() == [0, 0]
    assert data.numeric[0, feature_names().index("item_without_content")] == 1


def test_a_saved_dataset_is_read_back_as_it_was(tmp_path: Path, versioned: tuple[Repo, World, Codebook]) -> None:
    repo, world, codebook = versioned
    rows = rows_of(world.queries[:200])
    rows = replace(rows, request_ids=np.array([f"r{k // 3}" for k in range(200)], dtype=object))
    length = world.settings.history_length
    data = build_dataset(open_store(repo), "ctr_tiny", codebook, rows, rate=0.5, history_length=length)
    save_dataset(data, tmp_path / "frame")
    again = load_dataset(tmp_path / "frame")
    assert_equal(again, data)
    save_dataset(data, tmp_path / "frame")
    assert_equal(load_dataset(tmp_path / "frame"), data)


def assert_equal(left: Dataset, right: Dataset) -> None:
    for name in ("numeric", "candidate", "history", "history_items", "history_us"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    for name in ("ids", "codes", "content"):
        np.testing.assert_array_equal(getattr(left.items, name), getattr(right.items, name))
    for name in ("user_ids", "item_ids", "at_us", "label", "request_ids"):
        np.testing.assert_array_equal(getattr(left.rows, name), getattr(right.rows, name))
