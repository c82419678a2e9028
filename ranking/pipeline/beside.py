"""Training processes besides process 0: each waits for an arm to train, until all are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ranking.data.control_codes import ControlKind
from ranking.data.split import TimeSplit
from ranking.pipeline.prepare import training_context
from ranking.pipeline.presets import Preset
from ranking.training.arms import train_beside
from sidkit.core.errors import ProcessesError
from sidkit.core.files import typed_path
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    from ranking.training.arms import TrainingContext
    from ranking.training.processes import JoinedProcesses, Processes


@dataclass(frozen=True)
class Task:
    """An arm to train on a saved frame; ``features`` are those that arms read by default, and ``controls`` the folders of the
    frame's control parts.
    """

    codebook: str
    split: TimeSplit
    frame: Path
    arm: str
    seed: int
    name: str
    features: tuple[str, ...] | None
    controls: Mapping[ControlKind, Path]

    def send(self, repo: Repo, processes: Processes) -> None:
        """Give the task to the other processes; folders are relative to the repository, which each has at its own place."""
        cast("JoinedProcesses", processes).send(
            {
                **asdict(self),
                "frame": str(self.frame.relative_to(repo.path)),
                "controls": {kind: str(folder.relative_to(repo.path)) for kind, folder in self.controls.items()},
            }
        )

    @classmethod
    def receive(cls, repo: Repo, values: dict[str, object]) -> Task:
        """The task that :meth:`send` gave to another process."""
        controls = cast("dict[ControlKind, str]", values["controls"])
        features = cast("list[str] | None", values["features"])
        return cls(
            **{  # type: ignore[arg-type]
                **values,
                "split": TimeSplit(**cast("dict[str, int]", values["split"])),
                "frame": repo.path / str(values["frame"]),
                "features": None if features is None else tuple(features),
                "controls": {kind: repo.path / folder for kind, folder in controls.items()},
            }
        )


def train_tasks(path: Path, preset: Preset, processes: JoinedProcesses) -> None:
    """Train the arms that process 0 trains, together with it.

    Parameters
    ----------
    path : Path
        The repository, which process 0 may still have to create: on a file system that all machines share, or a copy of the
        frame.
    preset : Preset
        The preset of process 0.
    processes : JoinedProcesses
        The processes, of which this is not process 0.

    Raises
    ------
    ProcessesError
        When another process stopped, or this one has other rows or settings.
    """
    loaded: tuple[tuple[str, TimeSplit, Path], TrainingContext] | None = None
    while (values := processes.receive()) is not None:
        repo = Repo.open(typed_path(path))
        task = Task.receive(repo, values)
        if task.arm not in preset.arms:
            raise ProcessesError(
                f"expected the arm {task.arm!r} of process 0 in this process's preset, got {', '.join(preset.arms)}; give all "
                "processes the same preset"
            )
        key = (task.codebook, task.split, task.frame)
        if loaded is None or loaded[0] != key:
            threads = repo.settings.engine.threads
            spec = preset.ranker.model_copy(update={"features": task.features})
            context = training_context(repo, task.codebook, task.split, task.frame, spec, repo.rankers, threads=threads)
            loaded = (key, context)
        own = replace(loaded[1], controls=task.controls, processes=processes)
        train_beside(own, task.arm, preset.arms[task.arm], task.seed, task.name)
