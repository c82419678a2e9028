"""A project: one repository, with a method for every step of its life."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidkit.api.adapt_steps import AdaptSteps
from sidkit.api.artifact_steps import ArtifactSteps
from sidkit.api.codebook_steps import CodebookSteps
from sidkit.api.data_steps import DataSteps
from sidkit.api.event_steps import EventSteps
from sidkit.api.monitoring_steps import MonitoringSteps
from sidkit.api.profile_steps import ProfileSteps, refuse_unusable_profile
from sidkit.api.ranker_steps import RankerSteps
from sidkit.api.source import source_folder, tables_of, write_source
from sidkit.api.tables import TableLike
from sidkit.core.clock import Moment, moment_us
from sidkit.core.errors import ConfigError, LifeCycleError
from sidkit.core.repo import Repo, source_of

if TYPE_CHECKING:
    import pandas as pd

    from ranking.experiments.comparison.results import ComparisonResult
    from ranking.pipeline.results import RunResult
    from ranking.serving.onnx_export import ExportedRanker
    from sidkit.core.progress import Progress


class Project(
    ProfileSteps, ArtifactSteps, DataSteps, EventSteps, CodebookSteps, RankerSteps, AdaptSteps, MonitoringSteps
):
    """A repository with a method for every step: from a click log to feature tables, codebooks, rankers and scores.

    Create one with :func:`sidkit.init`, or open one with :func:`sidkit.open`. Methods that write take the repository's
    lock; times are ISO 8601 text or datetimes with a zone.

    Parameters
    ----------
    repo : Repo
        The repository.
    """

    def __repr__(self) -> str:
        return f"<sidkit project in {self.path}>"

    def run(
        self,
        preset: str = "rqkmeans",
        *,
        seeds: int = 1,
        as_of: Moment | None = None,
        allow_future: bool = False,
        codebook: str | None = None,
        progress: bool | Progress = False,
    ) -> RunResult:
        """Run all stages: read the log, build features, fit a codebook, train and evaluate rankers, fill the online store.

        Stages that ran before on the same inputs are reused, so an interrupted run resumes.

        Parameters
        ----------
        preset : str
            Name of a preset, or path of a ``.toml`` file.
        seeds : int
            Number of seeds per arm.
        as_of : str or datetime, optional
            Build features up to this time; default: the end of the log.
        allow_future : bool
            Accept a time in the future, for simulated logs.
        codebook : str, optional
            Train rankers on this fitted codebook instead of fitting one; it is published and promoted.
        progress : bool or Progress
            Print progress, or a receiver of the events (:class:`sidkit.core.progress.Progress`).

        Returns
        -------
        RunResult
            ``arms`` and ``comparisons`` (DataFrames), ``codebook``, ``ranker``, ``conclusions`` (sentences), ``report`` (path
            of an HTML page).

        Raises
        ------
        ConfigError
            When the preset is invalid.
        MissingExtraError
            When an optional package of the preset is not installed; nothing has been written then.
        LeakageError
            When ``codebook`` was fitted too late to leave rows to train and evaluate rankers on.
        """
        from ranking.pipeline.run import run_preset

        as_of_us = None if as_of is None else moment_us(as_of)
        with shown(progress) as receiver:
            return run_preset(
                self.repo,
                source_of(self.path),
                preset,
                seeds=seeds,
                as_of_us=as_of_us,
                allow_future=allow_future,
                codebook=codebook,
                progress=receiver,
            )

    def train(
        self,
        preset: str = "rqkmeans",
        *,
        arms: Sequence[str] = (),
        seeds: int = 1,
        as_of: Moment | None = None,
        allow_future: bool = False,
        codebook: str | None = None,
        progress: bool | Progress = False,
    ) -> pd.DataFrame | None:
        """Run the stages up to the training of arms; a later :meth:`run` of the preset reuses them.

        In a script that ``torchrun`` starts in several processes, these share the rows of every batch.

        Parameters
        ----------
        preset, seeds, as_of, allow_future, codebook, progress
            See :meth:`run`.
        arms : sequence of str
            Arms to train, with the members of blends among them; default: all arms of the preset.

        Returns
        -------
        pandas.DataFrame or None
            Arm, seed, ranker (None for an arm that cannot serve) and validation_auc; None in a process other than 0.

        Raises
        ------
        ConfigError
            When the preset is invalid or has no such arm, or a machine has fewer GPUs than processes.
        ProcessesError
            When another process stopped, or has other rows or settings.
        """
        import pandas as pd

        from ranking.pipeline.train import train_preset

        as_of_us = None if as_of is None else moment_us(as_of)
        with shown(progress) as receiver:
            trained = train_preset(
                self.repo,
                source_of(self.path),
                preset,
                arms=arms,
                seeds=seeds,
                as_of_us=as_of_us,
                allow_future=allow_future,
                codebook=codebook,
                progress=receiver,
            )
        if trained is None:
            return None
        rows = [(arm, seed, *each) for arm, all_of in trained.items() for seed, each in enumerate(all_of)]
        return pd.DataFrame(rows, columns=["arm", "seed", "ranker", "validation_auc"])

    def compare(
        self,
        arms: Sequence[str] = ("papers",),
        *,
        seeds: int = 3,
        origins: int = 3,
        preset: str = "rqkmeans",
        max_train_rows: int | None = None,
        max_evaluation_rows: int | None = None,
        jobs: int = 1,
        own_sizes: bool = False,
        html: str | Path | None = None,
        progress: bool | Progress = False,
    ) -> ComparisonResult:
        """Train and compare arms on the same rows and features, with paired differences.

        See :func:`ranking.experiments.comparison.compare.compare_arms` for the parameters. Finished trials are reused.
        """
        from ranking.experiments.comparison.compare import compare_arms

        with shown(progress) as receiver:
            return compare_arms(
                self.repo,
                source_of(self.path),
                arms,
                seeds=seeds,
                origins=origins,
                preset=preset,
                max_train_rows=max_train_rows,
                max_evaluation_rows=max_evaluation_rows,
                jobs=jobs,
                own_sizes=own_sizes,
                html=None if html is None else Path(html),
                progress=receiver,
            )

    def promote(self, name: str) -> None:
        """Make a published codebook, or a ranker, the one that is used by default.

        Parameters
        ----------
        name : str
            Name of a codebook or of a ranker.

        Raises
        ------
        UnknownVersionError
            When there is neither.
        LifeCycleError
            When there are both, or the codebook is not published.
        ServingError
            When the ranker cannot serve.
        """
        from semantic_ids.catalog import Catalog

        catalog = Catalog.open(self.repo)
        rankers = {record.name for record in catalog.rankers()}
        if name in rankers and name in {record.name for record in catalog.codebooks()}:
            raise LifeCycleError(name, "both a codebook and a ranker", "use promote_codebook or promote_ranker")
        if name in rankers:
            self.promote_ranker(name)
        else:
            self.promote_codebook(name)

    def promote_codebook(self, name: str) -> None:
        """Make a published codebook the default of all look-ups and frames; see :meth:`promote`."""
        from semantic_ids import lifecycle

        with self.repo.locked():
            lifecycle.promote(self.repo, name)

    def promote_ranker(self, name: str) -> None:
        """Make a ranker the default of scores; see :meth:`promote`."""
        from ranking.serving.scorer import Scorer
        from semantic_ids.catalog import Catalog

        with self.repo.locked():
            Scorer(self.repo, name)  # raises if the ranker cannot serve
            Catalog.open(self.repo).set_ranker_state(name, "serving")

    def export_ranker(self, out: str | Path, name: str | None = None) -> ExportedRanker:
        """Write a ranker's forward pass as an ONNX file, checked against the ranker.

        Parameters
        ----------
        out : str or Path
            The file.
        name : str, optional
            The ranker; default: the serving one.

        Raises
        ------
        MissingExtraError
            When an optional package is not installed.
        ServingError
            When the ranker has no torch model, an operation cannot be exported, or the exported scores differ.
        """
        from ranking.serving.onnx_export import export_ranker
        from ranking.serving.scorer import Scorer

        return export_ranker(self.repo, Scorer(self.repo, name), Path(out))


@contextmanager
def shown(progress: bool | Progress) -> Iterator[Progress | None]:
    """The receiver of a job's events: the one given, one that prints, or None."""
    if progress is True:
        from sidkit.api.progress import shown_progress

        with shown_progress() as printed:
            yield printed
    else:
        yield progress or None


