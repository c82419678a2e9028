"""Stages are done once, kept, and done again only when they must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidkit.core.progress import Progress, StageDone
from sidkit.core.stages import StageResult, Stages


class Work:
    """A stage that writes its inputs to a file, counts its calls and can be made to break."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "result.txt"
        self.calls = 0

    def __call__(self, text: str = "done", *, breaks: bool = False) -> Callable[[], StageResult]:
        def work() -> StageResult:
            self.calls += 1
            self.file.write_text(text)
            if breaks:
                raise KeyboardInterrupt
            return StageResult(7, {"text": text, "pair": [1, 2]}, (self.file,))

        return work


class Received(Progress):
    """Lists the events of stages."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.finished: list[StageDone] = []

    def stage_started(self, name: str) -> None:
        self.started.append(name)

    def stage_finished(self, done: StageDone) -> None:
        self.finished.append(done)


def fresh(folder: Path) -> Stages:
    return Stages(folder / "run" / "stages.json")


def test_a_stage_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    work = Work(tmp_path)
    first = fresh(tmp_path).run("fit", {"a": 1}, work())
    again = fresh(tmp_path).run("fit", {"a": 1}, work("never"))
    assert work.calls == 1
    assert (again.rows, again.facts) == (first.rows, first.facts)
    assert [file.resolve() for file in again.files] == [work.file]
    assert again.facts == {"text": "done", "pair": [1, 2]}
    assert work.file.read_text() == "done"


def test_the_order_of_keys_and_tuples_for_lists_are_the_same_inputs(tmp_path: Path) -> None:
    work = Work(tmp_path)
    fresh(tmp_path).run("fit", {"a": 1, "b": (1, 2)}, work())
    fresh(tmp_path).run("fit", {"b": [1, 2], "a": 1}, work())
    assert work.calls == 1


@pytest.mark.parametrize("inputs", [{"a": 2}, {"a": "1"}, {"a": 1, "b": None}, [1], None])
def test_other_inputs_run_a_stage_again(tmp_path: Path, inputs: Any) -> None:
    work = Work(tmp_path)
    fresh(tmp_path).run("fit", {"a": 1}, work())
    found = fresh(tmp_path).run("fit", inputs, work("anew"))
    assert work.calls == 2
    assert found.facts["text"] == "anew"


def test_a_stage_whose_file_is_gone_is_run_again(tmp_path: Path) -> None:
    work = Work(tmp_path)
    fresh(tmp_path).run("fit", 1, work())
    work.file.unlink()
    fresh(tmp_path).run("fit", 1, work())
    assert work.calls == 2
    assert work.file.exists()


def test_stages_of_other_names_are_apart(tmp_path: Path) -> None:
    work = Work(tmp_path)
    stages = fresh(tmp_path)
    stages.run("fit", 1, work())
    stages.run("train", 1, work())
    assert work.calls == 2


def test_a_crash_keeps_the_stages_before_it(tmp_path: Path) -> None:
    work, next_work = Work(tmp_path), Work(tmp_path)
    stages = fresh(tmp_path)
    stages.run("fit", 1, work())
    with pytest.raises(KeyboardInterrupt):
        stages.run("train", 1, next_work(breaks=True))
    resumed = fresh(tmp_path)
    resumed.run("fit", 1, work())
    resumed.run("train", 1, next_work())
    assert (work.calls, next_work.calls) == (1, 2)


def test_a_stage_that_crashed_on_new_inputs_is_not_believed_on_the_old_ones(tmp_path: Path) -> None:
    work = Work(tmp_path)
    fresh(tmp_path).run("tables", "monday", work("monday"))
    with pytest.raises(KeyboardInterrupt):
        fresh(tmp_path).run("tables", "tuesday", work("tuesday", breaks=True))
    fresh(tmp_path).run("tables", "monday", work("monday"))
    assert work.file.read_text() == "monday"


def test_a_run_that_was_moved_keeps_its_stages(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    work = Work(tmp_path / "here")
    fresh(tmp_path / "here").run("fit", 1, work())
    (tmp_path / "here").rename(tmp_path / "there")
    kept = fresh(tmp_path / "there").run("fit", 1, work())
    assert work.calls == 1
    assert [file.resolve() for file in kept.files] == [tmp_path / "there" / "result.txt"]


def test_what_happened_is_announced_and_reported_in_order(tmp_path: Path) -> None:
    received = Received()
    work = Work(tmp_path)
    for _ in range(2):
        stages = Stages(tmp_path / "stages.json", received)
        stages.run("fit", 1, work())
        stages.run("train", 1, work())
    assert received.started == ["fit", "train"]
    assert [(done.name, done.rows, done.reused) for done in received.finished] == [
        ("fit", 7, False), ("train", 7, False), ("fit", 7, True), ("train", 7, True),
    ]  # fmt: skip
    assert [(each["name"], each["rows"]) for each in stages.report()] == [("fit", 7), ("train", 7)]
    # A reused stage has the seconds of the run that computed it.
    seconds = [done.seconds for done in received.finished]
    assert seconds[:2] == seconds[2:]


def test_the_report_lists_only_the_stages_of_this_run(tmp_path: Path) -> None:
    work = Work(tmp_path)
    fresh(tmp_path).run("train:old_arm", 1, work())
    stages = fresh(tmp_path)
    stages.run("fit", 1, work())
    assert [each["name"] for each in stages.report()] == ["fit"]


def test_a_stage_whose_result_elsewhere_is_gone_is_done_again(tmp_path: Path) -> None:
    work, asked = Work(tmp_path), []

    def told(answer: bool) -> Callable[[Any], bool]:
        return lambda facts: asked.append(dict(facts)) or answer

    Stages(tmp_path / "stages.json").run("rows", 1, work("a"), told(False))
    Stages(tmp_path / "stages.json").run("rows", 1, work("b"), told(True))
    assert (work.calls, work.file.read_text()) == (1, "a")
    Stages(tmp_path / "stages.json").run("rows", 1, work("c"), told(False))
    assert (work.calls, work.file.read_text()) == (2, "c")
    assert asked == [{"text": "a", "pair": [1, 2]}] * 2, "the first run has nothing to ask for"
