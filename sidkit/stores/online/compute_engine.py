"""A Feast compute engine with which ``feast materialize`` writes columns directly to packed rows.

Select it in ``feature_store.yaml``::

    batch_engine:
      type: sidkit.stores.online.PackedComputeEngine
      backend: polars

It subclasses Feast's local engine and leaves to it every view whose rows are not simply the newest of its source, and
everything if the online store is not :class:`~sidkit.stores.online.store.PackedOnlineStore`. For a plain view no
value becomes a Python object; the table and the registry's intervals are the same, but 64-bit integers in columns with nulls
are exact, unlike in Feast's own conversion.
"""

from __future__ import annotations

from typing import Any, Literal

from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry

from sidkit.stores.online.bulk import is_plain, newest_rows
from sidkit.stores.online.store import PackedOnlineStore


class PackedComputeEngineConfig(LocalComputeEngineConfig):  # type: ignore[misc]
    """Settings under ``batch_engine`` in ``feature_store.yaml``; ``backend`` is that of Feast's local engine."""

    type: Literal["sidkit.stores.online.PackedComputeEngine", "sidkit.stores.packed_engine.PackedComputeEngine"] = (
        "sidkit.stores.online.PackedComputeEngine"
    )


class PackedComputeEngine(LocalComputeEngine):  # type: ignore[misc]
    """See the module's docstring."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **rest: Any
    ) -> LocalMaterializationJob:
        view, online = task.feature_view, self.online_store
        plain = is_plain(view) and task.only_latest and not task.disable_event_timestamp
        if not (plain and isinstance(online, PackedOnlineStore)):
            return super()._materialize_one(registry, task, **rest)
        status, error = MaterializationJobStatus.SUCCEEDED, None
        try:
            batches = newest_rows(self.offline_store, self.repo_config, view, task.start_time, task.end_time)
            online.write_arrow(self.repo_config, view, batches)
        except Exception as failed:  # noqa: BLE001 - Feast's provider reads it from the job and raises it
            status, error = MaterializationJobStatus.ERROR, failed
        job_id = f"{view.name}-{task.start_time}-{task.end_time}"
        return LocalMaterializationJob(job_id=job_id, status=status, error=error)
