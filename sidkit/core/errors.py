"""Every error of the kit.

::

    SidkitError
    ├── ConfigError                 a settings file that cannot be used
    │   ├── SettingsChangedError    settings differ from those an artefact was made with
    │   └── PluginError             a class of a user's own that cannot be used
    ├── RepoError                   a folder that is no usable repo
    │   ├── RepoLockedError         another command writes to it
    │   ├── RegistryDamagedError    the registry is not what Feast wrote
    │   └── DefinitionsError        definitions that Feast would silently get wrong
    ├── ContractError               input that breaks the contract
    │   ├── MissingTableError       a table is not there
    │   ├── TableSchemaError        a column is missing or of the wrong type
    │   └── RejectedRowsError       more rows were rejected than the settings allow
    ├── ArtifactError               a codebook, a ranker or a table on disk
    │   ├── ArtifactMissingError
    │   ├── ArtifactCorruptError    a file differs from its manifest
    │   └── PluginChangedError      a class of a user's own is not the one that it was made with
    ├── CatalogError                the catalogue of versions
    │   ├── CatalogUnreachableError
    │   ├── CatalogCorruptError     a record is not what was written
    │   ├── CatalogLostError        the catalogue forgot what the disk still holds
    │   ├── UnknownVersionError     no codebook or ranker of that name
    │   └── LifeCycleError          a step out of order
    ├── TimeError                   a moment that cannot be used
    │   └── LeakageError            an evaluation that starts before its artefacts were fitted
    ├── FitError                    data on which nothing can be fitted
    │   └── TooFewPairsError        too little behaviour to learn from
    ├── EvaluationError             data on which nothing can be measured
    ├── ServingError                a request that cannot be answered
    ├── OnlineStoreError            an online store that cannot be read or written
    ├── MemoryLimitError            DuckDB reached its memory limit
    └── StorageError                the disk refused a write

Each says what came, what is needed and how to mend it; the same facts are attributes.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path


class SidkitError(Exception):
    """Root of all errors that the kit raises on purpose."""


class ConfigError(SidkitError):
    """A settings file that cannot be used."""


class SettingsChangedError(ConfigError):
    """The settings differ from those an existing artefact was made with."""

    def __init__(self, artifact: str, changed: Mapping[str, tuple[object, object]], remedy: str) -> None:
        self.artifact = artifact
        self.changed = dict(changed)
        lines = [f"{key}: made with {was!r}, now {now!r}" for key, (was, now) in self.changed.items()]
        super().__init__(f"{artifact} was made with other settings ({'; '.join(lines)}). {remedy}")


class PluginError(ConfigError):
    """A class of a user's own that is missing, cannot be imported, or does not keep its contract."""


class RepoError(SidkitError):
    """A folder that is no usable sidkit repo."""


class RepoLockedError(RepoError):
    """Another command is writing to the repo."""

    def __init__(self, path: Path, holder: str) -> None:
        self.path = path
        self.holder = holder
        super().__init__(
            f"{path} is being written by another sidkit command ({holder}). Wait for it to end, or stop it: "
            "its work is kept and the next run resumes from there."
        )


class DefinitionsError(RepoError):
    """Definitions that Feast would take and silently get wrong."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = list(problems)
        listed = "".join(f"\n- {problem}" for problem in problems)
        super().__init__(f"{where} was not applied, Feast would get it wrong ({len(self.problems)}):{listed}")


class ContractError(SidkitError):
    """Input that breaks the input contract."""

    def __init__(self, table: str, problem: str) -> None:
        self.table = table
        self.problem = problem
        super().__init__(f"{table}: {problem}")


class MissingTableError(ContractError):
    """A table of the contract is not there."""


class TableSchemaError(ContractError):
    """A column is missing or has a type that the contract refuses."""


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
            f"{rejected:,} of {total:,} rows ({rejected / max(total, 1):.2%}) break the contract and the limit is "
            f"{limit:.2%}: {listed}. Fix the source{f' ({remedy})' if remedy else ''}, or raise source.max_reject_share in "
            "sidkit.toml if these rows may be left out.",
        )


class ArtifactError(SidkitError):
    """Something is wrong with an artefact on disk."""


class ArtifactMissingError(ArtifactError):
    """An artefact is not where it should be."""


class ArtifactCorruptError(ArtifactError):
    """A file that the kit wrote is damaged or was edited: it differs from its manifest, or cannot be read.

    Parameters
    ----------
    path : Path
        The file or the folder.
    problem : str
        What is wrong with it.
    remedy : str, optional
        What makes it anew, as an imperative; by default :func:`sidkit.core.remedies.remedy` says it.
    """

    def __init__(self, path: Path, problem: str, remedy: str | None = None) -> None:
        from sidkit.core.remedies import remedy as remedy_of

        self.path = path
        self.problem = problem
        self.remedy = remedy_of(path) if remedy is None else remedy
        super().__init__(f"{path}: {problem}. To repair it, {self.remedy}.")


class PluginChangedError(ArtifactError):
    """A class of a user's own is missing or is not the one that an artefact was made with.

    Parameters
    ----------
    path : Path
        The file that differs, or the artefact's folder.
    reference : str
        The plug-in, with its hash.
    expected, found : str
        SHA-256, with the distribution where the plug-in belongs to one; ``found`` is None where there is nothing.
    remedy : str
        What to do about it, as an imperative.
    """

    def __init__(self, path: Path, reference: str, expected: str, found: str | None, remedy: str) -> None:
        self.path = path
        self.reference = reference
        self.expected = expected
        self.found = found
        super().__init__(
            f"{path}: the plug-in {reference} is {'missing' if found is None else 'not the one that was used'}: expected "
            f"{expected}, found {found or 'nothing'}. It was not executed. To repair it, {remedy}."
        )


class CatalogError(SidkitError):
    """Something is wrong with the catalogue of versions."""


class CatalogUnreachableError(CatalogError):
    """The catalogue's database does not answer."""

    def __init__(self, url: str, cause: object) -> None:
        self.url = url
        super().__init__(
            f"the catalogue at {url} cannot be read ({cause}). Without it the feature definitions are unknown and "
            "`feast apply` would drop the views of every published codebook, so nothing was applied. Bring the "
            "database back, or correct catalog.url in sidkit.toml; a damaged SQLite file is made anew from the artefacts by "
            "`sidkit codebooks repair`."
        )


