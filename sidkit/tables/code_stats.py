"""The tables ``code_stats_<codebook>`` and ``user_code_stats_<codebook>``: trailing counts per prefix of codes.

An event counts for the prefixes of the codes that serving could have read at the event's time: those of the row of
``item_sid_<codebook>`` with the newest event timestamp at or before it. An event of an item without codes counts nowhere.

Beside each table, a JSON file records what it was counted from. An update computes the rows that became due since then; a
late, corrected or removed event, and codes that were assigned to an earlier time, rebuild the rows of their keys from their
time on. Any other difference rebuilds the table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from sidkit.core.code_stats import code_stats_view, stats_views
from sidkit.core.engine import connection, literal, working_on
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import checked, hashes_of, read_sealed, read_verified, say_discarded, update_sealed
from sidkit.core.repo import Repo
from sidkit.tables.code_table import CodeTable, read_codes
from sidkit.tables.log import Log, read_log


@dataclass(frozen=True)
class CodeCounts:
    """What the tables of a codebook are counted from.

    ``depths`` are numbers of codes per prefix; cadences of window ends are in seconds; ``codebook_hash`` is the content hash
    of the codebook.
    """

    codebook: str
    codebook_hash: str
    depths: tuple[int, ...]
    cadence_seconds: int
    user_cadence_seconds: int

    @property
    def tables(self) -> tuple[str, str]:
        """Names of both tables."""
        return stats_views(self.codebook)

    def cadence_of(self, table: str) -> int:
        """Seconds between the window ends of one of them."""
        return self.user_cadence_seconds if table == self.tables[1] else self.cadence_seconds

    def stated(self) -> dict[str, Any]:
        """The values as JSON."""
        return {**vars(self), "depths": list(self.depths)}


def count_codes(repo: Repo, counts: CodeCounts, build: Mapping[str, Any]) -> dict[str, int]:
    """Bring both tables of a codebook up to the feature tables and to its codes.

    Parameters
    ----------
    repo : Repo
        With a table of codes of the codebook.
    counts : CodeCounts
        The codebook, depths and cadences.
    build : mapping
        Manifest of the feature tables (:func:`sidkit.tables.read_build`).

    Returns
    -------
    dict
        Number of new rows per table; empty if both were up to date.

    Raises
    ------
    ArtifactCorruptError
        When the table of codes is damaged.
    """
    codes, log = checked(repo.tables / f"item_sid_{counts.codebook}.parquet"), read_log(repo)
    with duckdb.connect() as opened:
        assigned = assignments_of(opened, codes)
    wanted = {"counts": counts.stated(), "generation": build["generation"]}
    records = {name: _before(repo, name, wanted, log, int(build["as_of_us"]), assigned) for name in counts.tables}
    now = {"as_of_us": build["as_of_us"], "log": log.consumed, "assignments": assigned}
    if all(before and all(before[key] == value for key, value in now.items()) for before in records.values()):
        return {}
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        read_codes(opened, repo, counts.codebook, counts.depths, codes, int(build["as_of_us"]))
        new = {}
        for name, before in records.items():
            with working_on(f"building the table {name}"):
                new[name] = CodeTable(repo, name, counts.cadence_of(name), before, log).update(opened)
            path = repo.tables / f"{name}.parquet"
            update_sealed(path.with_suffix(".json"), {**wanted, **now, "files": hashes_of(repo.tables, [path.name])})
    return new


def count_other_codes(repo: Repo, counts: CodeCounts, codes: Path, folder: Path, as_of_us: int) -> tuple[Path, Path]:
    """Count both tables of a codebook from other codes than its own, such as shuffled ones.

    Nothing of the repository changes.

    Parameters
    ----------
    repo : Repo
        Its log is counted.
    counts : CodeCounts
        The codebook, depths and cadences.
    codes : Path
        A table like ``item_sid_<codebook>``.
    folder : Path
        Where the tables are written; it has none yet.
    as_of_us : int
        No row of the tables lies beyond it, microseconds UTC.

    Returns
    -------
    tuple
        Paths of the counts per prefix, and of those per user and prefix.
    """
    log = read_log(repo)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        read_codes(opened, repo, counts.codebook, counts.depths, codes, as_of_us)
        for name in counts.tables:
            with working_on(f"building the table {name} of other codes"):
                CodeTable(repo, name, counts.cadence_of(name), None, log, folder).update(opened)
    of_prefixes, of_users = (folder / f"{name}.parquet" for name in counts.tables)
    return of_prefixes, of_users


def follow_tables(repo: Repo, build: Mapping[str, Any]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Bring the statistics of all codebooks that have any up to the feature tables.

    Damaged statistics are left to ``sidkit codebooks refresh``.

    Returns
    -------
    tuple
        New rows per table, and a sentence per codebook whose statistics could not be updated.
    """
    new: dict[str, int] = {}
    notes = []
    for name, counts in counted_codebooks(repo):
        try:
            new |= count_codes(repo, counts, build)
        except ArtifactCorruptError as error:
            notes.append(f"the statistics of codebook {name} were not updated: {error}")
    return new, tuple(notes)


def counted_codebooks(repo: Repo) -> Iterator[tuple[str, CodeCounts]]:
    """Codebooks that have statistics in ``data/tables``, with what these were counted from."""
    for path in sorted(repo.tables.glob(f"{code_stats_view('*')}.json")):
        try:
            stated = read_sealed(path)["counts"]
            counts = CodeCounts(**{**stated, "depths": tuple(stated["depths"])})
        except (ArtifactCorruptError, KeyError, TypeError):
            continue
        if (repo.tables / f"item_sid_{counts.codebook}.parquet").is_file():
            yield counts.codebook, counts


def counted_assignments(repo: Repo, as_of_us: int) -> dict[str, dict[str, dict[str, int]]]:
    """Codebook -> ``assignments`` of codes that its statistics as of a time (microseconds UTC) were counted with."""
    counted = {}
    for name, counts in counted_codebooks(repo):
        with contextlib.suppress(ArtifactCorruptError, KeyError):
            stated = [read_sealed(repo.tables / f"{table}.json") for table in counts.tables]
            if (
                all(each["as_of_us"] == as_of_us for each in stated)
                and stated[0]["assignments"] == stated[1]["assignments"]
            ):
                counted[name] = {"assignments": stated[0]["assignments"]}
    return counted


def assignments_of(opened: duckdb.DuckDBPyConnection, codes: Path) -> dict[str, int]:
    """Rows of codes per assignment, by its time: rows are only added, and all of one assignment at once."""
    rows = opened.execute(
        f"SELECT assigned_at_us::VARCHAR, count(*) FROM read_parquet({literal(codes)}) GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    return dict(rows)


def _before(
    repo: Repo, name: str, wanted: Mapping[str, Any], log: Log, as_of_us: int, assigned: Mapping[str, int]
) -> dict[str, Any] | None:
    """The record of a table that an update can start from, or None."""
    path = repo.tables / f"{name}.parquet"
    if not (path.exists() and path.with_suffix(".json").exists()):
        return None
    try:
        before = read_verified(path.with_suffix(".json"))
    except ArtifactCorruptError as error:
        say_discarded(error.path, error.problem)
        return None
    same = all(before.get(key) == value for key, value in wanted.items())
    if not same or before["as_of_us"] > as_of_us or not log.continues(before["log"]):
        return None
    return before if before["assignments"].items() <= assigned.items() else None
