"""The main job: resumable stages from a click log to online scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranking.data.caps import Caps
from ranking.data.codebook_window import CodebookWindow, check_training_rows
from ranking.data.dataset import read_rows
from ranking.data.labelled_rows import FAR, read_moments
from ranking.data.rows_used import of_sample, rows_summary
from ranking.data.split import TimeSplit
from ranking.data.targets import check_target, target_inputs
from ranking.pipeline.arm_stages import ArmStages, TrainedArm, TrainedArms
from ranking.pipeline.codebook_window import given_codebook, window_of
from ranking.pipeline.conclusions import ServingChoice
from ranking.pipeline.controls import ControlStages
from ranking.pipeline.mlflow_log import log_rankers_if_enabled
from ranking.pipeline.prepare import (
    Prepared,
    end_of_log,
    fallback_of,
    feature_inputs,
    prepare_repo,
)
from ranking.pipeline.presets import Preset, check_extras, load_preset
from ranking.pipeline.questions import questions, without_baselines
from ranking.pipeline.report import write_report
from ranking.pipeline.results import CodebookFacts, HitRates, LogChanges, RunResult, StageTime
from ranking.pipeline.usable_preset import usable_preset
from ranking.training.calibration import Calibration
from ranking.training.launch import launched_processes
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.quality.future_hit_rate import future_hits
from semantic_ids.quality.hit_rate import HitReport
from sidkit.core.arrays import Ints
from sidkit.core.clock import check_as_of
from sidkit.core.errors import ConfigError
from sidkit.core.files import write_json
from sidkit.core.memory import peak_rss_mb
from sidkit.core.names import codebook_stem
from sidkit.core.progress import SILENT, Progress
from sidkit.core.repo import Repo
from sidkit.core.shared_artifacts import share_report
from sidkit.core.stages import StageResult, Stages
from sidkit.datasets import named_dataset
from sidkit.presets import preset_name
from sidkit.stores.online_place import OnlinePlace
from sidkit.tables import read_log
from sidkit.tables.labelled_rows import log_moments

if TYPE_CHECKING:
    from ranking.training.processes import Processes


@dataclass(frozen=True)
class JobOptions:
    """Options of the main job."""

    data: str
    preset_name: str
    preset: Preset
    seeds: int = 1
    as_of_us: int | None = None
    impressions: int = 200_000
    allow_future: bool = False
    codebook: str | None = None
    """A fitted codebook to train rankers on; None: fit one."""


def run_preset(
    repo: Repo | Path,
    data: str,
    preset: str,
    *,
    seeds: int = 1,
    as_of_us: int | None = None,
    impressions: int = 200_000,
    allow_future: bool = False,
    codebook: str | None = None,
    settings_file: Path | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run all stages of a preset, from the log to a serving ranker, and write the HTML report.

    Holds the repo's lock. Stages that ran before on the same inputs are reused, so an interrupted run resumes.

    Parameters
    ----------
    repo : Repo or Path
        The repo or its folder, which is created if missing.
    data : str
        A folder, a SQLAlchemy URL, a built-in data set or a plug-in; see :func:`ranking.pipeline.prepare.prepare_repo`.
    preset : str
        Name of a preset, or path of a ``.toml`` file.
    seeds : int
        Number of seeds per arm.
    as_of_us : int, optional
        Build features up to this time, microseconds UTC; default: the end of the log.
    impressions : int
        Number of impressions of a generated data set.
    allow_future : bool
        Accept a future ``as_of_us``.
    codebook : str, optional
        Train rankers on this fitted codebook instead of fitting one; it is published and promoted.
    settings_file : Path, optional
        A file with ``[source]`` for a repo that this run creates: how columns and values of the data are read.
    progress : Progress, optional
        Receives events while the job runs; default: none.

    Raises
    ------
    ConfigError
        When the preset is invalid, or the repo was created for other data or exists and ``settings_file`` is given.
    MissingExtraError
        When an optional package of the preset is not installed; nothing has been written then.
    RepoLockedError
        When another command is writing to the repo.
    LeakageError
        When ``codebook`` was fitted too late to leave rows to train and evaluate rankers on.
    SidkitError
        When a stage fails; see its message.
    """
    refuse_torchrun()
    loaded = load_preset(preset)
    options = JobOptions(data, preset, loaded, seeds, as_of_us, impressions, allow_future, codebook)
    opened = opened_for(repo, options, settings_file)
    with opened.locked():
        result = Job(opened, options, progress or SILENT).run()
        share_report(opened, result.folder.name)
    log_rankers_if_enabled(opened, [name for names in result.rankers.values() for name in names])
    return result


def opened_for(repo: Repo | Path, options: JobOptions, settings_file: Path | None = None) -> Repo:
    """Open or create the repository of a job, after checking its options; see :func:`run_preset`."""
    check_extras(options.preset)
    if options.as_of_us is not None:
        check_as_of(options.as_of_us, allow_future=options.allow_future)
    opened = prepare_repo(options.data, repo.path if isinstance(repo, Repo) else repo, settings_file)
    check_target(opened.settings, options.preset.ranker.training.target)
    return opened


