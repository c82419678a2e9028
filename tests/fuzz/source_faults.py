"""Faults of files and of columns as a whole, done to a source that is on disk already."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .source_files import TABLES, Stored

Fault = Callable[[random.Random, Path, Stored], None]
REQUIRED = {
    "interactions": ("user_id", "item_id", "timestamp", "label"), "items": ("item_id", "created_at"),
    "item_embeddings": ("item_id", "text"),
}  # fmt: skip


def _files(folder: Path, table: str) -> list[Path]:
    single = folder / f"{table}.parquet"
    return [single] if single.exists() else sorted((folder / table).glob("*.parquet"))


def _must(stored: Stored, why: str, *names: str) -> None:
    stored.must_refuse, stored.odd = True, stored.odd or why
    stored.names += names
    stored.did.append(why)


def _may(stored: Stored, why: str, *names: str) -> None:
    stored.odd = stored.odd or why
    stored.names += names
    stored.did.append(why)


def missing_column(draw: random.Random, folder: Path, stored: Stored) -> None:
    table = draw.choice(TABLES)
    column = draw.choice(REQUIRED[table])
    if column == "created_at":  # items may have none: they count as created at their first interaction
        column = "item_id"
    files = _files(folder, table)
    for file in files:
        held = pq.read_table(file)
        if column == "text" and "image" in held.column_names:
            return
        if column in held.column_names:
            pq.write_table(held.drop_columns([column]), file)
    _must(stored, f"{table} without {column}", column, "vector")


def missing_table(draw: random.Random, folder: Path, stored: Stored) -> None:
    table = draw.choice(TABLES)
    shutil.rmtree(folder / table, ignore_errors=True)
    (folder / f"{table}.parquet").unlink(missing_ok=True)
    if table == "item_embeddings":  # a source may have no vectors: a warning says so
        _may(stored, "no item_embeddings", table, "vector")
        stored.without_vectors = True
        stored.refused_tables.discard(table)
        stored.must_refuse = bool(stored.refused_tables)
    else:
        _must(stored, f"no {table}", table)


def no_rows(draw: random.Random, folder: Path, stored: Stored) -> None:
    table = draw.choice(TABLES)
    for file in _files(folder, table):
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    _must(stored, f"{table} without rows", table)


def column_twice(draw: random.Random, folder: Path, stored: Stored) -> None:
    table = draw.choice(TABLES)
    for file in _files(folder, table):
        held = pq.read_table(file)
        column = draw.choice(held.column_names)
        pq.write_table(held.append_column(column, held.column(column)), file)
    _must(stored, f"{table} with a column twice", table)


def column_less(draw: random.Random, folder: Path, stored: Stored) -> None:
    """An optional column that one part lacks."""
    files = _files(folder, "items")
    if len(files) < 2:
        return
    held = pq.read_table(files[1])
    pq.write_table(held.drop_columns(["title"]), files[1])
    _may(stored, "items: a part lacks title", "title", files[1].name)


def nulls_in_a_part(draw: random.Random, folder: Path, stored: Stored) -> None:
    """A part whose titles are all missing, so that the file states no type."""
    file = draw.choice(_files(folder, "items"))
    held = pq.read_table(file)
    place = held.column_names.index("title")
    pq.write_table(held.set_column(place, "title", pa.nulls(len(held))), file)
    stored.did.append("items: titles of type null")


def odd_column(draw: random.Random, folder: Path, stored: Stored) -> None:
    """A further attribute of an odd type or name."""
    table = draw.choice(("items", "items", "interactions", "item_embeddings"))
    name, free = draw.choice(
        [
            ("extra", True), ("a b", True), ('q"q', True), ("it's", True), ("ünï", True), ("a.b", True), ("select",
            True), ("x" * 300, False), ("", False),
            ("nul\0", False), ("reason", False), ("nth", False), ("file_row_number", False), ("generation", False),
            ("ITEM_ID", False), ("new\nline", True),
            ("%s", True), ("_x", True), ("event_timestamp", True), ("created_timestamp", True), ("rowid", True),
            ("first_seen", False), ("held", True),
        ]
    )  # fmt: skip
    values = draw.choice(
        [
            lambda n: pa.array(list(range(n))), lambda n: pa.array([{"a": 1, "b": ["x"]}] * n),
            lambda n: pa.array([b"\xff\0"] * n),
            lambda n: pa.array([[("k", 1)]] * n, pa.map_(pa.string(), pa.int64())), lambda n: pa.array([Decimal("1.5")] * n),
            pa.nulls, lambda n: pa.array([date(2020, 1, 1)] * n), lambda n: pa.array([2**62] * n,
            pa.int64()).cast(pa.timestamp("s")),
            lambda n: pa.array([253402300799] * n, pa.int64()).cast(pa.timestamp("s", "UTC")),
            lambda n: pa.array([-62135596800] * n, pa.int64()).cast(pa.timestamp("s", "UTC")),
            lambda n: pa.array([datetime(2020, 1, 1)] * n), lambda n: pa.array(["x" * 100_000] * n),
            lambda n: pa.array(["a"] * n).dictionary_encode(),
            lambda n: pa.array([True] * n), lambda n: pa.array([1.5] * n, pa.float32()).cast(pa.float16()),
            lambda n: pa.array([[[1.0]]] * n),
        ]
    )  # fmt: skip
    for file in _files(folder, table):
        held = pq.read_table(file)
        if name in held.column_names:
            return
        kept = file.read_bytes()
        try:
            pq.write_table(held.append_column(name, values(len(held))), file)
        except (pa.ArrowException, ValueError):  # a file cannot hold that type
            file.write_bytes(kept)
            return
    note = f"{table} with a column {name[:40]!r} of {values(1).type}"
    stored.did.append(note)
    if not free or table == "item_embeddings":
        stored.odd = stored.odd or note
        stored.names += [name[:40], repr(name)[1:-1][:40], table]


def odd_modality(draw: random.Random, folder: Path, stored: Stored) -> None:
    """A further vector column whose name cannot become a feature."""
    name = draw.choice(
        (
            "image_y",
            "_vec",
            "a b",
            "x" * 300,
            "class",
            "price",
            "category",
            "ünï",
            "2d",
            "text__x",
            "codes",
            "Item",
            "TEXT",
        )
    )
    for file in _files(folder, "item_embeddings"):
        held = pq.read_table(file)
        column = pa.array([[1.0, 2.0]] * len(held), pa.list_(pa.float32()))
        pq.write_table(held.append_column(name, column), file)
    _may(stored, f"item_embeddings with vectors {name[:40]!r}", name[:60], "modalit")


def junk_files(draw: random.Random, folder: Path, stored: Stored) -> None:
    """What other tools leave beside the parts."""
    table = draw.choice(TABLES)
    where = folder / table if (folder / table).is_dir() else folder
    for name in draw.sample(
        ["._part-0.parquet", "_SUCCESS", "_metadata", ".part-0.parquet.crc", ".DS_Store", "_temporary", "README.md"], 3
    ):
        if name == "_temporary":
            (where / name).mkdir()
        else:
            (where / name).write_bytes(b"\0\5\x16\7 junk")
    stored.did.append(f"junk beside {table}")


def broken_file(draw: random.Random, folder: Path, stored: Stored) -> None:
    table = draw.choice(TABLES)
    file = draw.choice(_files(folder, table))
    whole = file.read_bytes()
    kind = draw.choice(("cut", "empty", "text", "noise", "folder", "head", "flipped end"))
    if kind == "folder":
        file.unlink()
        file.mkdir()
    else:
        end = bytearray(whole)
        end[-20] ^= 255
        file.write_bytes(
            {
                "cut": whole[: len(whole) // 2], "empty": b"", "text": b"user_id,item_id\nu,i\n", "noise": draw.randbytes(3000),
                "head": b"XXXX" + whole[4:], "flipped end": bytes(end),
            }[kind]
        )  # fmt: skip
    if kind in {"head", "flipped end", "folder"}:
        _may(stored, f"{file.name} broken: {kind}", file.name, table)
    else:
        _must(stored, f"{file.name} broken: {kind}", file.name, table)


def capital_suffix(draw: random.Random, folder: Path, stored: Stored) -> None:
    table = draw.choice(TABLES)
    for file in _files(folder, table):
        file.rename(file.with_suffix(".PARQUET"))
    _may(stored, f"{table} as .PARQUET", table, ".PARQUET")


def linked(draw: random.Random, folder: Path, stored: Stored) -> None:
    table = draw.choice(TABLES)
    for file in _files(folder, table):
        away = folder.parent / f"away-{file.name}"
        shutil.move(file, away)
        file.symlink_to(away)
    stored.did.append(f"{table} through symbolic links")


FAULTS: tuple[tuple[Fault, int], ...] = (
    (missing_column, 2), (missing_table, 1), (no_rows, 1), (column_twice, 1), (column_less, 2), (nulls_in_a_part, 1),
    (odd_column, 5),
    (odd_modality, 2), (junk_files, 2), (broken_file, 3), (capital_suffix, 1), (linked, 1),
)  # fmt: skip


def break_files(draw: random.Random, folder: Path, stored: Stored) -> None:
    """One fault, or none."""
    if draw.random() < 0.4:
        fault = draw.choices([found for found, _ in FAULTS], [weight for _, weight in FAULTS])[0]
        fault(draw, folder, stored)
