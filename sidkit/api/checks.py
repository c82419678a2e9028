"""Validation of a source that belongs to no project yet."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidkit.core.errors import ConfigError
from sidkit.core.files import typed_path, written_beside

if TYPE_CHECKING:
    from sidkit.contract import TableReport, ValidatedTables
    from sidkit.core.config import Settings

_REJECTS = "rejects"


@dataclass(frozen=True)
class CheckedSource:
    """A valid source: its inferred settings, and a report per table."""

    settings: dict[str, Any]
    """``modalities``, ``feedback`` and ``conversions``, as in ``[source]`` of ``sidkit.toml``; ``further`` has its other
    keys, if any is stated or replaces a missing column."""
    tables: tuple[TableReport, ...]
    """Rows, rejects with reasons, merged rows, facts and warnings of each table."""


def check_source(
    data: str | Path,
    *,
    rejects: Path | None = None,
    repo: Path | None = None,
    source: Mapping[str, Any] | None = None,
    settings_file: Path | None = None,
    report: Callable[[Sequence[TableReport]], None] | None = None,
) -> CheckedSource:
    """Validate a source against the input contract.

    Parameters
    ----------
    data : str or Path
        A folder of files or a SQLAlchemy URL.
    rejects : Path, optional
        Write rejected rows to this folder.
    repo : Path, optional
        Use the settings of this repository; default: those inferred from the data.
    source : mapping, optional
        Keys of ``[source]`` in ``sidkit.toml``, such as ``{"columns": {"timestamp": "ts"}}``.
    settings_file : Path, optional
        A file with ``[source]``; default: ``sidkit.toml`` in the folder of the data, if there is one.
    report : callable, optional
        Called with the tables' reports, also if the source is rejected.

    Raises
    ------
    ContractError
        When the source is rejected.
    """
    settings, further = _settings_of(str(data), repo, source, settings_file)
    with _validated(str(data), settings, rejects, report, repo) as valid:
        pass
    return _checked(settings, further, valid)


def convert_source(
    data: str | Path,
    out: str | Path,
    *,
    repo: Path | None = None,
    source: Mapping[str, Any] | None = None,
    settings_file: Path | None = None,
) -> CheckedSource:
    """Write a source as Parquet files of the input contract, for data that are not to be read in place.

    The files have the contract's names and types: ``interactions.parquet`` with one row per event and its context columns,
    ``items.parquet``, and ``item_embeddings.parquet`` and ``users.parquet`` if there are any. Rejected rows, with their
    reasons, are in the folder ``rejects``.

    Parameters
    ----------
    data : str or Path
        A folder of files or a SQLAlchemy URL.
    out : str or Path
        A new or empty folder.
    repo, source, settings_file : optional
        As for :func:`check_source`.

    Raises
    ------
    ContractError
        When the source is rejected; ``out`` then has the rejected rows only.
    ConfigError
        When ``out`` is neither new nor empty.
    """
    folder = typed_path(out)
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if (folder.exists() and not folder.is_dir()) or set(names) - {_REJECTS}:
        raise ConfigError(
            f"expected a new or empty folder for the converted tables, got {folder}, which "
            f"{'has ' + ', '.join(names[:3]) if names else 'is a file'}; choose another one"
        )
    settings, further = _settings_of(str(data), repo, source, settings_file)
    settings = _with_all_context(str(data), settings)
    folder.mkdir(parents=True, exist_ok=True)
    with _validated(str(data), settings, folder / _REJECTS, None, repo) as valid:
        written = [valid.items, *([valid.embeddings] if settings.source.modalities else []), valid.interactions]
        written += [valid.users] if valid.users is not None else []
        for path in written:
            with written_beside(folder / path.name) as temporary:
                shutil.copyfile(path, temporary)
    return _checked(settings, further, valid)


def _with_all_context(data: str, settings: Settings) -> Settings:
    """The settings with every column of interactions that may become context, so that a copy has them."""
    from sidkit.contract import open_source
    from sidkit.contract.attributes import attribute_kinds
    from sidkit.contract.schemas import INTERACTIONS

    kinds = attribute_kinds(open_source(data, settings.source), INTERACTIONS)
    context = {name: kind for name, (kind, _) in kinds.items() if kind is not None}
    return settings.model_copy(update={"features": settings.features.model_copy(update={"context": context})})


@contextmanager
def _validated(
    data: str,
    settings: Settings,
    rejects: Path | None,
    report: Callable[[Sequence[TableReport]], None] | None,
    repo: Path | None,
) -> Iterator[ValidatedTables]:
    """The valid tables of a source, in a temporary folder, without the users whom the repository has forgotten."""
    from sidkit.contract import open_source, validate
    from sidkit.core.engine import connection
    from sidkit.core.forgotten import read_forgotten
    from sidkit.core.temporary import temporary_folder

    forgotten = None if repo is None else read_forgotten(typed_path(repo))
    opened = open_source(data, settings.source)
    with temporary_folder() as work, connection(settings.engine, work / "spill") as duck:
        yield validate(
            opened,
            settings,
            duck,
            work / "valid",
            rejects,
            report=report or (lambda _: None),
            forgotten=forgotten,
        )


def _checked(settings: Settings, further: dict[str, Any], valid: ValidatedTables) -> CheckedSource:
    keys = ("modalities", "feedback", "conversions")
    stated = {name: getattr(settings.source, name) for name in keys} | ({"further": further} if further else {})
    return CheckedSource(stated, tuple(valid.reports))


def _settings_of(
    data: str, repo: Path | None, source: Mapping[str, Any] | None, file: Path | None
) -> tuple[Settings, dict[str, Any]]:
    """The settings of a repository, or those stated and inferred, with the keys that are not inferred from every source."""
    from sidkit.contract import inspect_source, open_source, stated_settings
    from sidkit.core.config import Settings, SourceSettings
    from sidkit.core.repo import Repo

    if repo is not None:
        if source is not None or file is not None:
            given = "source=" if file is None else f"the settings file {str(file)!r}"
            raise ConfigError(
                f"expected either a repository, whose sidkit.toml has the settings, or settings of the source, got {repo} and "
                f"{given}; leave one of them out"
            )
        return Repo.open(repo).settings, {}
    facts = inspect_source(open_source(data, stated_settings(data, source, file)))
    facts.warn()
    inferred = facts.settings()
    further = inferred.pop("further", {})
    return Settings(source=SourceSettings(url=data, **inferred, **further)), further
