"""All exceptions of sidkit.

::

    SidkitError
    ├── ConfigError                 a settings file that cannot be used
    │   ├── SettingsChangedError    settings differ from those an artefact was made with
    │   └── PluginError             a user-defined class that cannot be used
    ├── RepoError                   a folder that is not a usable repository
    │   ├── RepoLockedError         another command holds the write lock
    │   ├── RegistryDamagedError    the registry was modified or is damaged
    │   └── DefinitionsError        definitions that Feast would silently mishandle
    ├── ContractError               input that breaks the contract
    │   ├── MissingTableError       a table is missing
    │   ├── TableSchemaError        a column is missing or of the wrong type
    │   └── RejectedRowsError       more rows were rejected than the settings allow
    ├── ArtifactError               a codebook, a ranker or a table on disk
    │   ├── ArtifactMissingError
    │   ├── ArtifactCorruptError    a file differs from its manifest
    │   └── PluginChangedError      the source of a user-defined class is missing or changed
    ├── CatalogError                the catalogue of versions
    │   ├── CatalogUnreachableError
    │   ├── CatalogCorruptError     a record was modified or is damaged
    │   ├── CatalogLostError        codebooks on disk are missing from the catalogue
    │   ├── UnknownVersionError     no codebook or ranker of that name
    │   └── LifeCycleError          a life-cycle step that the current state does not allow
    ├── TimeError                   an invalid time
    │   └── LeakageError            an evaluation, or training, that starts before its artefacts' fit_end
    ├── FitError                    data that cannot be fitted on
    │   └── TooFewPairsError        too few pairs to learn from
    ├── EvaluationError             data that cannot be evaluated on
    ├── ServingError                a request that cannot be answered
    ├── OnlineStoreError            an online store that cannot be read or written
    ├── MissingExtraError           an optional package that is not installed
    ├── MemoryLimitError            DuckDB reached its memory limit
    ├── EngineError                 Spark did not start or stopped a step
    ├── ProcessesError              a training process or the worker of a shard stopped, or has other inputs
    └── StorageError                the disk refused a write

Each message states what was expected, what was given and how to fix it; the exception has the same facts as attributes.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

from sidkit.core.pickled_errors import PickledError


class SidkitError(PickledError, Exception):
    """Base class of all errors that sidkit raises."""


class SidkitWarning(UserWarning):
    """Something that a user should know about and that does not stop the work; commands print it on stderr."""


class ConfigError(SidkitError):
    """A settings file that cannot be used."""


class SettingsChangedError(ConfigError):
    """The settings differ from those an existing artefact was made with."""

    def __init__(self, artifact: str, changed: Mapping[str, tuple[object, object]], remedy: str) -> None:
        self.artifact = artifact
        self.changed = dict(changed)
        lines = [f"{key}: made with {was!r}, now {now!r}" for key, (was, now) in self.changed.items()]
        super().__init__(f"{artifact} was made with other settings ({'; '.join(lines)}). {remedy}")


class EngineError(SidkitError):
    """Spark did not start, or stopped a step."""


class ProcessesError(SidkitError):
    """A training process or the worker of a shard stopped, does not answer, or has other inputs than the others."""


class PluginError(ConfigError):
    """A user-defined class that is missing, cannot be imported, or does not implement its contract."""


class MissingExtraError(SidkitError):
    """Optional packages that are needed are not installed.

    Parameters
    ----------
    purpose : str
        What needs them.
    packages : sequence of str
        The missing packages.
    extras : sequence of str
        The extras of sidkit that install them.
    """

    def __init__(self, purpose: str, packages: Sequence[str], extras: Sequence[str]) -> None:
        self.purpose = purpose
        self.packages = tuple(packages)
        self.extras = tuple(extras)
        *others, last = self.packages
        listed = f"{', '.join(others)} and {last}" if others else last
        verb = "are" if others else "is"
        super().__init__(
            f"{purpose} needs {listed}, which {verb} not installed; run: pip install 'sidkit[{','.join(self.extras)}]'"
        )


class RepoError(SidkitError):
    """A folder that is not a usable sidkit repository."""


class RepoLockedError(RepoError):
    """Another command is writing to the repository."""

    def __init__(self, path: Path, holder: str) -> None:
        self.path = path
        self.holder = holder
        super().__init__(
            f"{path} is locked by another sidkit command ({holder}). Wait for it to finish, or stop it: "
            "its work is saved and the next run resumes from there."
        )


class DefinitionsError(RepoError):
    """Definitions that Feast would accept and silently mishandle."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = list(problems)
        listed = "".join(f"\n- {problem}" for problem in problems)
        super().__init__(f"{where} was not applied, because Feast would mishandle it ({len(self.problems)}):{listed}")


