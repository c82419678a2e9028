"""While codebooks take turns, readers are never given codes of a version that they did not ask for, nor half of one.

The test runs :func:`main` once in a process of its own: readers in further processes ask without pause, while one command
after the other fits, publishes and promotes the next codebook, and retires and purges the one before. The codebooks have
unlike numbers of levels, and what a reader is told is compared with the codes that were assigned. ``make kill-storm`` runs
more turns.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.builders import run_apart
from helpers.codebook_builders import AS_OF, ASKED, CUT, with_codes
from helpers.life_state import command, forked, import_rooms
from helpers.life_steps import begin, fit
from semantic_ids.catalog import Catalog
from semantic_ids.lookup import codes_of
from sidkit.core.clock import iso
from sidkit.core.repo import Repo

pytestmark = pytest.mark.own_store("online", "its readers and its writer lock each other out")

USABLE = {"published", "serving", "retired"}
GONE = (
    "FeatureServiceNotFoundException", "FeatureViewNotFoundException", "UnknownVersionError", "LifeCycleError",
    "no such table: packed:sidkit_item_sid_",
)  # fmt: skip
"""How a reader is told that there is no such codebook yet, or no more."""
KINDS = ("rqkmeans", "smile")
PAUSES = 0.005, 0.3
"""Seconds between two rounds of a reader: over several turns, and in the single turn of CI."""
Asks = Iterator[tuple[str, Callable[[], Any]]]
"""What to ask for, each with the name of the version."""


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return rotated(tmp_path_factory.mktemp("rotation"), 1)


def rotated(folder: Path, turns: int) -> dict[str, Any]:
    said = run_apart(main, folder, turns)
    assert (folder / "rotation.json").exists(), said
    found: dict[str, Any] = json.loads((folder / "rotation.json").read_text())
    return found


@pytest.mark.parametrize("way", ["by_service", "by_a_store_of_long_ago", "serving", "by_table"])
def test_readers_get_the_version_that_they_ask_for_wholly(turns: dict[str, Any], way: str) -> None:
    assert [wrong for wrong in turns["wrong"] if wrong["way"] == way] == []
    assert turns["answers"][f"{way}: whole"] >= 5


def test_a_codebook_that_is_not_there_yet_or_no_more_is_an_error(turns: dict[str, Any]) -> None:
    assert turns["answers"]["by_service: error"] >= 1
    assert turns["answers"]["by_a_store_of_long_ago: error"] >= 1
    assert turns["end"] == {"turn0": "purged", "turn1": "serving"}


def read_online(store: Any, name: str) -> list[Any]:
    asked = store.get_online_features(
        features=store.get_feature_service(f"ctr_{name}_content"),
        entity_rows=[{"item_id": item} for item in ASKED], full_feature_names=True,
    ).to_dict()  # fmt: skip
    return list(asked["item_sid__codes"])


def names(repo: Repo) -> list[str]:
    """The codebooks that readers may ask for: those that there were, and the next."""
    return [f"turn{number}" for number in range(len(Catalog.open(repo).codebooks()) + 1)]


def by_service(repo: Repo) -> Asks:
    """Each version by its name, the registry read anew each time."""
    from sidkit.stores.feast_repo import open_store

    for name in names(repo)[-3:]:
        yield name, lambda name=name: read_online(open_store(repo), name)


def serving(repo: Repo) -> Asks:
    """Whatever the catalogue says is serving."""
    from sidkit.stores.feast_repo import open_store

    name = Catalog.open(repo).serving_codebook().name
    yield name, lambda: read_online(open_store(repo), name)


def by_a_store_of_long_ago() -> Callable[[Repo], Asks]:
    """As a server does it: a store that is kept, with the registry that it read when the version was new to it."""
    stores: dict[str, Any] = {}

    def each(repo: Repo) -> Asks:
        from sidkit.stores.feast_repo import open_store

        for record in Catalog.open(repo).codebooks():
            if record.name not in stores and record.state in USABLE:
                stores[record.name] = open_store(repo)
            if record.name in stores:
                yield record.name, lambda name=record.name: read_online(stores[name], name)

    return each


def by_table(repo: Repo) -> Asks:
    """The look-up in the tables, by name."""

    def answer(name: str) -> list[Any]:
        found = codes_of(repo, ASKED, name)
        return [found[item] for item in ASKED]

    for name in names(repo)[-3:]:
        yield name, lambda name=name: answer(name)


def read(folder: Path, path: Path, ways: dict[str, Callable[[Repo], Asks]], out: Path, pause: float) -> None:
    """Ask in each way until the rotation is over; keep every answer once, with the states before and after it."""
    repo = Repo.open(path)
    answers: Counter[str] = Counter()
    rounds = 0
    while not (folder / "over").exists():
        for way, ask in ways.items():
            for name, answer in ask(repo):
                told = {"way": way, "name": name, "before": state_of(repo, name)}
                try:
                    told["codes"] = answer()
                except Exception as error:  # noqa: BLE001
                    told["error"] = f"{type(error).__name__}: {error}"
                answers[json.dumps({**told, "after": state_of(repo, name)})] += 1
        rounds += 1
        out.with_suffix(".rounds").write_text(str(rounds))
        time.sleep(pause)
    out.write_text(json.dumps(answers.most_common()))


def wait_for_rounds(readers: dict[int, Path], rounds: int) -> None:
    """Return when every reader, by the number of its process, has begun and ended so many rounds from now on."""

    def done(out: Path) -> int:
        path = out.with_suffix(".rounds")
        return int((path.read_text() if path.exists() else "") or 0)

    begun = {child: done(out) for child, out in readers.items()}
    # The round that runs now was begun before.
    while any(done(out) <= begun[child] + rounds for child, out in readers.items()):
        for child in readers:
            ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            assert ended is None, "a reader ended before it was asked to"
        time.sleep(0.01)


def state_of(repo: Repo, name: str) -> str:
    return {record.name: record.state for record in Catalog.open(repo).codebooks()}.get(name, "unknown")


def judged(told: dict[str, Any], codes: list[Any]) -> str:
    """``whole``, ``nothing`` or ``error`` where the answer is one that a reader may get; else what is wrong with it."""
    usable = {told["before"], told["after"]} <= USABLE
    if "error" in told:
        return "error" if not usable and any(phrase in told["error"] for phrase in GONE) else "an error without cause"
    if told["codes"] == codes:
        return "whole"
    # Between `apply` and the write to the online store a version that is not published yet has no codes at all.
    nothing = all(code is None for code in told["codes"])
    return "nothing" if nothing and not usable else "codes that are not those of the version"


def main(folder: Path, turns: int) -> int:
    import_rooms()
    repo = begin(folder)
    told = folder / "told.txt"
    codes: dict[str, list[Any]] = {}

    def run(*arguments: object) -> None:
        def work() -> int:
            return command([*arguments, "--repo", repo.path], told)

        assert forked(folder, work) == 0, told.read_text()

    def turn(number: int) -> None:
        name, before = f"turn{number}", f"turn{number - 1}"
        run(*fit(name, KINDS[number % len(KINDS)], CUT))
        run("codebooks", "publish", name)
        held = {item: row for (item, _), row in with_codes(repo, name).items()}
        codes[name] = [held.get(item) for item in ASKED]
        run("codebooks", "promote", name)
        if number:
            run("codebooks", "retire", before)
            run("codebooks", "purge", before)

    run("data", "ingest")
    run("tables", "build", "--as-of", iso(AS_OF))
    turn(0)
    readers = [
        {"by_service": by_service, "by_a_store_of_long_ago": by_a_store_of_long_ago()},
        {"serving": serving, "by_table": by_table},
    ]
    outs = [folder / f"reader{number}.json" for number in range(len(readers))]
    children: dict[int, Path] = {}
    for ways, out in zip(readers, outs, strict=True):
        child = os.fork()
        if child == 0:
            try:
                read(folder, repo.path, ways, out, PAUSES[turns == 1])
            finally:
                os._exit(0)
        children[child] = out
    wait_for_rounds(children, 0)
    for number in range(1, turns + 1):
        turn(number)
    wait_for_rounds(children, 1)
    (folder / "over").touch()
    for child in children:
        os.waitpid(child, 0)

    wrong, answers = [], Counter[str]()
    for out in outs:
        for text, count in json.loads(out.read_text()):
            each = json.loads(text)
            verdict = judged(each, codes.get(each["name"], []))
            answers[f"{each['way']}: {verdict}"] += count
            if verdict not in {"whole", "nothing", "error"}:
                wrong.append({**each, "wrong": verdict, "times": count})
    end = {record.name: record.state for record in Catalog.open(repo).codebooks()}
    (folder / "rotation.json").write_text(json.dumps({"wrong": wrong, "answers": answers, "end": end}, indent=1))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])) > 0)
