"""Progress of a long job as typed events; the command line shows them, Python code may receive them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StageDone:
    """A finished stage; a reused one has the seconds of the run that computed it."""

    name: str
    rows: int
    seconds: float
    reused: bool


@dataclass(frozen=True)
class EpochDone:
    """A finished epoch of a neural arm."""

    arm: str
    seed: int
    epoch: int
    """From 1."""
    epochs: int
    """Maximum number of epochs; early stopping may end the training before."""
    loss: float
    """Mean training loss over the rows of the epoch, in nats, with auxiliary losses."""
    validation_auc: float


@dataclass(frozen=True)
class TreesGrown:
    """A trained gradient-boosting arm."""

    arm: str
    seed: int
    trees: int
    """The number of trees with the best validation AUC."""
    most: int
    """Number of trees that were trained."""
    validation_auc: float


class Progress:
    """Receives the events of a job. All methods do nothing here, so a subclass overrides only what it shows.

    Examples
    --------
    >>> class Losses(Progress):
    ...     def epoch_finished(self, done: EpochDone) -> None:
    ...         print(f"{done.arm}: {done.loss:.3f}")
    >>> Losses().epoch_finished(EpochDone("id", 0, 1, 24, 0.41, 0.65))
    id: 0.410
    """

    def stage_started(self, name: str) -> None:
        """A stage runs; not called for a reused stage."""

    def stage_finished(self, done: StageDone) -> None:
        """A stage has run or is reused."""

    def epoch_finished(self, done: EpochDone) -> None:
        """An epoch of a neural arm has ended."""

    def trees_grown(self, done: TreesGrown) -> None:
        """A gradient-boosting arm is trained."""

    def remark(self, text: str) -> None:
        """A fact about the job, such as the number of rows in use."""

    def warning(self, text: str) -> None:
        """Something that the user should know; results list it too."""


SILENT = Progress()
"""Shows nothing."""
