"""Kill every command of a codebook's life at random moments, run it again, and compare with an undisturbed run.

    PYTHONPATH=tests python tests/system/kill_storm.py --out benchmarks/results/kill_storm.json

Each command is a process that has imported the rooms, forked as it is about to run ``sidkit``'s ``main``; it is killed by
SIGKILL at a moment that is drawn uniformly over the time that an undisturbed process takes from there to its end. A
process that ends before its moment counts as ended, and another moment is drawn. The world is synthetic; the presets are
the shipped ones. Exit status 1 when any state differs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from helpers.builders import fresh_repo
from helpers.kill_places import KillPlace, begun, copy, place_of
from helpers.life_state import IMPORTED_FOR_SERVICES, command, differences, forked, import_rooms
from helpers.life_steps import SHOP, HashedTexts, Step, lines
from helpers.no_sync import wait_for_no_disk
from helpers.pretrained_builders import TITLES, write_items
from semantic_ids.catalog import read_definitions
from sidkit.core.repo import Repo
from sidkit.datasets.synthetic import Sizes, write_world

FIRST, FIT_END, SECOND = "2024-03-02T00:00:00Z", "2024-02-20T00:00:00Z", "2024-03-03T00:00:00Z"
GROUND = (
    Step("ingest", ("data", "ingest")),
    Step("build", ("tables", "build", "--as-of", FIRST)),
    Step("rows", ("tables", "rows")),
    Step("apply", ("apply",)),
    Step("materialize", ("materialize",)),
    Step("embed", ("data", "embed")),
)
"""What comes before codebooks; its kills are the same for all presets and are done once."""


def life_of(preset: str) -> list[Step]:
    """The old codebook, residual k-means, serves; a new one of the preset takes its place."""
    fit = ("codebooks", "fit", "new", "--preset", preset, "--fit-end", FIT_END, "--force")
    old = ("codebooks", "fit", "old", "--preset", "rqkmeans", "--fit-end", FIT_END, "--force")
    return [
        Step("fit", fit, lines(old, ("codebooks", "publish", "old"), ("codebooks", "promote", "old"))),
        Step("publish", ("codebooks", "publish", "new")),
        Step("promote", ("codebooks", "promote", "new")),
        Step("suffixes", ("codebooks", "suffixes", "new")),
        Step("report", ("codebooks", "report", "new")),
        Step(
            "refresh", ("codebooks", "refresh"),
            lines(("data", "ingest"), ("tables", "build", "--as-of", SECOND), then=more_content),
        ),
        Step("materialize after", ("materialize",)),
        Step("retire", ("codebooks", "retire", "old")),
        Step("purge", ("codebooks", "purge", "old")),
    ]  # fmt: skip


def begin(folder: Path) -> None:
    write_world(folder / "source", "strong", Sizes(6_000, users=120, items=300))
    repo = fresh_repo(folder / "repo", folder / "source", modalities=("text", "image"), conversions=True)
    write_items(repo.path / SHOP, dict(TITLES))


def more_content(repo: Repo) -> None:
    """Twenty items under new names, and another vector for twenty old ones."""
    source = Path(repo.settings.source.url)
    for name in ("items", "item_embeddings"):
        path = source / f"{name}.parquet"
        held = pq.read_table(path)
        new = held.slice(0, 20)
        new = new.set_column(0, held.field(0), pc.binary_join_element_wise(new.column(0), pa.scalar("new"), "_"))
        if name == "item_embeddings":
            vectors = held.column("text").to_pylist()
            vectors[40:60] = vectors[60:80]
            held = held.set_column(
                held.schema.get_field_index("text"), held.field("text"), pa.array(vectors, held.field("text").type)
            )
        pq.write_table(pa.concat_tables([held, new]), path)


def versions() -> dict[str, str]:
    names = ("sidkit", "feast", "duckdb", "pyarrow", "numpy", "faiss-cpu", "torch", "SQLAlchemy")
    return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in names}}


def runs(repo: Repo, step: Step) -> None:
    """Be the command's process; one that refuses is an error."""
    import semantic_ids.pretrained.embed

    semantic_ids.pretrained.embed.TextEmbedder = HashedTexts  # type: ignore[assignment, misc]
    told = repo.path.parent / "told.txt"
    assert command(step.line(repo), told) == 0, told.read_text()


def ran_for(repo: Repo, step: Step, seconds: float) -> float | None:
    """Kill the process at a moment. None when it was; where it had ended before, the seconds that it took."""
    child = os.fork()
    if child == 0:
        try:
            runs(repo, step)
        finally:
            os._exit(0)
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(min(left, 0.005))
        if os.waitpid(child, os.WNOHANG)[0]:
            return time.monotonic() - began
    os.kill(child, signal.SIGKILL)
    return None if os.WIFSIGNALED(os.waitpid(child, 0)[1]) else seconds


