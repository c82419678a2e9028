"""The main job: from a click log to an online score, stage by stage, resumed where it stopped."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from ranking.arms import ArmResult, TrainingContext, read_predictions, train_arm, write_predictions
from ranking.presets import ArmSpec, Preset
from ranking.split import TimeSplit, check_both_classes, thin_by_user
from ranking.stages import StageResult, Stages
from ranking.training_set import TrainingSet, build_training_set, read_rows
from semantic_ids import pipeline
from semantic_ids.catalog import Catalog
from semantic_ids.future_hits import future_hits
from sidkit.artifact import read_manifest
from sidkit.config import content_hash
from sidkit.engine import connection, literal, quoted
from sidkit.errors import ConfigError
from sidkit.files import read_json, write_json
from sidkit.repo import Repo, init_repo
from sidkit.tables import build_tables, ingest, read_log
from sidkit.tables.labelled_rows import build_labelled_rows

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class JobOptions:
    """What the main job is asked to do."""

    data: str
    preset_name: str
    preset: Preset
    seeds: int = 1
    as_of_us: int | None = None
    impressions: int = 200_000


@dataclass(frozen=True)
class _Judged:
    ranker_of: dict[str, list[str | None]]
    validation_auc: dict[str, list[float]]
    verdict: dict[str, Any]


def prepare_repo(data: str, path: Path) -> Repo:
    """Open the repo, or write a fresh one whose ``[source]`` fits the data.

    Raises
    ------
    ConfigError
        When the repo was made for other data.
    ContractError
        When the data cannot be read.
    """
    from sidkit.contract import inspect_source, open_source

    folder = path.expanduser().resolve()
    synthetic = data.split(":", maxsplit=1)[0] == SYNTHETIC
    url = str(folder / "data" / "source") if synthetic else open_source(data).url
    if (folder / "sidkit.toml").exists():
        repo = Repo.open(folder)
        if repo.settings.source.url != url:
            raise ConfigError(
                f"{folder} was made for {repo.settings.source.url!r}, not for {url!r}; give another --repo, or change "
                "source.url in its sidkit.toml"
            )
        return repo
    if synthetic:
        return init_repo(folder, source_url=url, modalities=("text", "image"), conversions=True)
    return init_repo(folder, source_url=url, **asdict(inspect_source(open_source(data))))


class Job:
    """One run of a preset on a repo; call :meth:`run` while holding the repo's lock."""

    def __init__(self, repo: Repo, options: JobOptions, announce: Callable[[str, int, float, bool], None]) -> None:
        self.repo = repo
        self.options = options
        self.folder = repo.runs / Path(options.preset_name).stem
        self.stages = Stages(self.folder / "stages.json", announce)

    def run(self) -> dict[str, Any]:
        """Do all stages and return the job's facts; see :mod:`ranking.job_report` for what is made of them."""
        repo, options = self.repo, self.options
        log = self._ingest()
        as_of_us = options.as_of_us or end_of_log(repo)
        rows = self.stages.run("rows", [log, repo.settings.negatives.model_dump()], self._rows)
        tables = self.stages.run(
            "tables", [log, as_of_us, repo.settings.feature_settings()], lambda: self._tables(as_of_us)
        )
        split = TimeSplit.of(read_rows(repo.labelled_rows).at_us, repo.settings.split)
        codebook = self._codebook_stages(split, [log, tables.facts, asdict(split)])
        context_inputs = [log, codebook, rows.facts, tables.facts, asdict(split), _training_caps(options.preset)]
        frame = self.stages.run("frame", context_inputs, lambda: self._frame(codebook, split))
        judged = self._arms(codebook, split, [context_inputs, frame.facts])
        self.stages.run("materialize", [codebook, tables.facts], lambda: self._materialize(as_of_us))
        serving = self._promote(codebook, judged)
        return {
            "codebook": codebook,
            "split": split.describe(),
            "as_of_us": as_of_us,
            "serving_ranker": serving,
            "hit_rate": read_json(self.folder / "hit_rate.json"),
            "judged": judged.verdict,
            "rankers": judged.ranker_of,
            "stages": list(self.stages.report()),
            "peak_rss_mb": peak_rss_mb(),
            "sampled": rows.facts.get("sampled", 0),
        }

    def _ingest(self) -> Any:
        if self.options.data.split(":")[0] == SYNTHETIC:
            world = self.options.data.partition(":")[2] or "strong"
            inputs = [world, self.options.impressions]
            self.stages.run("synthetic", inputs, lambda: self._synthetic(world))
        # The source may have grown: always look; an unchanged source costs nothing.
        report = self.stages.run("ingest", _source_mark(self.repo), self._read_source)
        return report.facts

    def _synthetic(self, world: str) -> StageResult:
        from sidkit.datasets.synthetic import Sizes, write_world
        from sidkit.files import remove

        out = Path(self.repo.settings.source.url)
        remove(out)
        written = write_world(out, world, Sizes(self.options.impressions))
        return StageResult(int(written["impressions"]), files=(out / "interactions.parquet",))

    def _read_source(self) -> StageResult:
        report = ingest(self.repo)
        return StageResult(report.rows, read_log(self.repo).mark, (self.repo.log / "manifest.json",))

    def _rows(self) -> StageResult:
        report = build_labelled_rows(self.repo)
        return StageResult(report.rows, {"rows": report.rows, "sampled": report.sampled}, (self.repo.labelled_rows,))

    def _tables(self, as_of_us: int) -> StageResult:
        report = build_tables(self.repo, as_of_us)
        return StageResult(
            sum(report.rows.values()),
            {"as_of_us": as_of_us, "rows": report.rows},
            tuple(self.repo.tables / f"{name}.parquet" for name in report.rows),
        )

    def _codebook_stages(self, split: TimeSplit, inputs: Any) -> str:
        spec = self.options.preset.codebook
        made_of = [spec.model_dump(mode="json"), split.train_end_us, _content_mark(self.repo, split.train_end_us)]
        if any(learner.needs_pairs for learner in pipeline.made(spec, 10_000)):
            made_of.append(_behaviour_mark(self.repo, split.train_end_us))
        name = f"{Path(self.options.preset_name).stem}_{content_hash(made_of)[:6]}"
        marked = [*inputs, *made_of]

        def fit() -> StageResult:
            pipeline.fit(self.repo, name, spec, split.train_end_us)
            items = read_manifest(self.repo.codebooks / name)["rows"]
            return StageResult(items, {"name": name}, (self.repo.codebooks / name / "manifest.json",))

        def publish() -> StageResult:
            report = pipeline.publish(self.repo, name)
            return StageResult(report.rows, {}, (self.repo.tables / f"item_sid_{name}.parquet",))

        self.stages.run("codebook", marked, fit)

        def hits() -> StageResult:
            found = future_hits(self.repo, [name], end_of_log(self.repo))
            write_json(self.folder / "hit_rate.json", found.as_json() if found else None)
            return StageResult(len(found.asked) if found else 0, files=(self.folder / "hit_rate.json",))

        self.stages.run("publish", marked, publish)
        self.stages.run("hit_rate", marked, hits)
        return name

    def _frame(self, codebook_name: str, split: TimeSplit) -> StageResult:
        from ranking.frame_store import save_training_set
        from semantic_ids.codebook import Codebook
        from sidkit.stores.feast_repo import open_store

        rows = read_rows(self.repo.labelled_rows)
        caps = self.options.preset.ranker.training
        kept, ends = [], []
        for name, part in split.parts(rows.at_us).items():
            check_both_classes(rows.label[part], name)
            most = caps.max_train_rows if name == "train" else caps.max_evaluation_rows
            kept.append(part[thin_by_user(rows.user_ids[part], most)])
            ends.append(sum(map(len, kept)))
        chosen = rows.take(np.concatenate(kept))
        record = Catalog.open(self.repo).codebook(codebook_name)
        rate = float(chosen.label[: ends[0]].mean())
        data = build_training_set(
            open_store(self.repo), record.service_name, Codebook.load(self.repo.codebooks / codebook_name), chosen,
            rate=rate, history_length=self.repo.settings.time.history_length,
        )  # fmt: skip
        save_training_set(data, self.folder / "frame")
        return StageResult(len(data), {"ends": ends, "rate": rate}, (self.folder / "frame",))

    def _arms(self, codebook: str, split: TimeSplit, inputs: Any) -> _Judged:
        ranker_of: dict[str, list[str | None]] = {}
        validation: dict[str, list[float]] = {}
        context: list[TrainingContext] = []

        def shared() -> TrainingContext:
            # Loaded once, and only when an arm has still to be trained.
            if not context:
                context.append(self._context(codebook, split))
            return context[0]

        files = {}
        for arm, spec in self.options.preset.arms.items():
            for seed in range(self.options.seeds):
                marked = [inputs, spec.model_dump(), self.options.preset.ranker.model_dump(mode="json"), seed]
                name = f"{codebook}_{arm}_s{seed}_{content_hash(marked)[:6]}"
                path = self.folder / "predictions" / f"{arm}-s{seed}.parquet"
                work = partial(self._train, shared, arm, spec, seed, name, path)
                result = self.stages.run(f"train:{arm}:s{seed}", marked, work)
                ranker_of.setdefault(arm, []).append(result.facts["ranker"])
                validation.setdefault(arm, []).append(result.facts["validation_auc"])
                files[f"{arm}-s{seed}"] = content_hash(marked)
        verdict_path = self.folder / "verdict.json"

        def evaluate() -> StageResult:
            verdict = self._judge(shared(), split)
            write_json(verdict_path, verdict)
            return StageResult(verdict["rows"]["all"]["rows"], files=(verdict_path,))

        self.stages.run("evaluate", [inputs, files], evaluate)
        return _Judged(ranker_of, validation, read_json(verdict_path))

    def _context(self, codebook_name: str, split: TimeSplit) -> TrainingContext:
        from ranking.frame_store import load_training_set
        from ranking.serving.scorer import service_features
        from semantic_ids.codebook import Codebook
        from sidkit.stores.feast_repo import open_store

        data = load_training_set(self.folder / "frame")
        parts = {name: data.take(rows) for name, rows in split.parts(data.rows.at_us).items()}
        record = Catalog.open(self.repo).codebook(codebook_name)
        codebook = Codebook.load(self.repo.codebooks / codebook_name)
        return TrainingContext(
            train=parts["train"],
            validation=parts["validation"],
            test=parts["test"],
            spec=self.options.preset.ranker,
            rate=float(parts["train"].rows.label.mean()),
            threads=self.repo.settings.engine.threads,
            describe={
                "fit_start_us": int(parts["train"].rows.at_us[0]),
                # Validation chose the epoch, so it has been seen too.
                "fit_end_us": split.validation_end_us,
                "parents": [record.name],
                "feature_settings": self.repo.settings.feature_settings(),
                "rows": len(parts["train"]),
            },
            serving={
                "sizes": record.sizes,
                "residual_levels": codebook.quantizer.residual_levels,
                "codebook": record.name,
                "codebook_hash": record.content_hash,
                "service": record.service_name,
                "features": service_features(open_store(self.repo), record.service_name),
                "history_length": self.repo.settings.time.history_length,
            },
            rankers=self.repo.rankers,
            quantizer=codebook.quantizer,
        )

    def _train(
        self, shared: Callable[[], TrainingContext], arm: str, spec: ArmSpec, seed: int, name: str, path: Path
    ) -> StageResult:
        context = shared()
        result: ArmResult = train_arm(context, arm, spec, seed, name)
        write_predictions(path, result)
        files: tuple[Path, ...] = (path,)
        if result.ranker is not None:
            folder = self.repo.rankers / result.ranker
            manifest = read_manifest(folder)
            Catalog.open(self.repo).add_ranker(
                result.ranker, content_hash=manifest["content_hash"], codebook=context.serving["codebook"],
                service=context.serving["service"], arm=arm, fit_end_us=manifest["fit_end_us"],
            )  # fmt: skip
            files = (path, folder / "manifest.json")
        facts = {"ranker": result.ranker, "validation_auc": result.validation_auc}
        return StageResult(len(context.train), facts, files)

    def _judge(self, context: TrainingContext, split: TimeSplit) -> dict[str, Any]:
        from ranking.evaluation.judge import judge, refuse_leakage

        record = Catalog.open(self.repo).codebook(context.serving["codebook"])
        refuse_leakage(split.validation_end_us, {record.name: record.fit_end_us})
        arms = {
            arm: [
                read_predictions(self.folder / "predictions" / f"{arm}-s{seed}.parquet")
                for seed in range(self.options.seeds)
            ]
            for arm in self.options.preset.arms
        }
        baselines = [arm for arm in ("id", "shuffled_codes", "gbdt") if arm in arms]
        return judge(context.test, arms, baselines, oracle_of(self.repo, context.test))

    def _materialize(self, as_of_us: int) -> StageResult:
        from sidkit.stores.feast_repo import materialize

        keys = materialize(self.repo, as_of_us)
        return StageResult(sum(keys.values()), {"keys": keys}, (self.repo.data / "online.sqlite",))

    def _promote(self, codebook: str, judged: _Judged) -> str | None:
        """Promote the codebook and the ranker that was best on validation, of the arms that may serve."""
        catalog = Catalog.open(self.repo)
        if catalog.codebook(codebook).state != "serving":
            pipeline.promote(self.repo, codebook)
        candidates = [
            (score, name)
            for arm in self.options.preset.ranker.serve
            for score, name in zip(judged.validation_auc.get(arm, []), judged.ranker_of.get(arm, []), strict=True)
            if name is not None
        ]
        if not candidates:
            return None
        best = max(candidates)[1]
        if catalog.ranker(best).state != "serving":
            catalog.set_ranker_state(best, "serving")
        return best


