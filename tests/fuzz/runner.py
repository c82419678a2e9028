"""Cases in order, each in a process of its own, on one or two workers."""

from __future__ import annotations

import os
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

from . import try_arguments, try_damage, try_kills, try_rows, try_settings, try_tables
from .outcome import TRACEBACK, Verdict, brief
from .place import Place
from .processes import KilledError, enter, forked, import_everything, without_forks

Case = Callable[[random.Random, Place], Verdict]


@dataclass(frozen=True)
class Kind:
    """One kind of fault: how a case is tried, how many there are, whether it needs the finished repo."""

    case: Case
    count: int
    finished: bool = True
    cpu: int = 60
    wall: int = 600
    together: int = 1
    """Cases that share a process, as long as they leave the repo as it is. The first of them finds nothing in memory."""


KINDS = {
    "arguments": Kind(try_arguments.case, 3_000, wall=300, together=20),
    "tables": Kind(try_tables.case, 1_000, finished=False),
    "settings": Kind(try_settings.case, 500, finished=False, together=20),
    "rows": Kind(try_rows.case, 300, together=10),
    "damage": Kind(try_damage.case, 200, cpu=120),
    "kills": Kind(try_kills.case, 60, cpu=120),
}
Task = tuple[str, int]


@dataclass(frozen=True)
class Found:
    """What became of one case."""

    kind: str
    index: int
    verdict: Verdict
    seconds: float
    again: bool = False
    """Whether it went wrong in a process that earlier cases had used, and this is what it does alone."""
    cpu: float = 0.0
    """Processor seconds; those of cases that shared a process count at the first of them."""


def tasks(only: Sequence[str], count: int | None, case: int | None) -> list[Task]:
    """``(kind, index)`` of all cases that are asked for."""
    found = []
    for kind in only or KINDS:
        indices = [case] if case is not None else range(KINDS[kind].count if count is None else count)
        found += [(kind, index) for index in indices]
    return found


def _draw(seed: int, kind: str, index: int) -> random.Random:
    return random.Random(f"{seed}/{kind}/{index}")


def try_one(place: Place, seed: int, kind: str, index: int) -> Found:
    """One case in a process of its own, and each of its commands in a further one, on the repo as it was."""
    began, case = time.monotonic(), KINDS[kind]
    place.restore(repo=case.finished)
    try:
        verdict = forked(lambda: case.case(_draw(seed, kind, index), place), case.cpu, case.wall)
    except KilledError as ended:
        verdict = Verdict(TRACEBACK, [f"the harness's case ended: {ended}"])
    except RuntimeError as error:
        verdict = Verdict(TRACEBACK, [f"outside of a command: {brief(str(error))} {str(error)[-900:]}"])
    return Found(kind, index, verdict, time.monotonic() - began)


def try_together(place: Place, seed: int, kind: str, indices: Sequence[int]) -> Iterator[Found]:
    """Cases in one process as long as they leave the repo as it is; one that goes wrong is tried again alone."""
    while indices:
        found, failed = _shared(place, seed, kind, indices)
        yield from found
        indices = indices[len(found) :]
        if failed:
            yield replace(try_one(place, seed, kind, indices[0]), again=True)
            indices = indices[1:]


def _shared(place: Place, seed: int, kind: str, indices: Sequence[int]) -> tuple[list[Found], bool]:
    """The cases before the first that goes wrong or changes the repo (this one included), and whether one went wrong."""
    case = KINDS[kind]

    def work() -> tuple[list[Found], bool]:
        found: list[Found] = []
        place.restore(repo=case.finished)
        enter(place.root / "cwd", place.tmp)
        with without_forks():
            for index in indices:
                began = time.monotonic()
                place.restore(repo=case.finished)
                try:
                    verdict = case.case(_draw(seed, kind, index), place)
                except Exception:  # noqa: BLE001 (it is tried again alone)
                    return found, True
                if verdict.bad:
                    return found, True
                found.append(Found(kind, index, verdict, time.monotonic() - began))
                if case.finished and place.changed():
                    break
        return found, False

    try:
        return forked(work, case.cpu + 10 * len(indices), case.wall)
    except (KilledError, RuntimeError):
        return [], True


def run(
    todo: Sequence[Task], seed: int, jobs: int, folder: Path | None = None, *, alone: bool = False
) -> Iterator[Found]:
    """Try all cases, on so many workers that each have a repo of their own; ``alone``: none shares a process."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as held:
        root = Path(folder or held).resolve()
        import_everything()
        if jobs == 1:
            yield from _work(todo, seed, root / "w0", alone)
            return
        context = get_context("fork")  # imports are shared; this process has started no thread
        readers: list[Connection] = []
        workers = []
        for number in range(jobs):
            reader, writer = context.Pipe(duplex=False)
            worker = context.Process(target=_send, args=(writer, todo[number::jobs], seed, root / f"w{number}", alone))
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


def _send(writer: Connection, todo: Sequence[Task], seed: int, folder: Path, alone: bool) -> None:
    try:
        for found in _work(todo, seed, folder, alone):
            writer.send(found)
    except BaseException:
        traceback.print_exc()
        raise


def _work(todo: Sequence[Task], seed: int, folder: Path, alone: bool) -> Iterator[Found]:
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(folder)
    place.make(finished=any(KINDS[kind].finished for kind, _ in todo))
    spent = sum(os.times()[:4])
    for found in _tried(place, todo, seed, alone):
        now = sum(os.times()[:4])
        yield replace(found, cpu=now - spent)
        spent = now


def _tried(place: Place, todo: Sequence[Task], seed: int, alone: bool) -> Iterator[Found]:
    for kind, cases in groupby(todo, lambda task: task[0]):
        indices = [index for _, index in cases]
        together = 1 if alone else KINDS[kind].together
        for begin in range(0, len(indices), together):
            some = indices[begin : begin + together]
            if len(some) == 1:
                yield try_one(place, seed, kind, some[0])
            else:
                yield from try_together(place, seed, kind, some)