def kills_of(place: KillPlace, step: Step, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill one step so many times; the repo is left as an undisturbed run leaves it."""
    folder, path = place.folder, place.path

    def undisturbed() -> dict[str, Any]:
        began = time.monotonic()
        runs(Repo.open(path), step)
        return {"seconds": time.monotonic() - began, "state": place.state()}

    def again() -> dict[str, Any]:
        if place.applies_at_once():
            read_definitions(path)  # `feast apply` would work at once
        runs(Repo.open(path), step)
        return place.state()

    if step.before:
        before = step.before
        assert (told := forked(folder, lambda: before(Repo.open(path)))) is None, told["error"]
    place.keep("before")
    expected = forked(folder, undisturbed)
    assert "error" not in expected, expected["error"]
    place.keep("after")
    moments: list[float] = []
    ended, wrong, seconds = 0, [], expected["seconds"]
    while len(moments) < kills and ended < 5 * kills:
        place.restore("before")
        moment = draw.uniform(0, seconds)
        took = ran_for(Repo.open(path), step, moment)
        if took is not None:
            ended, seconds = ended + 1, min(seconds, took)  # the machine was busier when the time was taken
            continue
        moments.append(round(moment, 4))
        wrong += [
            {"moment": moments[-1], "what": what} for what in differences(expected["state"], forked(folder, again))
        ]
    place.restore("after")
    return {
        "step": step.name, "command": step.command, "seconds": round(expected["seconds"], 3), "kills": len(moments),
        "ended_before_the_kill": ended, "moments": moments, "wrong": wrong,
    }  # fmt: skip


def storm(
    place: KillPlace,
    presets: Iterable[str],
    kills: int,
    seed: int = 0,
    only: Iterable[str] = (),
    told: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Kill the steps of a life under each preset; ``only`` names those that are killed, the others are run once.

    ``told`` is called after each step with what is known by then; the same is returned at the end.
    """
    began, draw, folder = time.monotonic(), random.Random(seed), place.folder
    found: dict[str, list[dict[str, Any]]] = {}
    chosen = set(only)

    def result(*, complete: bool = False) -> dict[str, Any]:
        steps = [step for listed in found.values() for step in listed]
        return {
            "complete": complete, "profile": place.profile, "kills": sum(step["kills"] for step in steps),
            "wrong": sum(len(step["wrong"]) for step in steps), "seed": seed, "seconds": round(time.monotonic() - began, 1),
            "versions": versions(), "steps": found,
        }  # fmt: skip

    def each(label: str, steps: Iterable[Step]) -> None:
        found[label] = []
        for step in steps:
            asked = kills if not chosen or step.name in chosen else 0
            found[label].append(kills_of(place, step, asked, draw))
            told(result())

    begun(place, begin)
    each("ground", GROUND)
    copy(folder / "source", folder / "source_before")
    place.keep("repo_before")
    for preset in presets:
        copy(folder / "source_before", folder / "source")
        place.restore("repo_before")
        each(preset, life_of(preset))
    return result(complete=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, help="The JSON file of results.")
    parser.add_argument("--presets", default="rqkmeans,saviorrec,smile", help="Shipped presets, separated by commas.")
    parser.add_argument("--only", default="", help="Kill these steps only, separated by commas.")
    parser.add_argument("--profile", choices=("local", "production"), default="local")
    parser.add_argument("--kills", type=int, default=20, help="Kills per step.")
    parser.add_argument("--seed", type=int, default=0, help="Decides the moments, as shares of the time a step takes.")
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)

    def keep(found: dict[str, Any]) -> None:
        label = list(found["steps"])[-1]
        step = found["steps"][label][-1]
        wrong = f", {len(step['wrong'])} WRONG" if step["wrong"] else ""
        print(f"{label:<10} {step['step']:<18} {step['kills']:>3} kills in {step['seconds']:.2f} s{wrong}", flush=True)  # noqa: T201
        asked.out.write_text(json.dumps(found, indent=1) + "\n")

    wait_for_no_disk()  # kills lose nothing that the system has
    import_rooms(IMPORTED_FOR_SERVICES if asked.profile != "local" else ())
    with (
        tempfile.TemporaryDirectory(prefix="kill-storm-") as folder,
        place_of(asked.profile, Path(folder)) as place,
    ):
        presets, only = asked.presets.split(","), filter(None, asked.only.split(","))
        found = storm(place, presets, asked.kills, asked.seed, only, keep)
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{found['kills']} kills, {found['wrong']} wrong, {found['seconds']:.0f} s")  # noqa: T201
    return int(found["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
