"""Control parts of frames: counts by shuffled and random codes, against loops over the log, and in the arms that read them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import DAY, FinishedJob, copy_of
from helpers.cluster_world import RATES, cluster_job
from ranking.data import control_frame
from ranking.data.caps import Caps
from ranking.data.control_frame import write_control
from ranking.data.control_part import CONTROL_CODES, ControlPart
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.disk_frame import DiskFrame, write_disk_frame
from ranking.data.numeric_features import numeric_columns
from ranking.data.split import TimeSplit
from ranking.pipeline.presets import load_preset
from ranking.pipeline.run import Job, JobOptions
from ranking.pipeline.saved_run import read_run
from ranking.training.arms import TrainingContext
from semantic_ids.codebook import Codebook
from sidkit.core.errors import ArtifactCorruptError, ConfigError, EvaluationError
from sidkit.stores.feast_repo import open_store
from sidkit.tables import read_log
from sidkit.tables.labelled_rows import log_moments

WINDOWS = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "all": 10**18}
KINDS = ("shuffled", "random")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> FinishedJob:
    """Tests only read it, or a copy."""
    return cluster_job(tmp_path_factory.mktemp("clusters"))


@pytest.fixture(scope="module")
def frame(job: FinishedJob) -> TrainingContext:
    """The parts of its frame."""
    return read_run(job.repo, str(preset_of(job)))


def preset_of(job: FinishedJob) -> Path:
    return job.repo.path.parent / "clusters.toml"


def run_of(job: FinishedJob) -> Path:
    return job.repo.runs / "clusters"


def control(job: FinishedJob, kind: str) -> ControlPart:
    return ControlPart.load(run_of(job) / f"frame-{kind}")


def split_of(job: FinishedJob) -> TimeSplit:
    return TimeSplit.of(log_moments(job.repo), job.repo.settings.split)


def column(data: Dataset, name: str) -> np.ndarray:
    return data.numeric[:, numeric_columns(data.schema).index(name)]


def codes_in(path: Path) -> dict[str, list[tuple[int, tuple[int, ...] | None]]]:
    """Item -> its (time in microseconds, codes), ascending."""
    table = pq.read_table(path).sort_by("event_timestamp")
    found: dict[str, list[tuple[int, tuple[int, ...] | None]]] = {}
    times = table.column("event_timestamp").cast(pa.int64()).to_pylist()
    for item, at, codes in zip(table["item_id"].to_pylist(), times, table["codes"].to_pylist(), strict=True):
        found.setdefault(item, []).append((at, tuple(codes) if codes else None))
    return found


def test_shuffled_codes_are_as_frequent_and_mean_nothing(job: FinishedJob, frame: TrainingContext) -> None:
    own = codes_in(job.repo.tables / f"item_sid_{job.result.codebook.name}.parquet")
    shuffled = codes_in(run_of(job) / "frame-shuffled" / CONTROL_CODES)
    assert {item: [at for at, _ in rows] for item, rows in own.items()} == {
        item: [at for at, _ in rows] for item, rows in shuffled.items()
    }
    assert sorted(rows[0][1] or () for rows in own.values()) == sorted(rows[0][1] or () for rows in shuffled.values())
    assert all(len({codes for _, codes in rows}) == 1 for rows in shuffled.values()), "of the same other item"
    assert any(len({codes for _, codes in rows}) == 2 for rows in own.values())

    late = frame.test
    chance = RATES[[int(item[1:]) % 6 for item in late.rows.item_ids]]
    still = np.array([int(item[1:]) % 12 != 0 for item in late.rows.item_ids])
    spread, fit = {}, {}
    for kind, data in (("own", late), *((kind, control(job, kind).applied("test", late)) for kind in KINDS)):
        rate = column(data, "code_stats_d1__rate_30d")
        spread[kind], fit[kind] = rate.std(), np.corrcoef(rate[still], chance[still])[0, 1]
    assert fit["own"] > 0.95 and spread["own"] > 0.25
    assert all(fit[kind] < 0.6 and spread[kind] < 0.15 for kind in KINDS), (fit, spread)


class Log:
    """The events by hand: the codes of each as of its time, under a table of codes."""

    def __init__(self, job: FinishedJob, codes: Path) -> None:
        events = pa.concat_tables(pq.read_table(path) for path in read_log(job.repo).parts)
        self.user, self.item = (np.array(events[name].to_pylist(), dtype=object) for name in ("user_id", "item_id"))
        self.at = events["timestamp"].cast(pa.int64()).to_numpy()
        self.label = events["label"].to_numpy().astype(int)
        self.converted = np.nan_to_num(events["converted"].to_numpy().astype(float)).astype(int)
        self.codes = codes_in(codes)
        self.prefix = [self.codes_at(item, at) for item, at in zip(self.item, self.at.tolist(), strict=True)]
        self.time = job.repo.settings.time

    def codes_at(self, item: str, at: int) -> tuple[int, ...] | None:
        return next((codes for since, codes in reversed(self.codes[item]) if since <= at), None)

    def counts(self, which: np.ndarray, at: int, window: str, cadence: int) -> tuple[int, int, int]:
        end = (at - self.time.delay_us) // cadence * cadence
        inside = which & (self.at <= end) & (self.at > end - WINDOWS[window])
        return int(inside.sum()), int(self.label[inside].sum()), int(self.converted[inside].sum())

    def cells(self, user: str, item: str, at: int, rate: float) -> dict[str, float]:
        """Every statistic of the prefixes of a row."""
        codes, hour = self.codes_at(item, at), 3_600_000_000
        own_cadence = self.time.stats_cadence_seconds * 1_000_000
        found: dict[str, float] = {}

        def smooth(shown: float, clicked: float, parent: float) -> float:
            return (clicked + 10 * parent) / (max(shown, clicked) + 10)

        parents = dict.fromkeys(WINDOWS, rate)
        of_user = {
            window: smooth(*self.counts(self.user == user, at, window, own_cadence)[:2], rate)
            for window in ("30d", "all")
        }
        for depth in (1, 2):
            same = np.array(
                [codes is not None and each is not None and each[:depth] == codes[:depth] for each in self.prefix]
            )
            for window in WINDOWS:
                shown, clicked, converted = self.counts(same, at, window, hour)
                name = f"code_stats_d{depth}__"
                parents[window] = smooth(shown, clicked, parents[window])
                found |= {
                    f"{name}exposures_{window}": shown, f"{name}clicks_{window}": clicked,
                    f"{name}conversions_{window}": converted, f"{name}rate_{window}": parents[window],
                }  # fmt: skip
            for window, parent in of_user.items():
                shown, clicked, _ = self.counts(same & (self.user == user), at, window, 24 * hour)
                name = f"user_code_stats_d{depth}__"
                of_user[window] = smooth(shown, clicked, parent)
                found |= {
                    f"{name}exposures_{window}": shown, f"{name}clicks_{window}": clicked,
                    f"{name}rate_{window}": of_user[window],
                }  # fmt: skip
        for window in WINDOWS:
            shown, clicked, _ = self.counts(self.item == item, at, window, own_cadence)
            found[f"code_stats__item_rate_{window}"] = smooth(shown, clicked, parents[window])
        return found


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_a_control_are_those_of_a_loop_over_the_log(
    job: FinishedJob, frame: TrainingContext, kind: str
) -> None:
    log, part = Log(job, run_of(job) / f"frame-{kind}" / CONTROL_CODES), control(job, kind)
    counted = [name for name in part.features if not name.startswith("code_affinity")]
    rng = np.random.default_rng(0)
    for name in ("train", "validation", "test"):
        data = getattr(frame, name)
        rows = data.rows
        for at in rng.choice(len(data), 15, replace=False).tolist():
            expected = log.cells(rows.user_ids[at], rows.item_ids[at], int(rows.at_us[at]), frame.rate)
            assert set(expected) == set(counted)
            found = dict(zip(part.features, part.numbers[name][at].tolist(), strict=True))
            assert {each: found[each] for each in counted} == pytest.approx(expected, rel=1e-5)
            codes = log.codes_at(rows.item_ids[at], int(rows.at_us[at]))
            own = part.codes[data.candidate[at]].tolist()
            assert own == (list(codes) if codes is not None else [-1, -1])
            history = data.history_items[data.history[at]]
            versions = [tuple(part.codes[entry].tolist()) for entry in history[history > 0]]
            alike = sum(codes is not None and each[:1] == codes[:1] for each in versions)
            assert found["code_affinity_d1__count"] == alike


def test_the_codebooks_own_codes_give_the_features_of_the_frame(
    job: FinishedJob, frame: TrainingContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_own_codes(monkeypatch)
    folder = tmp_path / "part"
    write_control(
        job.repo, job.result.codebook.name, "shuffled", split_of(job), run_of(job) / "frame", frame.rate, folder
    )
    part = ControlPart.load(folder)
    np.testing.assert_array_equal(part.codes, frame.train.items.codes)
    for name in ("train", "validation", "test"):
        data = getattr(frame, name)
        np.testing.assert_array_equal(part.applied(name, data).numeric, data.numeric)


def keep_own_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the table of codes as it is, so that a control part must repeat the frame."""
    real = control_frame._write_codes

    def copied(stored: Path, *arguments: Any) -> Any:
        made = real(stored, *arguments)
        shutil.copy(stored, arguments[-1])
        return made

    monkeypatch.setattr(control_frame, "_write_codes", copied)
    monkeypatch.setattr(control_frame._CodesOf, "of", lambda self, items: items.codes)


