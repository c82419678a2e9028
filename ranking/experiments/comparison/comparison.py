"""Run a comparison: codebooks and frames for each time origin, then the trials, then the evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ranking.data.caps import Caps
from ranking.data.codebook_window import CodebookWindow, check_training_rows
from ranking.data.dataset import LabelledRows, read_rows
from ranking.data.rows_used import PartRows, of_sample, rows_summary
from ranking.data.split import TimeSplit
from ranking.data.targets import check_target, target_inputs
from ranking.experiments.comparison.arms import CODES_AS_FEATURES, ComparedArm
from ranking.experiments.comparison.results import (
    ComparisonEvaluation,
    ComparisonResult,
    OriginFacts,
    Seconds,
    TrialTime,
)
from ranking.experiments.comparison.skipped import SkippedArms
from ranking.experiments.comparison.time_origins import TimeOrigin, time_origins
from ranking.experiments.comparison.trials import Frame, Plan, Trial, TrialDetails, context_of, work_through
from ranking.experiments.comparison.workers import ended_on_error, start_workers
from ranking.pipeline.codebook_window import window_of
from ranking.pipeline.controls import ControlStages, control_inputs
from ranking.pipeline.prepare import Prepared, end_of_log
from ranking.pipeline.results import StageTime
from ranking.training.arm_members import members_first
from ranking.training.arm_spec import RankerSpec, losses_of, without_loss
from sidkit.core.arrays import Ints
from sidkit.core.config import content_hash, resolved_url
from sidkit.core.errors import EvaluationError
from sidkit.core.files import written_beside
from sidkit.core.memory import peak_rss_mb
from sidkit.core.names import codebook_stem
from sidkit.core.progress import SILENT, Progress
from sidkit.core.records import read_record, record_json
from sidkit.core.redact import redacted
from sidkit.core.repo import Repo
from sidkit.core.stages import StageResult, Stages
from sidkit.datasets import PUBLISHED, SYNTHETIC, named_dataset
from sidkit.presets import COMPARISON, preset_name
from sidkit.tables.labelled_rows import log_moments, rows_per_event

_POLL_SECONDS = 0.5
_EVALUATION = "judge"
"""Name of the stage; unchanged so that repositories of earlier versions stay valid."""
_VERDICTS = "pairs with controls"
"""The newest rule of pairs and verdicts: evaluations by earlier rules are made again."""


@dataclass(frozen=True)
class CompareOptions:
    """The options of a comparison.

    All arms share ``spec``: widths, optimizer, early stopping and row limits. All arms are trained at every time origin with
    every seed. With ``equal_budgets``, each neural arm is scaled to the parameter count
    of ``id_codes`` at the same time origin, if ``id_codes`` is among the arms.
    """

    data: str
    arms: Mapping[str, ComparedArm]
    spec: RankerSpec
    seeds: int = 3
    origins: int = 3
    jobs: int = 1
    impressions: int = 200_000
    equal_budgets: bool = True
    optional: frozenset[str] = frozenset()
    """Arms that are skipped, with the reason, if the data do not allow their codebook; for others, that is an error."""


class Comparison:
    """One comparison in a repository; hold the repository's lock while calling :meth:`run`."""

    def __init__(
        self,
        repo: Repo,
        options: CompareOptions,
        progress: Progress = SILENT,
    ) -> None:
        check_target(repo.settings, options.spec.training.target)
        self.repo = repo
        self.options = options
        self.progress = progress
        self.parts: dict[int, PartRows] = {}
        self.windows: dict[int, list[CodebookWindow]] = {}
        self.skipped = SkippedArms(options.optional, progress)
        self.folder = repo.runs / COMPARISON
        self.stages = Stages(self.folder / "stages.json", progress)
        self.prepared = Prepared(repo, self.stages, options.data, options.impressions, progress=progress)

    def run(self) -> ComparisonResult:
        """Run the unfinished trials, then evaluate all."""
        from ranking.experiments.comparison.evaluation import evaluate_comparison

        started = time.monotonic()
        plan, origins = self.plan()
        self._train(plan)
        verdict = self.folder / "verdict.json"

        def evaluate() -> StageResult:
            evaluation = evaluate_comparison(self.repo, self.name, plan, origins)
            with written_beside(verdict) as temporary:
                temporary.write_text(json.dumps(record_json(evaluation), allow_nan=False))
            return StageResult(evaluation.slices["all"].rows, files=(verdict,))

        marks = sorted(f"{trial.name} {trial.mark}" for trial in plan.all_trials)
        baselines = sorted(f"{arm} {baseline}" for arm, baseline in plan.ablation_baselines.items())
        self.stages.run(_EVALUATION, [self.name, marks, baselines, _VERDICTS], evaluate)
        stages = tuple(StageTime(**stage) for stage in self.stages.report())
        trials = tuple(_time_of(trial, plan) for trial in plan.all_trials)
        return ComparisonResult(
            data=self.name,
            evaluation=read_record(ComparisonEvaluation, verdict),
            trials=trials,
            origins=tuple(self._facts_of(origin) for origin in origins),
            stages=stages,
            seconds=Seconds(
                prepare=round(sum(stage.seconds for stage in stages if stage.name != _EVALUATION), 1),
                trials=round(sum(trial.seconds for trial in trials), 1),
                trials_cpu=round(sum(trial.cpu_seconds for trial in trials), 1),
                evaluate=stages[-1].seconds,
                this_run=round(time.monotonic() - started, 1),
            ),
            peak_rss_mb=peak_rss_mb(),
            skipped=dict(self.skipped.reasons),
        )

    def _facts_of(self, origin: TimeOrigin) -> OriginFacts:
        rows = self.parts.get(origin.number)
        used = {part: dict(counts) for part, counts in rows.items()} if rows is not None else None
        return OriginFacts(**origin.describe(), rows=used, codebooks=tuple(self.windows.get(origin.number, ())))

    @property
    def name(self) -> str:
        """The name of the data in the results; see :func:`data_name`."""
        return data_name(self.options.data)

    def plan(self) -> tuple[Plan, list[TimeOrigin]]:
        """Prepare the log, tables, codebooks and frames of every time origin, and list the trials."""
        options, prepared = self.options, self.prepared
        target = options.spec.training.target
        log = prepared.ingest()
        tables = prepared.tables(log, end_of_log(self.repo)).facts
        moments = log_moments(self.repo)
        origins = time_origins(moments, self.repo.settings.split, options.origins)
        whole: tuple[Any, LabelledRows] | None = None
        frames: dict[str, Frame] = {}
        trials: list[Trial] = []
        loss_trials: list[Trial] = []
        for origin in origins:
            caps = self._caps(int((moments < origin.split.train_end_us).sum()))
            sample = caps.sample_of(self.repo, origin.split, origin.end_us, f"-o{origin.number}")
            if sample is not None:
                labelled, rows = self._rows(prepared.rows(log, sample, f":o{origin.number}", target=target))
            else:
                labelled, rows = whole = whole or self._rows(prepared.rows(log, target=target))
            frame_caps = Caps() if sample is not None else caps  # the sample already respects the caps
            visible = rows.take(origin.rows(rows.at_us))
            inputs = [log, labelled, tables, origin.split.inputs(), origin.end_us, *target_inputs(target)]
            before = moments[origin.rows(moments)]
            keys = {}
            for arm, spec in options.arms.items():
                keys[arm] = key = _frame_key(spec, origin)
                if key not in frames:
                    name = self.skipped.made(arm, key, partial(self._codebook, spec, origin, before, inputs))
                    if name is None:
                        continue
                    split, window = window_of(self.repo, name, spec.split_of(origin.split), before)
                    folder = self.folder / "frames" / key
                    frame_inputs = [inputs, name, asdict(caps), *_start_of(split)]
                    frame = prepared.frame(f"frame:{key}", frame_inputs, name, visible, split, frame_caps, folder)
                    self._note_rows(origin, window, frame.facts["parts"], labelled if sample is not None else None)
                    arms_of = [other for other in options.arms.values() if _frame_key(other, origin) == key]
                    frames[key] = self._with_controls(Frame(folder, name, split), frame, frame_inputs, key, arms_of)
            arms, budget = self.skipped.possible(options.arms), None
            if options.equal_budgets and CODES_AS_FEATURES in arms:
                budget = self._budget(
                    f"budget:o{origin.number}", [inputs, asdict(caps)], frames[keys[CODES_AS_FEATURES]]
                )
            for arm in members_first(arms):
                spec = arms[arm]
                trial = Trial(arm, 0, origin.number, keys[arm], "", budget if spec.kind == "neural" else None)
                frame_of = frames[keys[arm]]
                trial_inputs = [inputs, asdict(caps), frame_of.codebook, *_start_of(frame_of.split)]
                trial_inputs += control_inputs(frame_of.controls, spec, options.spec)
                trials += self._seeds_of(trial, spec, trial_inputs, trials)
                for loss in losses_of(spec, options.spec.model) if origin.number == 0 else ():
                    without = replace(trial, without=loss)
                    changed = without_loss(spec, options.spec.model, loss)
                    loss_trials += self._seeds_of(without, changed, trial_inputs)
        return self._plan_of(frames, trials, loss_trials), origins

    def _plan_of(self, frames: Mapping[str, Frame], trials: Sequence[Trial], loss_trials: Sequence[Trial]) -> Plan:
        """The plan of the arms that no time origin skips; one of the latest origin may be impossible at an earlier one."""
        arms = self.skipped.possible(self.options.arms)
        order = list(arms)
        trials, loss_trials = ([trial for trial in each if trial.arm in arms] for each in (trials, loss_trials))
        trials.sort(key=lambda trial: (trial.origin, order.index(trial.arm), trial.seed))
        every = (tuple(trials), tuple(loss_trials))
        return Plan(self.repo.path, self.folder, self.options.spec, arms, frames, *every)

    def _codebook(self, arm: ComparedArm, origin: TimeOrigin, at_us: Ints, inputs: Any) -> str:
        """Fit and publish a codebook before the rows that its rankers train on; returns its name."""
        spec = arm.codebook_spec()
        fit_end_us = origin.split.fit_end_us(learns_from_clicks=spec.needs_pairs)
        used = origin.split.training_from(fit_end_us) if spec.needs_pairs else arm.split_of(origin.split)
        if used != origin.split:
            check_training_rows(len(used.parts(at_us)["train"]), used)
        stem, key = codebook_stem(preset_name(arm.codebook)), f":{_codebook_key(arm)}-o{origin.number}"
        return self.prepared.codebook(stem, spec, fit_end_us, inputs, key)

    def _with_controls(
        self, frame: Frame, made: StageResult, inputs: Any, key: str, arms: Sequence[ComparedArm]
    ) -> Frame:
        """Make the control parts of a frame that any of its arms reads."""
        stages = ControlStages(self.repo, self.stages, frame.codebook, frame.split, frame.folder, made)
        return replace(frame, controls=stages.run(arms, self.options.spec, inputs, f":{key}"))

    def _note_rows(
        self, origin: TimeOrigin, window: CodebookWindow, parts: PartRows, sampled: Mapping[str, Any] | None
    ) -> None:
        """Record and print the rows of a frame; ``sampled`` are the facts of rows that were thinned beforehand."""
        known = self.windows.setdefault(origin.number, [])
        if sampled is not None:
            parts = of_sample(parts, sampled["available"])
        else:
            window = window.with_rows(parts["train"]["available"])
        # The rows of the frame with the most training rows; those of each codebook are stated beside.
        if origin.number not in self.parts or window.rows > max(other.rows for other in known):
            self.parts[origin.number] = parts
        if not known:
            self.progress.remark(f"origin {origin.number}: {rows_summary(parts)}")
        known.append(window)
        if window.sentence is not None:
            self.progress.remark(f"origin {origin.number}: {window.sentence}")

    def _seeds_of(
        self, trial: Trial, spec: ComparedArm, inputs: Sequence[Any], planned: Sequence[Trial] = ()
    ) -> list[Trial]:
        """Return one trial per seed, marked by its inputs and settings, and for a blend by its ``planned`` members."""
        marked = [*inputs, spec.trained_by(), _trained_by(self.options.spec)]
        if trial.budget is not None:
            marked += [trial.budget, spec.sized_by]
        members = [other for other in planned if other.origin == trial.origin and other.arm in spec.of]
        return [
            replace(
                trial,
                seed=seed,
                mark=content_hash([*marked, seed, *sorted(other.mark for other in members if other.seed == seed)]),
            )
            for seed in range(self.options.seeds)
        ]

    def _rows(self, result: StageResult) -> tuple[Any, LabelledRows]:
        context = tuple(self.repo.settings.features.context)
        return result.facts, read_rows(result.files[0], target=self.options.spec.training.target, context=context)

    def _caps(self, events: int) -> Caps:
        """Return the row caps of the options; without a training cap, cap at ``stream_rows``, since rows are held in memory."""
        training = self.options.spec.training
        caps, limit = training.caps, training.stream_rows
        fits = caps.train is not None or events * rows_per_event(self.repo) <= limit
        return caps if fits else Caps(limit, caps.evaluation)

    def _budget(self, name: str, inputs: Sequence[Any], frame: Frame) -> int:
        """Return the parameter count of ``id_codes``."""
        spec = self.options.arms[CODES_AS_FEATURES]

        def count() -> StageResult:
            from ranking.training.arm_size import parameters_before_training

            context = context_of(self.repo, frame, self.options.spec)
            parameters = parameters_before_training(context, CODES_AS_FEATURES, spec)
            return StageResult(len(context.train), {"parameters": parameters})

        stage_inputs = [
            *inputs,
            frame.codebook,
            *_start_of(frame.split),
            spec.trained_by(),
            _trained_by(self.options.spec),
        ]
        return int(self.stages.run(name, stage_inputs, count).facts["parameters"])

    def _train(self, plan: Plan) -> None:
        pending = []
        for trial in plan.all_trials:
            details = plan.details(trial)
            if details is None:
                pending.append(trial)
            else:
                self.progress.stage_finished(trial.done(details, reused=True))
        if not pending:
            return

        if self.options.jobs == 1:
            work_through(plan, self.progress)
            return
        # Workers share only files, so their epochs are not shown.
        self.progress.stage_started(f"{len(pending)} trials in {min(self.options.jobs, len(pending))} processes")
        workers = start_workers(plan, min(self.options.jobs, len(pending)))
        with ended_on_error(workers):
            while pending:
                done = {trial: details for trial in pending if (details := plan.details(trial)) is not None}
                for trial, details in done.items():
                    self.progress.stage_finished(trial.done(details, reused=False))
                pending = [trial for trial in pending if trial not in done]
                if not any(worker.is_alive() for worker in workers):
                    break
                time.sleep(_POLL_SECONDS)
            for worker in workers:
                worker.join()
        missing = [trial.name for trial in plan.all_trials if plan.details(trial) is None]
        if missing:
            raise EvaluationError(
                f"{len(missing)} trials did not finish ({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}): a "
                "worker stopped; see its error above. Finished trials are saved; run the same command again to resume"
            )


