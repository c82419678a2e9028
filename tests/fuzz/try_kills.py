"""Kills at random moments: the same command again succeeds, and ends in what an undisturbed one leaves."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .outcome import RIGHT, TRACEBACK, Ran, Verdict, error_of
from .place import AT, Place, told_score
from .processes import KilledError, enter, forked, in_process

_BEGINNING = 0.1
"""Seconds in which a process may not have begun the command yet."""
LATER = "2024-03-04T00:00:00Z"


@dataclass(frozen=True)
class Step:
    """One command that is killed: what it runs on, and the words before it that bring the repo there."""

    name: str
    words: tuple[str, ...]
    begins: str = "finished"
    """``finished``, ``fresh`` (after ``init``), ``grown`` (finished, and the source has new rows) or ``nothing``."""
    before: tuple[tuple[str, ...], ...] = ()
    weight: int = 2


_FIT = ("codebooks", "fit", "kb", "--preset", "PRESET", "--force")
STEPS = (
    Step("run", ("run", "--json", "--data", "SOURCE", "--preset", "PRESET"), "fresh", weight=8),
    Step("ingest", ("data", "ingest"), "fresh", weight=4),
    Step("ingest again", ("data", "ingest"), "grown", weight=4),
    Step("build", ("tables", "build", "--as-of", AT), "fresh", (("data", "ingest"),), 4),
    Step("build again", ("tables", "build", "--as-of", LATER), "grown", (("data", "ingest"),), 4),
    Step("rows", ("tables", "rows"), "fresh", (("data", "ingest"),)),
    Step("fit", _FIT, weight=3),
    Step("publish", ("codebooks", "publish", "kb"), "finished", (_FIT,), 4),
    Step("promote", ("codebooks", "promote", "kb"), "finished", (_FIT, ("codebooks", "publish", "kb"))),
    Step("retire", ("codebooks", "retire", "kb"), "finished", (_FIT, ("codebooks", "publish", "kb"))),
    Step("purge", ("codebooks", "purge", "kb"), "finished", (_FIT, ("codebooks", "publish", "kb"), ("codebooks",
    "retire", "kb"))),
    Step("refresh", ("codebooks", "refresh"), "grown", (("data", "ingest"), ("tables", "build", "--as-of", LATER)), 3),
    Step("materialize", ("materialize",), "grown", (("data", "ingest"), ("tables", "build", "--as-of", LATER),
    ("codebooks", "refresh")), 4),
    Step("apply", ("apply",), weight=2),
    Step("frame", ("frame", "--rows", "POOL", "--out", "OUT")),
    Step("report", ("codebooks", "report", "CODEBOOK")),
    Step("init", ("init", "REPO", "--data", "SOURCE"), "nothing"),
    Step("check", ("data", "check", "SOURCE"), "nothing"),
    Step("synthetic", ("data", "synthetic", "OUT", "--impressions", "20000"), "nothing"),
)  # fmt: skip


@dataclass
class Kept:
    """A repo before a step, and what the step leaves when nothing disturbs it."""

    seconds: float
    left: dict[str, Any]
    folder: Path = field(default=Path())


def prepare(place: Place, step: Step) -> Kept:
    """The step's repo and end, made once per worker."""
    folder = place.folder / "steps" / step.name
    if (folder / "kept.pickle").exists():
        kept: Kept = pickle.loads((folder / "kept.pickle").read_bytes())
        return kept
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _begin(place, step)
    for words in step.before:
        _must(place.command(*_words(place, words), cpu=60))
    if place.repo.exists():
        shutil.copytree(place.repo, folder / "repo", copy_function=shutil.copy2)
    began = time.monotonic()
    _must(place.command(*_words(place, step.words), cpu=60))
    kept = Kept(time.monotonic() - began, left_in(place), folder)
    (folder / "kept.pickle").write_bytes(pickle.dumps(kept))
    return kept


def _must(ran: Ran) -> None:
    if not ran.ok:
        raise RuntimeError(f"without any kill: {ran.arguments} ended with {ran.exit}: {ran.shown()} {ran.raised}")


def _begin(place: Place, step: Step) -> None:
    if step.begins in {"fresh", "nothing"}:
        shutil.rmtree(place.repo)
    if step.begins == "fresh":
        _must(place.command("init", place.repo, "--data", place.source))
        settings = place.repo / "sidkit.toml"
        settings.write_text(settings.read_text().replace("threads = 2", "threads = 1"))
    if step.begins == "grown":
        settings = place.repo / "sidkit.toml"
        settings.write_text(settings.read_text().replace(str(place.source), str(_grown(place))))


def _grown(place: Place) -> Path:
    """The source with a day more of events, and with items that are new or have other vectors."""
    folder = place.folder / "grown"
    if folder.exists():
        return folder
    half = place.folder / "growing"
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(place.source, half)
    log = pq.read_table(half / "interactions.parquet")
    place_of = log.column_names.index("timestamp")
    late = log.slice(0, 200)
    later = pa.compute.add(late.column("timestamp").cast(pa.int64()), 61 * 86_400_000_000).cast(
        log.schema.field("timestamp").type
    )
    pq.write_table(
        pa.concat_tables([log, late.set_column(place_of, log.schema.field("timestamp"), later)]),
        half / "interactions.parquet",
    )
    for name in ("items", "item_embeddings"):
        held = pq.read_table(half / f"{name}.parquet")
        new = held.slice(0, 5)
        ids = pa.array([f"new_{text}" for text in new.column("item_id").to_pylist()])
        pq.write_table(
            pa.concat_tables([held, new.set_column(0, held.schema.field("item_id"), ids)]), half / f"{name}.parquet"
        )
    half.rename(folder)
    return folder