def test_statistics_of_a_log_of_positives_have_no_exposures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    positives = cluster_job(tmp_path, positives_only=True)
    context = read_run(positives.repo, str(preset_of(positives)))
    assert positives.repo.settings.source.feedback == "positives_only"
    keep_own_codes(monkeypatch)
    frame, folder = run_of(positives) / "frame", tmp_path / "part"
    write_control(
        positives.repo, positives.result.codebook.name, "random", split_of(positives), frame, context.rate, folder
    )
    part = ControlPart.load(folder)
    np.testing.assert_array_equal(part.applied("test", context.test).numeric, context.test.numeric)
    clicks = part.numbers["test"][:, part.features.index("code_stats_d1__clicks_all")]
    rates = part.numbers["test"][:, part.features.index("code_stats_d1__rate_all")]
    assert clicks.max() > 0 and np.allclose(rates, context.rate)


def test_a_control_part_of_training_rows_on_disk_says_the_same(
    job: FinishedJob, frame: TrainingContext, tmp_path: Path
) -> None:
    name, split = job.result.codebook.name, split_of(job)
    write_disk_frame(job.repo, name, job.repo.labelled_rows, split, Caps(), tmp_path / "frame")
    write_control(job.repo, name, "shuffled", split, tmp_path / "frame", frame.rate, tmp_path / "part")
    streamed, part, whole = (
        DiskFrame.load(tmp_path / "frame"),
        ControlPart.load(tmp_path / "part"),
        control(job, "shuffled"),
    )
    assert streamed.streamed is not None and "train" not in part.numbers
    train = part.applied_to_training(streamed.streamed)
    assert isinstance(train, DiskDataset)
    on_disk, memory = train.take(np.arange(len(train))), whole.applied("train", frame.train)
    keys = [
        list(zip(each.rows.user_ids, each.rows.item_ids, each.rows.at_us, strict=True)) for each in (on_disk, memory)
    ]
    place = {key: at for at, key in enumerate(keys[0])}
    order = np.array([place[key] for key in keys[1]])
    np.testing.assert_array_equal(on_disk.numeric[order], memory.numeric)
    np.testing.assert_array_equal(on_disk.items.codes[on_disk.candidate][order], memory.items.codes[memory.candidate])
    chunks = np.concatenate(list(train.feature_chunks()))
    np.testing.assert_array_equal(chunks, on_disk.features)
    np.testing.assert_array_equal(part.numbers["test"], whole.numbers["test"])
    with pytest.raises(EvaluationError, match="training rows on disk"):
        whole.applied_to_training(streamed.streamed)


