"""``sidkit ranker train``: train the arms of a preset, in one process or in several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidkit.cli.options import AllowFutureOption, DataOrOwnOption, JsonOption
from sidkit.cli.output import VERBOSITY, say, show, show_json
from sidkit.cli.tables import table


def train(
    data: DataOrOwnOption = None,
    repo: Annotated[
        Path, typer.Option("--repo", "-r", envvar="SIDKIT_REPO", help="The repo's folder; it is created if missing.")
    ] = Path(),
    preset: Annotated[str, typer.Option(help="Name of a preset, or path of a .toml file.")] = "rqkmeans",
    arm: Annotated[
        list[str] | None, typer.Option("--arm", help="An arm to train; default: all arms of the preset. Repeatable.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per arm.")] = 1,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", help="Build features up to this time, ISO-8601 with a time zone. Default: the end of the log."
        ),
    ] = None,
    allow_future: AllowFutureOption = False,
    codebook: Annotated[
        str | None, typer.Option(help="Train rankers on this fitted codebook instead of fitting one.")
    ] = None,
    impressions: Annotated[int, typer.Option(help="Number of impressions of a generated data set.")] = 200_000,
    json_: JsonOption = False,
) -> None:
    """Run all stages up to the training of arms.

    A later `sidkit run` with the same preset and options reuses them, evaluates the arms and fills the online store. In several
    processes, started as `torchrun --nproc-per-node 2 -m sidkit ranker train`, these share the rows of every batch.
    """
    from ranking.pipeline.train import train_preset
    from sidkit.api.progress import shown_progress
    from sidkit.core.clock import parse_time
    from sidkit.core.repo import source_of

    as_of_us = None if as_of is None else parse_time(as_of)
    with shown_progress(stderr=json_, verbose=VERBOSITY.verbose, quiet=VERBOSITY.quiet) as progress:
        trained = train_preset(
            repo,
            data or source_of(repo),
            preset,
            arms=tuple(arm or ()),
            seeds=seeds,
            as_of_us=as_of_us,
            impressions=impressions,
            allow_future=allow_future,
            codebook=codebook,
            progress=progress,
        )
    if trained is None:  # process 0 says what was trained
        return
    rows = [(name, seed, *each) for name, seeds_of in trained.items() for seed, each in enumerate(seeds_of)]
    if json_:
        show_json([dict(zip(("arm", "seed", "ranker", "validation_auc"), row, strict=True)) for row in rows])
        return
    shown = [[name, str(seed), ranker or "-", f"{auc:.4f}"] for name, seed, ranker, auc in rows]
    show(table(("ARM", "SEED", "RANKER", "VALIDATION AUC"), shown, left=("ARM", "RANKER")))
    say("`sidkit run` with the same preset evaluates the arms and fills the online store")