def end_of_log(repo: Repo) -> int:
    """The moment from which every event of the log can be read: the last window end + delay, microseconds UTC."""
    time = repo.settings.time
    return -(-read_log(repo).last_us // time.cadence_us) * time.cadence_us + time.delay_us


def oracle_of(repo: Repo, data: TrainingSet) -> npt.NDArray[np.float64] | None:
    """True click probabilities ``float64 [rows]`` where the source is a synthetic world, else None."""
    path = Path(repo.settings.source.url) / "oracle.parquet"
    if "://" in repo.settings.source.url or not path.exists() or data.rows.request_ids is None:
        return None
    import pandas as pd

    with duckdb.connect() as opened:
        truth = opened.execute(f"SELECT request_id, item_id, probability FROM read_parquet({literal(path)})").df()
    wanted = pd.MultiIndex.from_arrays([data.rows.request_ids, data.rows.item_ids])
    place = pd.MultiIndex.from_frame(truth[["request_id", "item_id"]]).get_indexer(wanted)
    return np.where(place >= 0, truth["probability"].to_numpy()[np.maximum(place, 0)], math.nan)


def peak_rss_mb() -> float:
    """The most memory that this process, or one of its children, held."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024, 1)


def _source_mark(repo: Repo) -> Any:
    from sidkit.contract import open_source

    source = open_source(repo.settings.source.url)
    mark = source.fingerprint()
    # A database cannot say whether it changed, so it is read each time.
    return [
        repo.settings.source.model_dump(mode="json", exclude={"url"}),
        mark if mark is not None else np.random.default_rng().random(),
    ]


def _content_mark(repo: Repo, until_us: int) -> str:
    """Text that changes when the content that was known at a moment changes."""
    columns = ", ".join(quoted(name) for name in repo.settings.source.modalities)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        row = opened.execute(
            f"SELECT count(*), bit_xor(hash(item_id, event_timestamp, {columns})) "
            f"FROM read_parquet({literal(repo.tables / 'item_content.parquet')}) "
            f"WHERE epoch_us(event_timestamp) <= {until_us}"
        ).fetchone()
    return str(row)


def _behaviour_mark(repo: Repo, until_us: int) -> str:
    """Text that changes when the clicks that were known at a moment change."""
    parts = ", ".join(literal(part) for part in read_log(repo).parts)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        row = opened.execute(
            f"SELECT count(*), sum(hash(user_id, item_id, timestamp)::HUGEINT) FROM read_parquet([{parts}]) "
            f"WHERE label = 1 AND epoch_us(timestamp) + {repo.settings.time.delay_us} <= {until_us}"
        ).fetchone()
    return str(row)


def _training_caps(preset: Preset) -> list[int]:
    return [preset.ranker.training.max_train_rows, preset.ranker.training.max_evaluation_rows]
