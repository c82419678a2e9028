"""Stages before training: the log, its labelled rows, the feature tables, codebooks and frames.

The main job and comparisons share these stages, so that both train on the same rows and codes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ranking.data.caps import Caps
from ranking.data.codebook_window import refuse_learned_rows
from ranking.data.dataset import LabelledRows
from ranking.data.frame_builder import build_dataset
from ranking.data.rows_used import part_rows
from ranking.data.split import TimeSplit, check_both_classes
from ranking.data.targets import CLICKED, Target, target_inputs
from ranking.evaluation.context_columns import context_auc, refuse_revealing_context
from ranking.pipeline.fingerprints import behaviour_mark, content_mark, source_mark
from ranking.training.arm_spec import RankerSpec
from ranking.training.arms import TrainedOn, TrainingContext
from ranking.training.serving_spec import ServingSpec
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.lifecycle import CodebookSpec
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import present_us
from sidkit.core.config import content_hash
from sidkit.core.errors import RepoError
from sidkit.core.feature_settings import FeatureSettings
from sidkit.core.files import typed_path
from sidkit.core.progress import SILENT, Progress
from sidkit.core.repo import SETTINGS_FILE, Repo
from sidkit.core.stages import StageResult, Stages
from sidkit.datasets import SYNTHETIC, NamedDataset, named_dataset
from sidkit.datasets.data_repo import create_repo, refuse_other_data
from sidkit.datasets.user_sample import thin_by_user
from sidkit.tables import build_tables, ingest, read_log
from sidkit.tables.builder import TABLES
from sidkit.tables.labelled_rows import RowSample, build_labelled_rows

if TYPE_CHECKING:
    from semantic_ids.codebook import Codebook
    from semantic_ids.records import CodebookRecord

_TRAIN_AGAIN = (
    "Run the preset again with `sidkit run`: it fits the codebook on clicks before the training rows (split.codebook in "
    "sidkit.toml)"
)


def prepare_repo(data: str, path: Path, settings_file: Path | None = None) -> Repo:
    """Open a repo, or create one whose ``[source]`` matches the data (:func:`sidkit.datasets.data_repo.create_repo`).

    Raises
    ------
    ConfigError
        When the repo was created for other data, or exists and settings are stated again.
    PluginChangedError
        When another version of the data set's code wrote the repo's source.
    ContractError
        When the data cannot be read.
    """
    folder = typed_path(path)
    if not (folder / SETTINGS_FILE).exists():
        try:
            return create_repo(folder, data, settings_file=settings_file)
        except RepoError:
            if not (folder / SETTINGS_FILE).exists():
                raise  # otherwise another process has created it
    repo = Repo.open(folder)
    refuse_other_data(repo, data, settings_file)
    return repo


@dataclass(frozen=True)
class Prepared:
    """Stages of a repo up to the frame; finished stages are reused.

    Parameters
    ----------
    repo : Repo
        Repo whose lock the caller holds.
    stages : Stages
        Record of finished stages.
    data : str
        The data passed to :func:`prepare_repo`.
    impressions : int
        Number of impressions of a generated data set.
    allow_future : bool
        Accept tables as of a future time.
    progress : Progress
        Receives remarks on tables that were rebuilt.
    """

    repo: Repo
    stages: Stages
    data: str
    impressions: int
    allow_future: bool = False
    progress: Progress = SILENT

    def ingest(self) -> Any:
        """Ingest the source; returns the log's fingerprint, an input of later stages."""
        if dataset := named_dataset(self.data):
            built_in = dataset.name == SYNTHETIC
            made_of = [dataset.variant or "strong"] if built_in else [dataset.name, dataset.variant]
            if files := dataset.make().fingerprint():
                made_of.append(files)
            stage = SYNTHETIC if built_in else "dataset"
            self.stages.run(stage, [*made_of, self.impressions], lambda: self._write_dataset(dataset))
        # Always check for new events; an unchanged source is skipped by its fingerprint.
        self.stages.run("ingest", source_mark(self.repo), self._read_source)
        return read_log(self.repo).mark

    def rows(
        self,
        log: Any,
        sample: RowSample | None = None,
        mark: str = "",
        until_us: int | None = None,
        target: Target = CLICKED,
    ) -> StageResult:
        """Build the labelled rows; they are written to ``files[0]`` and counted in ``facts``.

        ``mark`` is a suffix of the stage name. ``until_us``, microseconds UTC, limits the rows of a replay. The labels of
        ``target`` are among the columns.

        Raises
        ------
        ContractError
            When a context column alone predicts the label (:mod:`ranking.evaluation.context_columns`).
        """
        settings, context = self.repo.settings, dict(self.repo.settings.features.context)
        inputs = [log, settings.negatives.model_dump(), settings.time.model_dump()]
        if sample is not None:
            inputs.append([sample.path.name, [asdict(window) for window in sample.windows]])
        if until_us is not None:
            inputs.append(until_us)
        inputs += [*target_inputs(target), *([{"context": context}] if context else [])]
        rows = self.stages.run(f"rows{mark}", inputs, lambda: self._rows(sample, until_us))
        if context:
            self._check_context(f"context{mark}", rows, [inputs, rows.facts])
        return rows

    def tables(self, log: Any, as_of_us: int) -> StageResult:
        """Build the feature tables as of a time; ``facts["features"]`` has what determines those of attributes, if any."""
        inputs = [log, as_of_us, self.repo.settings.feature_settings()]
        if self.repo.settings.features_hash():
            inputs.append(self.repo.settings.features.table_settings)
        return self.stages.run("tables", inputs, lambda: self._tables(as_of_us))

    def codebook(self, stem: str, spec: CodebookSpec, fit_end_us: int, inputs: Any, mark: str = "") -> str:
        """Fit a codebook on the data known at ``fit_end_us`` and publish it; returns its name.

        The name is ``stem`` and a hash of the spec, the fit end, and the content and clicks used, so that runs on the same
        repo share codebooks. ``mark`` is a suffix of the names of the two stages.
        """
        made_of = [spec.model_dump(mode="json"), fit_end_us, content_mark(self.repo, fit_end_us)]
        if spec.needs_pairs:
            made_of.append(behaviour_mark(self.repo, fit_end_us))
        name = f"{stem}_{content_hash(made_of)[:6]}"
        marked = [*inputs, *made_of]

        def fit() -> StageResult:
            lifecycle.fit(self.repo, name, spec, fit_end_us)
            items = read_manifest(self.repo.codebooks / name)["rows"]
            return StageResult(items, {"name": name}, (self.repo.codebooks / name / "manifest.json",))

        self.stages.run(f"codebook{mark}", marked, fit)
        self._publish(f"publish{mark}", name, marked)
        return name

    def _publish(self, stage: str, name: str, inputs: Any) -> None:
        from sidkit.stores.feast_repo import apply_changed_features

        def publish() -> StageResult:
            report = lifecycle.publish(self.repo, name)
            return StageResult(report.rows, {}, (self.repo.tables / f"item_sid_{name}.parquet",))

        self.stages.run(stage, inputs, publish)
        apply_changed_features(self.repo)

    def given_codebook(self, record: CodebookRecord, inputs: Any) -> str:
        """Publish a fitted codebook with the codes of all items; returns its name."""
        name, marked = record.name, [*inputs, record.name, record.content_hash]

        def found() -> StageResult:
            manifest = self.repo.codebooks / name / "manifest.json"
            return StageResult(read_manifest(manifest.parent)["rows"], {"name": name}, (manifest,))

        self.stages.run("codebook", marked, found)
        self._publish("publish", name, marked)
        return name

    def frame(
        self, name: str, inputs: Any, codebook: str, rows: LabelledRows, split: TimeSplit, caps: Caps, folder: Path
    ) -> StageResult:
        """Retrieve the features of the thinned rows through the codebook's service and save them to a folder.

        ``facts["parts"]`` contains the used and available rows of each part.
        """
        return self.stages.run(name, inputs, lambda: self._frame(codebook, rows, split, caps, folder))

    def streamed_frame(
        self,
        name: str,
        inputs: Any,
        codebook: str,
        rows: Path,
        split: TimeSplit,
        caps: Caps,
        folder: Path,
        target: Target = CLICKED,
    ) -> StageResult:
        """Like :meth:`frame`, for a file of labelled rows whose training part exceeds memory."""
        from ranking.data.disk_frame import write_disk_frame

        def write() -> StageResult:
            return write_disk_frame(self.repo, codebook, rows, split, caps, folder, target)

        return self.stages.run(name, inputs, write)

    def _write_dataset(self, dataset: NamedDataset) -> StageResult:
        out = Path(self.repo.settings.source.url)
        rows = dataset.write(out, self.impressions)
        facts = {"plugin": dataset.plugin.describe(copied=False)} if dataset.plugin else {}
        return StageResult(rows, facts, tuple(sorted(out.glob("interactions.parquet"))))

    def _read_source(self) -> StageResult:
        report = ingest(self.repo)
        if report.read_again:
            self.progress.remark(report.read_again)
        facts = {
            "new": report.new_rows,
            **{name: getattr(report, name) for name in ("changed", "removed", "vanished")},
            "merged": {table.table: table.merged for table in report.tables if table.merged},
            "rejected": {table.table: table.reasons for table in report.tables if table.rejected},
        }
        return StageResult(report.rows, facts, (self.repo.log / "manifest.json",))

    def _rows(self, sample: RowSample | None, until_us: int | None) -> StageResult:
        report = build_labelled_rows(self.repo, sample, until_us)
        facts = {
            **{name: getattr(report, name) for name in ("rows", "sampled", "far", "other_touch", "missing")},
            "negatives": self.repo.settings.negatives.model_dump(),
            "available": list(report.available),
        }
        if context := dict(self.repo.settings.features.context):
            facts["context"] = context
        return StageResult(report.rows, facts, (report.path,))

    def _check_context(self, name: str, rows: StageResult, inputs: Any) -> None:
        features = self.repo.settings.features

        def measure() -> StageResult:
            return StageResult(rows.rows, {"auc": context_auc(rows.files[0], features.context)})

        refuse_revealing_context(self.stages.run(name, inputs, measure).facts["auc"], features.context_waived)

    def _tables(self, as_of_us: int) -> StageResult:
        report = build_tables(self.repo, as_of_us, allow_future=self.allow_future)
        for note in report.notes:
            self.progress.remark(note)
        facts: dict[str, Any] = {"as_of_us": as_of_us, "rows": {name: report.rows[name] for name in TABLES}}
        if self.repo.settings.features_hash():
            facts["features"] = [self.repo.settings.features.table_settings, report.rows]
        return StageResult(
            sum(report.rows.values()),
            facts,
            tuple(self.repo.tables / f"{name}.parquet" for name in report.rows),
        )

    def _frame(self, codebook: str, rows: LabelledRows, split: TimeSplit, caps: Caps, folder: Path) -> StageResult:
        from ranking.data.service_schema import service_schema
        from ranking.data.storage import save_dataset
        from semantic_ids.codebook import Codebook
        from sidkit.stores.feast_repo import open_store

        parts, thinned = split.parts(rows.at_us), {}
        for name, part in parts.items():
            if name != "test":  # the test part may lack a class; its metrics are then null
                check_both_classes(rows.label[part], name)
            thinned[name] = part[thin_by_user(rows.user_ids[part], caps.of_part(name))]
        ends = np.cumsum([len(part) for part in thinned.values()]).tolist()
        chosen = rows.take(np.concatenate(list(thinned.values())))
        record = Catalog.open(self.repo).codebook(codebook)
        rate = chosen.take(np.arange(ends[0])).click_rate
        store = open_store(self.repo)
        data = build_dataset(
            store,
            record.service_name,
            Codebook.load(self.repo.codebooks / codebook),
            chosen,
            rate=rate,
            history_length=self.repo.settings.time.history_length,
            schema=service_schema(
                store,
                record.service_name,
                self.repo.settings.features,
                conversions=self.repo.settings.source.conversions,
            ),
        )
        save_dataset(data, folder)
        used = part_rows(*({name: len(part) for name, part in each.items()} for each in (thinned, parts)))
        return StageResult(len(data), {"ends": ends, "rate": rate, "parts": used}, (folder,))


