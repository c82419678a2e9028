"""Cases in order, each in a process of its own, on one or two workers."""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from . import try_arguments, try_damage, try_kills, try_rows, try_settings, try_tables
from .outcome import TRACEBACK, Verdict, brief
from .place import Place
from .processes import KilledError, forked, import_everything

Case = Callable[[random.Random, Place], Verdict]


@dataclass(frozen=True)
class Kind:
    """One kind of fault: how a case is tried, how many there are, whether it needs the finished repo."""

    case: Case
    count: int
    finished: bool = True
    cpu: int = 60


KINDS = {
    "arguments": Kind(try_arguments.case, 3_000),
    "tables": Kind(try_tables.case, 1_000, finished=False),
    "settings": Kind(try_settings.case, 500, finished=False),
    "rows": Kind(try_rows.case, 300),
    "damage": Kind(try_damage.case, 200, cpu=120),
    "kills": Kind(try_kills.case, 60, cpu=120),
}
Task = tuple[str, int]
Found = tuple[str, int, Verdict, float]


def tasks(only: Sequence[str], count: int | None, case: int | None) -> list[Task]:
    """``(kind, index)`` of all cases that are asked for."""
    found = []
    for kind in only or KINDS:
        indices = [case] if case is not None else range(KINDS[kind].count if count is None else count)
        found += [(kind, index) for index in indices]
    return found


def try_one(place: Place, seed: int, kind: str, index: int) -> Found:
    """One case in a process of its own, on a fresh copy of the repo."""
    began = time.monotonic()
    place.restore(repo=KINDS[kind].finished)
    draw = random.Random(f"{seed}/{kind}/{index}")
    try:
        verdict = forked(lambda: KINDS[kind].case(draw, place), KINDS[kind].cpu, 600)
    except KilledError as ended:
        verdict = Verdict(TRACEBACK, [f"the harness's case ended: {ended}"])
    except RuntimeError as error:
        verdict = Verdict(TRACEBACK, [f"outside of a command: {brief(str(error))} {str(error)[-900:]}"])
    return kind, index, verdict, time.monotonic() - began


def run(todo: Sequence[Task], seed: int, jobs: int, folder: Path | None = None) -> Iterator[Found]:
    """Try all cases, on so many workers that each have a repo of their own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as held:
        root = Path(folder or held).resolve()
        if jobs == 1:
            yield from _work(todo, seed, root / "w0")
            return
        context = get_context("spawn")
        readers: list[Connection] = []
        workers = []
        for number in range(jobs):
            reader, writer = context.Pipe(duplex=False)
            worker = context.Process(
                target=_send, args=(writer, todo[number::jobs], seed, root / f"w{number}", sys.path)
            )
            worker.start()
            writer.close()
            readers.append(reader)
            workers.append(worker)
        while readers:
            for reader in wait(readers):
                assert isinstance(reader, Connection)
                try:
                    yield reader.recv()
                except EOFError:
                    readers.remove(reader)
        for worker in workers:
            worker.join()
            if worker.exitcode:
                raise RuntimeError(f"a worker ended with {worker.exitcode}; its cases are incomplete")


def _send(writer: Connection, todo: Sequence[Task], seed: int, folder: Path, path: list[str]) -> None:
    sys.path[:] = path
    try:
        for found in _work(todo, seed, folder):
            writer.send(found)
    except BaseException:
        traceback.print_exc()
        raise


def _work(todo: Sequence[Task], seed: int, folder: Path) -> Iterator[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    import_everything()
    place = Place(folder)
    place.make(finished=any(KINDS[kind].finished for kind, _ in todo))
    for kind, index in todo:
        yield try_one(place, seed, kind, index)