class CatalogCorruptError(CatalogError):
    """A record of the catalogue is not what was written."""

    def __init__(self, url: str, kind: str, name: str) -> None:
        self.url = url
        self.kind = kind
        self.name = name
        super().__init__(
            f"the catalogue at {url} is damaged: the record of {kind} {name!r} is not what was written, so nothing was "
            "applied. Run `sidkit codebooks repair`, which makes records anew from the artefacts, or restore the "
            "catalogue from a copy."
        )


class CatalogLostError(CatalogError):
    """The catalogue forgot codebooks that the disk still holds."""

    def __init__(self, url: str, names: Sequence[str]) -> None:
        self.url = url
        self.names = list(names)
        super().__init__(
            f"the catalogue at {url} does not know {', '.join(names)}, but their files are still here: it was emptied, "
            "replaced by an older copy, or points elsewhere. Applying now would drop their online tables, so nothing was "
            "applied. "
            "Restore the catalogue from a copy, correct catalog.url in sidkit.toml, or make the records anew from the "
            "artefacts with `sidkit codebooks repair`; to give the codebooks up, "
            "delete their folders under artifacts/codebooks, their tables data/tables/item_sid_*.parquet, and "
            "data/defined.json."
        )


class UnknownVersionError(CatalogError):
    """No codebook or ranker of that name."""

    def __init__(self, kind: str, name: str, known: Sequence[str], remedy: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = list(known)
        there = ", ".join(known) if known else "none yet"
        super().__init__(f"no {kind} named {name!r}; known: {there}.{remedy and f' {remedy}'}")


class LifeCycleError(CatalogError):
    """A life-cycle step out of order."""

    def __init__(self, name: str, state: str, problem: str) -> None:
        self.name = name
        self.state = state
        super().__init__(f"{name} is {state!r}: {problem}")


class TimeError(SidkitError):
    """A moment that cannot be used."""


class LeakageError(TimeError):
    """An evaluation that starts before one of its artefacts was fitted."""

    def __init__(self, evaluation_start: str, parents: Mapping[str, str]) -> None:
        self.evaluation_start = evaluation_start
        self.parents = dict(parents)
        listed = ", ".join(f"{name} (fit_end {end})" for name, end in self.parents.items())
        super().__init__(
            f"the evaluation starts at {evaluation_start}, before these artefacts were fitted: {listed}. They have "
            "seen the rows they would be judged on. Evaluate from the latest fit_end on, or fit again with an earlier "
            "cut-off."
        )


class FitError(SidkitError):
    """Data on which nothing can be fitted."""


class TooFewPairsError(FitError):
    """Too little behaviour for what learns from pairs of items; the same fit without pairs may succeed."""


class EvaluationError(SidkitError):
    """Data on which nothing can be measured."""


class ServingError(SidkitError):
    """A request that cannot be answered."""


class OnlineStoreError(SidkitError):
    """An online store that cannot be read or written."""


class MemoryLimitError(SidkitError):
    """DuckDB reached its memory limit and could not spill."""

    def __init__(self, what: str, limit: str, cause: str) -> None:
        self.what = what
        self.limit = limit
        super().__init__(
            f"{what} needs more memory than engine.memory_limit allows, which is {limit} ({cause}). Raise engine.memory_limit "
            "in sidkit.toml, or lower engine.threads, which each hold a part of it"
        )


class RegistryDamagedError(RepoError):
    """The registry is not what Feast wrote."""

    def __init__(self, path: Path, problem: str, repo: Path) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"the registry {path} is damaged ({problem}): run `sidkit apply --repo {repo}`, which makes it anew from the "
            "definitions"
        )


class StorageError(SidkitError):
    """The disk refused a write."""

    def __init__(self, path: Path | str, cause: object) -> None:
        self.path = Path(path)
        why = cause.strerror if isinstance(cause, OSError) and cause.strerror else cause
        number = cause.errno if isinstance(cause, OSError) else None
        if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
            remedy = "make the folder writable for this user, or work on a copy of the repo that is"
        elif number in {errno.EISDIR, errno.ENOTDIR}:
            remedy = "give the path of a file"
        else:
            remedy = "free some room"
        super().__init__(
            f"writing {path} failed: {why}. Nothing that existed was changed; {remedy} and run the same command again, "
            "finished stages are kept."
        )
