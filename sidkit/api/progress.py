"""Progress of a job: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from sidkit.core.progress import EpochDone, Progress, StageDone, TreesGrown
from sidkit.core.redact import scrubbed

_WIDTH = 32
"""Width of the names of stages; longer names push the other columns to the right."""


class LineProgress(Progress):
    """Prints one line per finished stage, and with ``verbose`` one per epoch.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    verbose : bool
        Whether to print epochs.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self.console = console
        self.verbose = verbose

    def stage_finished(self, done: StageDone) -> None:
        """Print name, rows and seconds."""
        mark = Text("reused", "dim") if done.reused else Text("done  ", "green")
        self._print(Text.assemble(mark, f" {done.name:<{_WIDTH}} {done.rows:>12,} rows {done.seconds:>8.1f} s"))

    def epoch_finished(self, done: EpochDone) -> None:
        """Print loss and validation AUC."""
        if self.verbose:
            self._print(Text(f"       {done.arm} seed {done.seed}: {epoch_text(done)}", "dim"))

    def trees_grown(self, done: TreesGrown) -> None:
        """Print the number of trees and the validation AUC."""
        if self.verbose:
            says = f"{done.trees} of {done.most} trees, validation AUC {done.validation_auc:.4f}"
            self._print(Text(f"       {done.arm} seed {done.seed}: {says}", "dim"))

    def remark(self, text: str) -> None:
        """Print the text."""
        self._print(Text(text))

    def warning(self, text: str) -> None:
        """Print the text to stderr."""
        sys.stderr.write(f"warning: {scrubbed(text)}\n")

    def _print(self, text: Text) -> None:
        # soft_wrap prints a long name in full instead of breaking it.
        self.console.print(text, soft_wrap=True)


class LiveProgress(LineProgress):
    """Also shows the running stage below the lines: its seconds, and the epoch with loss, validation AUC and time left.

    Use it as a context manager; at the end, also after an error or Ctrl-C, the live line is removed.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        super().__init__(console, verbose=verbose)
        self._stage: str | None = None
        self._epoch: EpochDone | None = None
        self._began = 0.0
        self._first: tuple[int, float] | None = None
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._line, transient=True, refresh_per_second=4)

    def __enter__(self) -> LiveProgress:
        self._live.start()
        # Visible throughout, so that no kind of exit can leave the terminal without a cursor.
        self.console.show_cursor(True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stage_started(self, name: str) -> None:
        """Show the stage."""
        self._stage, self._epoch, self._began, self._first = name, None, time.monotonic(), None

    def stage_finished(self, done: StageDone) -> None:
        """Replace the live line by the line of the finished stage."""
        self._stage = None
        super().stage_finished(done)

    def epoch_finished(self, done: EpochDone) -> None:
        """Show epoch, loss, validation AUC and time left."""
        super().epoch_finished(done)
        if self._first is None or self._epoch is None or (self._epoch.arm, self._epoch.seed) != (done.arm, done.seed):
            self._first = (done.epoch, time.monotonic())
        self._epoch = done

    def _line(self) -> Text | Spinner:
        if self._stage is None:
            return Text("")
        parts = [self._stage, f"{time.monotonic() - self._began:.0f} s"]
        if self._epoch is not None:
            parts += [epoch_text(self._epoch), *self._left(self._epoch)]
        self._spinner.update(text=Text(", ".join(parts), overflow="ellipsis", no_wrap=True))
        return self._spinner

    def _left(self, done: EpochDone) -> Iterator[str]:
        """Yield the time left, at most, from the second epoch on; early stopping may end sooner."""
        if self._first is not None and done.epoch > self._first[0]:
            per_epoch = (time.monotonic() - self._first[1]) / (done.epoch - self._first[0])
            yield f"at most {per_epoch * (done.epochs - done.epoch):.0f} s left"


def epoch_text(done: EpochDone) -> str:
    """Return the epoch with its loss and validation AUC."""
    return f"epoch {done.epoch}/{done.epochs}, loss {done.loss:.4f}, validation AUC {done.validation_auc:.4f}"


@contextmanager
def shown_progress(
    *, stderr: bool = False, verbose: bool = False, quiet: bool = False, console: Console | None = None
) -> Iterator[Progress]:
    """Show the progress of a job while the block runs: live on a terminal, else, also in notebooks, as plain lines.

    Parameters
    ----------
    stderr : bool
        Print to stderr instead of stdout.
    verbose : bool
        Print one line per epoch too.
    quiet : bool
        Print warnings only.
    console : rich.console.Console, optional
        Print to this console instead.
    """
    console = console or Console(stderr=stderr, emoji=False, highlight=False, force_jupyter=False)
    if quiet:
        yield _WarningsOnly()
    elif console.is_terminal:
        with LiveProgress(console, verbose=verbose) as live:
            yield live
    else:
        yield LineProgress(console, verbose=verbose)


class _WarningsOnly(Progress):
    def warning(self, text: str) -> None:
        sys.stderr.write(f"warning: {scrubbed(text)}\n")