def test_controls_train_on_rows_on_disk(tmp_path: Path) -> None:
    streamed = cluster_job(tmp_path, stream_rows=1000)
    names = {path.name for path in (run_of(streamed) / "frame-shuffled").iterdir()}
    assert names == {"arrays.safetensors", "control.json", CONTROL_CODES, "manifest.json", "train.parquet"}
    rows = {stage.name: stage.rows for stage in streamed.result.stages}
    assert rows["train:content_codes_shuffled:s0"] == rows["train:content_codes:s0"] > 3000
    assert 500 < rows["train:gbdt_codes_shuffled:s0"] == rows["train:gbdt_codes:s0"] < 2000, (
        "boosting has a sample of users"
    )


def test_controls_read_nothing_of_the_own_codes(job: FinishedJob, frame: TrainingContext) -> None:
    arms = load_preset(str(preset_of(job))).arms
    folders = {kind: run_of(job) / f"frame-{kind}" for kind in KINDS}
    whole = TrainingContext(**{**vars(frame), "controls": folders})  # type: ignore[arg-type]
    book = Codebook.load(job.repo.codebooks / job.result.codebook.name)
    for arm in ("content_codes_shuffled", "decoded_shuffled", "gbdt_codes_shuffled", "gbdt_codes_random"):
        kind = "random" if arm.endswith("random") else "shuffled"
        part, data = control(job, kind), whole.of_arm(arms[arm], seed=3)
        vectors = book.decode(part.codes) if arm == "decoded_shuffled" else frame.train.items.content
        changed = [numeric_columns(frame.train.schema).index(name) for name in part.features]
        rest = np.delete(np.arange(frame.train.numeric.shape[1]), changed)
        for name in ("train", "validation", "test"):
            own, original = getattr(data, name), getattr(frame, name)
            np.testing.assert_array_equal(own.numeric[:, changed], part.numbers[name])
            np.testing.assert_array_equal(own.numeric[:, rest], original.numeric[:, rest])
            np.testing.assert_array_equal(own.items.codes, part.codes)
            np.testing.assert_array_equal(own.items.content, vectors)
    assert whole.of_arm(arms["content_codes"], seed=3).train.items is frame.train.items