class ContractError(SidkitError):
    """Input that breaks the input contract."""

    def __init__(self, table: str, problem: str) -> None:
        self.table = table
        self.problem = problem
        super().__init__(f"{table}: {problem}")


class MissingTableError(ContractError):
    """A required table is missing."""


class TableSchemaError(ContractError):
    """A column is missing or has a type that the contract does not allow."""


class RejectedRowsError(ContractError):
    """More rows were rejected than the settings allow."""

    def __init__(
        self, table: str, rejected: int, total: int, limit: float, reasons: Mapping[str, int], remedy: str = ""
    ) -> None:
        self.rejected = rejected
        self.total = total
        self.limit = limit
        self.reasons = dict(reasons)
        listed = ", ".join(f"{reason} ({count:,})" for reason, count in self.reasons.items())
        super().__init__(
            table,
            f"expected at most {limit:.2%} rejected rows, got {rejected:,} of {total:,} ({rejected / max(total, 1):.2%}): "
            f"{listed}. Fix the source data{f' ({remedy})' if remedy else ''}, or raise source.max_reject_share in "
            "sidkit.toml if these rows can be dropped.",
        )


class ArtifactError(SidkitError):
    """An artefact on disk is missing or damaged."""


class ArtifactMissingError(ArtifactError):
    """An artefact does not exist."""


class ArtifactCorruptError(ArtifactError):
    """A file written by sidkit is damaged or was edited: it differs from its manifest or cannot be read.

    Parameters
    ----------
    path : Path
        The file or the folder.
    problem : str
        What is wrong with it.
    remedy : str, optional
        How to rebuild it, as an imperative; defaults to :func:`sidkit.core.remedies.remedy`.
    """

    def __init__(self, path: Path, problem: str, remedy: str | None = None) -> None:
        from sidkit.core.remedies import remedy as remedy_of

        self.path = path
        self.problem = problem
        self.remedy = remedy_of(path) if remedy is None else remedy
        super().__init__(f"{path}: {problem}. To repair it, {self.remedy}.")


class PluginChangedError(ArtifactError):
    """The source of a user-defined class is missing, or differs from the one that an artefact was made with.

    Parameters
    ----------
    path : Path
        The file that differs, or the artefact's folder.
    reference : str
        The plug-in, with its hash.
    expected, actual : str
        SHA-256, with the distribution if the plug-in belongs to one; ``actual`` is None if the source is missing.
    remedy : str
        How to fix it, as an imperative.
    """

    def __init__(self, path: Path, reference: str, expected: str, actual: str | None, remedy: str) -> None:
        self.path = path
        self.reference = reference
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"{path}: the plug-in {reference} is {'missing' if actual is None else 'not the one that was used'}: expected "
            f"{expected}, got {actual or 'nothing'}. It was not executed. To repair it, {remedy}."
        )


class CatalogError(SidkitError):
    """The catalogue of versions cannot be used as requested."""


class CatalogUnreachableError(CatalogError):
    """The catalogue's database cannot be reached."""

    def __init__(self, url: str, cause: object) -> None:
        self.url = url
        super().__init__(
            f"the catalogue at {url} cannot be read ({cause}). Without it the feature definitions are unknown and "
            "`feast apply` would drop the views of every published codebook, so nothing was applied. Restore access to the "
            "database, or correct catalog.url in sidkit.toml; a damaged SQLite file is rebuilt from the artefacts by "
            "`sidkit codebooks repair`."
        )


class CatalogCorruptError(CatalogError):
    """A record of the catalogue was modified or is damaged."""

    def __init__(self, url: str, kind: str, name: str) -> None:
        self.url = url
        self.kind = kind
        self.name = name
        super().__init__(
            f"the catalogue at {url} is damaged: the record of {kind} {name!r} does not match its checksum, so nothing was "
            "applied. Rebuild the records from the artefacts with `sidkit codebooks repair`, or restore the "
            "catalogue from a backup."
        )


