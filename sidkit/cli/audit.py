"""`sidkit audit`: compare a training frame with the log, and check that no artefact was fitted on future data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.options import JsonOption, RepoOption
from sidkit.cli.output import show, show_json

if TYPE_CHECKING:
    from ranking.audit.run import AuditResult
    from ranking.audit.single_features import SingleFeatures

LEAK = 4
"""Exit code of ``sidkit audit`` if a row or an artefact fails the audit."""


def audit(
    repo: RepoOption = Path(),
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to sample.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the sample.")] = 0,
    preset: Annotated[
        str | None,
        typer.Option(help="Audit the frame saved by `sidkit run` with this preset, instead of the feature service."),
    ] = None,
    frame: Annotated[
        Path | None,
        typer.Option(help="Audit a file written by `sidkit frame`, instead of the feature service."),
    ] = None,
    service: Annotated[
        str | None,
        typer.Option(help="Feature service; default: that of the run, or of the serving codebook."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Check a training frame against the raw log.

    Recomputes a random sample of rows by independent code, and checks the fit window of every artefact. Stops at the first
    cell that differs, prints the row, the feature, both values and the times from which they were known, and exits with
    code 4. If negatives are sampled, also prints the AUC of each count and age alone within requests, with a warning above .6.
    """
    import sidkit

    result = sidkit.open(repo).audit(rows=rows, seed=seed, preset=preset, frame=frame, service=service)
    if json_:
        show_json(result.as_json())
    else:
        _print(result)
    if not result.ok:
        raise typer.Exit(LEAK)


def _print(result: AuditResult) -> None:
    rows, problems = result.rows, result.artifacts.problems
    for problem in problems:
        show(f"{problem.artifact}: {problem.problem}")
    if rows.difference:
        show(rows.difference.as_text())
    if rows.not_audited:
        show(f"not audited: {', '.join(rows.not_audited)}")
    if rows.not_recomputable:
        show(
            f"{rows.not_recomputable:,} cells skipped: their item's content was corrected later, and the log no longer has "
            "the content that serving used"
        )
    verdict = "the log agrees" if not rows.difference else "STOPPED at the first mismatch"
    show(f"{rows.source}: {rows.rows:,} of {rows.total:,} rows, {rows.cells:,} cells: {verdict}")
    if result.single_features:
        _print_single(result.single_features)
    windows = "in order" if not problems else f"{len(problems)} PROBLEMS"
    show(f"{result.artifacts.checked} artefacts: windows, hashes, settings and catalogue {windows}")


def _print_single(features: SingleFeatures) -> None:
    """Print the AUC of each count and age alone, with a warning for suspiciously predictive ones."""
    show(
        f"sampled negatives: within-request AUC of single features, {features.requests:,} requests, "
        f"{features.pairs:,} pairs (.5 is uninformative)"
    )
    from ranking.audit.single_features import SUSPECT

    suspects = features.suspects
    for name, value in features.auc.items():
        show(f"  {name:<28} {value:.3f}{'  WARNING' if name in suspects else ''}")
    if suspects:
        show(
            f"WARNING: {', '.join(suspects)} alone separates positives from sampled negatives (expected an AUC of "
            f"{1 - SUSPECT:.1f} to {SUSPECT:.1f}). A ranker would learn the sampling. Fix by setting "
            'negatives.strategy = "stratified" in sidkit.toml and running `sidkit tables rows`, then train again'
        )
