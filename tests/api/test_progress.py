"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from helpers.places import ROOT
from sidkit.api.progress import LineProgress, LiveProgress, epoch_text, shown_progress
from sidkit.core.progress import EpochDone, Progress, StageDone, TreesGrown


def lines(*, verbose: bool = False, quiet: bool = False, terminal: bool = False) -> list[str]:
    """What is printed about two stages."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, color_system=None, emoji=False, highlight=False)
    with shown_progress(console=console, verbose=verbose, quiet=quiet) as progress:
        play(progress)
    return out.getvalue().splitlines()


def play(progress: Progress) -> None:
    progress.stage_finished(StageDone("ingest", 24_000, 0.71, reused=True))
    progress.stage_started("train:id:s0")
    for epoch in (1, 2):
        progress.epoch_finished(EpochDone("id", 0, epoch, 24, 0.4123 / epoch, 0.65))
    progress.trees_grown(TreesGrown("gbdt", 0, 120, 400, 0.66))
    progress.stage_finished(StageDone("train:id:s0", 15_580, 3.46, reused=False))
    progress.remark("used: all [rows]")


def test_elsewhere_there_is_one_line_per_stage() -> None:
    assert [re.sub(" +", " ", line) for line in lines()] == [
        "reused ingest 24,000 rows 0.7 s",
        "done train:id:s0 15,580 rows 3.5 s",
        "used: all [rows]",
    ]


def test_verbose_adds_epochs_and_trees() -> None:
    printed = "\n".join(lines(verbose=True))
    assert "id seed 0: epoch 1/24, loss 0.4123, validation AUC 0.6500" in printed
    assert "gbdt seed 0: 120 of 400 trees, validation AUC 0.6600" in printed


def test_quiet_prints_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(quiet=True) == []
    with shown_progress(quiet=True) as progress:
        progress.warning("few items")
    assert capsys.readouterr().err == "warning: few items\n"


def test_the_name_of_a_stage_is_never_cut_or_broken() -> None:
    out = io.StringIO()
    name = "train:" + "a" * 100
    LineProgress(Console(file=out, width=80)).stage_finished(StageDone(name, 1, 1.0, reused=False))
    assert name in out.getvalue()


def test_a_terminal_shows_the_running_epoch_with_the_time_left() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    live = LiveProgress(console)
    live.stage_started("train:id:s0")
    for epoch in (1, 2):
        live.epoch_finished(EpochDone("id", 0, epoch, 24, 0.4, 0.65))
    with console.capture() as capture:
        console.print(live._line())
    assert re.search(
        r"train:id:s0, \d+ s, epoch 2/24, loss 0.4000, validation AUC 0.6500, at most \d+ s left", capture.get()
    )
    live.stage_finished(StageDone("train:id:s0", 1, 1.0, reused=False))
    assert str(live._line()) == ""


SCRIPT = """
import sys, time
from sidkit.core.interrupt import interruptible
from sidkit.api.progress import shown_progress
from sidkit.core.progress import EpochDone, StageDone
with interruptible():
    with shown_progress() as progress:
        progress.stage_finished(StageDone("ingest", 10, 0.1, reused=False))
        progress.stage_started("train:id:s0")
        progress.epoch_finished(EpochDone("id", 0, 1, 24, 0.41, 0.65))
        time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
def test_ctrl_c_removes_the_live_line_and_says_what_is_saved() -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(slave)
    printed = b""
    while b"epoch 1/24" not in printed:
        printed += os.read(master, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while more := os.read(master, 4096):
            printed += more
    except OSError:  # how Linux reports that the other end is closed
        pass
    assert process.wait(20) == 130
    os.close(master)
    text = printed.decode()
    after = text[text.rindex("epoch 1/24") :]
    assert "\x1b[2K" in after, "the live line is erased"
    last_hidden, last_shown = text.rfind("\x1b[?25l"), text.rfind("\x1b[?25h")
    assert last_shown > last_hidden, "the cursor is visible"
    assert text.endswith(
        "sidkit: interrupted by Ctrl-C; finished stages are saved and partial work was rolled back. Run the same command "
        "again to resume\r\n"
    )
    assert re.search(r"done.* ingest", text)


def test_an_epoch_in_words() -> None:
    assert epoch_text(EpochDone("id", 0, 3, 24, 0.41234, 0.6543)) == "epoch 3/24, loss 0.4123, validation AUC 0.6543"
