"""Values of arguments: right ones and hostile ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .place import ITEMS, Place, item_name, user_name

OK, ANY, BAD = "ok", "any", "bad"
"""A value that a command has to accept, may accept, or must refuse."""


@dataclass(frozen=True)
class Value:
    """One argument: its text, and whether a command may accept it."""

    text: str
    tag: str = OK


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


def pushed_file(table: str) -> Make:
    """A file for ``sidkit events``: rows of that table, or no table at all."""

    def make(draw: random.Random, place: Place) -> Value:
        if draw.random() < 0.4:
            return Value(str(place.root / "in" / f"{table}.{draw.choice(('parquet', 'jsonl'))}"), OK)
        if draw.random() < 0.3:
            return Value(str(place.root / "in" / f"{table}_odd.jsonl"), ANY)
        if draw.random() < 0.1:
            return Value("-", ANY)  # standard input, which is empty
        return Value(str(draw.choice(bad_files(place))), BAD)

    return make


def write_pushed_files(place: Place) -> None:
    """Write events and new items as Parquet and JSON lines, and lines that are no rows of them."""
    inside = place.root / "in"
    (inside / "users.txt").write_text("".join(f"{user_name(n)}\n" for n in (3, 4)))
    (inside / "source.toml").write_text('[source]\nunknown_items = "keep"\n')
    base = {"timestamp": "2024-03-01T12:00:00Z", "label": 1, "request_id": "pushed", "position": 0, "converted": 0}
    events = [{"user_id": user_name(n), "item_id": item_name(n), **base} for n in range(5)]
    new = {"created_at": "2024-03-01T00:00:00Z", "title": "new", "category": "hazel", "price": 1.5}
    items = [{"item_id": f"pushed {n}", **new, "text": [0.5] * 6, "image": [0.25] * 6} for n in range(3)]
    for name, rows in (("interactions", events), ("items", items)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (inside / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        odd = ["{}", "[]", "null", "{", '{"user_id": 1}', '{"item_id": null}', json.dumps({**rows[0], "\udcff": 1})]
        (inside / f"{name}_odd.jsonl").write_text("\n".join([*lines, *odd]) + "\n")
        table = pa.Table.from_pylist(rows)
        for column in ("timestamp", "created_at"):
            if column in table.column_names:
                moments = pc.strptime(table.column(column), "%Y-%m-%dT%H:%M:%SZ", "us").cast(pa.timestamp("us", "UTC"))
                table = table.set_column(table.column_names.index(column), column, moments)
        pq.write_table(table, inside / f"{name}.parquet")


def a_settings_file(draw: random.Random, place: Place) -> Value:
    """A file with ``[source]`` for ``init`` and ``run``."""
    inside = place.root / "in"
    names = (
        ("source.toml", ANY),
        ("empty.toml", ANY),
        ("nothing.toml", BAD),
        ("binary.toml", BAD),
        ("folder.toml", BAD),
    )
    text, tag = draw.choice((*names, (hostile(draw), BAD)))
    return Value(str(inside / text) if text.endswith(".toml") and "/" not in text else text, tag)


def a_users_file(draw: random.Random, place: Place) -> Value:
    """A file of users for ``forget``."""
    inside = place.root / "in"
    if draw.random() < 0.4:
        return Value(str(inside / "users.txt"), ANY)
    return Value(
        str(draw.choice((inside / "nothing", inside / "folder", inside / "binary.parquet", inside / "nul\0"))), BAD
    )


def share(draw: random.Random, place: Place) -> Value:
    """A number from 0 to 1."""
    return Value(
        *draw.choice((("0", ANY), ("1", ANY), ("0.5", ANY), ("-0.1", BAD), ("1.1", BAD), ("nan", BAD), ("x", BAD)))
    )


def bad_number(draw: random.Random, place: Place) -> Value:
    """No number that a service can use."""
    return Value(draw.choice(("-1", "", "abc", "nan", "-inf", "1e", "0x1")), BAD)


def no_token_file(draw: random.Random, place: Place) -> Value:
    """A path without a token."""
    inside = place.root / "in"
    return Value(str(draw.choice((inside / "nothing", inside / "folder", inside / "empty", inside / "nul\0"))), BAD)


def a_log_or_rows(draw: random.Random, place: Place) -> Value:
    """What ``monitor`` compares; nothing was served, so that there is no log."""
    return Value(*draw.choice((("rows", ANY), ("rows", ANY), ("log", BAD), ("logs", BAD), ("", BAD))))


def named_output(*suffixes: str) -> Make:
    """A file whose suffix says what is written; others may be refused."""

    def make(draw: random.Random, place: Place) -> Value:
        value = an_output(draw, place)
        if value.tag == OK:
            return Value(str(place.root / "out" / f"new{draw.choice(suffixes)}"), OK)
        return value

    return make


def some_item(draw: random.Random, place: Place) -> Value:
    """One item."""
    known = Value(item_name(draw.randrange(ITEMS)), OK)
    other = hostile(draw) if draw.random() >= 0.6 else None
    names = {item_name(number) for number in range(ITEMS)}
    return known if other is None else Value(other, ANY if other in names else BAD)
