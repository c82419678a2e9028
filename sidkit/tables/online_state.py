"""What the online store has: rows as of a time, from a state of the log. Ticks start from it.

``data/events/online.json`` is written after a materialization and after every tick. Before either writes rows, the record is
set back to the earlier of both states: a write that is killed leaves rows of both, and all rows that differ between the
record and now are computed again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidkit.core.code_stats import stats_views
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import MANIFEST, read_sealed, say_discarded, update_sealed
from sidkit.core.repo import Repo
from sidkit.tables.builder import read_build
from sidkit.tables.code_stats import counted_assignments
from sidkit.tables.log import Log, ingests_of
from sidkit.tables.newest import Since
from sidkit.tables.queue import events_folder

_FILE = "online.json"


def state_path(repo: Repo) -> Path:
    """The record's file."""
    return events_folder(repo) / _FILE


def beat(repo: Repo) -> None:
    """Note that a tick ran now: the online store is up to date, even if nothing was due."""
    path = _beat_path(repo)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def ticked_us(repo: Repo) -> int:
    """When the last tick ended, microseconds UTC; 0 if there was none."""
    try:
        return _beat_path(repo).stat().st_mtime_ns // 1000
    except OSError:
        return 0


def _beat_path(repo: Repo) -> Path:
    return events_folder(repo) / "ticked"


def read_state(repo: Repo) -> dict[str, Any] | None:
    """The record: ``as_of_us``, ``log``, and what ticks add; None if there is none, or it is damaged."""
    path = state_path(repo)
    if not path.exists():
        return None
    try:
        return read_sealed(path)
    except ArtifactCorruptError as error:
        say_discarded(error.path, error.problem)
        return None


def since_of(state: Mapping[str, Any] | None, log: Log) -> Since | None:
    """Where a tick starts; None if the rows in the store are unknown, or are of another log."""
    if state is None or not log.continues(dict(state["log"])):
        return None
    return Since(int(state["as_of_us"]), state["log"])


@contextmanager
def rows_of_build(repo: Repo, as_of_us: int, views: Collection[str] | None) -> Iterator[None]:
    """Keep the record while rows of the feature tables are written to the online store.

    Parameters
    ----------
    repo : Repo
    as_of_us : int
        Time of the rows, microseconds UTC.
    views : collection of str or None
        The views that are written; None for all.
    """
    if not (repo.tables / MANIFEST).exists():
        yield
        return
    log = read_build(repo)["log"]
    _set_back(repo, as_of_us, log, views)
    yield
    if views is None:
        record(repo, as_of_us, log, counted_assignments(repo, as_of_us), source_items=log.get("source_items"))


def _set_back(repo: Repo, as_of_us: int, log: Mapping[str, Any], views: Collection[str] | None) -> None:
    """Record the earlier of the recorded state and a build's, if there is a record."""
    before = read_state(repo)
    if before is None:
        return
    if before["log"].get("id") != log.get("id"):
        state_path(repo).unlink()
        return
    earlier = min(before["log"], log, key=lambda each: ingests_of(dict(each)))
    kept = {
        name: held for name, held in before.get("codes", {}).items() if views and not {*stats_views(name)} & {*views}
    }
    stated = {**before, "as_of_us": min(int(before["as_of_us"]), as_of_us), "log": earlier, "codes": kept}
    update_sealed(state_path(repo), stated)


def record(repo: Repo, as_of_us: int, log: Mapping[str, Any], codes: Mapping[str, Any], **further: Any) -> None:
    """After rows were written: record the state. ``codes`` has the assignments that statistics of codes were counted with."""
    state_path(repo).parent.mkdir(parents=True, exist_ok=True)
    update_sealed(state_path(repo), {"as_of_us": as_of_us, "log": dict(log), "codes": dict(codes), **further})
