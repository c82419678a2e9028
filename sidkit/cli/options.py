"""Options and arguments shared by several commands, and the command groups that several modules extend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataOrOwnOption = Annotated[
    str | None,
    typer.Option(
        help="A folder, a SQLAlchemy URL, synthetic[:strong|weak|none|clustered], a published data set with the "
        "folder of its files (movielens, amazon_reviews, mind, kuairand, hm or yambda, as NAME:PATH), or a class of your own "
        "that writes the tables: path/to/file.py:Class. Default: the source of the repo."
    ),
]
RepoOption = Annotated[Path, typer.Option("--repo", "-r", help="The repo's folder.", envvar="SIDKIT_REPO")]
AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", help="Build the tables up to this time, ISO-8601 with a time zone. Default: now."),
]
AtOption = Annotated[
    str | None,
    typer.Option("--at", help="Time of the request, ISO 8601 with a time zone. Default: now."),
]
SinceOption = Annotated[
    str | None, typer.Option(help="Rows served from this time on, ISO 8601 with a time zone. Default: all.")
]
UntilOption = Annotated[str | None, typer.Option(help="Rows served before this time. Default: all.")]
AllowFutureOption = Annotated[
    bool, typer.Option("--allow-future", help="Accept an --as-of in the future, for simulated logs.")
]

ItemsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--items",
        help="Item ids separated by commas (spaces around them are ignored), or @FILE with one id per line. Repeatable.",
    ),
]
ItemOption = Annotated[
    list[str] | None,
    typer.Option("--item", help="One item id, used verbatim, for ids with commas or spaces. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        help="A file with [source]: how columns and values of the data are read. Default: sidkit.toml in the data's folder.",
    ),
]
ArtifactsOption = Annotated[
    str | None,
    typer.Option(
        "--artifacts",
        help="URL at which codebooks and rankers are shared with other machines, such as s3://bucket/prefix or env:NAME.",
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit with code 1 if an id is unknown.")]
ShardsOption = Annotated[
    int | None,
    typer.Option(
        "--shards", help="Work in so many shards, each in a process of its own; finished shards are not done again."
    ),
]
MergeOption = Annotated[
    bool,
    typer.Option(
        "--merge", help="With --shards: only put together shards that workers elsewhere have made with --shard."
    ),
]
ShardOption = Annotated[str, typer.Option("--shard", help="K/N: do shard K of N, from 1.")]
Preset = Annotated[str, typer.Option(help="Name of a preset, or path of a .toml file.")]
Name = Annotated[str, typer.Argument(help="The codebook's name.")]

codebooks_app = typer.Typer(help="Fit, publish, rotate and look up codebooks.", no_args_is_help=True)
data_app = typer.Typer(help="Check, ingest, embed or generate data.", no_args_is_help=True)
tables_app = typer.Typer(help="Build the feature tables.", no_args_is_help=True)
ranker_app = typer.Typer(help="List, promote, evaluate and compare rankers.", no_args_is_help=True)
