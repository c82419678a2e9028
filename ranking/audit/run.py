"""Run the leakage audit: compare a training frame with the log, and check that no artefact was fitted on future data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranking.audit.artifacts import ArtifactsAudit, audit_artifacts
from ranking.audit.compare_cells import RowsAudit, audit_rows
from ranking.audit.reference import log_reference
from ranking.audit.single_features import SingleFeatures, measure_single_features
from semantic_ids.codebook import Codebook
from sidkit.core.errors import ArtifactError, ArtifactMissingError, ConfigError, UnknownVersionError
from sidkit.core.stages import read_facts
from sidkit.presets import preset_name
from sidkit.tables import read_build, read_log

if TYPE_CHECKING:
    from semantic_ids.records import CodebookRecord
    from sidkit.core.repo import Repo


@dataclass(frozen=True)
class AuditResult:
    """Result of an audit."""

    service: str
    """Feature service of the audited rows."""
    rows: RowsAudit
    single_features: SingleFeatures | None
    """None if no negatives are sampled."""
    artifacts: ArtifactsAudit

    @property
    def ok(self) -> bool:
        """Whether all compared cells agree with the log and no artefact has a problem."""
        return self.rows.difference is None and not self.artifacts.problems

    def as_json(self) -> dict[str, Any]:
        """The JSON object of ``sidkit audit --json``."""
        return {
            "ok": self.ok,
            "service": self.service,
            "rows": self.rows.as_json(),
            "single_features": self.single_features.as_json() if self.single_features is not None else None,
            "artifacts": asdict(self.artifacts),
        }


def run_audit(
    repo: Repo,
    *,
    rows: int,
    seed: int,
    preset: str | None = None,
    frame: Path | None = None,
    service: str | None = None,
) -> AuditResult:
    """Audit a training frame and all artefacts of a repository.

    Parameters
    ----------
    repo : Repo
        A repository with built tables and a published codebook.
    rows, seed : int
        Number of sampled rows, and random seed of the sample.
    preset : str, optional
        Audit the frame that the run of this preset saved.
    frame : Path, optional
        Audit a file that `sidkit frame` wrote.
    service : str, optional
        Feature service of a codebook; default: that of the run's codebook, or of the serving codebook.

    Raises
    ------
    ConfigError
        When both a preset and a frame are given.
    ArtifactMissingError
        When the frame is missing, or the tables are older than the log.
    UnknownVersionError
        When no codebook has this feature service.
    """
    from ranking.audit.frames import rows_of_file, rows_of_run, rows_of_service

    if preset is not None and frame is not None:
        raise ConfigError(
            "expected either --preset (the frame of a saved run) or --frame (a file), got both; drop one of them"
        )
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
        compared = RowsAudit(sample.source, sample.total, 0, 0, 0, (), None)
    else:
        with log_reference(repo, codebook) as reference:
            compared = audit_rows(repo, sample, reference)
    single = measure_single_features(repo, record.service_name, seed)
    return AuditResult(record.service_name, compared, single, artifacts)


def _record(repo: Repo, folder: Path | None, service: str | None) -> CodebookRecord:
    from semantic_ids.catalog import Catalog

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
    """Raise if the tables are older than the log, or the codes older than the item content."""
    import pyarrow.parquet as pq

    from semantic_ids.catalog import table_path

    if not read_log(repo).is_that_of(read_build(repo)["log"]):
        raise ArtifactMissingError(
            f"{repo.tables} is older than the last `sidkit data ingest`; run `sidkit tables build`, then audit again"
        )
    table, content = table_path(repo, codebook), repo.tables / "item_content.parquet"
    if table.exists() and pq.read_metadata(table).num_rows < pq.read_metadata(content).num_rows:
        raise ArtifactMissingError(
            f"{table} has no codes for the newest item content; run `sidkit codebooks refresh`, then audit again"
        )
