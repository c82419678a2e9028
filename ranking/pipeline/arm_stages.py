"""Stages of the main job that train, evaluate and explain the arms of a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ranking.data.code_schema import names_code_stats
from ranking.data.control_codes import ControlKind
from ranking.data.split import TimeSplit
from ranking.data.targets import CLICKED
from ranking.evaluation.evaluator import refuse_leakage
from ranking.pipeline.beside import Task
from ranking.pipeline.conclusions import ServingChoice
from ranking.pipeline.controls import control_folders, control_inputs
from ranking.pipeline.evaluation import RunEvaluation, evaluate_arms
from ranking.pipeline.feature_importance import measure
from ranking.pipeline.prepare import training_context
from ranking.pipeline.presets import Preset
from ranking.pipeline.questions import baselines
from ranking.pipeline.world import world_probabilities
from ranking.training.adapted_arm import adapted_arm, save_adapted_arm
from ranking.training.arm_members import members_first, saved_arms
from ranking.training.arm_spec import DERIVED, ArmSpec
from ranking.training.arms import TrainingContext, train_arm
from ranking.training.blend import blend_arm, save_blend_arm
from ranking.training.predictions import read_details, read_predictions, write_predictions
from semantic_ids.catalog import Catalog
from sidkit.core.artifact import discard_damaged, read_manifest
from sidkit.core.config import content_hash
from sidkit.core.errors import ArtifactError, CatalogError, ConfigError
from sidkit.core.files import write_json
from sidkit.core.progress import Progress
from sidkit.core.records import read_record
from sidkit.core.repo import Repo
from sidkit.core.stages import StageResult, Stages

if TYPE_CHECKING:
    from ranking.training.processes import Processes


@dataclass(frozen=True)
class TrainedArms:
    """Rankers, validation AUC and evaluation of all arms."""

    ranker_of: dict[str, tuple[str | None, ...]]
    """Arm -> ranker artefact of each seed; None for an arm that cannot serve."""
    validation_auc: dict[str, tuple[float, ...]]
    """Arm -> validation AUC of each seed."""
    evaluation: RunEvaluation
    by_prefix: frozenset[str] = frozenset()
    """Arms that read statistics of code prefixes."""


class TrainedArm(NamedTuple):
    """One arm trained with one seed: the name of its ranker, None if it cannot serve, and its validation AUC."""

    ranker: str | None
    validation_auc: float


class ArmStages:
    """Trains, evaluates and explains the arms of a preset on a saved frame, one stage per arm and seed.

    Parameters
    ----------
    repo, stages, folder
        The repository, whose lock the caller holds, the record of its stages, and the folder of the run.
    preset : Preset
        Its arms are trained.
    seeds : int
        Number of seeds per arm.
    codebook : str
        Name of the codebook of the frame.
    split : TimeSplit
        The parts of the frame.
    progress : Progress
        Receives events.
    controls : mapping
        Control parts of the frame (:mod:`ranking.pipeline.controls`).
    processes : Processes, optional
        The processes that train neural arms together, of which this is process 0.
    """

    def __init__(
        self,
        repo: Repo,
        stages: Stages,
        folder: Path,
        preset: Preset,
        seeds: int,
        codebook: str,
        split: TimeSplit,
        progress: Progress,
        controls: Mapping[ControlKind, StageResult] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.repo = repo
        self.stages = stages
        self.folder = folder
        self.preset = preset
        self.seeds = seeds
        self.codebook = codebook
        self.split = split
        self.progress = progress
        self.controls = controls or {}
        self.saved = saved_arms(preset.arms, preset.ranker.serve)
        self.processes = processes
        """Arms besides the neural ones whose artefacts are saved."""

    def train(self, inputs: Any, only: Sequence[str] = ()) -> tuple[dict[str, tuple[TrainedArm, ...]], dict[str, str]]:
        """Train arms, by default all; ``inputs`` are those of the frame.

        Parameters
        ----------
        inputs : Any
            Inputs of the frame, and its facts.
        only : sequence of str
            Arms; members of blends among them are trained too.

        Returns
        -------
        tuple
            Arm -> ranker and validation AUC of each seed, and ``<arm>-s<seed>`` -> hash of its inputs.

        Raises
        ------
        ConfigError
            When the preset has no such arm.
        """
        if unknown := sorted(set(only) - set(self.preset.arms)):
            raise ConfigError(
                f"expected arms of the preset ({', '.join(self.preset.arms)}), got {', '.join(unknown)}; correct the name"
            )
        chosen = set(only or self.preset.arms)
        chosen |= {member for arm in chosen for member in self.preset.arms[arm].of}
        trained: dict[str, tuple[TrainedArm, ...]] = {}
        files: dict[str, str] = {}
        for arm in members_first(self.preset.arms):
            spec = self.preset.arms[arm]
            for seed in range(self.seeds if arm in chosen else 0):
                marked = [inputs, spec.model_dump(), self.preset.ranker.model_dump(mode="json"), seed]
                marked += [files[f"{member}-s{seed}"] for member in sorted(spec.of)]
                marked += control_inputs(self.controls, spec, self.preset.ranker)
                if arm in self.saved:
                    marked += ["saved"]
                name = f"{self.codebook}_{arm}_s{seed}_{content_hash(marked)[:6]}"
                path = self._predictions(arm, seed)
                members = {member: str(trained[member][seed].ranker) for member in spec.of}
                work = partial(self._train, arm, spec, seed, name, path, members)
                result = self.stages.run(f"train:{arm}:s{seed}", marked, work)
                one = TrainedArm(result.facts["ranker"], result.facts["validation_auc"])
                trained[arm] = (*trained.get(arm, ()), one)
                files[f"{arm}-s{seed}"] = content_hash(marked)
        return trained, files

    def run(self, inputs: Any) -> TrainedArms:
        """Train and evaluate all arms; ``inputs`` are those of the frame."""
        trained, files = self.train(inputs)
        ranker_of = {arm: tuple(each.ranker for each in seeds) for arm, seeds in trained.items()}
        validation = {arm: tuple(each.validation_auc for each in seeds) for arm, seeds in trained.items()}
        verdict_path = self.folder / "verdict.json"
        by_prefix = frozenset(arm for arm in self.preset.arms if self._reads_code_stats(arm))
        against = baselines(self.preset, by_prefix)

        def evaluate() -> StageResult:
            evaluated = self._evaluate(self._context, against)
            write_json(verdict_path, evaluated.as_json())
            return StageResult(evaluated.rows["all"].rows, files=(verdict_path,))

        self.stages.run("evaluate", [inputs, files, against], evaluate)
        evaluation = read_record(RunEvaluation, verdict_path)
        in_order = {arm: evaluation.arms[arm] for arm in self.preset.arms}  # keys are sorted in the file
        rankers = {arm: ranker_of[arm] for arm in self.preset.arms}
        return TrainedArms(rankers, validation, replace(evaluation, arms=in_order), by_prefix)

    def _predictions(self, arm: str, seed: int) -> Path:
        return self.folder / "predictions" / f"{arm}-s{seed}.parquet"

    @cached_property
    def _context(self) -> TrainingContext:
        """The frame and what arms share; loaded only if a stage needs it."""
        context = training_context(
            self.repo,
            self.codebook,
            self.split,
            self.folder / "frame",
            self.preset.ranker,
            self.repo.rankers,
            threads=self.repo.settings.engine.threads,
            importance=True,
        )
        return replace(context, controls=control_folders(self.controls), served=self.saved)

    def _train(
        self, arm: str, spec: ArmSpec, seed: int, name: str, path: Path, members: Mapping[str, str]
    ) -> StageResult:
        context = self._context
        with suppress(
            CatalogError, ArtifactError
        ):  # a ranker that another machine trained is not trained to another one
            Catalog.open(self.repo).ranker(name)
        anew = discard_damaged(self.repo.rankers / name) or not (self.repo.rankers / name).exists()
        if spec.kind == "blend":
            predictions = {member: self._predictions(member, seed) for member in spec.of}
            result = blend_arm(arm, seed, spec, context.validation, context.test, predictions, self.progress)
            if arm in self.saved:
                result = save_blend_arm(context, arm, seed, name, result, members)
        elif spec.kind == "adapter":
            delay_us = self.repo.settings.time.delay_us
            predictions = {member: self._predictions(member, seed) for member in spec.of}
            parts = (context.validation, context.test)
            result = adapted_arm(arm, seed, spec, *parts, predictions, delay_us, self.progress)
            if arm in self.saved:
                result = save_adapted_arm(context, arm, seed, name, spec, result, members, predictions, delay_us)
        else:
            if self.processes is not None and self.processes.part.of > 1:
                frame, features = self.folder / "frame", self.preset.ranker.features
                task = Task(self.codebook, self.split, frame, arm, seed, name, features, context.controls)
                joined = partial(task.send, self.repo, self.processes)
                context = replace(context, processes=self.processes, before_training=joined)
            result = train_arm(context, arm, spec, seed, name, progress=self.progress)
        write_predictions(path, result)
        files: tuple[Path, ...] = (path,)
        if result.ranker is not None:
            folder = self.repo.rankers / result.ranker
            manifest = read_manifest(folder)
            Catalog.open(self.repo).add_ranker(
                result.ranker,
                content_hash=manifest["content_hash"],
                codebook=context.serving.codebook,
                service=context.serving.service,
                arm=arm,
                fit_end_us=manifest["fit_end_us"],
                anew=anew,
            )
            files = (path, folder / "manifest.json")
        facts = {"ranker": result.ranker, "validation_auc": result.validation_auc}
        rows = len(context.validation) if spec.kind in DERIVED else len(context.train)
        return StageResult(result.details.train_rows or rows, facts, files)

    def _reads_code_stats(self, arm: str) -> bool:
        return names_code_stats(read_details(self._predictions(arm, 0)).get("features") or ())

    def _evaluate(self, context: TrainingContext, against: Sequence[str]) -> RunEvaluation:
        record = Catalog.open(self.repo).codebook(context.serving.codebook)
        refuse_leakage(self.split.validation_end_us, {record.name: record.fit_end_us})
        target = self.preset.ranker.training.target
        arms = {
            arm: [read_predictions(self._predictions(arm, seed)) for seed in range(self.seeds)]
            for arm in self.preset.arms
        }
        known = world_probabilities(self.repo, context.test) if target == CLICKED else None
        return evaluate_arms(
            context.test,
            arms,
            against,
            known.oracle if known else None,
            ceiling=known.ceiling if known else None,
            target=target,
        )

    def measure_importance(self, serving: ServingChoice) -> None:
        """Measure the permutation importance of the serving ranker's features on validation rows."""

        def work() -> StageResult:
            return measure(self.folder, self.repo.rankers, serving.ranker or "", serving.arm or "", self._context)

        self.stages.run("importance", [serving.ranker], work)
