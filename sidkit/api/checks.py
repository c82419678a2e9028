"""Validation of a source that belongs to no project yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidkit.contract import TableReport


@dataclass(frozen=True)
class CheckedSource:
    """A valid source: its inferred settings, and a report per table."""

    settings: dict[str, Any]
    """``modalities``, ``feedback`` and ``conversions``, as in ``[source]`` of ``sidkit.toml``."""
    tables: tuple[TableReport, ...]
    """Rows, rejects with reasons, merged rows, facts and warnings of each table."""


def check_source(
    data: str | Path,
    *,
    rejects: Path | None = None,
    repo: Path | None = None,
    report: Callable[[Sequence[TableReport]], None] | None = None,
) -> CheckedSource:
    """Validate a source against the input contract.

    Parameters
    ----------
    data : str or Path
        A folder of Parquet files or a SQLAlchemy URL.
    rejects : Path, optional
        Write rejected rows to this folder.
    repo : Path, optional
        Use the settings of this repository; default: those inferred from the data.
    report : callable, optional
        Called with the tables' reports, also if the source is rejected.

    Raises
    ------
    ContractError
        When the source is rejected.
    """
    from sidkit.contract import inspect_source, open_source, validate
    from sidkit.core.config import Settings, SourceSettings
    from sidkit.core.engine import connection
    from sidkit.core.repo import Repo
    from sidkit.core.temporary import temporary_folder

    opened = open_source(str(data))
    if repo is not None:
        settings = Repo.open(repo).settings
    else:
        facts = inspect_source(opened)
        settings = Settings(source=SourceSettings(url=str(data), **facts.settings()))
        facts.warn()
    with temporary_folder() as work, connection(settings.engine, work / "spill") as duck:
        valid = validate(opened, settings, duck, work / "valid", rejects, report=report or (lambda _: None))
    source = settings.source
    stated = {"modalities": source.modalities, "feedback": source.feedback, "conversions": source.conversions}
    return CheckedSource(stated, tuple(valid.reports))
