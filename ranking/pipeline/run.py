"""The main job: resumable stages from a click log to online scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ranking.data.caps import Caps
from ranking.data.dataset import read_rows
from ranking.data.labelled_rows import FAR, count_before
from ranking.data.rows_used import of_sample, rows_summary
from ranking.data.split import TimeSplit
from ranking.evaluation.evaluator import refuse_leakage
from ranking.pipeline.evaluation import RunEvaluation, evaluate_arms
from ranking.pipeline.prepare import Prepared, end_of_log, fallback_of, oracle_of, training_context
from ranking.pipeline.presets import Preset, arms_without_codes
from ranking.pipeline.results import CodebookFacts, HitRates, LogChanges, RunResult, StageTime
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import ArmResult, TrainingContext, read_predictions, train_arm, write_predictions
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.pairs.known_items import known_items
from semantic_ids.quality.future_hit_rate import future_hits
from semantic_ids.quality.hit_rate import HitReport
from semantic_ids.quantizers.sizes import LEAST_ITEMS
from sidkit.core.artifact import discard_damaged, read_manifest
from sidkit.core.config import content_hash
from sidkit.core.files import write_json
from sidkit.core.memory import peak_rss_mb
from sidkit.core.names import codebook_stem
from sidkit.core.records import read_record
from sidkit.core.repo import Repo
from sidkit.core.stages import StageResult, Stages
from sidkit.presets import preset_name
from sidkit.tables import read_log
from sidkit.tables.labelled_rows import log_moments

_SMALL = 10_000
"""Rows of item_content above which the item vectors are not checked before fitting codes."""


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


@dataclass(frozen=True)
class _TrainedArms:
    ranker_of: dict[str, tuple[str | None, ...]]
    """Arm -> ranker artefact of each seed; None for an arm that cannot serve."""
    validation_auc: dict[str, tuple[float, ...]]
    """Arm -> validation AUC of each seed."""
    evaluation: RunEvaluation


class Job:
    """A run of a preset on a repo; hold the repo's lock while calling :meth:`run`."""

    def __init__(
        self,
        repo: Repo,
        options: JobOptions,
        announce: Callable[[str, int, float, bool], None],
        warn: Callable[[str], None] = lambda _: None,
        remark: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.repo = repo
        self.options = options
        self.preset = options.preset
        """The preset in use; on a small catalogue, :meth:`run` drops the arms that read codes."""
        self.warnings: list[str] = []
        self._warn = warn
        self.remark = remark
        self.folder = repo.runs / preset_name(options.preset_name)
        self.stages = Stages(self.folder / "stages.json", announce)
        self.prepared = Prepared(repo, self.stages, options.data, options.impressions, options.allow_future)

    def run(self) -> RunResult:
        """Run all stages and return the result; :mod:`sidkit.cli.run_report` prints it."""
        repo, options, prepared = self.repo, self.options, self.prepared
        log = prepared.ingest()
        for table in read_log(repo).manifest["tables"]:
            for text in table.get("warnings", ()):
                self._note(f"{table['table']}: {text}")
        as_of_us = options.as_of_us or end_of_log(repo)
        moments = log_moments(repo, options.as_of_us)
        split = TimeSplit.of(moments, repo.settings.split)
        caps = options.preset.ranker.training.caps
        sample = caps.sample_of(repo, split)
        rows = prepared.rows(log, sample, until_us=options.as_of_us)
        labelled, rows_file = rows.facts, rows.files[0]
        tables = prepared.tables(log, as_of_us)
        codebook_inputs = [log, tables.facts, asdict(split)]
        self.preset = self._usable_preset(split.train_end_us)
        codebook = prepared.codebook(
            codebook_stem(preset_name(options.preset_name)), self.preset.codebook, split.train_end_us, codebook_inputs
        )
        self._note(fallback_of(self.repo, codebook))
        self._hit_rate(codebook, codebook_inputs)
        context_inputs = [log, codebook, labelled, tables.facts, asdict(split), asdict(caps)]
        remaining = Caps() if sample is not None else caps  # sampled rows are already thinned
        training_rows = min(count_before(rows_file, split.train_end_us), remaining.train or FAR)
        if training_rows > (limit := self.preset.ranker.training.stream_rows):
            context_inputs = [*context_inputs, "streamed", limit]
            frame = prepared.streamed_frame(
                "frame", context_inputs, codebook, rows_file, split, remaining, self.folder / "frame"
            )
        else:
            in_memory = read_rows(rows_file)
            frame = prepared.frame(
                "frame", context_inputs, codebook, in_memory, split, remaining, self.folder / "frame"
            )
        parts = of_sample(frame.facts["parts"], labelled["available"]) if sample else frame.facts["parts"]
        self.remark(rows_summary(parts))
        arms = self._arms(codebook, split, [context_inputs, frame.facts])
        self.stages.run("materialize", [codebook, tables.facts], lambda: self._materialize(as_of_us))
        serving = self._promote(codebook, arms)
        return RunResult(
            data=options.data,
            preset=options.preset_name,
            repo=repo,
            folder=self.folder,
            codebook=CodebookFacts.read(repo, codebook),
            split=split,
            as_of_us=as_of_us,
            serving_ranker=serving,
            hit_rate=HitRates.read(self.folder / "hit_rate.json", codebook),
            evaluation=arms.evaluation,
            rankers=arms.ranker_of,
            log=LogChanges.of(self.stages.facts("ingest"), self.folder / "stages.json"),
            stages=tuple(StageTime(**stage) for stage in self.stages.report()),
            peak_rss_mb=peak_rss_mb(),
            sampled=labelled["sampled"],
            warnings=tuple(self.warnings),
            parts=parts,
        )

    def _usable_preset(self, fit_end_us: int) -> Preset:
        """Return the preset, without the arms that read codes if the catalogue is too small to fit codes."""
        preset = self.options.preset
        content = pq.read_metadata(self.repo.tables / "item_content.parquet").num_rows
        if preset.codebook.sizes is not None or preset.codebook.force or content > _SMALL:
            return preset
        known = known_items(self.repo, fit_end_us)
        distinct = known.content.distinct(2)
        if len(known) >= LEAST_ITEMS and distinct > 1:
            return preset
        usable = arms_without_codes(preset)
        dropped = [name for name in preset.arms if name not in usable.arms]
        reason = (
            f"codes require {LEAST_ITEMS} items with vectors at the end of training, got {len(known)}"
            if len(known) < LEAST_ITEMS
            else f"codes require distinct item vectors, but all {len(known)} items at the end of training have the same vector"
        )
        self._note(f"{reason}; skipping the arms that read codes: {', '.join(dropped)}")
        return usable

    def _note(self, text: str | None) -> None:
        """Record and print a warning, if any."""
        if text is not None:
            self.warnings.append(text)
            self._warn(text)

    def _hit_rate(self, codebook: str, inputs: Any) -> None:
        path = self.folder / "hit_rate.json"

        def measure() -> StageResult:
            hits = future_hits(self.repo, [codebook], self.options.as_of_us or end_of_log(self.repo))
            write_json(path, hits.as_json())
            return StageResult(len(hits.pairs) if isinstance(hits, HitReport) else 0, files=(path,))

        self.stages.run("hit_rate", [*inputs, codebook], measure)

    def _arms(self, codebook: str, split: TimeSplit, inputs: Any) -> _TrainedArms:
        ranker_of: dict[str, tuple[str | None, ...]] = {}
        validation: dict[str, tuple[float, ...]] = {}
        context: list[TrainingContext] = []

        def shared() -> TrainingContext:
            # Loaded at most once, and only if a stage needs it.
            if not context:
                context.append(self._context(codebook, split))
            return context[0]

        files = {}
        for arm, spec in self.preset.arms.items():
            for seed in range(self.options.seeds):
                marked = [inputs, spec.model_dump(), self.preset.ranker.model_dump(mode="json"), seed]
                name = f"{codebook}_{arm}_s{seed}_{content_hash(marked)[:6]}"
                path = self.folder / "predictions" / f"{arm}-s{seed}.parquet"
                work = partial(self._train, shared, arm, spec, seed, name, path)
                result = self.stages.run(f"train:{arm}:s{seed}", marked, work)
                ranker_of[arm] = (*ranker_of.get(arm, ()), result.facts["ranker"])
                validation[arm] = (*validation.get(arm, ()), result.facts["validation_auc"])
                files[f"{arm}-s{seed}"] = content_hash(marked)
        verdict_path = self.folder / "verdict.json"

        def evaluate() -> StageResult:
            evaluated = self._evaluate(shared(), split)
            write_json(verdict_path, evaluated.as_json())
            return StageResult(evaluated.rows["all"].rows, files=(verdict_path,))

        self.stages.run("evaluate", [inputs, files], evaluate)
        evaluation = read_record(RunEvaluation, verdict_path)
        in_order = {arm: evaluation.arms[arm] for arm in self.preset.arms}  # keys are sorted in the file
        return _TrainedArms(ranker_of, validation, replace(evaluation, arms=in_order))

    def _context(self, codebook: str, split: TimeSplit) -> TrainingContext:
        return training_context(
            self.repo,
            codebook,
            split,
            self.folder / "frame",
            self.preset.ranker,
            self.repo.rankers,
            threads=self.repo.settings.engine.threads,
        )

    def _train(
        self, shared: Callable[[], TrainingContext], arm: str, spec: ArmSpec, seed: int, name: str, path: Path
    ) -> StageResult:
        context = shared()
        anew = discard_damaged(self.repo.rankers / name) or not (self.repo.rankers / name).exists()
        result: ArmResult = train_arm(context, arm, spec, seed, name)
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
        return StageResult(result.details.train_rows or len(context.train), facts, files)

    def _evaluate(self, context: TrainingContext, split: TimeSplit) -> RunEvaluation:
        record = Catalog.open(self.repo).codebook(context.serving.codebook)
        refuse_leakage(split.validation_end_us, {record.name: record.fit_end_us})
        arms = {
            arm: [
                read_predictions(self.folder / "predictions" / f"{arm}-s{seed}.parquet")
                for seed in range(self.options.seeds)
            ]
            for arm in self.preset.arms
        }
        baselines = [arm for arm in ("id", "shuffled_codes", "gbdt") if arm in arms]
        return evaluate_arms(context.test, arms, baselines, oracle_of(self.repo, context.test))

    def _materialize(self, as_of_us: int) -> StageResult:
        from sidkit.stores.feast_repo import materialize

        keys = materialize(self.repo, as_of_us)
        return StageResult(sum(keys.values()), {"keys": keys}, (self.repo.data / "online.sqlite",))

    def _promote(self, codebook: str, arms: _TrainedArms) -> str | None:
        """Promote the codebook and, among the arms that may serve, the ranker with the best validation AUC."""
        catalog = Catalog.open(self.repo)
        if catalog.codebook(codebook).state != "serving":
            lifecycle.promote(self.repo, codebook)
        candidates = [
            (score, name)
            for arm in self.preset.ranker.serve
            for score, name in zip(arms.validation_auc.get(arm, ()), arms.ranker_of.get(arm, ()), strict=True)
            if name is not None
        ]
        if not candidates:
            return None
        best = max(candidates)[1]
        if catalog.ranker(best).state != "serving":
            catalog.set_ranker_state(best, "serving")
        return best