def training_context(
    repo: Repo,
    codebook: str,
    split: TimeSplit,
    frame: Path,
    spec: RankerSpec,
    rankers: Path | None,
    *,
    threads: int,
    first_epoch: bool = False,
    importance: bool = False,
) -> TrainingContext:
    """Load a saved frame for training; rankers are saved to the folder ``rankers`` (None: not saved).

    Raises
    ------
    LeakageError
        When the codebook learned from clicks that are training rows.
    """
    from ranking.data.disk_frame import DiskFrame
    from semantic_ids.codebook import Codebook

    saved = DiskFrame.load(frame)
    book = Codebook.load(repo.codebooks / codebook)
    train = saved.train(split)
    evaluation = split.parts(saved.data.rows.at_us)
    record = Catalog.open(repo).codebook(codebook)
    refuse_learned_rows(train.first_us, record, book, _TRAIN_AGAIN)
    return TrainingContext(
        train=train,
        validation=saved.data.take(evaluation["validation"]),
        test=saved.data.take(evaluation["test"]),
        spec=spec,
        rate=train.click_rate,
        threads=threads,
        trained_on=TrainedOn(
            fit_start_us=train.first_us,
            # Validation rows select the epoch, so they count as seen.
            fit_end_us=split.validation_end_us,
            parents=(record.name,),
            feature_settings=repo.settings.feature_settings(),
            rows=len(train),
        ),
        serving=_serving(repo, record, book, spec.training.target),
        rankers=rankers,
        quantizer=book.quantizer,
        neighbours=book.neighbours,
        first_epoch=first_epoch,
        importance=importance,
    )


