"""Steps from the source to the feature tables and the online store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sidkit.api.base import ProjectBase, warn
from sidkit.api.source import add_to_source, tables_of
from sidkit.api.tables import TableLike
from sidkit.core.clock import Moment, check_as_of, iso, moment_us
from sidkit.core.errors import ConfigError, TimeError

if TYPE_CHECKING:
    from sidkit.api.checks import CheckedSource
    from sidkit.api.erasure import ForgetReport
    from sidkit.stores.doctor import Problem
    from sidkit.tables import BuildReport, IngestReport
    from sidkit.tables.labelled_rows import RowsReport


class DataSteps(ProjectBase):
    """Methods of a project on its data: ingest, build, write labelled rows, materialize, apply, doctor, upgrade."""

    def ingest(
        self,
        interactions: TableLike | None = None,
        items: TableLike | None = None,
        item_embeddings: TableLike | None = None,
        users: TableLike | None = None,
        *,
        remove_vanished: bool = False,
        rebuild: bool = False,
    ) -> IngestReport:
        """Validate the source, append new rows to the log and replace corrected ones.

        Parameters
        ----------
        interactions, items, item_embeddings, users : TableLike, optional
            New rows of a project that was created from tables in memory. Interactions are appended; a row of the other
            tables replaces the row of the same item or user, unless the table has ``updated_at``.
        remove_vanished : bool
            Remove rows of the log that are no longer in the source; not for rotated sources.
        rebuild : bool
            Discard the log and read the whole source again, to repair a damaged log.

        Raises
        ------
        ContractError
            When the source breaks the input contract.
        ConfigError
            When tables are given for a project with a source of its own.
        """
        from sidkit.tables import ingest

        with self.repo.locked():
            add_to_source(self.repo, tables_of(interactions, items, item_embeddings, users))
            return ingest(self.repo, remove_vanished=remove_vanished, rebuild=rebuild)

    def forget(self, users: Sequence[str | int] | str | int = (), *, allow_unknown: bool = False) -> ForgetReport:
        """Remove users from all files of the repository; later ingests leave them out.

        The log, the feature tables, the online store, rejected rows, logged requests, and Parquet sources within the
        repository lose their rows. Counts of items are made again without them. Cached rows and frames that hold them are
        removed. What others keep (a source elsewhere, backups) is listed in the report.

        Parameters
        ----------
        users : sequence of str or int
            Values of ``user_id``, compared as a whole; none to finish a call that was interrupted.
        allow_unknown : bool
            Accept users without any row.

        Raises
        ------
        RepoError
            When a user is unknown, or nobody else is in the log; nothing was changed then.
        OnlineStoreError
            When another process holds the online store; the next call finishes the work.
        """
        from sidkit.api.erasure import forget

        return forget(self.repo, users, allow_unknown=allow_unknown)

    def convert(self, out: str | Path) -> CheckedSource:
        """Write the source as Parquet files of the input contract; the log and the tables are not touched.

        Parameters
        ----------
        out : str or Path
            A new or empty folder, for ``interactions.parquet``, ``items.parquet``, ``item_embeddings.parquet`` (if there are
            vectors), and the rejected rows in ``rejects``.

        Returns
        -------
        CheckedSource
            ``tables``: a report per table, with what becomes of every column.

        Raises
        ------
        ContractError
            When the source breaks the input contract.
        ConfigError
            When the folder is neither new nor empty.
        """
        from sidkit.api.checks import convert_source

        return convert_source(self.settings.source.url, out, repo=self.path)

    def build(
        self,
        as_of: Moment | None = None,
        *,
        rebuild: bool = False,
        allow_future: bool = False,
        shards: int | None = None,
        merge: bool = False,
    ) -> BuildReport:
        """Update the feature tables to a point in time; only rows due since the last build are computed.

        Parameters
        ----------
        as_of : str or datetime, optional
            The time, with a zone; default: now. A replay of an old log passes the end of the log.
        rebuild : bool
            Discard the previous build and start over.
        allow_future : bool
            Accept a time in the future, for simulated logs.
        shards : int, optional
            Compute the rows in so many shards, each in a process of its own; the tables do not depend on it.
        merge : bool
            Only put together shards that workers have made with :meth:`build_shard` for the same ``as_of``.

        Raises
        ------
        TimeError
            When the time has no zone or is in the future.
        ConfigError
            When the tables are built by Spark, or shards are to be put together without a time.
        ArtifactError
            When a shard is missing or damaged.
        ProcessesError
            When a worker failed, or a shard was made from other inputs.
        """
        from sidkit.core.shards import ShardedWork
        from sidkit.tables import build_tables

        if merge and as_of is None:
            raise ConfigError("expected the --as-of of the shards to put them together, got none; state it")
        work = ShardedWork.stated(shards, merge)
        with self.repo.locked():
            return build_tables(self.repo, moment_us(as_of), rebuild=rebuild, allow_future=allow_future, work=work)

    def build_shard(
        self, as_of: Moment, shard: str, *, rebuild: bool = False, allow_future: bool = False
    ) -> dict[str, int] | None:
        """Compute the rows of one shard of users and items, for :meth:`build` with ``merge``; takes no lock.

        Parameters
        ----------
        as_of, rebuild, allow_future
            As for :meth:`build`; the same in all shards.
        shard : str
            ``K/N``: shard K of N, from 1.

        Returns
        -------
        dict or None
            Rows per table; None if the shard was finished before, or the tables are of that time already.
        """
        from sidkit.core.shards import Shard
        from sidkit.tables.builder import build_shard

        return build_shard(self.repo, moment_us(as_of), Shard.parse(shard), rebuild=rebuild, allow_future=allow_future)

    def write_rows(
        self,
        out: str | Path | None = None,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        max_rows: int | None = None,
    ) -> RowsReport:
        """Write the labelled rows to a Parquet file; negatives are sampled if the log has positives only.

        Parameters
        ----------
        out : str or Path, optional
            The file; default: the repository's own, which holds all rows.
        since, until : str or datetime, optional
            Only rows in this half-open window; requires ``out``.
        max_rows : int, optional
            Sample users with about this many rows in total; requires ``out``.

        Raises
        ------
        ConfigError
            When rows are selected without ``out``.
        """
        from sidkit.core.files import typed_path
        from sidkit.tables.labelled_rows import RowSample, SampledWindow, build_labelled_rows

        chosen = {"--since": since, "--until": until, "--max-rows": max_rows}
        selecting = [name for name, value in chosen.items() if value is not None]
        if selecting and out is None:
            raise ConfigError(
                f"expected --out with {', '.join(selecting)}, which select some of the rows, because "
                f"{self.repo.labelled_rows} is for all of them; name another file"
            )
        sample = None
        if out is not None:
            begin = -(2**62) if since is None else moment_us(since)
            end = 2**62 if until is None else moment_us(until)
            sample = RowSample(typed_path(out), (SampledWindow(begin, end, max_rows),))
        with self.repo.locked():
            return build_labelled_rows(self.repo, sample)

    def materialize(self, as_of: Moment | None = None, *, allow_future: bool = False) -> dict[str, int]:
        """Write the newest row of every key to the online store; returns the number of keys per feature view.

        If ``[features]`` changed since the last apply, the definitions are applied first.

        Parameters
        ----------
        as_of : str or datetime, optional
            The time, with a zone; default: that of the tables.
        allow_future : bool
            Accept a time in the future, for simulated logs.

        Raises
        ------
        TimeError
            When the time is later than that of the tables.
        RepoError
            When the registry has no feature view, because :meth:`apply` never ran.
        """
        from sidkit.stores.feast_repo import apply_changed_features, materialize
        from sidkit.stores.online_damage import repair_online_store
        from sidkit.tables import read_build
        from sidkit.tables.day_partitions import write_days

        with self.repo.locked():
            built = read_build(self.repo)["as_of_us"]
            as_of_us = built if as_of is None else moment_us(as_of)
            check_as_of(as_of_us, allow_future=allow_future)
            if as_of_us > built:
                raise TimeError(
                    f"expected --as-of no later than the tables ({iso(built)}), got {iso(as_of_us)}; run `sidkit tables build` "
                    "first"
                )
            if apply_changed_features(self.repo):
                warn("[features] changed since the last `sidkit apply`; the definitions were applied")
            for finding in repair_online_store(self.repo):
                warn(finding)
            write_days(self.repo)  # a tick may have changed a table
            return materialize(self.repo, as_of_us)

    def apply(self) -> str:
        """Register the definitions like ``feast apply``, from any working directory; returns Feast's report."""
        from sidkit.stores.feast_repo import apply_repo

        with self.repo.locked():
            return apply_repo(self.repo).strip()

    def relocate(self) -> list[str]:
        """Rewrite the absolute paths of a copied or moved repository; returns a line per change.

        See :func:`sidkit.stores.relocate.relocate`.
        """
        from sidkit.stores.relocate import relocate

        with self.repo.locked():
            return relocate(self.repo)

    def doctor(self) -> list[Problem]:
        """Definitions that Feast would silently mishandle, and differences between registry, catalogue and stores."""
        from sidkit.stores.repo_doctor import examine_repo

        return examine_repo(self.repo)

    def upgrade(self, *, definitions: bool = False) -> list[str]:
        """Migrate files written by an older release; returns a line per change. Repeating it changes nothing.

        ``definitions`` also replaces the definitions of feature views and services, if nobody changed these files.
        """
        from sidkit.upgrade import upgrade

        with self.repo.locked():
            return upgrade(self.repo, definitions=definitions)