def _words(place: Place, words: tuple[str, ...]) -> list[str]:
    known = {
        "SOURCE": str(place.source), "PRESET": str(place.preset), "POOL": str(place.folder / "pool.parquet"),
        "OUT": str(place.root / "out" / "new"),
        "CODEBOOK": place.answers.codebook, "REPO": str(place.repo),
    }  # fmt: skip
    found = [known.get(word, word) for word in words]
    return (
        found
        if words[0] in {"init"} or words[:2] in {("data", "check"), ("data", "synthetic")}
        else [*found, "--repo", str(place.repo)]
    )


def left_in(place: Place) -> dict[str, Any]:
    """What a reader finds: tables, rows, rejects, codebooks, codes, scores and files that were written."""
    found: dict[str, Any] = {}
    for root in (place.repo, place.root / "out"):
        for path in sorted(root.rglob("*.parquet")):
            if "runs" not in path.parts or "predictions" in path.parts:
                found[str(path.relative_to(place.root))] = _rows(path)
    if (place.repo / "data" / "catalog.sqlite").exists():
        for words in (("codebooks", "list"), ("ranker", "list"), ("doctor",)):
            ran = place.command(*words, "--repo", place.repo)
            found[" ".join(words)] = (ran.exit, ran.out, ran.raised[-300:])
        ran = place.command(
            "score",
            "--repo",
            place.repo,
            "--user",
            "u0",
            "--items",
            ",".join(list(place.answers.codes)[:20]),
            "--at",
            LATER,
            "--json",
        )
        found["score"] = (
            {item: round(told_score(ran.out, item), 6) for item in json.loads(ran.out)["scores"]}
            if ran.ok
            else (ran.exit, ran.err[-300:])
        )
    return found


def _rows(path: Path) -> str:
    table = pq.read_table(path)
    kept = [name for name in table.column_names if name != "assigned_at_us"]
    lines = sorted(map(str, table.select(kept).to_pylist()))
    return f"{len(lines)} rows, {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:12]}"


def case(draw: random.Random, place: Place) -> Verdict:
    """Kill one command once."""
    step = draw.choices(STEPS, [step.weight for step in STEPS])[0]
    number = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
    share = draw.random()
    kept = prepare(place, step)
    verdict = Verdict()
    seconds, ran = kept.seconds, None
    for _ in range(6):
        place.restore(repo=False)
        if (kept.folder / "repo").exists():
            shutil.copytree(kept.folder / "repo", place.repo, copy_function=shutil.copy2)
        moment = share * seconds
        ran = _killed(place, step, number, moment)
        if ran is None or ran.exit != 0:
            break
        seconds *= 0.8  # it ended before its moment: the machine was busier when the time was taken
    verdict.did = f"{step.name}: {signal.Signals(number).name} after {moment:.2f} of {seconds:.2f} s"
    if number != signal.SIGKILL:
        _check_end(verdict, place, number, moment, ran)
    again = place.command(*_words(place, step.words), cpu=60)
    outcome, why = error_of(again)
    if outcome != RIGHT:
        verdict.wrong(f"the same command again ends with {again.exit}: {why}")
        return verdict
    left = left_in(place)
    for name in kept.left.keys() | left.keys():
        if kept.left.get(name) != left.get(name):
            verdict.wrong(f"{name}: {str(left.get(name))[-300:]}, undisturbed {str(kept.left.get(name))[-300:]}")
    if found := [str(path.relative_to(place.root)) for path in place.root.rglob(".writing-*")]:
        verdict.wrong(f"it leaves {found[0]} after the second run")
    return verdict


def _killed(place: Place, step: Step, number: int, moment: float) -> Ran | None:
    words = tuple(_words(place, step.words))

    def work() -> Ran:
        enter(place.root / "cwd", place.tmp)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return in_process(words)

    try:
        return forked(work, 60, 240, (number, moment))
    except KilledError:
        return None


def _check_end(verdict: Verdict, place: Place, number: int, moment: float, ran: Ran | None) -> None:
    """SIGTERM and Ctrl-C end with one line that says how to go on, and leave no temporary folder."""
    right = {signal.SIGTERM: 143, signal.SIGINT: 130}[signal.Signals(number)]
    if ran is None:
        if moment > _BEGINNING:
            verdict.add(TRACEBACK, f"it dies of the signal without a word; exit {right} and one line are right")
    elif ran.exit is None and moment <= _BEGINNING and "/sidkit/cli/" not in ran.raised:
        pass  # the command had not begun
    elif ran.exit != 0:
        lines = [line for line in ran.err.splitlines() if line.strip()]
        if ran.exit != right or ran.raised:
            verdict.add(TRACEBACK, f"it ends with {ran.exit}, {right} is right: {ran.shown()} {ran.raised[-400:]}")
        elif len(lines) != 1 and not (lines and "sidkit" in lines[-1]):
            verdict.add(TRACEBACK, f"it ends with {len(lines)} lines on stderr: {ran.shown()}")
    if left := [path.name for path in place.tmp.iterdir()]:
        verdict.wrong(f"{signal.Signals(number).name} leaves temporary files: {left[:3]}")
