"""CLI argument lists: no traceback, no write outside, no success for what must be refused, no score for what is not there."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
from pathlib import Path

from .command_lines import Arguments, draw_arguments
from .generators_arguments import BAD, OK, write_bad_files, write_pushed_files
from .outcome import CLEAR, RIGHT, TRACEBACK, Ran, Verdict, error_of
from .place import AT, ITEMS, Place, item_name, told_score

_QUIET = ("-wal", "-shm", "-journal", ".sidkit.lock")
_ONNXRUNTIME = "tmp/.ses"
"""A file that importing onnxruntime writes into the folder of temporary files."""
Listing = dict[str, tuple[int, int, int]]


def listing(root: Path) -> Listing:
    """Each path under a folder with what changes when it is written."""
    found = {}
    for path in root.rglob("*"):
        stat = path.lstat()
        found[str(path.relative_to(root))] = (
            (stat.st_mode, 0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        )
    return found


def case(draw: random.Random, place: Place) -> Verdict:
    """Try one command line."""
    write_bad_files(place)
    write_pushed_files(place)
    asked = draw_arguments(draw, place)
    verdict = Verdict(did=" ".join(map(shlex.quote, ("sidkit", *asked.words))).replace(str(place.folder), "FOLDER"))
    before = listing(place.root)
    hashes = _contents(place) if asked.reads else {}
    ran = place.command(*asked.words)
    after = listing(place.root)
    # Exit 4 is what `audit` says of a difference.
    outcome, why = error_of(ran, codes=(1, 2, 3, 4) if asked.words[:1] == ("audit",) else (1, 2, 3))
    verdict.add(outcome, why)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    _check_writes(verdict, place, asked, ran, changed, hashes)
    for secret in ("secret",):
        if secret in ran.out + ran.err and "secret" in verdict.did:
            verdict.wrong("it prints a password")
    if outcome == RIGHT and "--help" not in asked.words:
        if asked.tag == BAD:
            verdict.wrong(f"exit 0 though an argument must be refused: {ran.out[-300:]}")
        _check_answer(verdict, place, asked, ran)
    elif outcome == CLEAR and asked.tag == OK:
        verdict.wrong(f"refused although every argument is right: {why}")
    return verdict


def _contents(place: Place) -> dict[str, str]:
    return {
        os.path.relpath(path, place.root): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in place.repo.rglob("*")
        if path.is_file()
    }


def _check_writes(
    verdict: Verdict, place: Place, asked: Arguments, ran: Ran, changed: set[str], hashes: dict[str, str]
) -> None:
    root, repo = place.root, Path(os.path.relpath(place.repo, place.root))
    allowed = [Path(path) for path in asked.outputs]
    if asked.words[:2] == ("codebooks", "report"):  # by default the page goes to the working directory
        allowed.append(root / "cwd")
    for name in sorted(changed):
        path, inside = root / name, Path(name).is_relative_to(repo)
        if name == _ONNXRUNTIME:
            continue
        if ".writing-" in name or (Path(name).is_relative_to("tmp") and path.exists()):
            verdict.wrong(f"it leaves {name} behind")
        elif inside:
            same = path.is_file() and hashes.get(name) == hashlib.sha256(path.read_bytes()).hexdigest()
            if asked.reads and not same and not path.is_dir() and not name.endswith(_QUIET) and "data/tmp" not in name:
                verdict.wrong(f"a command that reads changed {name}")
        elif path.is_dir() and any(one.is_relative_to(path) for one in allowed):
            continue
        elif not any(path == one or path.is_relative_to(one) for one in allowed):
            verdict.wrong(f"it writes {name}, which no argument names")
        elif ran.exit not in {0, None} and "rejects" not in " ".join(asked.words):
            verdict.wrong(f"it failed and leaves {name}")


def _check_answer(verdict: Verdict, place: Place, asked: Arguments, ran: Ran) -> None:
    if asked.asked_items is None:
        return
    known = {item_name(n) for n in range(ITEMS)}
    if asked.asked_items.strip().startswith("@"):
        verdict.wrong("a file of ids that is not there was accepted") if ran.ok else None
        return
    ids = [text.strip() for text in asked.asked_items.split(",") if text.strip()]
    user = asked.words[asked.words.index("--user") + 1] if "--user" in asked.words else None
    printed = _printed(verdict, asked, ran)
    if printed is None:
        return
    # A newline in an id makes a line of its own; such ids are asked for with --json.
    if not any("\n" in name or "\t" in name for name in ids) and set(printed) != set(ids):
        verdict.wrong(f"asked for {ids}, answered {list(printed)}")
    for name in ids:
        if name not in known and name not in ran.err and repr(name)[1:-1] not in ran.err and user is not None:
            verdict.wrong(f"{name!r} does not exist, and stderr does not say so: {ran.err[-200:]!r}")
    if user is None:
        for name, text in printed.items():
            right = ",".join(map(str, place.answers.codes.get(name, []))) or "no codes"
            if name in ids and "--name" not in asked.words and not text.startswith(right):
                verdict.wrong(f"codes of {name!r}: {text!r}, right is {right}")
    elif user in place.answers.scores and "--at" in asked.words and "--ranker" not in asked.words:
        if asked.words[asked.words.index("--at") + 1] != AT:
            return
        for name, text in printed.items():
            right_score = place.answers.scores[user].get(name)
            if right_score is not None and abs(float(text) - right_score) > 2e-6:
                verdict.wrong(f"score of {name!r}: {text}, right is {right_score}")


def _printed(verdict: Verdict, asked: Arguments, ran: Ran) -> dict[str, str] | None:
    try:
        if "--json" in asked.words:
            return {item: str(told_score(ran.out, item)) for item in json.loads(ran.out)["scores"]}
        if any(letter in (asked.asked_items or "") for letter in "\n\t"):
            return None  # such ids are read with --json
        lines = [line.split("\t") for line in ran.out.splitlines()]
        return {line[0]: line[1] for line in lines}
    except (ValueError, IndexError, KeyError, TypeError) as error:
        verdict.add(TRACEBACK, f"what it prints cannot be read ({error!r}): {ran.out[-300:]}")
        return None