def _serving(repo: Repo, record: CodebookRecord, codebook: Codebook, target: Target) -> ServingSpec:
    from ranking.data.service_schema import pinned_features
    from sidkit.stores.feast_repo import open_store

    return ServingSpec(
        sizes=record.sizes,
        residual_levels=codebook.quantizer.residual_levels,
        target=target,
        codebook=record.name,
        codebook_hash=record.content_hash,
        service=record.service_name,
        features=pinned_features(open_store(repo), record.service_name),
        history_length=repo.settings.time.history_length,
    )


def feature_inputs(features: FeatureSettings) -> list[Any]:
    """Inputs of the frame: ``[features]`` if anything is set, so that frames of repositories without it stay valid."""
    written = features.model_dump(mode="json")
    return [written] if any(written.values()) else []


def fallback_of(repo: Repo, codebook: str) -> str | None:
    """Describe why a codebook fell back to content although its preset learns from behaviour; None if it did not."""
    reason = read_manifest(repo.codebooks / codebook, verify=False).get("fallback")
    return f"codebook {codebook} was fitted by the encoder 'content', without behaviour: {reason}" if reason else None


def end_of_log(repo: Repo, now_us: int | None = None) -> int:
    """Time from which all events of the log are available, at most now, microseconds UTC.

    This is the end of the last event's window plus the delay.
    """
    time = repo.settings.time
    end_us = -(-read_log(repo).last_us // time.cadence_us) * time.cadence_us + time.delay_us
    return min(end_us, present_us() if now_us is None else now_us)