def open_project(path: str | Path) -> Project:
    """Open a repository.

    Parameters
    ----------
    path : str or Path
        Its folder.

    Raises
    ------
    RepoError
        When it is not a sidkit repository, or was written by another release (``sidkit upgrade`` migrates it).
    """
    return Project(Repo.open(path))


def init(
    path: str | Path,
    data: str | Path | None = None,
    *,
    interactions: TableLike | None = None,
    items: TableLike | None = None,
    item_embeddings: TableLike | None = None,
    users: TableLike | None = None,
    source: Mapping[str, Any] | None = None,
    settings_file: str | Path | None = None,
    impressions: int = 200_000,
    profile: str = "local",
    artifacts: str | None = None,
) -> Project:
    """Create a project. The settings of its source and its attributes are inferred from the data; ``sidkit.toml`` holds them.

    Parameters
    ----------
    path : str or Path
        A new or empty folder.
    data : str or Path, optional
        A folder of Parquet, CSV or JSON-lines files, a SQLAlchemy URL (``env:NAME`` reads it from an environment variable),
        or ``synthetic[:strong|weak|none|clustered]``, which writes a generated data set into the project.
    interactions, items, item_embeddings, users : TableLike, optional
        The tables of the input contract in memory (pandas, Polars or Arrow), instead of ``data``; vectors and users may be
        missing. They are saved in the project's folder ``source``; :meth:`Project.ingest` adds rows.
    source : mapping, optional
        What the data call their columns and how they are read: keys of ``[source]`` in ``sidkit.toml``, such as
        ``{"columns": {"timestamp": "ts"}, "label": {"positive": "rating >= 4"}, "times": {"assume_timezone": "UTC"}}``.
    settings_file : str or Path, optional
        A file with ``[source]`` instead; default: ``sidkit.toml`` in the folder of the data, if there is one.
    impressions : int
        Number of impressions of a generated data set.
    profile : str
        Stores and engine of the repository: a key of :data:`sidkit.profiles.PROFILES`.
    artifacts : str, optional
        A URL at which artefacts are shared with other machines; see :meth:`Project.switch_profile`.

    Raises
    ------
    RepoError
        When the folder is not empty.
    ContractError
        When the data break the input contract.
    ConfigError
        When both ``data`` and tables are given, interactions or items are missing, or there is no such profile.
    MissingExtraError
        When the profile needs a package that is not installed.
    """
    tables = tables_of(interactions, items, item_embeddings, users)
    file = None if settings_file is None else Path(settings_file)
    given = [name for name, table in tables.items() if table is not None]
    if given and data is not None:
        raise ConfigError(
            f"expected either data or tables in memory, got data and {', '.join(given)}; drop one of them"
        )
    refuse_unusable_profile(profile, artifacts)
    if given:
        repo = _init_in_memory(Path(path), tables, source, file)
    elif data is None:
        from sidkit.core.repo import init_repo

        repo = init_repo(path)
    else:
        repo = _init_from(Path(path), str(data), impressions, source, file)
    project = Project(repo)
    if project.profile().name != profile or artifacts is not None:  # the template is a profile already
        project.switch_profile(profile, artifacts=artifacts)
    return project


