"""Steps on frames and rankers: point-in-time features, training runs, evaluation and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.project_dataset import ProjectDataset
from sidkit.api.base import ProjectBase, warn
from sidkit.api.scoring import ProjectScorer
from sidkit.api.tables import TableLike, like, to_arrow
from sidkit.core.clock import Moment, iso, moment_us
from sidkit.core.errors import ConfigError
from sidkit.core.temporary import temporary_folder

if TYPE_CHECKING:
    import pandas as pd

    from ranking.audit.run import AuditResult
    from ranking.data.export import WrittenFrame
    from ranking.experiments.evaluate import RankerEvaluation
    from ranking.experiments.leakage import LeakageResult
    from ranking.training.external_ranker import ExternalRanker
    from semantic_ids.records import RankerRecord

PARTS = ("train", "validation", "test")


class RankerSteps(ProjectBase):
    """Methods of a project on rows, frames and rankers."""

    def rows(self, part: str | None = None, *, codebook: str | None = None) -> pd.DataFrame:
        """The labelled rows that rankers train on: user_id, item_id, event_timestamp, label, and request_id if logged.

        Parameters
        ----------
        part : str, optional
            ``train``, ``validation`` or ``test``, by the time split of the settings; default: all rows.
        codebook : str, optional
            Leave out training rows whose clicks this codebook learned from; a ranker of the codebook must not train on them.

        Raises
        ------
        ConfigError
            When there is no such part.
        UnknownVersionError
            When there is no such codebook.
        ArtifactMissingError
            When the rows were not written yet.
        """
        import pyarrow.compute as pc

        from ranking.data.split import TimeSplit
        from ranking.pipeline.codebook_window import window_of
        from sidkit.tables.labelled_rows import log_moments

        if part is not None and part not in PARTS:
            raise ConfigError(f"expected one of the parts {', '.join(PARTS)}, got {part!r}")
        table = self._labelled_rows()
        if part is not None:
            at_us = table.column("event_timestamp").cast(pa.int64()).to_numpy()
            moments = log_moments(self.repo)
            split = TimeSplit.of(moments, self.settings.split)
            if codebook is not None:
                split, _ = window_of(self.repo, codebook, split, moments)
            table = table.take(pa.array(split.parts(at_us)[part]))
        if "request_id" in table.column_names and pc.all(pc.is_null(table.column("request_id"))).as_py():
            table = table.drop_columns(["request_id"])
        return table.to_pandas()

    def _labelled_rows(self, columns: list[str] | None = None) -> pa.Table:
        from sidkit.core.errors import ArtifactMissingError
        from sidkit.core.integrity import checked

        if not self.repo.labelled_rows.is_file():
            raise ArtifactMissingError(
                self.repo.labelled_rows, "write them with `sidkit tables rows` or Project.write_rows()"
            )
        return pq.read_table(checked(self.repo.labelled_rows), columns=columns)

    def frame(self, rows: TableLike, service: str | None = None) -> Any:
        """The point-in-time features of rows, as a ranker trains on them.

        Parameters
        ----------
        rows : TableLike
            ``user_id``, ``item_id`` (text or integers) and ``event_timestamp`` (with a time zone); other columns are
            carried over.
        service : str, optional
            Feature service; default: that of the serving codebook.

        Returns
        -------
        pandas.DataFrame, polars.DataFrame or pyarrow.Table
            Of the kind of ``rows``: their columns, then the features as ``view__feature``, in the order of the rows.

        Raises
        ------
        ContractError
            When a column is missing, or a row is invalid.
        UnknownVersionError
            When there is no such service, or no codebook is serving.
        """
        table = to_arrow(rows, "rows")
        with temporary_folder() as folder:
            given, out = folder / "rows.parquet", folder / "frame.parquet"
            pq.write_table(table, given)
            self.write_frame(given, out, service)
            return like(pq.read_table(out), rows)

    def write_frame(self, rows: str | Path, out: str | Path, service: str | None = None) -> WrittenFrame:
        """Like :meth:`frame`, from a Parquet file to a Parquet file, in chunks; for rows larger than memory."""
        from ranking.data.export import write_frame

        written = write_frame(self.repo, Path(rows), Path(out), service)
        self.warn_of_rows(written.ahead, written.unknown)
        return written

    def warn_of_rows(self, ahead: int, unknown: int) -> None:
        """Warn of rows later than the tables, and of rows with unknown items."""
        from sidkit.tables import read_build

        if ahead:
            warn(
                f"{ahead:,} rows are later than the as-of time of the tables, {iso(read_build(self.repo)['as_of_us'])}, and "
                "get the features of that time. Run `sidkit tables build` with a later --as-of first"
            )
        if unknown:
            warn(
                f"{unknown:,} rows have item ids that are missing from the tables, and get no item features. Expected ids as "
                "in the log (`sidkit codebooks codes --item ID` checks an id)"
            )

    def dataset(
        self,
        rows: TableLike,
        codebook: str | None = None,
        *,
        rate: float | None = None,
        vectors: Literal["content", "decoded"] = "content",
    ) -> ProjectDataset:
        """The features of rows as arrays, for models of one's own.

        Parameters
        ----------
        rows : TableLike
            As for :meth:`frame`; a column ``label`` (0 or 1) is optional.
        codebook : str, optional
            A published codebook; default: the serving one.
        rate : float, optional
            The share of positives towards which click rates are smoothed; default: that of the labelled rows before the
            end of the codebook's fit. Use one value for training, evaluation and serving.
        vectors : str
            Whether item vectors are those of the items' ``"content"``, or ``"decoded"`` from their codes. A model that is
            registered on rows with decoded vectors is served without content vectors.

        Raises
        ------
        ContractError
            When a column is missing, or a row is invalid.
        FitError
            When vectors are to be decoded, and the codebook's quantizer cannot decode.
        """
        from ranking.data.dataset import read_rows
        from ranking.data.frame_builder import build_dataset
        from ranking.data.service_schema import service_schema
        from semantic_ids.codebook import load_committed
        from semantic_ids.lookup import published

        record = published(self.repo, codebook)
        table = to_arrow(rows, "rows")
        labelled = "label" in table.column_names
        if not labelled:
            table = table.append_column("label", pa.array([0] * len(table), pa.int8()))
        store = self.store()
        smoothed = self._rate_before(record.fit_end_us) if rate is None else rate
        data = build_dataset(
            store,
            record.service_name,
            load_committed(self.repo.codebooks / record.name, record)[0],
            read_rows(table, context=tuple(self.settings.features.context)),
            rate=smoothed,
            history_length=self.settings.time.history_length,
            schema=service_schema(
                store, record.service_name, self.settings.features, conversions=self.settings.source.conversions
            ),
            vectors=vectors,
        )
        return ProjectDataset(data, record, labelled=labelled, rate=smoothed)

    def _rate_before(self, until_us: int) -> float:
        rows = self._labelled_rows(["event_timestamp", "label"])
        at_us = rows.column("event_timestamp").cast(pa.int64()).to_numpy()
        known = rows.column("label").to_numpy()[at_us < until_us]
        if not len(known):
            raise ConfigError(
                "expected labelled rows before the end of the codebook's fit, to compute the base rate of positives, got none; "
                "pass rate="
            )
        return float(known.mean())

    def features(self, preset: str | None = None) -> pd.DataFrame:
        """The features of rankers, one row each: feature, source, kind, filled (share of rows with a value), distinct, arms
        that read it, and per measured arm ``drop <arm>``, the drop of the validation AUC when the feature is shuffled.

        Parameters
        ----------
        preset : str, optional
            A finished run; default: the newest one.
        """
        from ranking.pipeline.feature_list import features_frame, list_features

        return features_frame(list_features(self.repo, preset))

    def rankers(self) -> pd.DataFrame:
        """All rankers: name, state, arm, codebook, service, fit_end, content_hash."""
        from semantic_ids.catalog import Catalog
        from sidkit.api.tables import records_frame

        columns = ("name", "state", "arm", "codebook", "service", "fit_end_us", "content_hash")
        return records_frame(Catalog.open(self.repo).rankers(), columns, times=("fit_end_us",))

    def register_ranker(
        self, name: str, model: ExternalRanker, *, trained_on: ProjectDataset | Sequence[ProjectDataset]
    ) -> RankerRecord:
        """Register a model of one's own as a ranker, to be promoted, evaluated and served like the built-in ones.

        The file of the model's class is copied into the artefact and is executed from there when the ranker is loaded. Before
        the ranker is registered, it is saved, loaded, and scores some of the rows again.

        Parameters
        ----------
        name : str
            A new name.
        model : ExternalRanker
            The trained model: an instance of a class in a Python file that imports installed packages only.
        trained_on : ProjectDataset or sequence of ProjectDataset
            All labelled rows that the model has seen: training rows, and validation rows if they selected anything. They
            state the codebook. The ranker is evaluated on rows after the last of them and after the fit of the codebook. A
            codebook that learned from clicks must not have learned from them: ``rows("train", codebook=...)`` leaves those out.

        Raises
        ------
        ConfigError
            When the name is invalid, or the rows have no labels or differ in codebook or rate.
        PluginError
            When the class is not in a file of its own, when the loaded model scores otherwise than ``model``, or when a score
            is no probability or depends on other rows.
        LifeCycleError
            When there is a ranker of this name, or the codebook is not published.
        LeakageError
            When the codebook learned from clicks that are among the rows.
        """
        from ranking.pipeline.mlflow_log import log_rankers_if_enabled
        from ranking.serving.register import register_ranker

        parts = [trained_on] if isinstance(trained_on, ProjectDataset) else list(trained_on)
        with self.repo.locked():
            record = register_ranker(self.repo, name, model, parts)
        log_rankers_if_enabled(self.repo, [name])
        return record

    def log_ranker(self, name: str) -> str:
        """Log a ranker to MLflow, through the client that ``mlflow:`` in ``feature_store.yaml`` configures; once.

        Parameters
        ----------
        name : str
            The ranker.

        Returns
        -------
        str
            The id of the MLflow run, which has the artefact, the features, the configuration and the validation metrics.

        Raises
        ------
        ConfigError
            When ``mlflow`` is not enabled, or the tracking server cannot be used.
        MissingExtraError
            When MLflow is not installed.
        UnknownVersionError
            When there is no such ranker.
        """
        from ranking.pipeline.mlflow_log import log_ranker

        return log_ranker(self.repo, name)

    def scorer(self, ranker: str | None = None) -> ProjectScorer:
        """A scorer of candidates with features from the online store; default: the serving ranker."""
        return ProjectScorer(self.repo, ranker)

    def evaluate(
        self, ranker: str | None = None, rows: TableLike | str | Path | None = None, *, since: Moment | None = None
    ) -> RankerEvaluation:
        """Evaluate a ranker on held-out labelled rows.

        Parameters
        ----------
        ranker : str, optional
            Name of the ranker; default: the serving one.
        rows : TableLike, str or Path, optional
            Labelled rows, or a Parquet file of them; default: those of the repository.
        since : str or datetime, optional
            Evaluate rows from this time on; default: the ranker's ``fit_end``.

        Raises
        ------
        LeakageError
            When ``since`` is before the ranker's ``fit_end``.
        EvaluationError
            When no rows remain, or all have the same label.
        """
        from ranking.experiments.evaluate import evaluate_ranker
        from semantic_ids.catalog import Catalog

        name = ranker or Catalog.open(self.repo).serving_ranker().name
        since_us = None if since is None else moment_us(since)
        if rows is None or isinstance(rows, str | Path):
            path = self.repo.labelled_rows if rows is None else Path(rows)
            evaluated = evaluate_ranker(self.repo, name, path, since_us)
        else:
            with temporary_folder() as folder:
                path = folder / "rows.parquet"
                pq.write_table(to_arrow(rows, "rows"), path)
                evaluated = evaluate_ranker(self.repo, name, path, since_us)
        self.warn_of_rows(evaluated.given.after_tables, evaluated.given.of_unknown_items)
        return evaluated

    def leakage(self, preset: str = "rqkmeans", arms: Sequence[str] = ("gbdt",), *, seeds: int = 1) -> LeakageResult:
        """Measure the cost of leakage on the frame of a finished run: AUC promised by whole-log counts, and delivered.

        Raises
        ------
        ArtifactMissingError
            When the run has no saved frame.
        EvaluationError
            When the preset does not have one of the arms.
        """
        from ranking.experiments.leakage import measure_leakage

        return measure_leakage(self.repo, preset, list(arms), seeds)

    def audit(
        self,
        *,
        rows: int = 1000,
        seed: int = 0,
        preset: str | None = None,
        frame: str | Path | None = None,
        service: str | None = None,
    ) -> AuditResult:
        """Recompute a sample of a training frame from the raw log by independent code, and check every artefact's window.

        See :func:`ranking.audit.run.run_audit`; ``ok`` of the result is false at a mismatch.
        """
        from ranking.audit.run import run_audit

        path = None if frame is None else Path(frame)
        return run_audit(self.repo, rows=rows, seed=seed, preset=preset, frame=path, service=service)
