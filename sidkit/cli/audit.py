"""`sidkit audit`: compare a training frame with the log, and check that no artefact was fitted on future data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.options import JsonOption, RepoOption, SinceOption, UntilOption
from sidkit.cli.output import show, show_json
from sidkit.cli.tables import table

if TYPE_CHECKING:
    from ranking.audit.run import AuditResult
    from ranking.audit.single_features import SingleFeatures
    from ranking.monitoring.skew import FeatureSkew, SkewAudit

LEAK = 4
"""Exit code of ``sidkit audit`` if a row or an artefact fails the audit."""
EXCEEDED = 3
"""Exit code of ``sidkit audit skew`` and ``sidkit monitor`` if a bound is exceeded."""

audit_app = typer.Typer()


@audit_app.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
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
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    import sidkit

    result = sidkit.open(repo).audit(rows=rows, seed=seed, preset=preset, frame=frame, service=service)
    if json_:
        show_json(result.as_json())
    else:
        _print(result)
    if not result.ok:
        raise typer.Exit(LEAK)


def _refuse_options_before(context: typer.Context) -> None:
    """Raise if an option of the audit stands before the name of a further command, which would not read it."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            command = context.invoked_subcommand
            option = f"--{name.strip('_').replace('_', '-')}"
            raise typer.BadParameter(
                f"expected no {option} before {command}; put the options of `sidkit audit {command}` after it"
            )


@audit_app.command()
def skew(
    repo: RepoOption = Path(),
    since: SinceOption = None,
    until: UntilOption = None,
    ranker: Annotated[str | None, typer.Option(help="Rows that this ranker served; default: all.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to sample.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the sample.")] = 0,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Numbers agree within this share of them, or this difference below 1.")
    ] = 1e-5,
    most_unexplained: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of a feature's cells that may differ unexplained.")
    ] = 0.01,
    most_stale: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest share of stale cells of a feature; default: any.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Compare served features with training features of the same rows.

    Reads the log of `sidkit serve --log-sample`, retrieves the same users, items and times point-in-time, and counts the cells
    that differ: stale (materialized before the request), early, ahead of the tables, or unexplained. Exits with code 3 if a
    bound is exceeded.
    """
    import sidkit

    result = sidkit.open(repo).audit_skew(
        since=since,
        until=until,
        ranker=ranker,
        rows=rows,
        seed=seed,
        tolerance=tolerance,
        most_unexplained=most_unexplained,
        most_stale=most_stale,
    )
    if json_:
        show_json(result.as_json())
    else:
        _print_skew(result)
    if not result.ok:
        raise typer.Exit(EXCEEDED)


def _print_skew(result: SkewAudit) -> None:
    differing = [each for each in result.features if each.differ]
    if differing:
        head = ("FEATURE", "DIFFER", "STALE", "EARLY", "AHEAD", "UNEXPL.", "LARGEST", "MISSING")
        show(table(head, [_skew_row(each) for each in differing]))
    for reason in result.skipped:
        show(reason)
    if result.later:
        show(
            f"{result.later:,} rows were served after the end of the tables, so whether they were stale cannot be seen; run "
            "`sidkit tables build`, and audit again"
        )
    for problem in result.problems:
        show(problem)
    agree = len(result.features) - len(differing)
    show(
        f"{result.rows:,} of {result.total:,} served rows, tables until {result.tables_until}: {agree} of "
        f"{len(result.features)} features agree in every row, {len(result.problems)} bounds exceeded"
    )


def _skew_row(each: FeatureSkew) -> tuple[str, ...]:
    counts = (each.differ, each.stale, each.early, each.ahead, each.unexplained)
    largest = "" if each.largest is None else f"{each.largest:.3g}"
    missing = f"{each.missing_served:.0%}/{each.missing_retrieved:.0%}"
    return (each.name, *(f"{count:,}" for count in counts), largest, missing)


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
