"""A comparison from a log to its table: codebooks and frames once per time origin, then trials, then the evaluation."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ranking.data.caps import Caps
from ranking.data.dataset import LabelledRows, read_rows
from ranking.data.rows_used import PartRows, of_sample, rows_summary
from ranking.experiments.comparison.arms import CODES_AS_FEATURES, ComparedArm
from ranking.experiments.comparison.results import (
    ComparisonEvaluation,
    ComparisonResult,
    OriginFacts,
    Seconds,
    TrialTime,
)
from ranking.experiments.comparison.time_origins import TimeOrigin, time_origins
from ranking.experiments.comparison.trials import Frame, Plan, Trial, TrialDetails, context_of, work_through
from ranking.pipeline.prepare import Prepared, end_of_log
from ranking.pipeline.results import StageTime
from ranking.training.arm_spec import RankerSpec
from sidkit.core.config import content_hash, resolved_url
from sidkit.core.errors import EvaluationError
from sidkit.core.files import written_beside
from sidkit.core.interrupt import keyboard_left_to_parent
from sidkit.core.memory import peak_rss_mb
from sidkit.core.names import codebook_stem
from sidkit.core.records import read_record, record_json
from sidkit.core.redact import redacted
from sidkit.core.repo import Repo
from sidkit.core.stages import StageResult, Stages
from sidkit.datasets import SYNTHETIC, named_dataset
from sidkit.presets import COMPARISON, preset_name
from sidkit.tables.labelled_rows import log_moments, rows_per_event

_POLL_SECONDS = 0.5
_EVALUATION = "judge"
"""The name of the stage, which repos of earlier versions hold too."""


@dataclass(frozen=True)
class CompareOptions:
    """The options of a comparison.

    ``spec`` is what all arms share: widths, optimizer, stopping, and the most rows of each part. Earlier origins take
    the first ``origin_seeds`` seeds of the arms that say ``rolling``. With ``equal_budgets`` every neural arm is brought to
    as many parameters as ``id_codes`` has at the same time origin, where it is compared.
    """

    data: str
    arms: Mapping[str, ComparedArm]
    spec: RankerSpec
    seeds: int = 5
    origins: int = 1
    origin_seeds: int = 1
    jobs: int = 1
    impressions: int = 200_000
    equal_budgets: bool = True


class Comparison:
    """One comparison on a repo; call :meth:`run` while holding the repo's lock."""

    def __init__(
        self,
        repo: Repo,
        options: CompareOptions,
        announce: Callable[[str, int, float, bool], None],
        remark: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.repo = repo
        self.options = options
        self.announce = announce
        self.remark = remark
        self.parts: dict[int, PartRows] = {}
        self.folder = repo.runs / COMPARISON
        self.stages = Stages(self.folder / "stages.json", announce)
        self.prepared = Prepared(repo, self.stages, options.data, options.impressions)

    def run(self) -> ComparisonResult:
        """Do all that is not done yet, and evaluate it."""
        from ranking.experiments.comparison.evaluation import evaluate_comparison

        began = time.monotonic()
        plan, places = self.plan()
        self._train(plan)
        verdict = self.folder / "verdict.json"

        def evaluate() -> StageResult:
            found = evaluate_comparison(self.repo, self.name, plan, places)
            with written_beside(verdict) as temporary:  # in the order of arms and slices
                temporary.write_text(json.dumps(record_json(found), allow_nan=False))
            return StageResult(found.slices["all"].rows, files=(verdict,))

        marks = sorted(f"{trial.name} {trial.mark}" for trial in plan.trials)
        self.stages.run(_EVALUATION, [self.name, marks], evaluate)
        stages = tuple(StageTime(**stage) for stage in self.stages.report())
        trials = tuple(_time_of(trial, plan) for trial in plan.trials)
        return ComparisonResult(
            data=self.name,
            evaluation=read_record(ComparisonEvaluation, verdict),
            trials=trials,
            origins=tuple(self._facts_of(origin) for origin in places),
            stages=stages,
            seconds=Seconds(
                prepare=round(sum(stage.seconds for stage in stages if stage.name != _EVALUATION), 1),
                trials=round(sum(trial.seconds for trial in trials), 1),
                trials_cpu=round(sum(trial.cpu_seconds for trial in trials), 1),
                evaluate=stages[-1].seconds,
                this_run=round(time.monotonic() - began, 1),
            ),
            peak_rss_mb=peak_rss_mb(),
        )

    def _facts_of(self, origin: TimeOrigin) -> OriginFacts:
        rows = self.parts.get(origin.number)
        used = {part: dict(counts) for part, counts in rows.items()} if rows is not None else None
        return OriginFacts(**origin.describe(), rows=used)

    @property
    def name(self) -> str:
        """What the data is called in the table: the world, or the folder's name."""
        return data_name(self.options.data)

    def plan(self) -> tuple[Plan, list[TimeOrigin]]:
        """Prepare the log, the tables, and the codebooks and frames of every origin; say which trials there are."""
        options, prepared = self.options, self.prepared
        log = prepared.ingest()
        tables = prepared.tables(log, end_of_log(self.repo)).facts
        moments = log_moments(self.repo)
        places = time_origins(moments, self.repo.settings.split, options.origins)
        whole: tuple[Any, LabelledRows] | None = None
        frames: dict[str, Frame] = {}
        trials = []
        for origin in places:
            seeds = options.seeds if origin.number == 0 else min(options.seeds, options.origin_seeds)
            caps = self._caps(int((moments < origin.split.train_end_us).sum()))
            sample = caps.sample_of(self.repo, origin.split, origin.end_us, f"-o{origin.number}")
            if sample is not None:
                labelled, rows = self._rows(prepared.rows(log, sample, f":o{origin.number}"))
            else:
                labelled, rows = whole = whole or self._rows(prepared.rows(log))
            left = Caps() if sample is not None else caps  # a sample is thin already
            seen = rows.take(origin.rows(rows.at_us))
            inputs = [log, labelled, tables, asdict(origin.split), origin.end_us]
            keys = {}
            for arm, spec in self._arms_at(origin):
                book, chosen = codebook_stem(preset_name(spec.codebook)), spec.codebook_spec()
                keys[arm] = key = f"{book}_{content_hash(chosen.model_dump(mode='json'))[:6]}-o{origin.number}"
                if key not in frames:
                    name = prepared.codebook(book, chosen, origin.split.train_end_us, inputs, f":{key}")
                    folder = self.folder / "frames" / key
                    marked = [inputs, name, asdict(caps)]
                    frame = prepared.frame(f"frame:{key}", marked, name, seen, origin.split, left, folder)
                    parts = frame.facts["parts"]
                    parts = of_sample(parts, labelled["available"]) if sample is not None else parts
                    if origin.number not in self.parts:
                        self.remark(f"origin {origin.number}: {rows_summary(parts)}")
                    self.parts[origin.number] = parts
                    frames[key] = Frame(folder, name, origin.split)
            budget = None
            if options.equal_budgets and CODES_AS_FEATURES in keys:
                base = frames[keys[CODES_AS_FEATURES]]
                budget = self._budget(f"budget:o{origin.number}", [inputs, asdict(caps), base.codebook], base)
            for arm, spec in self._arms_at(origin):
                made_of = [
                    inputs,
                    asdict(caps),
                    frames[keys[arm]].codebook,
                    spec.trained_by(),
                    _trained_by(options.spec),
                ]
                fitted_to = budget if spec.kind == "neural" else None
                if fitted_to is not None:
                    made_of += [fitted_to, spec.sized_by]
                trials += [
                    Trial(arm, seed, origin.number, keys[arm], content_hash([*made_of, seed]), fitted_to)
                    for seed in range(seeds)
                ]
        return Plan(self.repo.path, self.folder, options.spec, options.arms, frames, tuple(trials)), places

    @staticmethod
    def _rows(made: StageResult) -> tuple[Any, LabelledRows]:
        return made.facts, read_rows(made.files[0])

    def _caps(self, events: int) -> Caps:
        """Those of the options; training rows lie in memory, so there are never more than a run would hold there."""
        training = self.options.spec.training
        caps, most = training.caps, training.stream_rows
        held = caps.train is not None or events * rows_per_event(self.repo) <= most
        return caps if held else Caps(most, caps.evaluation)

    def _budget(self, name: str, inputs: Sequence[Any], frame: Frame) -> int:
        """How many parameters codes as features have."""
        spec = self.options.arms[CODES_AS_FEATURES]

        def count() -> StageResult:
            from ranking.training.arms import parameters_before_training

            context = context_of(self.repo, frame, self.options.spec)
            found = parameters_before_training(context, CODES_AS_FEATURES, spec)
            return StageResult(len(context.train), {"parameters": found})

        made_of = [*inputs, spec.trained_by(), _trained_by(self.options.spec)]
        return int(self.stages.run(name, made_of, count).facts["parameters"])

    def _arms_at(self, origin: TimeOrigin) -> Iterable[tuple[str, ComparedArm]]:
        return [(arm, spec) for arm, spec in self.options.arms.items() if origin.number == 0 or spec.rolling]

    def _train(self, plan: Plan) -> None:
        open_trials = []
        for trial in plan.trials:
            details = plan.details(trial)
            if details is None:
                open_trials.append(trial)
            else:
                self.announce(trial.name, details.train_rows or 0, details.seconds, True)
        if not open_trials:
            return

        def done_now(trial: Trial, details: TrialDetails) -> None:
            self.announce(trial.name, details.train_rows or 0, details.seconds, False)

        if self.options.jobs == 1:
            work_through(plan, done_now)
            return
        workers = _started(plan, min(self.options.jobs, len(open_trials)))
        with _ended(workers):
            while open_trials:
                done = {trial: details for trial in open_trials if (details := plan.details(trial)) is not None}
                for trial, details in done.items():
                    done_now(trial, details)
                open_trials = [trial for trial in open_trials if trial not in done]
                if not any(worker.is_alive() for worker in workers):
                    break
                time.sleep(_POLL_SECONDS)
            for worker in workers:
                worker.join()
        left = [trial.name for trial in plan.trials if plan.details(trial) is None]
        if left:
            raise EvaluationError(
                f"{len(left)} trials were not finished ({', '.join(left[:5])}{', ...' if len(left) > 5 else ''}): a worker "
                "stopped, and said why above. What is finished is saved; run the same command again"
            )


def data_name(data: str) -> str:
    """``synthetic_strong`` of ``synthetic:strong``, ``MyWorld_large`` of ``my_world.py:MyWorld:large``, the last part of a
    path, the database of a URL.
    """
    if dataset := named_dataset(data):
        default = "strong" if dataset.name == SYNTHETIC else ""
        called = dataset.name.partition("@")[0].rpartition(":")[2]
        return f"{called}_{dataset.variant or default}".rstrip("_")
    place = redacted(resolved_url(data)).partition("?")[0]
    return Path(place.rstrip("/")).name


def _time_of(trial: Trial, plan: Plan) -> TrialTime:
    details = plan.details(trial) or TrialDetails()
    return TrialTime(**asdict(trial), seconds=details.seconds, cpu_seconds=details.cpu_seconds)


def _trained_by(spec: RankerSpec) -> Any:
    return spec.model_dump(mode="json", exclude={"serve"})


@contextmanager
def _ended(workers: Sequence[multiprocessing.process.BaseProcess]) -> Iterator[None]:
    """Let no worker outlive the block when it ends with an error or an interruption."""
    try:
        yield
    except BaseException:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        raise


def _started(plan: Plan, count: int) -> Sequence[multiprocessing.process.BaseProcess]:
    """Workers in fresh interpreters, one thread each: OpenMP reads its number of threads when it is loaded."""
    context = multiprocessing.get_context("spawn")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        workers = [context.Process(target=work_through, args=(plan,)) for _ in range(count)]
        with keyboard_left_to_parent():
            for worker in workers:
                worker.start()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return workers