def _init_in_memory(
    path: Path, tables: dict[str, TableLike | None], source: Mapping[str, Any] | None, file: Path | None
) -> Repo:
    """Write the tables into a temporary folder, validate them, and move the folder into the new repository."""
    from sidkit.api.checks import check_source
    from sidkit.contract import features_section, open_source, stated_settings
    from sidkit.core.files import typed_path
    from sidkit.core.repo import init_repo
    from sidkit.core.temporary import temporary_folder

    folder = typed_path(path)
    with temporary_folder() as work:
        write_source(work / "source", tables)
        checked = check_source(work / "source", source=source, settings_file=file)
        opened = open_source(str(work / "source"), stated_settings(str(work / "source"), source, file))
        repo = init_repo(
            folder, source_url=str(source_folder(folder)), features=features_section(opened), **checked.settings
        )
        shutil.move(work / "source", source_folder(folder))
    return repo


def _init_from(path: Path, data: str, impressions: int, source: Mapping[str, Any] | None, file: Path | None) -> Repo:
    from sidkit.datasets import named_dataset
    from sidkit.datasets.data_repo import create_repo

    repo = create_repo(path, data, source, file)
    if dataset := named_dataset(data):
        with repo.locked():
            dataset.write(Path(repo.settings.source.url), impressions)
    return repo
