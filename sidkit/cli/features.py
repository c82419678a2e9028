"""`sidkit features`: what rankers read, from where, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.options import JsonOption, RepoOption
from sidkit.cli.output import json_records, show, show_json

if TYPE_CHECKING:
    import pandas as pd

features_app = typer.Typer(help="List the features of rankers.", no_args_is_help=True)


@features_app.command("list")
def list_(
    repo: RepoOption = Path(),
    preset: Annotated[str | None, typer.Option(help="The run of this preset; default: the newest run.")] = None,
    json_: JsonOption = False,
) -> None:
    """List the features that rankers read.

    Per feature: kind, share of rows with a value, distinct values, arms that read it, importance.

    Importance is the drop of the validation AUC when a feature is shuffled among the rows, for boosting and the serving
    ranker. Built-in counts are one line per family, and statistics of codes one per kind and depth. Shares and distinct values
    are those of the run's validation and test rows; without a run they are empty.
    """
    import sidkit

    features = sidkit.open(repo).features(preset)
    if json_:
        show_json(json_records(features))
        return
    _print(features)


def _print(features: pd.DataFrame) -> None:
    from sidkit.cli.tables import table

    measured = [name for name in features.columns if name.startswith("drop ")]
    head = ["feature", "kind", "filled", "distinct", *measured]
    rows = [
        [
            row["feature"],
            row["kind"],
            "" if row["filled"] is None or row["filled"] != row["filled"] else f"{row['filled']:.0%}",
            "" if row["distinct"] is None or row["distinct"] != row["distinct"] else f"{int(row['distinct']):,}",
            *("" if row[name] != row[name] or row[name] is None else f"{row[name]:+.4f}" for name in measured),
        ]
        for row in features.to_dict("records")
    ]
    show(table(head, rows, left=("kind",)))
    readers = {text for text in features["arms"] if text}
    for text in sorted(readers):
        names = features.loc[features["arms"] == text, "feature"]
        show(f"read by {text}: {'all features' if len(readers) == 1 else ', '.join(names)}")