class CatalogLostError(CatalogError):
    """Codebooks that exist on disk are missing from the catalogue."""

    def __init__(self, url: str, names: Sequence[str]) -> None:
        self.url = url
        self.names = list(names)
        super().__init__(
            f"{', '.join(names)} missing from the catalogue at {url}, but their files still exist: the catalogue was emptied, "
            "replaced by an older copy, or catalog.url points elsewhere. Applying now would drop their online tables, so "
            "nothing was applied. Restore the catalogue from a backup, correct catalog.url in sidkit.toml, or rebuild the "
            "records from the artefacts with `sidkit codebooks repair`; to give up the codebooks, "
            "delete their folders under artifacts/codebooks, their tables data/tables/item_sid_*.parquet, and "
            "data/defined.json."
        )


class UnknownVersionError(CatalogError):
    """No codebook or ranker of that name."""

    def __init__(self, kind: str, name: str, known: Sequence[str], remedy: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = list(known)
        available = ", ".join(known) if known else "none yet"
        named = f" named {name!r}" if name else ""
        super().__init__(f"no {kind}{named}; available: {available}.{remedy and f' {remedy}'}")


class LifeCycleError(CatalogError):
    """A life-cycle step that the current state does not allow."""

    def __init__(self, name: str, state: str, problem: str) -> None:
        self.name = name
        self.state = state
        super().__init__(f"{name} is {state!r}: {problem}")


class TimeError(SidkitError):
    """An invalid time."""


class LeakageError(TimeError):
    """An evaluation that starts before the fit_end of one of its artefacts, or training rows that one learned from.

    Parameters
    ----------
    evaluation_start : str
        Start of the evaluation or of the training rows, ISO-8601.
    parents : mapping of str to str
        Artefact -> its fit_end, ISO-8601.
    training : bool
        Whether training rows were seen, by artefacts that learned from clicks.
    remedy : str, optional
        What to do instead of the general advice.
    """

    def __init__(
        self, evaluation_start: str, parents: Mapping[str, str], *, training: bool = False, remedy: str | None = None
    ) -> None:
        self.evaluation_start = evaluation_start
        self.parents = dict(parents)
        listed = ", ".join(f"{name} (fit_end {end})" for name, end in self.parents.items())
        if training:
            problem = (
                f"the training rows start at {evaluation_start}, before the end of the clicks that these artefacts learned "
                f"from: {listed}. They have seen labels of the training rows"
            )
            advice = "Train on rows from the latest fit_end on, or fit again with an earlier cut-off"
        else:
            problem = (
                f"the evaluation starts at {evaluation_start}, before these artefacts were fitted: {listed}. They have "
                "seen the evaluation rows"
            )
            advice = "Start the evaluation at the latest fit_end, or fit again with an earlier cut-off"
        super().__init__(f"{problem}. {remedy or advice}.")


class FitError(SidkitError):
    """Data that a model or codebook cannot be fitted on."""


class TooFewPairsError(FitError):
    """Too few co-interaction pairs to learn from; a fit without pairs may succeed."""


class EvaluationError(SidkitError):
    """Data that a model cannot be evaluated on."""


class ServingError(SidkitError):
    """A request that cannot be answered."""


class OnlineStoreError(SidkitError):
    """An online store that cannot be read or written."""


class MemoryLimitError(SidkitError):
    """DuckDB reached its memory limit and could not spill."""

    def __init__(self, step: str, limit: str, cause: str) -> None:
        self.what = step
        self.limit = limit
        super().__init__(
            f"{step} needs more memory than engine.memory_limit allows, which is {limit} ({cause}). Raise engine.memory_limit "
            "in sidkit.toml, or lower engine.threads, since each thread holds part of it"
        )


class RegistryDamagedError(RepoError):
    """The registry was modified or is damaged."""

    def __init__(self, path: Path, problem: str, repo: Path) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"the registry {path} is damaged ({problem}); run `sidkit apply --repo {repo}` to rebuild it from the "
            "definitions"
        )


class StorageError(SidkitError):
    """The disk refused a write."""

    def __init__(self, path: Path | str, cause: object) -> None:
        self.path = Path(path)
        why = cause.strerror if isinstance(cause, OSError) and cause.strerror else cause
        number = cause.errno if isinstance(cause, OSError) else None
        if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
            remedy = "make the folder writable for this user, or work on a writable copy of the repository"
        elif number in {errno.EISDIR, errno.ENOTDIR}:
            remedy = "give the path of a file"
        else:
            remedy = "free some disk space"
        super().__init__(
            f"writing {path} failed: {why}. Existing files are unchanged; {remedy} and run the same command again "
            "(finished stages are reused)."
        )
