"""Argument lists of every command: right ones, hostile ones, and what must not follow from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .place import ITEMS, Place, item_name, user_name

OK, ANY, BAD = "ok", "any", "bad"
"""A value that a command has to accept, may accept, or must refuse."""


@dataclass(frozen=True)
class Value:
    """One argument: its text, and whether a command may accept it."""

    text: str
    tag: str = OK


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


Make = Callable[[random.Random, Place], Value]
HOSTILE = (
    "", " ", ".", "..", "../evil", "../../evil", "../../../../evil", "a/b", "a/../../evil", "x" * 300, "ü" * 200,
    "日本語", "a b",
    "a,b", "it's", 'quo"te', "new\nline", "tab\there", "nul\0byte", "-dash", "--repo", "*", "?", "$HOME", "~",
    "~root/evil", "`id`",
    "%s%n", "{0}", "[x]", "a:b", "CON", "é", "e\u0301", "\u202egnp", "\udcff", "0", "-1", "NULL", "None", "true",
    "'; DROP TABLE x; --",
    "item_sid_x", "🦆", ".hidden", "name.toml", "name.", "\ufeffbom", "A" * 64,
)  # fmt: skip
TIMES = (
    ("2024-03-02T00:00:00Z", ANY), ("2024-02-20T00:00:00+00:00", ANY), ("2024-03-02T05:30:00+05:30", ANY), ("2024-03-02", BAD),
    ("2024-03-02T00:00:00", BAD), ("yesterday", BAD), ("", BAD), ("2150-01-01T00:00:00Z", ANY), ("1960-01-01T00:00:00Z", ANY),
    ("0001-01-01T00:00:00Z", ANY), ("9999-12-31T23:59:59Z", ANY), ("0001-01-01T00:00:00+14:00", ANY),
    ("9999-12-31T23:59:59-12:00", ANY),
    ("1709337600", BAD), ("2024-13-01T00:00:00Z", BAD), ("2024-02-30T00:00:00Z", BAD), ("2024-03-02T25:00:00Z", BAD),
    ("2024-W09-6", BAD),
    ("2024-03-02T00:00:00.1234567Z", ANY), ("20240302T000000Z", ANY), ("2024-03-02T00:00:60Z", BAD),
    ("1970-01-01T00:00:00Z", ANY),
    ("2024-03-02T00:00:00 Europe/Berlin", BAD), ("2024-03-02 00:00:00+00", ANY), ("nan", BAD), ("inf", BAD), ("-1", BAD),
    ("12024-03-02T00:00:00Z", BAD), ("2024-03-02T00:00:00Z\n", ANY), ("٢٠٢٤-03-02T00:00:00Z", ANY),
    ("2024-03-02T00:00:00+99:00", BAD),
    ("2024-02-27T10:11:12.131415Z", ANY),
)  # fmt: skip
WHOLE = (
    ("1", ANY), ("2", ANY), ("7", ANY), ("0", ANY), ("-1", ANY), ("-99999999999999999999", ANY), ("99999999999999999999", ANY),
    ("1e9", BAD), ("1.5", BAD), ("", BAD), ("abc", BAD), ("NaN", BAD), ("0x10", BAD), ("1_0", ANY), ("１", ANY), ("1 ",
    ANY), ("+3", ANY),
    ("2147483648", ANY), ("9223372036854775808", ANY),
)  # fmt: skip


def hostile(draw: random.Random) -> str:
    """A text that somebody would type by mistake or on purpose."""
    return draw.choice(HOSTILE)


def a_time(draw: random.Random, place: Place) -> Value:
    return Value(*draw.choice(TIMES))


def a_whole(draw: random.Random, place: Place) -> Value:
    return Value(*draw.choice(WHOLE))


def a_repo(draw: random.Random, place: Place) -> Value:
    if draw.random() < 0.8:
        return Value(str(place.repo))
    inside = place.root / "in"
    return Value(
        *draw.choice(
            [
                (str(place.root / "cwd"), BAD), (str(inside / "nothing"), BAD), (str(place.repo / "sidkit.toml"),
                BAD), ("", BAD),
                (str(place.repo / "data"), BAD), (str(place.repo / ".." / "repo"), ANY), (str(inside / ("x" * 300)), BAD),
                (str(inside / "nul\0"), BAD), (str(inside / "ünï"), BAD), ("\udcff", BAD), ("~nobody_here/x", BAD),
            ]
        )
    )  # fmt: skip


def a_codebook(draw: random.Random, place: Place) -> Value:
    if draw.random() < 0.5:
        return Value(place.answers.codebook, ANY)
    return Value(hostile(draw) if draw.random() < 0.8 else place.answers.ranker, BAD)


def a_ranker(draw: random.Random, place: Place) -> Value:
    if draw.random() < 0.5:
        return Value(place.answers.ranker, ANY)
    return Value(hostile(draw) if draw.random() < 0.8 else place.answers.codebook, BAD)


def a_new_name(draw: random.Random, place: Place) -> Value:
    text = draw.choice(["new", "b2", "Q1_2024"]) if draw.random() < 0.2 else hostile(draw)
    outside = "/" in text or "\0" in text or text in {"", ".", ".."}
    return Value(text, BAD if outside else ANY)


def a_preset(draw: random.Random, place: Place) -> Value:
    if draw.random() < 0.5:
        return Value(str(place.preset), ANY)
    inside = place.root / "in"
    return Value(
        *draw.choice(
            [
                ("rqkmeans", ANY), ("smile", ANY), (hostile(draw), BAD), ("nothing.toml", BAD),
                (str(inside / "binary.toml"), BAD),
                (str(inside / "folder.toml"), BAD), (str(inside / "empty.toml"), ANY), ("../rqkmeans", BAD), ("arms/id", ANY),
            ]
        )
    )  # fmt: skip


def a_service(draw: random.Random, place: Place) -> Value:
    if draw.random() < 0.4:
        return Value(f"ctr_{place.answers.codebook}", ANY)
    return Value(hostile(draw), BAD)


def a_rows_file(draw: random.Random, place: Place) -> Value:
    if draw.random() < 0.5:
        return Value(str(place.folder / "pool.parquet"), OK)
    return Value(str(draw.choice(bad_files(place))), BAD)


def bad_files(place: Place) -> list[Path]:
    """Paths that hold no table: nothing there, folders, text, bytes, a cut-off Parquet file."""
    inside = place.root / "in"
    names = (
        "nothing",
        "folder",
        "empty",
        "text.csv",
        "binary.parquet",
        "cut.parquet",
        "folder.parquet",
        "x" * 300,
        "nul\0",
        "\udcff",
    )
    return [inside / name for name in names]


def write_bad_files(place: Place) -> None:
    """Make them."""
    inside = place.root / "in"
    for name in ("folder", "folder.parquet", "folder.toml"):
        (inside / name).mkdir(exist_ok=True)
    for name in ("empty", "empty.toml"):
        (inside / name).write_bytes(b"")
    (inside / "text.csv").write_text("user_id,item_id,event_timestamp\nu0,i0,2024-03-01T00:00:00Z\n")
    noise = random.Random("noise").randbytes(4_000)
    (inside / "binary.parquet").write_bytes(noise)
    (inside / "binary.toml").write_bytes(noise)
    whole = (place.folder / "pool.parquet").read_bytes() if (place.folder / "pool.parquet").exists() else noise
    (inside / "cut.parquet").write_bytes(whole[: len(whole) // 2])


def an_output(draw: random.Random, place: Place) -> Value:
    out = place.root / "out"
    if draw.random() < 0.4:
        return Value(str(out / "new.out"), OK)
    return Value(
        *draw.choice(
            [
                (str(out), BAD), (str(out / "no" / "such" / "new"), ANY), (str(place.root / "in" / "empty" / "x"),
                BAD), ("", BAD),
                (str(out / ("x" * 300)), BAD), (str(out / "nul\0"), BAD), (str(out / "ünï 日本"), ANY), ("relative.out", ANY),
                (str(out / "new\nline"), ANY), (str(place.root / "in" / "folder"), ANY), ("\udcff", ANY),
                ("/proc/nothing/x", BAD),
                (str(out / ("x" * 250)), ANY), (str(out / "it's"), ANY), (str(out / "a*b?[c]{d}%20"), ANY),
            ]
        )
    )  # fmt: skip


def a_folder_output(draw: random.Random, place: Place) -> Value:
    """Where a folder is written, one that exists may do."""
    value = an_output(draw, place)
    return Value(value.text, ANY) if value.text == str(place.root / "out") else value


def a_source(draw: random.Random, place: Place) -> Value:
    inside = place.root / "in"
    if draw.random() < 0.3:
        return Value(str(place.source), OK)
    return Value(
        *draw.choice(
            [
                (str(inside / "nothing"), BAD), (str(inside), BAD), (str(inside / "empty"), BAD), ("", BAD),
                (hostile(draw), BAD),
                ("sqlite:///nothing.sqlite", BAD), (f"sqlite:///{inside / 'empty'}", BAD),
                (f"sqlite:///{inside / 'binary.parquet'}", BAD),
                ("sqlite://", BAD), ("://", BAD), ("nosuch://user:secret@host/db", BAD),
                ("postgresql://user:secret@localhost:1/db", BAD),
                ("postgresql+psycopg://user:secret@[::bad/db", BAD), ("mysql://u:secret@h:port/db", BAD),
                (f"sqlite:///{inside}", BAD),
                ("http://user:secret@example.invalid/x", BAD), ("env:FUZZ_NOT_SET", BAD),
                (str(place.source / "items.parquet"), BAD),
                (f"file://{place.source}", BAD), ("sqlite:///\0", BAD), ("postgresql://host/db?password=secret", BAD),
                ("s3://bucket/x", BAD),
            ]
        )
    )  # fmt: skip


def a_user(draw: random.Random, place: Place) -> Value:
    if draw.random() < 0.6:
        return Value(user_name(draw.choice((0, 1, 2, 9))))
    return Value(hostile(draw), ANY)


def some_items(draw: random.Random, place: Place) -> Value:
    names = [item_name(draw.randrange(ITEMS)) for _ in range(draw.choice((1, 1, 2, 3, 12)))]
    if draw.random() < 0.3:
        names.insert(draw.randrange(len(names) + 1), hostile(draw))
    joined = draw.choice((",", ",", ", ", " ,", ",,")).join(names)
    return Value(draw.choice((joined, joined, joined, f"{joined},", f" {joined} ", "", ",", f"@{joined}")), ANY)


def some_codes(draw: random.Random, place: Place) -> Value:
    options = [("0", ANY), ("1,2", ANY), ("3,3,3", ANY), ("9", ANY), ("", BAD), ("a", BAD), ("1,,2", BAD), ("1;2",
    BAD), ("-1", ANY),
               ("1,2,3,4,5,6", ANY), ("1.5", BAD), (" 1, 2", ANY), ("99999999999999999999", ANY), (hostile(draw),
               ANY), ("1,2,", ANY)]  # fmt: skip
    return Value(*draw.choice(options))


def flag(draw: random.Random, place: Place) -> Value:
    return Value("", OK)


def any_text(draw: random.Random, place: Place) -> Value:
    return Value(hostile(draw), ANY)


def bad_text(draw: random.Random, place: Place) -> Value:
    return Value(f"no-such-{hostile(draw)}", BAD)


def few(draw: random.Random, place: Place) -> Value:
    """Sizes that stay small where they are accepted."""
    return Value(*draw.choice([pair for pair in WHOLE if len(pair[0]) < 9 or pair[1] == BAD]))


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
    a_time), JSON), 3, heavy=True),
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
