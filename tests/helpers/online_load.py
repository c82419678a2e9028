"""One writer and many readers on one packed file, each a process of its own.

``PYTHONPATH=tests python -m helpers.online_load SECONDS`` runs them and says what they did (``make online-load``: 60 s).
A row says its number in every feature, so a torn one would show; numbers of a key never fall; a batch holds all keys, so a
transaction that was seen in part would show too.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.places import TESTS
from sidkit.stores.online.codec import pack, unpack
from sidkit.stores.online.layout import Cells, layout_of
from sidkit.stores.online.sqlite_file import PackedFile

VIEW = "shop_thing"
LAYOUT = layout_of([("number", "INT64"), ("codes", "INT64_LIST"), ("text", "STRING"), ("half", "DOUBLE")])
KEYS = [f"key {number:04d}".encode() for number in range(400)]


def write(path: Path, number: int) -> None:
    """Every key gets the number, in one transaction; rows grow and shrink with it."""
    count, width = len(KEYS), 1 + number % 50
    text = str(number) * width
    cells = [
        Cells("INT64", np.full(count, number)),
        Cells("INT64_LIST", np.full(count * width, number), np.arange(count + 1) * width),
        Cells("STRING", text.encode() * count, np.arange(count + 1) * len(text)),
        Cells("DOUBLE", np.full(count, number / 2)),
    ]
    with opened(path).writing() as writing:
        layout = writing.make(VIEW, LAYOUT)
        writing.put(VIEW, KEYS, [number] * count, [None] * count, pack(LAYOUT, layout, cells))


def read(path: Path, keys: Sequence[bytes]) -> list[int]:
    """The number of each key; every feature of every row has to say the same, and all keys too."""
    with opened(path).reading() as reading:
        rows = reading.rows(VIEW, keys)
        [kept] = reading.rows_of([(VIEW, None)], keys)
    assert kept == rows, "a row was kept beyond a commit"
    assert None not in rows
    found = unpack(LAYOUT, [row for row in rows if row is not None])
    numbers = np.asarray(found["number"].flat).tolist()
    codes, texts = found["codes"], found["text"]
    assert codes.offsets is not None and texts.offsets is not None
    for row, number in enumerate(numbers):
        text = bytes(texts.flat)[texts.offsets[row] : texts.offsets[row + 1]].decode()
        width = 1 + number % 50
        assert text == str(number) * width, f"torn: {number} and {text}"
        assert np.asarray(codes.flat)[codes.offsets[row] : codes.offsets[row + 1]].tolist() == [number] * width
        assert np.asarray(found["half"].flat)[row] == number / 2
    assert len(set(numbers)) == 1, f"a transaction was seen in part: {set(numbers)}"
    return numbers


_files: dict[Path, PackedFile] = {}


def opened(path: Path) -> PackedFile:
    if path not in _files:
        _files[path] = PackedFile(path, 60.0, 1 << 20)
    return _files[path]


def keep_writing(path: Path, seconds: float) -> int:
    number, until = read(path, KEYS[:1])[0], time.monotonic() + seconds
    while time.monotonic() < until:
        number += 1
        write(path, number)
    return number


def keep_reading(path: Path, seconds: float) -> int:
    last, count, until = 0, 0, time.monotonic() + seconds
    while time.monotonic() < until:
        [number] = set(read(path, random.sample(KEYS, 40)))
        assert number >= last, f"{number} after {last}"
        last, count = number, count + 1
    return count


def run(folder: Path, seconds: float, readers: int = 8) -> dict[str, int]:
    """Run a writer and some readers; raises when one of them fails."""
    path = folder / "online.sqlite"
    write(path, 1)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "helpers.online_load", what, str(path), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=TESTS,
        )
        for what in ("keep_writing", *["keep_reading"] * readers)
    ]
    told = [process.communicate(timeout=seconds + 120) for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(error for _, error in told if error)
    counts = [int(out) for out, _ in told]
    return {"writes": counts[0], "reads": sum(counts[1:]), "readers": readers, "least_reads": min(counts[1:])}


if __name__ == "__main__":
    if sys.argv[1].startswith("keep_"):
        sys.stdout.write(str(globals()[sys.argv[1]](Path(sys.argv[2]), float(sys.argv[3]))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(json.dumps(run(Path(folder), float(sys.argv[1]))) + "\n")
