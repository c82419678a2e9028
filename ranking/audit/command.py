"""`sidkit audit`: does a training frame hold what serving could have known, and was nothing learned from the future?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from sidkit.commands import RepoOption

if TYPE_CHECKING:
    from sidkit.repo import Repo

LEAK = 4
"""Exit code of ``sidkit audit`` when a row or an artefact fails."""


def audit(
    repo: RepoOption = Path(),
    rows: Annotated[int, typer.Option(min=1, help="Rows of the sample.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Decides the sample.")] = 0,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Audit the frame that `sidkit run` with this preset kept, instead of the service's answers."),
    ] = None,
    frame: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Audit this file of `sidkit frame`, instead of the service's answers."),
    ] = None,
    service: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The feature service; default: that of the run, or of the serving codebook."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask the raw log again for a random sample of a training frame, and check the window of every artefact.

    Exits 4 at the first cell that differs, naming row, feature, both values and from when on they were known. Where
    negatives are sampled, prints what each count and age alone says of the label within a request, and warns above .6.
    """
    import json

    from sidkit.repo import Repo

    told = run_audit(Repo.open(repo), rows=rows, seed=seed, preset=preset, frame=frame, service=service)
    difference, problems = told["rows"]["difference"], told["artifacts"]["problems"]
    if json_:
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        _print(told)
    if difference or problems:
        raise typer.Exit(LEAK)


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
        ``ok``, ``service``, ``rows`` (:class:`ranking.audit.rows.RowsAudit`), ``single_features``
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
    from ranking.audit.frames import rows_of_file, rows_of_run, rows_of_service
    from ranking.audit.rows import audit_rows
    from ranking.audit.single_features import measure_single_features
    from ranking.audit.truth import log_truth
    from semantic_ids.codebook import Codebook
    from sidkit.errors import ArtifactError, ConfigError
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
    from ranking.stages import read_facts
    from semantic_ids.catalog import Catalog
    from sidkit.errors import UnknownVersionError

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
    from sidkit.errors import ArtifactMissingError
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


def _print(told: dict[str, Any]) -> None:
    from ranking.audit.rows import Difference

    rows, artifacts = told["rows"], told["artifacts"]
    for problem in artifacts["problems"]:
        typer.echo(f"{problem['artifact']}: {problem['problem']}")
    if rows["difference"]:
        typer.echo(Difference(**rows["difference"]).told())
    if rows["not_audited"]:
        typer.echo(f"not audited: {', '.join(rows['not_audited'])}")
    if rows["not_recomputable"]:
        typer.echo(
            f"{rows['not_recomputable']:,} cells lie before a correction of their item's content; the log no longer "
            "tells what serving had"
        )
    verdict = "the log agrees" if not rows["difference"] else "STOPPED at the first difference"
    typer.echo(f"{rows['source']}: {rows['rows']:,} of {rows['total']:,} rows, {rows['cells']:,} cells: {verdict}")
    if told["single_features"]:
        _print_single(told["single_features"])
    windows = "in order" if not artifacts["problems"] else f"{len(artifacts['problems'])} PROBLEMS"
    typer.echo(f"{artifacts['checked']} artefacts: windows, hashes, settings and catalogue {windows}")


def _print_single(told: dict[str, Any]) -> None:
    """A table of what each count and age says alone, and a warning for what says too much."""
    typer.echo(
        f"sampled negatives: within-request AUC of single features, {told['requests']:,} requests, "
        f"{told['pairs']:,} pairs (.5 says nothing)"
    )
    for name, value in told["auc"].items():
        typer.echo(f"  {name:<28} {value:.3f}{'  WARNING' if name in told['suspects'] else ''}")
    if told["suspects"]:
        typer.echo(
            f"WARNING: {', '.join(told['suspects'])} alone tells positives from sampled negatives (expected "
            f"{1 - told['above']:.1f} to {told['above']:.1f}). A ranker learns the sampling. Fix by setting "
            'negatives.strategy = "stratified" in sidkit.toml and running `sidkit tables rows`, then train again'
        )
