"""Stages that make the control parts of a frame, for arms with shuffled or random codes that read statistics of codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ranking.data.control_codes import ControlKind
from ranking.data.split import TimeSplit
from ranking.training.arm_spec import ArmSpec, RankerSpec
from semantic_ids.code_stats import code_stats_of
from sidkit.core.repo import Repo
from sidkit.core.stages import StageResult, Stages


def control_folder(frame: Path, kind: ControlKind) -> Path:
    """Folder of a control part, beside its frame."""
    return frame.with_name(f"{frame.name}-{kind}")


def control_folders(made: Mapping[ControlKind, StageResult]) -> dict[ControlKind, Path]:
    """Folders of the control parts that :meth:`ControlStages.run` made."""
    return {kind: result.files[0] for kind, result in made.items()}


def control_inputs(made: Mapping[ControlKind, StageResult], arm: ArmSpec, spec: RankerSpec) -> list[Any]:
    """What the training of an arm depends on besides its frame: the control part that it reads, if any."""
    kind = arm.counted_control(spec.features)
    return [made[kind].facts] if kind is not None and kind in made else []


class ControlStages:
    """Makes the control parts of a frame, one stage per kind of control codes.

    Parameters
    ----------
    repo, stages
        The repository, whose lock the caller holds, and the record of stages.
    codebook : str
        Name of the codebook of the frame.
    split : TimeSplit
        The parts of the frame.
    frame : Path
        Folder of the frame.
    made : StageResult
        The stage that made the frame.
    """

    def __init__(
        self, repo: Repo, stages: Stages, codebook: str, split: TimeSplit, frame: Path, made: StageResult
    ) -> None:
        self.repo = repo
        self.stages = stages
        self.codebook = codebook
        self.split = split
        self.frame = frame
        self.made = made

    def run(
        self, arms: Iterable[ArmSpec], spec: RankerSpec, inputs: Any, mark: str = ""
    ) -> dict[ControlKind, StageResult]:
        """Make the control parts that some arms read.

        Parameters
        ----------
        arms : iterable of ArmSpec
            The arms that are trained on the frame.
        spec : RankerSpec
            Its ``features`` are those that arms read by default.
        inputs : Any
            Inputs of the frame.
        mark : str
            Suffix of the names of the stages.

        Returns
        -------
        dict
            Kind of control codes -> its stage, whose facts are inputs of the arms.
        """
        kinds = sorted({kind for arm in arms if (kind := arm.counted_control(spec.features)) is not None})
        if not kinds or code_stats_of(self.repo, self.codebook) is None:
            return {}
        return {kind: self._run(kind, inputs, mark) for kind in kinds}

    def _run(self, kind: ControlKind, inputs: Any, mark: str) -> StageResult:
        from ranking.data.control_frame import control_seed, write_control

        facts, folder = {"control": kind, "seed": control_seed(self.codebook)}, control_folder(self.frame, kind)

        def work() -> StageResult:
            rate = self.made.facts["rate"]
            rows = write_control(self.repo, self.codebook, kind, self.split, self.frame, rate, folder)
            return StageResult(rows, facts, (folder,))

        return self.stages.run(f"control:{kind}{mark}", [inputs, self.made.facts, facts], work)
