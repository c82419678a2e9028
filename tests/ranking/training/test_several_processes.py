"""Training in several processes: the same curve as in one, the end of all with one, and the same result when resumed."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_disk_training import SCALING, VOCABULARY, numbered, on_disk

from helpers import training_processes
from helpers.training_processes import read, torchrun, trained, two_forks
from ranking.data.batches import Batches
from ranking.data.disk_batches import DiskBatches
from ranking.data.disk_dataset import DiskDataset
from ranking.data.frame_rows import FrameRows
from ranking.data.numeric_features import Scaling
from ranking.data.shares import Part, Share
from ranking.training.processes import JoinedProcesses, joined_processes
from sidkit.core.errors import ConfigError

law = settings(max_examples=40, deadline=None, database=None)
WITH_GLOO = torch.distributed.is_available() and torch.distributed.is_gloo_available()
several = pytest.mark.skipif(not WITH_GLOO, reason="gloo absent: torch cannot train in several processes")
SCRIPT = "from helpers.training_processes import main; main()"
EQUAL = ("dense", "sparse", "stops early", "on disk", "in lanes")


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(Path(training_processes.__file__), str(folder), *EQUAL, "contrast", "killed")
    assert done.returncode == 0, done.stderr
    return folder


@several
@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_have_the_curves_of_one(in_two: Path, tmp_path: Path, name: str) -> None:
    weights, losses, auc = read(in_two, name)
    one, expected = trained(name, tmp_path)
    assert losses == pytest.approx(expected, abs=1e-6)
    assert auc == pytest.approx(list(one.validation_auc), abs=1e-6)
    # Adam divides by the size of a gradient, so that one that is 0 but for rounding moves a weight by the learning rate.
    apart = np.concatenate(
        [np.abs(weights[key] - value.numpy()).ravel() for key, value in one.model.state_dict().items()]
    )
    assert np.median(apart) < 1e-6


@several
def test_losses_over_the_rows_of_a_process_train_too(in_two: Path, tmp_path: Path) -> None:
    weights, losses, _ = read(in_two, "contrast")
    assert losses[-1] < losses[0]
    assert all(np.isfinite(each).all() for each in weights.values())
    assert losses == pytest.approx(trained("contrast", tmp_path)[1], rel=0.1)


@several
def test_all_stop_with_a_killed_process_resume_to_the_same_result_and_refuse_other_rows(
    in_two: Path, tmp_path: Path
) -> None:
    (status, killed), (said, _) = two_forks(tmp_path, SCRIPT, tmp_path, "killed", KILLED="yes").ended()
    assert killed == -signal.SIGKILL
    assert status == 1
    assert "ProcessesError: expected an answer of every training process, but one stopped" in said
    assert "start the same command again" in said
    assert not (tmp_path / "killed.npz").exists()
    assert (tmp_path / "checkpoint.safetensors").exists()
    resumed, (_, refused) = two_forks(tmp_path, SCRIPT, tmp_path, "killed", "other rows", KILLED="no").ended()
    (weights, losses, auc), whole = read(tmp_path, "killed"), read(in_two, "killed")
    assert len(losses) == 2, "two of four epochs were left"
    assert losses == whole[1][2:]
    assert auc == whole[2]
    assert all(np.array_equal(weights[key], whole[0][key]) for key in whole[0])
    assert not (tmp_path / "checkpoint.safetensors").exists()
    # The next training of the same processes has other rows in each of them.
    assert resumed == [1, 1]
    assert "expected the same rows and settings in all 2 processes, got others in 1 of them" in refused


@law
@given(st.integers(0, 60), st.integers(1, 9))
def test_each_row_of_a_batch_belongs_to_one_process(rows: int, of: int) -> None:
    bounds = [Part(number, of).bounds(rows) for number in range(of)]
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == rows
    sizes = [end - start for start, end in bounds]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes), "process 0 has rows where any has"


@law
@given(
    st.integers(1, 70), st.integers(1, 20), st.integers(1, 90), st.integers(1, 25), st.integers(1, 5), st.integers(0, 3)
)
def test_each_row_comes_once_per_epoch_in_one_process_and_all_take_as_many_steps(
    rows: int, group_rows: int, buffer_rows: int, size: int, of: int, seed: int
) -> None:
    tensors = DiskBatches(on_disk(rows, group_rows), SCALING, VOCABULARY, buffer_rows)
    generators = [torch.Generator().manual_seed(seed) for _ in range(of)]
    for _ in range(2):
        shares = [list(tensors.shares(size, each, Part(at, of))) for at, each in enumerate(generators)]
        assert len({len(steps) for steps in shares}) == 1
        assert sorted(itertools.chain(*(rows_of(share) for steps in shares for share in steps))) == list(range(rows))
        for step in zip(*shares, strict=True):
            counts = [len(rows_of(share)) for share in step]
            assert {share.of for share in step} == {sum(counts)}
            assert [share.start for share in step if share.batch] == [
                sum(counts[:at]) for at, share in enumerate(step) if share.batch
            ]
            assert sum(counts) < size + of
        assert len({tuple(each.get_state().tolist()) for each in generators}) == 1


def rows_of(share: Share) -> list[int]:
    times: list[int] = share.batch.at_us.tolist() if share.batch is not None else []
    return times


def test_a_process_reads_its_row_groups_only(monkeypatch: pytest.MonkeyPatch) -> None:
    data = on_disk(70, 7)
    read_groups: list[int] = []
    whole = type(data).rows

    def noted(own: DiskDataset, group: int) -> FrameRows:
        read_groups.append(group)
        return whole(own, group)

    monkeypatch.setattr(type(data), "rows", noted)
    tensors = DiskBatches(data, SCALING, VOCABULARY, buffer_rows=20)
    groups = []
    for number in range(3):
        list(tensors.shares(8, torch.Generator().manual_seed(0), Part(number, 3)))
        groups.append(set(read_groups))
        read_groups.clear()
    assert sorted(itertools.chain(*groups)) == list(range(10))


def test_the_items_of_a_share_are_placed_among_those_of_the_batch() -> None:
    data = numbered(40)
    memory = Batches(data, Scaling.fit(data.features, 0.5), VOCABULARY)
    (whole,) = memory.shares(40, torch.Generator().manual_seed(1), Part())
    assert whole.batch is not None
    numbers = memory.batch(whole.batch.at_us).items.content
    for number in range(3):
        (share,) = memory.shares(40, torch.Generator().manual_seed(1), Part(number, 3))
        assert share.batch is not None
        assert share.places is not None
        assert share.items == len(numbers)
        assert torch.equal(numbers[share.places], share.batch.items.content)


def test_torch_without_gloo_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    with (
        pytest.raises(ConfigError, match="expected a build of torch with gloo.*start the command without torchrun"),
        joined_processes(),
    ):
        pass


def test_fewer_gpus_than_processes_are_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    processes = JoinedProcesses.__new__(JoinedProcesses)
    with pytest.raises(ConfigError, match='expected a GPU for each of the 2 processes.*got 1.*training.device = "cpu"'):
        processes.device("auto")
    assert processes.device("cpu").type == "cpu"


def test_a_process_by_itself_is_alone() -> None:
    with joined_processes() as processes:
        assert processes.part == Part(0, 1)
        assert processes.leads
