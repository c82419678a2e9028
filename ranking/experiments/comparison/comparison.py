"""A comparison from a log to its table: codebooks and frames once per origin, then units, then the judge."""

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
from ranking.data.rows_used import PartRows, of_sample, told_rows
from ranking.experiments.comparison.arms import CODES_AS_FEATURES, ComparedArm
from ranking.experiments.comparison.time_origins import Origin, origins
from ranking.experiments.comparison.trials import Frame, Plan, Unit, context_of, work_through
from ranking.pipeline.prepare import Prepared, end_of_log, peak_rss_mb
from ranking.training.arm_spec import RankerSpec
from sidkit.core.config import content_hash, resolved_url
from sidkit.core.errors import EvaluationError
from sidkit.core.files import read_json, written_beside
from sidkit.core.interrupt import keyboard_left_to_parent
from sidkit.core.names import codebook_stem
from sidkit.core.redact import redacted
from sidkit.core.repo import Repo
from sidkit.core.stages import StageResult, Stages
from sidkit.datasets import SYNTHETIC, named_dataset
from sidkit.presets import COMPARISON, preset_name
from sidkit.tables.labelled_rows import log_moments, rows_per_event

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class CompareOptions:
    """What a comparison is asked to do.

    ``spec`` is what all arms share: widths, optimiser, stopping, and the most rows of each part. Earlier origins take
    the first ``origin_seeds`` seeds of the arms that say ``rolling``. With ``equal_budgets`` every neural arm is brought to
    as many parameters as A3 has at the same origin, where A3 is compared.
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

    def run(self) -> dict[str, Any]:
        """Do all that is not done yet and return the facts that the report is made of."""
        from ranking.experiments.comparison.evaluation import judge_comparison
        from ranking.experiments.comparison.probes import probe

        began = time.monotonic()
        plan, places = self.plan()
        self._train(plan)
        verdict = self.folder / "verdict.json"

        def judge() -> StageResult:
            found = judge_comparison(self.repo, self.name, plan, places)
            with written_beside(verdict) as temporary:  # in the order of arms and slices
                temporary.write_text(json.dumps({**found, "probes": probe(self.repo, plan)}, allow_nan=False))
            return StageResult(found["slices"]["all"]["rows"], files=(verdict,))

        self.stages.run("judge", [self.name, sorted(f"{unit.name} {unit.mark}" for unit in plan.units)], judge)
        stages = list(self.stages.report())
        took = {unit: plan.details(unit) or {} for unit in plan.units}
        units = [
            {**asdict(unit), "seconds": told["seconds"], "cpu_seconds": told["cpu_seconds"]}
            for unit, told in took.items()
        ]
        return {
            "data": self.name,
            **read_json(verdict),
            "units": units,
            "origins": [{**origin.describe(), "rows": self.parts.get(origin.number)} for origin in places],
            "stages": stages,
            "seconds": {
                "prepare": round(sum(each["seconds"] for each in stages if each["name"] != "judge"), 1),
                "units": round(sum(unit["seconds"] for unit in units), 1),
                "units_cpu": round(sum(unit["cpu_seconds"] for unit in units), 1),
                "judge": stages[-1]["seconds"],
                "this_run": round(time.monotonic() - began, 1),
            },
            "peak_rss_mb": peak_rss_mb(),
        }

    @property
    def name(self) -> str:
        """What the data is called in the table: the world, or the folder's name."""
        return data_name(self.options.data)

    def plan(self) -> tuple[Plan, list[Origin]]:
        """Prepare the log, the tables, and the codebooks and frames of every origin; say which units there are."""
        options, prepared = self.options, self.prepared
        log = prepared.ingest()
        tables = prepared.tables(log, end_of_log(self.repo)).facts
        moments = log_moments(self.repo)
        places = origins(moments, self.repo.settings.split, options.origins)
        whole: tuple[Any, LabelledRows] | None = None
        frames: dict[str, Frame] = {}
        units = []
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
                        self.remark(f"origin {origin.number}: {told_rows(parts)}")
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
                units += [
                    Unit(arm, seed, origin.number, keys[arm], content_hash([*made_of, seed]), fitted_to)
                    for seed in range(seeds)
                ]
        return Plan(self.repo.path, self.folder, options.spec, options.arms, frames, tuple(units)), places

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
        """How many parameters A3 has."""
        spec = self.options.arms[CODES_AS_FEATURES]

        def count() -> StageResult:
            from ranking.training.arms import parameters_before_training

            context = context_of(self.repo, frame, self.options.spec)
            found = parameters_before_training(context, CODES_AS_FEATURES, spec)
            return StageResult(len(context.train), {"parameters": found})

        made_of = [*inputs, spec.trained_by(), _trained_by(self.options.spec)]
        return int(self.stages.run(name, made_of, count).facts["parameters"])

    def _arms_at(self, origin: Origin) -> Iterable[tuple[str, ComparedArm]]:
        return [(arm, spec) for arm, spec in self.options.arms.items() if origin.number == 0 or spec.rolling]

    def _train(self, plan: Plan) -> None:
        open_units = []
        for unit in plan.units:
            details = plan.details(unit)
            if details is None:
                open_units.append(unit)
            else:
                self.announce(unit.name, details["train_rows"], details["seconds"], True)
        if not open_units:
            return

        def told(unit: Unit, details: Mapping[str, Any]) -> None:
            self.announce(unit.name, details["train_rows"], details["seconds"], False)

        if self.options.jobs == 1:
            work_through(plan, told)
            return
        workers = _started(plan, min(self.options.jobs, len(open_units)))
        with _ended(workers):
            while open_units:
                done = [unit for unit in open_units if plan.details(unit) is not None]
                for unit in done:
                    told(unit, plan.details(unit) or {})
                open_units = [unit for unit in open_units if unit not in done]
                if not any(worker.is_alive() for worker in workers):
                    break
                time.sleep(_POLL_SECONDS)
            for worker in workers:
                worker.join()
        left = [unit.name for unit in plan.units if plan.details(unit) is None]
        if left:
            raise EvaluationError(
                f"{len(left)} units were not finished ({', '.join(left[:5])}{', ...' if len(left) > 5 else ''}): a worker "
                "stopped, and said why above. What is finished is kept; run the same command again"
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