def data_name(data: str) -> str:
    """Return the name of a data source in results.

    ``synthetic_strong`` for ``synthetic:strong``, ``movielens_ml-1m`` for ``movielens:data/ml-1m``, ``MyWorld_large`` for
    ``my_world.py:MyWorld:large``, the last part of a path, the database of a URL.
    """
    if dataset := named_dataset(data):
        default = "strong" if dataset.name == SYNTHETIC else ""
        stem = dataset.name.partition("@")[0].rpartition(":")[2]
        variant = Path(dataset.variant).name if dataset.name in PUBLISHED else dataset.variant
        return f"{stem}_{variant or default}".rstrip("_")
    location = redacted(resolved_url(data)).partition("?")[0]
    return Path(location.rstrip("/")).name


def _time_of(trial: Trial, plan: Plan) -> TrialTime:
    details = plan.details(trial) or TrialDetails()
    return TrialTime(**asdict(trial), seconds=details.seconds, cpu_seconds=details.cpu_seconds)


def _start_of(split: TimeSplit) -> list[int]:
    """The start of the training rows, as an input of stages; none if they start with the log, as for earlier versions."""
    return [] if split.train_start_us is None else [split.train_start_us]


def _codebook_key(spec: ComparedArm) -> str:
    """A name that arms with the same codebook share."""
    settings = spec.codebook_spec().model_dump(mode="json")
    return f"{codebook_stem(preset_name(spec.codebook))}_{content_hash(settings)[:6]}"


def _frame_key(spec: ComparedArm, origin: TimeOrigin) -> str:
    """A name that arms with the same codebook and training rows share."""
    after = "" if spec.training_rows == "all" else "after-"
    return f"{_codebook_key(spec)}-{after}o{origin.number}"


def _trained_by(spec: RankerSpec) -> Any:
    return spec.model_dump(mode="json", exclude={"serve"})
