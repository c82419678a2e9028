"""The audit: does a training frame hold what serving could have known, and was nothing learned from the future?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidkit.core.repo import Repo


def run_audit(
    repo: Repo,
    *,
    rows: int,
    seed: int,
    preset: str | None = None,
    frame: Path | None = None,
    service: str | None = None,
) -> dict[str, Any]:
    """Do the audit.

    Parameters
    ----------
    repo : Repo
        With built tables and a published codebook.
    rows, seed : int
        Size of the sample, and what decides it.
    preset : str, optional
        Audit the frame that the run of this preset kept.
    frame : Path, optional
        Audit a file that `sidkit frame` wrote.
    service : str, optional
        A codebook's feature service; by default that of the run's codebook, or of the serving one.

    Returns
    -------
    dict
        ``ok``, ``service``, ``rows`` (:class:`ranking.audit.compare_cells.RowsAudit`), ``single_features``
        (:class:`ranking.audit.single_features.SingleFeatures`, None where no negative is sampled) and ``artifacts``, as
        JSON values.

    Raises
    ------
    ConfigError
        When both a preset and a frame are given.
    ArtifactMissingError
        When there is no such frame, or the tables are older than the log.
    UnknownVersionError
        When no published codebook has such a service.
    """
    from dataclasses import asdict

    from ranking.audit.artifacts import audit_artifacts
    from ranking.audit.compare_cells import audit_rows
    from ranking.audit.frames import rows_of_file, rows_of_run, rows_of_service
    from ranking.audit.reference import log_truth
    from ranking.audit.single_features import measure_single_features
    from semantic_ids.codebook import Codebook
    from sidkit.core.errors import ArtifactError, ConfigError
    from sidkit.presets import preset_name

    if preset is not None and frame is not None:
        raise ConfigError("give --preset (the frame that a run kept) or --frame (a file), not both")
    artifacts = audit_artifacts(repo)
    folder = repo.runs / preset_name(preset) if preset else None
    record = _record(repo, folder, service)
    _refuse_stale(repo, record.name)
    if folder is not None:
        sample = rows_of_run(repo, folder, rows, seed)
    elif frame is not None:
        sample = rows_of_file(frame, rows, seed)
    else:
        sample = rows_of_service(repo, record.service_name, rows, seed)
    try:
        codebook = Codebook.load(repo.codebooks / record.name)
    except ArtifactError:
        if not artifacts.problems:
            raise
        told: dict[str, Any] = {"source": sample.source, "total": sample.total, "rows": 0, "cells": 0, "not_audited": [], "not_recomputable": 0, "difference": None}  # fmt: skip  # noqa: E501
    else:
        with log_truth(repo, codebook) as truth:
            told = audit_rows(repo, sample, truth).as_json()
    single = measure_single_features(repo, record.service_name, seed)
    return {
        "ok": told["difference"] is None and not artifacts.problems,
        "service": record.service_name,
        "rows": told,
        "single_features": single.as_json() if single is not None else None,
        "artifacts": asdict(artifacts),
    }


def _record(repo: Repo, folder: Path | None, service: str | None) -> Any:
    from semantic_ids.catalog import Catalog
    from sidkit.core.errors import UnknownVersionError
    from sidkit.core.stages import read_facts

    catalog = Catalog.open(repo)
    if service is not None:
        records = {record.service_name: record for record in catalog.codebooks() if record.has_codes}
        if service not in records:
            raise UnknownVersionError("feature service of a codebook", service, sorted(records))
        return records[service]
    if folder is not None and (folder / "stages.json").exists():
        return catalog.codebook(read_facts(folder / "stages.json", "codebook")["name"])
    return catalog.serving_codebook()


def _refuse_stale(repo: Repo, codebook: str) -> None:
    """Refuse to compare tables with a log, or codes with content, that they have not seen yet."""
    import pyarrow.parquet as pq

    from semantic_ids.catalog import table_path
    from sidkit.core.errors import ArtifactMissingError
    from sidkit.tables import read_build, read_log

    if not read_log(repo).is_that_of(read_build(repo)["log"]):
        raise ArtifactMissingError(
            f"{repo.tables} was built before the last `sidkit data ingest`; run `sidkit tables build` and audit then"
        )
    table, content = table_path(repo, codebook), repo.tables / "item_content.parquet"
    if table.exists() and pq.read_metadata(table).num_rows < pq.read_metadata(content).num_rows:
        raise ArtifactMissingError(
            f"{table} lacks codes of content that came since; run `sidkit codebooks refresh` and audit then"
        )