def test_arms_with_codes_are_compared_with_the_controls_that_have_their_inputs(job: FinishedJob) -> None:
    asked = {(each.arm, each.baseline, each.over) for each in job.result.questions}
    assert {
        ("gbdt_codes", "gbdt_codes_shuffled", "shuffled codes"), ("gbdt_codes", "gbdt_codes_random", "random codes"),
        ("content_codes", "content_codes_shuffled", "shuffled codes"),
    } <= asked  # fmt: skip


def test_controls_are_no_part_of_the_repository(job: FinishedJob) -> None:
    views = {view.name for view in open_store(job.repo).list_all_feature_views()}
    name = job.result.codebook.name
    assert {each for each in views if "code" in each} == {f"code_stats_{name}", f"user_code_stats_{name}"}
    tables = {path.name for path in job.repo.tables.glob("*code*.parquet")}
    assert tables == {f"code_stats_{name}.parquet", f"user_code_stats_{name}.parquet"}
    assert all(job.result.rankers[arm] == (None,) for arm in ("content_codes_shuffled", "gbdt_codes_shuffled"))
    held = {path.name for path in (run_of(job) / "frame-shuffled").iterdir()}
    assert held == {"arrays.safetensors", "control.json", CONTROL_CODES, "manifest.json"}


def test_a_lost_control_part_is_made_again_and_nothing_else(job: FinishedJob, tmp_path: Path) -> None:
    repo = copy_of(job.repo, tmp_path / "repo")
    folder = repo.runs / "clusters" / "frame-shuffled"
    before = (folder / "arrays.safetensors").read_bytes()
    (folder / "arrays.safetensors").write_bytes(before[:-1] + b"x")
    seconds = {stage.name: stage.seconds for stage in job.result.stages}
    options = JobOptions(job.result.data, str(preset_of(job)), load_preset(str(preset_of(job))), impressions=24_000)
    with repo.locked():
        again = Job(repo, options).run()
    assert (folder / "arrays.safetensors").read_bytes() == before
    assert {stage.name for stage in again.stages if stage.seconds != seconds[stage.name]} <= {
        "control:shuffled",
        "ingest",
    }


def test_other_rows_other_items_and_damage_are_refused(
    job: FinishedJob, frame: TrainingContext, tmp_path: Path
) -> None:
    part = control(job, "shuffled")
    with pytest.raises(EvaluationError, match=r"the [\d,]+ test rows that the control part was made for, got 3;"):
        part.applied("test", frame.test.take(np.arange(3)))
    few = ControlPart(part.kind, part.seed, part.features, part.codes[:3], part.numbers)
    with pytest.raises(EvaluationError, match="expected the 3 item versions"):
        few.applied("test", frame.test)
    shutil.copytree(run_of(job) / "frame-shuffled", tmp_path / "part")
    with (tmp_path / "part" / "control.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ArtifactCorruptError):
        ControlPart.load(tmp_path / "part")
    arms = load_preset(str(preset_of(job))).arms
    with pytest.raises(
        ConfigError, match=r"statistics of shuffled codes for this arm, .*features = \[\"!\*code_\*\"\]"
    ):
        frame.of_arm(arms["content_codes_shuffled"], 0)