def refuse_torchrun() -> None:
    """Raise if torchrun started several processes, of which each would run the whole job.

    Raises
    ------
    ConfigError
        With the commands that share the training.
    """
    if (processes := launched_processes()) > 1:
        raise ConfigError(
            f"expected `sidkit run` in one process, got {processes} of torchrun; train with `torchrun --nproc-per-node "
            f"{processes} -m sidkit ranker train`, then start `sidkit run` by itself: it reuses the trained arms"
        )


@dataclass(frozen=True)
class _Framed:
    """What the stages up to the frame made; ``inputs`` are those of the arms."""

    codebook: str
    split: TimeSplit
    window: CodebookWindow
    parts: dict[str, dict[str, int]]
    labelled: dict[str, Any]
    tables: StageResult
    frame: StageResult
    as_of_us: int
    arms: ArmStages
    inputs: Any


class Job:
    """A run of a preset on a repo; hold the repo's lock while calling :meth:`run`."""

    def __init__(self, repo: Repo, options: JobOptions, progress: Progress = SILENT) -> None:
        self.repo = repo
        self.options = options
        self.preset = options.preset
        """The preset in use; on a small catalogue, :meth:`run` drops the arms that read codes."""
        self.target = self.preset.ranker.training.target
        self.warnings: list[str] = []
        self.progress = progress
        self.folder = repo.runs / preset_name(options.preset_name)
        self.stages = Stages(self.folder / "stages.json", progress)
        self.prepared = Prepared(repo, self.stages, options.data, options.impressions, options.allow_future, progress)

    def run(self) -> RunResult:
        """Run all stages, write the HTML report and return the result; :mod:`sidkit.cli.run_report` prints it."""
        repo, options, framed = self.repo, self.options, self._framed()
        codebook, split, parts = framed.codebook, framed.split, framed.parts
        arms = framed.arms.run(framed.inputs)
        self._note(without_baselines(self.preset, arms.by_prefix))
        dataset = named_dataset(options.data)
        self._materialize(framed.as_of_us, [codebook, framed.tables.facts])
        serving = self._promote(codebook, arms)
        if serving.ranker is not None:
            framed.arms.measure_importance(serving)
        result = RunResult(
            data=options.data,
            preset=options.preset_name,
            repo=repo,
            folder=self.folder,
            codebook=CodebookFacts.read(repo, codebook),
            window=framed.window,
            split=split,
            as_of_us=framed.as_of_us,
            serving=serving,
            questions=questions(self.preset, arms.validation_auc, arms.by_prefix),
            seeds=options.seeds,
            impressions=options.impressions if dataset is not None and dataset.is_sized else None,
            hit_rate=HitRates.read(self.folder / "hit_rate.json", codebook),
            evaluation=arms.evaluation,
            rankers=arms.ranker_of,
            log=LogChanges.of(self.stages.facts("ingest"), self.folder / "stages.json"),
            stages=tuple(StageTime(**stage) for stage in self.stages.report()),
            peak_rss_mb=peak_rss_mb(),
            sampled=framed.labelled["sampled"],
            warnings=tuple(self.warnings),
            parts=parts,
            calibration=Calibration.of(repo.settings, self.target, framed.frame.facts["rate"]),
        )
        write_report(result)
        return result

    def train(self, only: Sequence[str] = (), processes: Processes | None = None) -> dict[str, tuple[TrainedArm, ...]]:
        """Run all stages up to the training of some arms, by default of all; a later :meth:`run` reuses them.

        Parameters
        ----------
        only : sequence of str
            Arms; members of blends among them are trained too.
        processes : Processes, optional
            The processes that train together; the others are in :func:`ranking.pipeline.beside.train_tasks`.

        Returns
        -------
        dict
            Arm -> ranker and validation AUC of each seed.

        Raises
        ------
        ConfigError
            When the preset has no such arm.
        """
        framed = self._framed(processes)
        return framed.arms.train(framed.inputs, only)[0]

    def _framed(self, processes: Processes | None = None) -> _Framed:
        """Run all stages up to the frame."""
        repo, options, prepared = self.repo, self.options, self.prepared
        log = prepared.ingest()
        for table in read_log(repo).manifest["tables"]:
            for text in table.get("warnings", ()):
                self._note(f"{table['table']}: {text}")
        as_of_us = options.as_of_us or end_of_log(repo)
        moments = log_moments(repo, options.as_of_us)
        split = TimeSplit.of(moments, repo.settings.split)
        planned = self._planned(split, moments)
        caps = options.preset.ranker.training.caps
        sample = caps.sample_of(repo, planned)
        rows = prepared.rows(log, sample, until_us=options.as_of_us, target=self.target)
        tables = prepared.tables(log, as_of_us)
        # Codebooks do not depend on attributes.
        codebook_inputs = [log, {name: tables.facts[name] for name in ("as_of_us", "rows")}, split.inputs()]
        codebook = self._codebook(split, codebook_inputs, moments)
        self._note(fallback_of(self.repo, codebook))
        self._hit_rate(codebook, codebook_inputs)
        split, window = window_of(repo, codebook, split, moments)
        if sample is not None and split != planned:  # the codebook fell back to content, which leaves all rows
            sample = caps.sample_of(repo, split)
            rows = prepared.rows(log, sample, "_all", options.as_of_us, self.target)
        labelled, rows_file = rows.facts, rows.files[0]
        context_inputs = [
            log,
            codebook,
            labelled,
            tables.facts,
            split.inputs(),
            asdict(caps),
            *target_inputs(self.target),
            *feature_inputs(repo.settings.features),
        ]
        remaining = Caps() if sample is not None else caps  # sampled rows are already thinned
        training_rows = min(len(split.parts(read_moments(rows_file))["train"]), remaining.train or FAR)
        if training_rows > (limit := self.preset.ranker.training.stream_rows):
            context_inputs = [*context_inputs, "streamed", limit]
            frame = prepared.streamed_frame(
                "frame", context_inputs, codebook, rows_file, split, remaining, self.folder / "frame", self.target
            )
        else:
            in_memory = read_rows(rows_file, target=self.target, context=tuple(repo.settings.features.context))
            frame = prepared.frame(
                "frame", context_inputs, codebook, in_memory, split, remaining, self.folder / "frame"
            )
        parts = of_sample(frame.facts["parts"], labelled["available"]) if sample else frame.facts["parts"]
        window = window.with_rows(parts["train"]["available"])
        if window.sentence is not None:
            self.progress.remark(window.sentence)
        self.progress.remark(rows_summary(parts))
        controls = ControlStages(repo, self.stages, codebook, split, self.folder / "frame", frame).run(
            self.preset.arms.values(), self.preset.ranker, context_inputs
        )
        arms = ArmStages(
            repo,
            self.stages,
            self.folder,
            self.preset,
            options.seeds,
            codebook,
            split,
            self.progress,
            controls,
            processes,
        )
        inputs = [context_inputs, frame.facts]
        return _Framed(codebook, split, window, parts, labelled, tables, frame, as_of_us, arms, inputs)

    def _planned(self, split: TimeSplit, moments: Ints) -> TimeSplit:
        """The split for rankers, unless the codebook falls back to content."""
        given = self.options.codebook
        if given is not None:
            record = given_codebook(self.repo, self.options.preset_name, self.preset, given, split, moments)
            return window_of(self.repo, record.name, split, moments)[0]
        if not self.preset.codebook.needs_pairs:
            return split
        return split.training_from(split.fit_end_us(learns_from_clicks=True))

    def _codebook(self, split: TimeSplit, inputs: Any, moments: Ints) -> str:
        """Fit and publish the codebook of the preset, or publish the given one; returns its name."""
        given = self.options.codebook
        if given is not None:
            return self.prepared.given_codebook(Catalog.open(self.repo).codebook(given), inputs)
        learns = self.preset.codebook.needs_pairs
        fit_end_us = split.fit_end_us(learns_from_clicks=learns)
        self.preset, note = usable_preset(self.repo, self.options.preset, fit_end_us)
        self._note(note)
        if learns and self.preset.codebook.needs_pairs:
            check_training_rows(len(split.training_from(fit_end_us).parts(moments)["train"]), split)
        return self.prepared.codebook(
            codebook_stem(preset_name(self.options.preset_name)), self.preset.codebook, fit_end_us, inputs
        )

    def _note(self, text: str | None) -> None:
        """Record and print a warning, if any."""
        if text is not None:
            self.warnings.append(text)
            self.progress.warning(text)

    def _hit_rate(self, codebook: str, inputs: Any) -> None:
        path = self.folder / "hit_rate.json"

        def measure() -> StageResult:
            hits = future_hits(self.repo, [codebook], self.options.as_of_us or end_of_log(self.repo))
            write_json(path, hits.as_json())
            return StageResult(len(hits.pairs) if isinstance(hits, HitReport) else 0, files=(path,))

        self.stages.run("hit_rate", [*inputs, codebook], measure)

    def _materialize(self, as_of_us: int, inputs: list[Any]) -> None:
        place = OnlinePlace.of(self.repo)

        def write() -> StageResult:
            from sidkit.stores.feast_repo import materialize

            keys = materialize(self.repo, as_of_us)
            return StageResult(sum(keys.values()), {"keys": keys}, place.files)

        self.stages.run("materialize", [*inputs, *place.mark], write, lambda facts: place.holds(facts["keys"]))

    def _promote(self, codebook: str, arms: TrainedArms) -> ServingChoice:
        """Promote the codebook and, among the arms that may serve, the ranker with the best validation AUC."""
        catalog = Catalog.open(self.repo)
        if catalog.codebook(codebook).state != "serving":
            lifecycle.promote(self.repo, codebook)
        candidates = [
            (score, name, arm)
            for arm in self.preset.ranker.serve
            for score, name in zip(arms.validation_auc.get(arm, ()), arms.ranker_of.get(arm, ()), strict=True)
            if name is not None
        ]
        choice = ServingChoice.of(candidates)
        if choice.ranker is not None and catalog.ranker(choice.ranker).state != "serving":
            catalog.set_ranker_state(choice.ranker, "serving")
        return choice
