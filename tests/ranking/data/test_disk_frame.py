"""Frames whose training part is larger than memory: the same rows, in an order that mixes days, whole or not at all."""

from __future__ import annotations

import gc
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, FAST_PRESET, START, FinishedJob, copy_of, run_fast_job
from helpers.training_builders import random_set
from ranking.audit.frames import rows_of_run
from ranking.data.caps import Caps
from ranking.data.dataset import Dataset, LabelledRows, read_rows
from ranking.data.disk_dataset import DiskDataset
from ranking.data.disk_frame import DiskFrame, FrameWriter, write_disk_frame
from ranking.data.frame_builder import FrameBuilder, feature_readers
from ranking.data.labelled_rows import RowsFile, Window, click_share, read_moments, row_chunks
from ranking.data.split import TimeSplit
from ranking.data.storage import load_dataset, save_dataset
from ranking.pipeline.saved_run import read_run
from ranking.serving.scorer import Scorer
from semantic_ids.codebook import Codebook
from sidkit.core.config import EngineSettings
from sidkit.core.stages import read_facts
from sidkit.datasets.user_sample import thin_by_user
from sidkit.stores.feast_repo import open_store

law = settings(max_examples=15, deadline=None, database=None)
ENGINE = EngineSettings(threads=1)


def rows_on(folder: Path, rows: int, users: int = 20, *, seed: int = 0) -> RowsFile:
    """Labelled rows in order of time, requests of up to five rows; all that is clicked is late."""
    rng = np.random.default_rng(seed)
    at_us = START + np.sort(rng.integers(0, max(rows // 3, 1), rows)) * DAY // 50
    table = pa.table(
        {
            "user_id": [f"u{number}" for number in rng.integers(0, users, rows)],
            "item_id": [f"i{number}" for number in range(rows)],
            "event_timestamp": pa.array(at_us, pa.timestamp("us", "UTC")),
            "label": pa.array((np.arange(rows) >= rows // 2).astype(np.int8)),
            "request_id": pa.nulls(rows, pa.string()),
            "had_before": pa.array(rng.random(rows) < 0.5),
        }
    )
    pq.write_table(table, folder / "rows.parquet", row_group_size=97)
    return RowsFile(folder / "rows.parquet", ENGINE, folder / "spill")


def assert_same(left: LabelledRows, right: LabelledRows) -> None:
    for name in ("user_ids", "item_ids", "at_us", "label", "had_before"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@law
@given(st.integers(2, 300), st.integers(1, 300), st.integers(0, 4))
def test_a_window_of_the_file_holds_the_rows_and_the_users_that_memory_would(rows: int, most: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = rows_on(Path(name), rows, seed=seed)
        whole = read_rows(file.path)
        assert read_moments(file.path).tolist() == whole.at_us.tolist()
        middle = int(whole.at_us[rows // 2])
        for window in (Window(until_us=middle), Window(middle)):
            inside = whole.take(np.flatnonzero((whole.at_us >= window.from_us) & (whole.at_us < window.until_us)))
            expected = inside.take(thin_by_user(inside.user_ids, most))
            assert file.classes(window) == (int(inside.label.sum()), len(inside))
            assert_same(file.read(window, most), expected)
            file.shuffle(window, most, Path(name) / "out.parquet")
            shuffled = read_rows(Path(name) / "out.parquet", may_be_empty=True)
            assert sorted(shuffled.item_ids) == sorted(expected.item_ids)
            back = np.argsort([int(item[1:]) for item in shuffled.item_ids])
            assert_same(shuffled.take(back), expected)
            if len(shuffled):
                assert click_share(Path(name) / "out.parquet") == expected.label.mean()


def test_neither_a_day_nor_a_class_fills_a_group(tmp_path: Path) -> None:
    file = rows_on(tmp_path, 4000, users=60)
    file.shuffle(Window(), 4000, tmp_path / "out.parquet")
    for group in row_chunks(tmp_path / "out.parquet", 400):
        assert 0.3 < group.label.mean() < 0.7
        assert np.ptp(group.at_us) > 0.9 * np.ptp(read_moments(file.path))


def test_rows_of_a_request_stay_together_and_requests_lie_by_their_hash_alone(tmp_path: Path) -> None:
    file = rows_on(tmp_path, 900)
    file.shuffle(Window(), 900, tmp_path / "out.parquet")
    order = requests(read_rows(tmp_path / "out.parquet"))
    assert len(order) == len(set(order)), "each request is one run of rows"
    cut = int(np.median(read_moments(file.path)))
    file.shuffle(Window(until_us=cut), 900, tmp_path / "part.parquet")
    kept = set(requests(read_rows(tmp_path / "part.parquet")))
    assert requests(read_rows(tmp_path / "part.parquet")) == [each for each in order if each in kept]


def requests(rows: LabelledRows) -> list[tuple[str, int]]:
    found = list(zip(rows.user_ids, rows.at_us.tolist(), strict=True))
    return [each for place, each in enumerate(found) if place == 0 or found[place - 1] != each]


@law
@given(st.integers(1, 200), st.integers(1, 90))
def test_chunks_of_a_file_are_full_and_in_order(rows: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = rows_on(Path(name), rows).path
        chunks = list(row_chunks(path, size))
        assert [len(each) for each in chunks[:-1]] == [size] * (len(chunks) - 1)
        assert 1 <= len(chunks[-1]) <= size
        assert_same(LabelledRows.joined(chunks), read_rows(path))


@pytest.fixture(scope="module")
def streamed(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> DiskFrame:
    """The frame of the finished job, streamed."""
    folder = tmp_path_factory.mktemp("streamed") / "frame"
    repo = finished.repo
    write_disk_frame(
        repo, finished.result.codebook.name, repo.labelled_rows, split_of(finished), caps_of(finished), folder
    )
    return DiskFrame.load(folder)


def split_of(finished: FinishedJob) -> TimeSplit:
    return TimeSplit.of(read_moments(finished.repo.labelled_rows), finished.repo.settings.split)


def caps_of(finished: FinishedJob) -> Caps:
    return Caps(15_000, 60_000)


def by_row(data: Dataset) -> dict[tuple[str, str, int], tuple[object, ...]]:
    """Everything that a row says, by what it is."""
    rows, items = data.rows, data.items
    assert rows.had_before is not None
    found = {}
    for at in range(len(data)):
        history = data.history_items[data.history[at]]
        told = (items.ids[history], items.codes[history], items.content[history], data.history_us[data.history[at]])
        own = data.candidate[at]
        found[rows.user_ids[at], rows.item_ids[at], int(rows.at_us[at])] = (
            int(rows.label[at]), bool(rows.had_before[at]), data.numeric[at].tobytes(), items.ids[own],
            items.codes[own].tobytes(), items.content[own].tobytes(), told[0].tolist(),
            *(each.tobytes() for each in told[1:]),
        )  # fmt: skip
    return found


def test_a_streamed_frame_holds_what_the_frame_in_memory_holds(finished: FinishedJob, streamed: DiskFrame) -> None:
    whole = load_dataset(finished.repo.runs / "fast" / "frame")
    assert streamed.streamed is not None
    assert len(streamed) == len(whole)
    parts = split_of(finished).parts(whole.rows.at_us)
    assert len(streamed.streamed) == len(parts["train"])
    assert by_row(streamed.take(np.arange(len(streamed)))) == by_row(whole)
    judging = whole.take(np.concatenate([parts["validation"], parts["test"]]))
    np.testing.assert_array_equal(streamed.data.numeric, judging.numeric)
    np.testing.assert_array_equal(streamed.data.rows.request_ids, judging.rows.request_ids)


def test_items_and_histories_are_distinct_over_all_chunks(finished: FinishedJob, tmp_path: Path) -> None:
    rows = read_rows(finished.repo.labelled_rows).take(np.arange(6000, 6900))

    def written(size: int) -> DiskFrame:
        chunks = (rows.take(np.arange(at, min(at + size, 900))) for at in range(0, 900, size))
        frame_of(finished).write(chunks, rows.take(np.arange(10)), tmp_path / str(size), group_rows=100)
        return DiskFrame.load(tmp_path / str(size))

    few, many = written(900), written(100)
    assert by_row(few.take(np.arange(900))) == by_row(many.take(np.arange(900)))
    for frame in (few, many):
        data = frame.data
        assert len(data.items) == len(few.data.items)
        said = np.concatenate([data.history_us, *(data.items.codes[data.history_items].transpose(2, 0, 1))], axis=1)
        listed = {(tuple(data.history_items[at]), tuple(data.history_us[at])) for at in range(len(said))}
        assert len(listed) == len(data.history_items) == len(few.data.history_items)


def test_rows_with_tables_of_their_own_are_the_same_rows(finished: FinishedJob) -> None:
    some = load_dataset(finished.repo.runs / "fast" / "frame").take(np.arange(100, 160))
    own = some.with_own_tables()
    assert by_row(own) == by_row(some)
    assert len(own.items) < len(some.items)
    assert len(own.history_items) <= 61
    assert own.items.ids[0] == ""
    assert not own.history_items[0].any()


def test_rows_that_are_read_together_and_built_in_chunks_are_those_of_one_chunk(finished: FinishedJob) -> None:
    rows = read_rows(finished.repo.labelled_rows).take(np.arange(6000, 6500))

    def built(chunk_rows: int, read_rows: int) -> Dataset:
        frame = frame_of(finished)
        return frame.builder.dataset(frame.builder.retrieve(frame.of_rows, rows, chunk_rows, read_rows))

    expected = by_row(built(500, 500))
    assert by_row(built(70, 210)) == expected
    assert by_row(built(500, 90)) == expected


def frame_of(finished: FinishedJob) -> FrameWriter:
    repo = finished.repo
    of_rows, look_up = feature_readers(open_store(repo), finished.output["artifacts"]["feature_service"])
    book = Codebook.load(repo.codebooks / finished.result.codebook.name)
    return FrameWriter(of_rows, FrameBuilder(book, look_up, rate=0.1, history_length=5))


def test_a_chunk_is_gone_before_the_next_but_one_comes(finished: FinishedJob, tmp_path: Path) -> None:
    rows = read_rows(finished.repo.labelled_rows)
    alive: list[weakref.ref[LabelledRows]] = []

    def chunks() -> Iterator[LabelledRows]:
        for start in range(0, 1000, 200):
            gc.collect()
            assert all(each() is None for each in alive[:-1]), "only the last chunk may still be held"
            chunk = rows.take(np.arange(start, start + 200))
            alive.append(weakref.ref(chunk))
            yield chunk
            del chunk

    frame_of(finished).write(chunks(), rows.take(np.arange(5)), tmp_path / "frame", group_rows=100)
    assert DiskFrame.load(tmp_path / "frame").streamed is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_writer_that_dies_half_way_leaves_the_old_frame(
    finished: FinishedJob, tmp_path: Path, error: type[BaseException]
) -> None:
    folder, old = tmp_path / "frame", random_set(20)
    save_dataset(old, folder)
    rows = read_rows(finished.repo.labelled_rows)

    def chunks() -> Iterator[LabelledRows]:
        yield rows.take(np.arange(200))
        raise error

    with pytest.raises(error):
        frame_of(finished).write(chunks(), rows.take(np.arange(5)), folder, group_rows=50)
    np.testing.assert_array_equal(load_dataset(folder).numeric, old.numeric)
    assert [path.name for path in tmp_path.iterdir()] == ["frame"]
    frame_of(finished).write(iter([rows.take(np.arange(200))]), rows.take(np.arange(5)), folder, group_rows=50)
    assert len(DiskFrame.load(folder)) == 205
    save_dataset(old, folder)
    assert DiskFrame.load(folder).streamed is None


def test_a_job_that_streams_serves_its_rankers_and_is_audited(finished: FinishedJob, tmp_path: Path) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    preset = tmp_path / "fast.toml"
    text = FAST_PRESET.read_text().replace("max_train_rows", "stream_rows = 5000\nmax_train_rows")
    text = text.replace('serve = ["id", "content", "id_codes"]', 'serve = ["id_codes"]').replace(
        "epochs = 2", "epochs = 1"
    )
    for arm in ("id", "content", "shuffled_codes", "blend"):
        text = text.replace(f"[arms.{arm}]", f"[removed.{arm}]")
    kept = [block for block in text.split("\n\n") if not block.startswith("[removed.")]
    preset.write_text("\n\n".join(kept))
    job = run_fast_job(repo.path, preset)
    run = repo.runs / "fast"
    assert (run / "frame" / "train.parquet").exists()
    facts = read_facts(run / "stages.json", "frame")
    assert facts["streamed"] and facts["ends"][-1] == len(DiskFrame.load(run / "frame"))
    assert {arm["arm"]: arm["auc"] > 0.5 for arm in job.output["arms"]} == {"id_codes": True, "gbdt": True}

    ranker = job.output["artifacts"]["serving_ranker"]
    assert "id_codes" in ranker
    item_ids = [str(item) for item in load_dataset(run / "frame").items.ids[1:6]]
    scores = Scorer(repo).score("u1", item_ids, job.result.as_of_us + DAY)
    assert ((scores > 0) & (scores < 1)).all()

    audited = rows_of_run(repo, run, 200, seed=0)
    assert audited.total == facts["ends"][-1]
    trained = audited.at_us < split_of(finished).train_end_us
    assert 20 < trained.sum() < 200, "training rows on disk are audited as the others are"
    context = read_run(repo, str(preset))
    assert not isinstance(context.train, DiskDataset) and 0 < len(context.train) < facts["ends"][0]
    again = run_fast_job(repo.path, preset)
    assert again.output["stages"] == job.output["stages"], "everything was kept"
