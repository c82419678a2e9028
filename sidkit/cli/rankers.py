"""Commands for rankers, frames and scores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.context import ContextOption, read_context
from sidkit.cli.options import AtOption, ItemOption, ItemsOption, JsonOption, RepoOption, StrictOption, ranker_app
from sidkit.cli.output import json_records, say, show, show_json
from sidkit.cli.tables import table
from sidkit.core.id_lists import read_ids, refuse_broken_text

RankerName = Annotated[str, typer.Argument(help="The ranker's name.")]


def frame(
    rows: Annotated[
        Path, typer.Option(help="Parquet file with user_id, item_id, event_timestamp; further columns are copied.")
    ],
    out: Annotated[Path, typer.Option(help="Output file (Parquet).")],
    repo: RepoOption = Path(),
    service: Annotated[
        str | None,
        typer.Option(help="Feature service; default: that of the serving codebook."),
    ] = None,
) -> None:
    """Write the point-in-time features of rows.

    They are the features that a ranker trains on.
    """
    import sidkit

    written = sidkit.open(repo).write_frame(rows, out, service)
    say(f"{out}: {written.rows:,} rows, {written.columns} columns, from feature service {written.service}")


def score(
    user: Annotated[str, typer.Option(help="The user's id.")],
    items: ItemsOption = None,
    item: ItemOption = None,
    repo: RepoOption = Path(),
    at: AtOption = None,
    ranker: Annotated[str | None, typer.Option(help="Name of the ranker; default: the serving ranker.")] = None,
    strict: StrictOption = False,
    context: ContextOption = None,
    json_: JsonOption = False,
) -> None:
    """Score candidates for a user from the online store.

    Prints the item ids and their scores, the best first: probabilities of the ranker's target. Unknown ids, and scores that
    are not rates because negatives were sampled, are reported on stderr.
    """
    import sidkit
    from ranking.serving.scorer import unknown_ids

    candidates = read_ids(items, item)
    refuse_broken_text(user)
    scores = sidkit.open(repo).scorer(ranker).score(user, candidates, at, strict=strict, context=read_context(context))
    known, user_known = scores["known"].to_numpy(), scores.attrs["user_known"]
    if unknown := unknown_ids(user, candidates, known, user_known):
        typer.echo(f"sidkit: {unknown}: scored without their features", err=True)
    if json_:
        show_json(
            {
                "ranker": scores.attrs["ranker"],
                "user": user,
                "user_known": user_known,
                "at": scores.attrs["at"],
                "target": scores.attrs["target"],
                "calibrated": scores.attrs["calibrated"],
                "calibration": scores.attrs["calibration"],
                "scores": dict(zip(candidates, scores["score"].tolist(), strict=True)),
                "items": scores.to_dict("records"),
            }
        )
        return
    for row in scores.sort_values("score", ascending=False, kind="stable").itertuples():
        show(f"{row.item_id}\t{row.score:.6f}")


@ranker_app.command("list")
def list_(repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """List all rankers and their states.

    `sidkit ranker show NAME` prints the rest.
    """
    import sidkit

    rankers = sidkit.open(repo).rankers()
    if json_:
        show_json(json_records(rankers))
        return
    rows = [[each.name, each.state, f"{each.fit_end:%Y-%m-%d %H:%M}"] for each in rankers.itertuples()]
    head = ("NAME", "STATE", "FIT END (UTC)")
    show(table(head, rows, left=head[1:]))


@ranker_app.command("show")
def show_(name: RankerName, repo: RepoOption = Path(), json_: JsonOption = False) -> None:
    """Show one ranker.

    Prints state, arm, codebook, feature service, end of the fit, and hash.
    """
    import sidkit
    from semantic_ids.catalog import Catalog

    project = sidkit.open(repo)
    Catalog.open(project.repo).ranker(name)  # raises if it is unknown
    rankers = project.rankers()
    record = json_records(rankers[rankers["name"] == name])[0]
    record["folder"] = str(project.repo.rankers / name)
    if json_:
        show_json(record)
    else:
        for key, value in record.items():
            show(f"{key:<13} {value}")


@ranker_app.command("promote")
def promote(name: RankerName, repo: RepoOption = Path()) -> None:
    """Make a ranker the default of `sidkit score`."""
    import sidkit

    sidkit.open(repo).promote_ranker(name)
    say(f"{name} is serving")


@ranker_app.command("adapt")
def adapt(
    repo: RepoOption = Path(),
    adapter: Annotated[str, typer.Option(help="bias, gate, or a class of your own: path/to/file.py:Class.")] = "bias",
    ranker: Annotated[str | None, typer.Option(help="The ranker to adapt; default: the serving ranker.")] = None,
    arm: Annotated[str | None, typer.Option(help="Instead of --ranker: the ranker of this arm.")] = None,
    other: Annotated[
        str | None, typer.Option(help="Of a gate: the second ranker. Default: the item's click rate of 30 days.")
    ] = None,
    days: Annotated[float, typer.Option(help="Fit on the labelled rows of so many days.")] = 1.0,
    until: Annotated[
        str | None,
        typer.Option(
            help="Fit on rows whose labels were known by this time, ISO 8601 with a zone. Default: when that of the last row "
            "was known."
        ),
    ] = None,
    reindex: Annotated[
        bool, typer.Option("--reindex", help="Also give items that are newer than the ranker rows of its id table.")
    ] = False,
    promote: Annotated[
        bool | None,
        typer.Option(
            "--promote/--no-promote",
            help="Whether the result serves. Default: if the same ranker serves, adapted or not.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Correct a frozen ranker by the newest labelled rows.

    The ranker is not trained again, so this takes seconds and can run every day. A running service takes the result over, as it
    does every promoted ranker; `sidkit ranker promote` goes back.
    """
    import sidkit

    facts = sidkit.open(repo).adapt_ranker(
        adapter, ranker=ranker, arm=arm, other=other, days=days, until=until, reindex=reindex, promote=promote
    )
    if json_:
        show_json(asdict(facts))
        return
    say(
        f"{facts.name}: {facts.adapter} of {facts.scorer}{f' and {facts.other}' if facts.other else ''}, fitted on "
        f"{facts.rows:,} rows from {facts.fit_start} to {facts.fit_end}"
    )
    say(", ".join(f"{name} {value:.4g}" for name, value in facts.fitted.items()) or "the rows allow no correction")
    if facts.before is not None:
        say(f"{facts.name} is serving; go back with `sidkit ranker promote {facts.before}`")


