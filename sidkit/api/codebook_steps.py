"""Steps of the life of a codebook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sidkit.api.base import ProjectBase, warn
from sidkit.api.codebooks import ProjectCodebook
from sidkit.core.clock import Moment, iso, moment_us

if TYPE_CHECKING:
    import pandas as pd

    from semantic_ids.catalog_repair import Repaired
    from semantic_ids.lifecycle import RefreshReport
    from semantic_ids.quality.drift import DriftReport
    from semantic_ids.quality.sweep import SweepReport, Trial
    from semantic_ids.records import CodebookRecord


class CodebookSteps(ProjectBase):
    """Methods of a project on its codebooks."""

    def codebooks(self) -> pd.DataFrame:
        """All codebooks: name, state, quantizer, sizes, encoder, fit_start, fit_end, content_hash."""
        from semantic_ids.catalog import Catalog
        from sidkit.api.tables import records_frame

        columns = ("name", "state", "quantizer", "sizes", "encoder", "fit_start_us", "fit_end_us", "content_hash")
        return records_frame(Catalog.open(self.repo).codebooks(), columns, times=("fit_start_us", "fit_end_us"))

    def codebook(self, name: str | None = None) -> ProjectCodebook:
        """A published codebook, by default the serving one; see :class:`ProjectCodebook`."""
        return ProjectCodebook(self.repo, name)

    def fit(
        self,
        name: str,
        preset: str = "rqkmeans",
        *,
        fit_end: Moment | None = None,
        force: bool = False,
        shards: int | None = None,
        merge: bool = False,
    ) -> CodebookRecord:
        """Fit a codebook on the items known at a point in time.

        Parameters
        ----------
        name : str
            A new name: a lower-case letter, then letters, digits and ``_``.
        preset : str
            Preset whose ``[codebook]`` section is used: a built-in name or the path of a ``.toml`` file.
        fit_end : str or datetime, optional
            Use only items and clicks known by this time; default: the as-of time of the tables.
        force : bool
            Fit even with fewer than 20 items per code.
        shards : int, optional
            Mine the pairs of items in so many shards, each in a process of its own; the codebook does not depend on it.
        merge : bool
            Only put together shards that workers have made with :meth:`mine_shard`.

        Raises
        ------
        ConfigError
            When the name or the preset is invalid, or there are shards but the preset learns from no pairs.
        FitError
            When the items are too few.
        LifeCycleError
            When the name is taken.
        """
        from semantic_ids import lifecycle
        from sidkit.core.artifact import read_manifest
        from sidkit.core.config import load_section
        from sidkit.core.files import remove
        from sidkit.core.names import check_codebook_name
        from sidkit.core.shards import ShardedWork
        from sidkit.presets import preset_path

        check_codebook_name(name)
        spec = load_section(lifecycle.CodebookSpec, preset_path(preset), "codebook").model_copy(update={"force": force})
        fit_end_us = None if fit_end is None else moment_us(fit_end)
        work = ShardedWork.stated(shards, merge, self._mine_command(name, preset, fit_end_us))
        with self.repo.locked():
            record = lifecycle.fit(self.repo, name, spec, fit_end_us, work)
            if work is not None:
                remove(self.repo.data / "tmp" / "shards" / f"pairs-{name}")
        if reason := read_manifest(self.repo.codebooks / name, verify=False).get("fallback"):
            warn(f"fell back to the encoder 'content', which uses no behaviour: {reason}")
        return record

    def mine_shard(self, name: str, shard: str, preset: str = "rqkmeans", *, fit_end: Moment | None = None) -> bool:
        """Mine the pairs of one shard of users, for :meth:`fit` with ``merge`` and the same arguments; takes no lock.

        Parameters
        ----------
        name : str
            The codebook to be fitted.
        shard : str
            ``K/N``: shard K of N, from 1.
        preset, fit_end
            As for :meth:`fit`.

        Returns
        -------
        bool
            Whether it was mined; False if the shard was finished before.

        Raises
        ------
        ConfigError
            When the preset learns from no pairs.
        """
        from semantic_ids.fit_pairs import mine_shard
        from semantic_ids.fitting import CodebookSpec
        from sidkit.core.config import load_section
        from sidkit.core.names import check_codebook_name
        from sidkit.core.shards import Shard
        from sidkit.presets import preset_path

        check_codebook_name(name)
        spec = load_section(CodebookSpec, preset_path(preset), "codebook")
        end_us = None if fit_end is None else moment_us(fit_end)
        command = self._mine_command(name, preset, end_us)
        return mine_shard(self.repo, name, spec, spec.pairs, Shard.parse(shard), end_us, command)

    def _mine_command(self, name: str, preset: str, fit_end_us: int | None) -> list[str]:
        until = [] if fit_end_us is None else ["--fit-end", iso(fit_end_us)]
        return ["codebooks", "pairs", name, "--preset", preset, *until, "--repo", str(self.repo.path)]

    def publish(self, name: str, *, shards: int | None = None, merge: bool = False) -> RefreshReport:
        """Assign codes to all items, register the feature view and its services, and fill the online store.

        Parameters
        ----------
        name : str
            A fitted codebook.
        shards : int, optional
            Assign codes in so many shards, each in a process of its own; the result does not depend on it.
        merge : bool
            Only put together shards that workers have made with :meth:`assign_shard`.

        Raises
        ------
        LifeCycleError
            When the codebook is not fitted, or retired.
        ArtifactError
            When a shard is missing or damaged.
        ProcessesError
            When a worker failed, or a shard was made from other inputs.
        """
        from semantic_ids import lifecycle
        from sidkit.core.shards import ShardedWork

        work = ShardedWork.stated(shards, merge)
        with self.repo.locked():
            return lifecycle.publish(self.repo, name, work)

    def assign_shard(self, name: str, shard: str) -> int | None:
        """Assign codes to the items of one shard, for :meth:`publish` or :meth:`refresh` with ``merge``; takes no lock.

        Parameters
        ----------
        name : str
            A fitted codebook.
        shard : str
            ``K/N``: shard K of N, from 1.

        Returns
        -------
        int or None
            Number of rows; None if the shard was finished before.
        """
        from semantic_ids.assign_shards import assign_shard
        from sidkit.core.shards import Shard

        return assign_shard(self.repo, name, Shard.parse(shard))

    def retire(self, name: str) -> None:
        """Take a codebook out of use; its feature view and data remain until it is purged.

        Raises
        ------
        LifeCycleError
            When it is serving, or a serving ranker uses it.
        """
        from semantic_ids import lifecycle

        with self.repo.locked():
            lifecycle.retire(self.repo, name)

    def purge(self, name: str) -> None:
        """Permanently delete a retired codebook: feature view, online table, codes and files.

        Raises
        ------
        LifeCycleError
            When it is not retired.
        """
        from semantic_ids import lifecycle

        with self.repo.locked():
            lifecycle.purge(self.repo, name)

    def refresh(
        self, name: str | None = None, *, shards: int | None = None, merge: bool = False
    ) -> list[RefreshReport]:
        """Assign codes to content added or changed since the last refresh, for one or all published codebooks.

        ``shards`` and ``merge`` are those of :meth:`publish`.

        Raises
        ------
        LifeCycleError
            When the codebook is not published.
        """
        from semantic_ids import lifecycle
        from sidkit.core.shards import ShardedWork

        work = ShardedWork.stated(shards, merge)
        with self.repo.locked():
            return lifecycle.refresh(self.repo, name, work)

    def health(self, name: str | None = None, preset: str = "rqkmeans") -> DriftReport:
        """Compare the codes of recent items with those of the fit; ``verdict`` is ``ok``, ``watch`` or ``stale``.

        Parameters
        ----------
        name : str, optional
            Default: the serving codebook.
        preset : str
            Preset whose ``[health]`` section has the thresholds.
        """
        from semantic_ids.quality.drift import DriftThresholds, health
        from sidkit.core.config import load_section
        from sidkit.presets import preset_path

        return health(self.repo, name, load_section(DriftThresholds, preset_path(preset), "health"))

    def sweep(
        self,
        preset: str = "rqkmeans",
        *,
        fit_end: Moment | None = None,
        sample: int = 20_000,
        seed: int = 0,
        on_trial: Callable[[Trial], None] | None = None,
    ) -> SweepReport:
        """Fit a small grid of quantizers, sizes and encoders on a sample and recommend one, without training a ranker.

        Parameters
        ----------
        preset : str
            Preset whose ``[sweep]`` section is the grid.
        fit_end : str or datetime, optional
            Fit on data known by this time and evaluate on later clicks; default: 80 % of the log.
        sample : int
            Items to fit on; the others are held out.
        seed : int
            Seed of the sample and of every fit.
        on_trial : callable, optional
            Called after each trial.
        """
        from semantic_ids.quality.repo_sweep import sweep_repo
        from sidkit.presets import preset_path

        fit_end_us = None if fit_end is None else moment_us(fit_end)
        return sweep_repo(self.repo, preset_path(preset), fit_end_us, sample, seed, on_trial)

    def codebook_report(self, name: str, out: str | Path | None = None) -> Path:
        """Write a self-contained HTML page about a codebook; returns its path (default: ``NAME.html``)."""
        from semantic_ids.report import write_report

        return write_report(self.repo, name, Path(out) if out is not None else Path(f"{name}.html"))

    def suffixes(self, name: str, *, rebuild: bool = False) -> Path:
        """Make codes unique: append to each item's codes a number within its bucket that never changes.

        Parameters
        ----------
        name : str
            The codebook.
        rebuild : bool
            Discard the table and number all items again, for a damaged table.

        Returns
        -------
        Path
            Parquet file with ``item_id``, ``codes`` and the suffix.
        """
        from semantic_ids.collisions import suffix_path, update_suffixes

        with self.repo.locked():
            update_suffixes(self.repo, name, rebuild=rebuild)
        return suffix_path(self.repo, name)

    def repair_catalog(self) -> list[Repaired]:
        """Recreate damaged or lost catalogue records from the artefacts."""
        from semantic_ids.catalog_repair import repair_catalog

        with self.repo.locked():
            return repair_catalog(self.repo)
