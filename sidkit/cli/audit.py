"""`sidkit audit`: does a training frame hold what serving could have known, and was nothing learned from the future?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from sidkit.cli.options import RepoOption

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

    from ranking.audit.run import run_audit
    from sidkit.core.repo import Repo

    told = run_audit(Repo.open(repo), rows=rows, seed=seed, preset=preset, frame=frame, service=service)
    difference, problems = told["rows"]["difference"], told["artifacts"]["problems"]
    if json_:
        typer.echo(json.dumps(told, ensure_ascii=False))
    else:
        _print(told)
    if difference or problems:
        raise typer.Exit(LEAK)


def _print(told: dict[str, Any]) -> None:
    from ranking.audit.compare_cells import Difference

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