@ranker_app.command("log")
def log(name: RankerName, repo: RepoOption = Path()) -> None:
    """Log a ranker to MLflow.

    Uses the tracking server of `mlflow` in feature_store.yaml, through Feast's integration. `sidkit run` logs its rankers
    itself where that is enabled. A ranker that was logged before is not logged again.
    """
    import sidkit

    say(f"{name}: MLflow run {sidkit.open(repo).log_ranker(name)}")


@ranker_app.command("export")
def export(
    out: Annotated[Path, typer.Option(help="The file to write (.onnx).")],
    repo: RepoOption = Path(),
    ranker: Annotated[str | None, typer.Option(help="Name of the ranker; default: the serving ranker.")] = None,
    json_: JsonOption = False,
) -> None:
    """Write a ranker's forward pass as an ONNX file.

    It takes the tensors of a batch and gives logits, for any number of rows, items and history items. The file is left only if
    its scores are the ranker's within 1e-5.
    """
    import sidkit

    exported = sidkit.open(repo).export_ranker(out, ranker)
    if json_:
        show_json(exported.as_json())
        return
    rows = [[each.name, each.dtype, str(list(each.shape)).replace("'", ""), each.meaning] for each in exported.inputs]
    show(table(("INPUT", "TYPE", "SHAPE", "MEANING"), rows, left=("TYPE", "SHAPE", "MEANING")))
    say(
        f"{exported.path}: ranker {exported.ranker}, {exported.bytes:,} bytes, largest difference of {exported.rows} scores "
        f"{exported.difference:.1g}"
    )


@ranker_app.command("evaluate")
def evaluate(
    name: RankerName,
    repo: RepoOption = Path(),
    rows: Annotated[
        Path | None,
        typer.Option(help="Labelled rows (Parquet); default: those of the repository."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Evaluate rows from this time on, ISO-8601 with a zone; default: the ranker's fit_end."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Evaluate a ranker on held-out labelled rows.

    Fails if the rows start before the end of its fit.
    """
    import sidkit

    result = sidkit.open(repo).evaluate(name, rows, since=since)
    if json_:
        show_json(result.as_json())
        return
    given = result.given
    say(f"evaluating {given.rows - given.before_start:,} of {given.rows:,} rows: those from {given.start} on")
    say(f"target {result.target}; {result.calibration.sentence}")
    shown = [
        [slice_name, f"{result.rows[slice_name].rows:,}", *map(_number, (each.auc, each.logloss, each.calibration))]
        for slice_name, each in result.slices.items()
    ]
    show(table(("slice", "rows", "AUC", "log-loss", "calibration"), shown))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
