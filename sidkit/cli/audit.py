"""`sidkit audit`: does a training frame hold what serving could have known, and was nothing learned from the future?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.options import RepoOption

if TYPE_CHECKING:
    from ranking.audit.run import AuditResult
    from ranking.audit.single_features import SingleFeatures

LEAK = 4
"""Exit code of ``sidkit audit`` when a row or an artefact fails."""


def audit(
    repo: RepoOption = Path(),
    rows: Annotated[int, typer.Option(min=1, help="Rows of the sample.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Decides the sample.")] = 0,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Audit the frame that `sidkit run` with this preset saved, instead of the service's answers."
        ),
    ] = None,
    frame: Annotated[
        Path | None,
        typer.Option(help="Audit this file of `sidkit frame`, instead of the service's answers."),
    ] = None,
    service: Annotated[
        str | None,
        typer.Option(help="The feature service; default: that of the run, or of the serving codebook."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recompute a random sample of a training frame from the raw log, and check the window of every artefact.

    Exits 4 at the first cell that differs, naming row, feature, both values and from when on they were known. Where
    negatives are sampled, prints the AUC of each count and age alone within a request, and warns above .6.
    """
    import json

    from ranking.audit.run import run_audit
    from sidkit.core.repo import Repo

    result = run_audit(Repo.open(repo), rows=rows, seed=seed, preset=preset, frame=frame, service=service)
    if json_:
        typer.echo(json.dumps(result.as_json(), ensure_ascii=False))
    else:
        _print(result)
    if not result.ok:
        raise typer.Exit(LEAK)


def _print(result: AuditResult) -> None:
    rows, problems = result.rows, result.artifacts.problems
    for problem in problems:
        typer.echo(f"{problem.artifact}: {problem.problem}")
    if rows.difference:
        typer.echo(rows.difference.as_text())
    if rows.not_audited:
        typer.echo(f"not audited: {', '.join(rows.not_audited)}")
    if rows.not_recomputable:
        typer.echo(
            f"{rows.not_recomputable:,} cells lie before a correction of their item's content; the log no longer "
            "holds what serving had"
        )
    verdict = "the log agrees" if not rows.difference else "STOPPED at the first mismatch"
    typer.echo(f"{rows.source}: {rows.rows:,} of {rows.total:,} rows, {rows.cells:,} cells: {verdict}")
    if result.single_features:
        _print_single(result.single_features)
    windows = "in order" if not problems else f"{len(problems)} PROBLEMS"
    typer.echo(f"{result.artifacts.checked} artefacts: windows, hashes, settings and catalogue {windows}")


def _print_single(found: SingleFeatures) -> None:
    """A table of the AUC of each count and age alone, and a warning for those that tell too much."""
    typer.echo(
        f"sampled negatives: within-request AUC of single features, {found.requests:,} requests, "
        f"{found.pairs:,} pairs (.5 says nothing)"
    )
    from ranking.audit.single_features import SUSPECT

    suspects = found.suspects
    for name, value in found.auc.items():
        typer.echo(f"  {name:<28} {value:.3f}{'  WARNING' if name in suspects else ''}")
    if suspects:
        typer.echo(
            f"WARNING: {', '.join(suspects)} alone tells positives from sampled negatives (expected "
            f"{1 - SUSPECT:.1f} to {SUSPECT:.1f}). A ranker learns the sampling. Fix by setting "
            'negatives.strategy = "stratified" in sidkit.toml and running `sidkit tables rows`, then train again'
        )
