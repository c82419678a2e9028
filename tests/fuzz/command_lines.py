"""Argument lists of every command, and what must not follow from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .generators_arguments import (
    ANY,
    BAD,
    OK,
    Make,
    Value,
    a_codebook,
    a_folder_output,
    a_log_or_rows,
    a_new_name,
    a_preset,
    a_ranker,
    a_repo,
    a_rows_file,
    a_service,
    a_settings_file,
    a_source,
    a_time,
    a_user,
    a_users_file,
    a_whole,
    an_output,
    any_text,
    bad_number,
    bad_text,
    few,
    flag,
    hostile,
    named_output,
    no_token_file,
    pushed_file,
    share,
    some_codes,
    some_item,
    some_items,
)
from .place import Place


@dataclass(frozen=True)
class Arguments:
    """One command line."""

    words: tuple[str, ...]
    tag: str
    """``BAD`` when any value is, ``OK`` when all are; ``ANY`` otherwise."""
    reads: bool
    """Whether the command only reads the repo."""
    outputs: tuple[Path, ...]
    """What it may write besides the repo."""
    asked_items: str | None = None
    """What ``--items`` said."""


@dataclass(frozen=True)
class Command:
    """One command: its words, its arguments and options, how often it is tried."""

    words: tuple[str, ...]
    positional: tuple[Make, ...] = ()
    required: tuple[tuple[str, Make], ...] = ()
    optional: tuple[tuple[str, Make], ...] = ()
    weight: int = 4
    reads: bool = False
    heavy: bool = False
    """Takes long where it is right: at least one argument must be refused."""
    outputs: tuple[str, ...] = ()
    """Options that name what it writes."""


REPO: tuple[str, Make] = ("--repo", a_repo)
JSON: tuple[str, Make] = ("--json", flag)
COMMANDS = (
    Command(("score",), (), (REPO, ("--user", a_user), ("--items", some_items)), (("--at", a_time), ("--ranker",
    a_ranker), JSON), 10, True),
    Command(("frame",), (), (REPO, ("--rows", a_rows_file), ("--out", an_output)), (("--service", a_service),), 6,
    True, outputs=("--out",)),
    Command(("codebooks", "codes"), (), (REPO, ("--items", some_items)), (("--name", a_codebook),), 6, True),
    Command(("codebooks", "items"), (), (REPO, ("--codes", some_codes)), (("--name", a_codebook), ("--most",
    a_whole)), 6, True),
    Command(("codebooks", "show"), (a_codebook,), (REPO,), (), 3, True),
    Command(("codebooks", "list"), (), (REPO,), (), 1, True),
    Command(("codebooks", "health"), (a_codebook,), (REPO,), (("--preset", a_preset), JSON), 3),
    Command(("codebooks", "report"), (a_codebook,), (REPO,), (("--out", an_output),), 2, outputs=("--out",)),
    Command(("codebooks", "suffixes"), (a_codebook,), (REPO,), (), 3),
    Command(("codebooks", "fit"), (a_new_name,), (REPO, ("--preset", a_preset)), (("--fit-end", a_time), ("--force", flag)), 6),
    Command(("codebooks", "publish"), (a_codebook,), (REPO,), (), 2),
    Command(("codebooks", "promote"), (a_codebook,), (REPO,), (), 2),
    Command(("codebooks", "retire"), (a_codebook,), (REPO,), (), 2),
    Command(("codebooks", "purge"), (a_codebook,), (REPO,), (), 2),
    Command(("codebooks", "refresh"), (a_codebook,), (REPO,), (), 2),
    Command(("codebooks", "sweep"), (), (REPO,), (("--preset", a_preset), ("--fit-end", a_time), ("--sample", few),
    ("--seed", a_whole), JSON), 2, heavy=True),
    Command(("ranker", "list"), (), (REPO,), (), 1, True),
    Command(("ranker", "promote"), (a_ranker,), (REPO,), (), 2),
    Command(("ranker", "evaluate"), (a_ranker,), (REPO,), (("--rows", a_rows_file), ("--since", a_time), JSON), 5, True),
    Command(("ranker", "compare"), (), (REPO, ("--data", a_source)), (("--arms", bad_text), ("--seeds", few),
    ("--origins", few), ("--preset", a_preset), ("--max-train-rows", few), ("--jobs", few), ("--results", an_output),
    ("--html", an_output), JSON), 2, heavy=True, outputs=("--results", "--html")),
    Command(("data", "check"), (a_source,), (), (("--rejects", a_folder_output), REPO), 5, outputs=("--rejects",)),
    Command(("data", "synthetic"), (an_output,), (), (("--world", bad_text), ("--impressions", few), ("--users", few),
    ("--items", few), ("--seed", a_whole)), 4, outputs=("0",)),
    Command(("data", "ingest"), (), (REPO,), (), 2),
    Command(("data", "embed"), (a_source,), (), (("--out", an_output), ("--text", bad_text), ("--image", bad_text),
    ("--pictures", a_rows_file), ("--batch-size", few), ("--device", bad_text), ("--text-columns", any_text),
    ("--max-tokens", few), ("--cache", an_output)), 3, outputs=("--out", "--cache")),
    Command(("tables", "build"), (), (REPO,), (("--as-of", a_time), ("--rebuild", flag)), 6),
    Command(("tables", "rows"), (), (REPO,), (), 2),
    Command(("apply",), (), (REPO,), (), 1),
    Command(("materialize",), (), (REPO,), (("--as-of", a_time),), 5),
    Command(("doctor",), (), (REPO,), (JSON,), 2, True),
    Command(("audit",), (), (REPO,), (("--rows", few), ("--seed", a_whole), ("--preset", a_preset), ("--frame",
    a_rows_file), ("--service", a_service), JSON), 4, True),
    Command(("leakage",), (), (REPO,), (("--preset", a_preset), ("--arms", bad_text), ("--seeds", few), JSON), 2, heavy=True),
    Command(("init",), (a_folder_output,), (), (("--data", a_source),), 4, outputs=("0",)),
    Command(("run",), (), (REPO, ("--data", a_source)), (("--preset", a_preset), ("--seeds", few), ("--as-of",
    a_time), ("--settings", a_settings_file), ("--codebook", a_codebook), JSON), 3, heavy=True),
    Command(("init",), (a_folder_output,), (("--data", a_source), ("--settings", a_settings_file)), (), 3, outputs=("0",)),
    Command(("events", "push"), (pushed_file("interactions"),), (REPO,), (JSON,), 5),
    Command(("events", "items"), (pushed_file("items"),), (REPO,), (JSON,), 5),
    Command(("events", "tick"), (), (REPO,), (("--at", a_time), ("--every", bad_number), JSON), 4),
    Command(("forget",), (), (REPO, ("--user", a_user)), (("--users-file", a_users_file), ("--allow-unknown", flag), JSON), 4),
    Command(("monitor",), (), (REPO,), (("--ranker", a_ranker), ("--source", a_log_or_rows), ("--since", a_time),
    ("--until", a_time), ("--days", few), ("--rows", few), ("--seed", a_whole), ("--watch", share), ("--drift", share),
    ("--min-rows", few), ("--ignore", any_text), ("--html", an_output), JSON), 4, True, outputs=("--html",)),
    Command(("audit", "skew"), (), (REPO,), (("--since", a_time), ("--until", a_time), ("--ranker", a_ranker),
    ("--rows", few), ("--seed", a_whole), ("--tolerance", share), ("--most-unexplained", share), ("--most-stale", share),
    JSON), 3, True),
    Command(("ranker", "export"), (), (REPO, ("--out", named_output(".onnx"))), (("--ranker", a_ranker), JSON), 2, heavy=True,
    outputs=("--out",)),
    Command(("ranker", "log"), (a_ranker,), (REPO,), (), 1),
    Command(("ranker", "adapt"), (), (REPO,), (("--adapter", bad_text), ("--ranker", a_ranker), ("--arm", bad_text),
    ("--other", a_ranker), ("--days", bad_number), ("--until", a_time), ("--reindex", flag), ("--promote", flag), JSON), 3),
    Command(("ranker", "show"), (a_ranker,), (REPO,), (), 2, True),
    Command(("upgrade",), (), (REPO,), (("--definitions", flag),), 3),
    Command(("relocate",), (), (REPO,), (), 2),
    Command(("features", "list"), (), (REPO,), (), 1, True),
    Command(("codebooks", "repair"), (), (REPO,), (), 2),
    Command(("codebooks", "similar"), (some_item,), (REPO,), (("--name", a_codebook), ("--most", a_whole)), 3, True),
    Command(("codebooks", "export"), (a_codebook,), (REPO, ("--out", named_output(".parquet", ".csv", ".json"))), (), 3, True,
    outputs=("--out",)),
    Command(("data", "convert"), (a_source, a_folder_output), (), (REPO, ("--settings", a_settings_file), JSON), 3,
    outputs=("1",)),
    Command(("serve",), (), (REPO,), (("--ranker", a_ranker), ("--port", bad_number), ("--workers", bad_number),
    ("--engine", bad_text), ("--shadow", bad_text), ("--token-file", no_token_file), ("--max-feature-age", bad_number),
    ("--log-sample", share), ("--tick", bad_number), ("--timeout", bad_number)), 4, heavy=True),
)  # fmt: skip


def draw_arguments(draw: random.Random, place: Place) -> Arguments:
    """One command line; on a repo that is only read, of a command that only reads."""
    offered = [command for command in COMMANDS if command.reads or REPO not in command.required or not place.ready]
    command = draw.choices(offered, [command.weight for command in offered])[0]
    while True:
        found = _drawn(draw, place, command)
        if not command.heavy or found.tag == BAD:
            return found


def _drawn(draw: random.Random, place: Place, command: Command) -> Arguments:
    values: list[tuple[str, Value]] = [(str(n), make(draw, place)) for n, make in enumerate(command.positional)]
    values += [(name, make(draw, place)) for name, make in command.required]
    values += [(name, make(draw, place)) for name, make in command.optional if draw.random() < 0.45]
    tags = [value.tag for _, value in values]
    words = list(command.words)
    positional = [value.text for name, value in values if name.isdigit()]
    options = [
        [name] if make is flag else [name, value.text]
        for name, value, make in (
            (name, value, _make_of(command, name)) for name, value in values if not name.isdigit()
        )
    ]
    draw.shuffle(options)
    words += [word for option in options for word in option]
    words += positional if not any(text.startswith("-") for text in positional) else ["--", *positional]
    tag = BAD if BAD in tags else ANY if ANY in tags else OK
    misuse = draw.random()
    if misuse < 0.06:
        words, tag = _misused(draw, words), ANY
    outputs = tuple(
        Path(place.root / "cwd", value.text)
        for name, value in values
        if name in command.outputs and "\0" not in value.text
    )
    asked = next((value.text for name, value in values if name == "--items"), None) if misuse >= 0.06 else None
    return Arguments(tuple(words), tag, command.reads, outputs, asked)


def _make_of(command: Command, name: str) -> Make:
    return dict((*command.required, *command.optional))[name]


def _misused(draw: random.Random, words: Sequence[str]) -> list[str]:
    """A word less, a word twice, an unknown option, another order."""
    changed = list(words)
    kind = draw.choice(("less", "twice", "unknown", "order", "extra", "help"))
    place = draw.randrange(len(changed))
    if kind == "less":
        del changed[place]
    elif kind == "twice":
        changed.insert(place, changed[place])
    elif kind == "unknown":
        changed.insert(place, draw.choice(("--nothing", "--rep", "-z", "--json=1", "--repo=", "---")))
    elif kind == "order":
        changed[place], changed[-1] = changed[-1], changed[place]
    elif kind == "extra":
        changed.append(hostile(draw))
    else:
        changed.append("--help")
    return changed
