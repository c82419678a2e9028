"""Each command is killed at every point where something becomes lasting, and then run again.

    PYTHONPATH=tests python tests/system/kill_campaign.py FOLDER --all

The process has imported everything and forks a child for each run, so that hundreds of kills cost the imports of one. A child
is killed by SIGKILL before or after a rename, a removal, a commit (of the catalogue, of Feast's registry or of the online
store) or a step within a transaction of the online store. Another child runs the same command again, and what is then in
files, Postgres and Redis must be what an undisturbed run leaves.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.kill_places import KillPlace, begun, place_of
from helpers.kill_points import Points
from helpers.life_state import IMPORTED_FOR_SERVICES, command, differences, forked, import_rooms
from helpers.life_steps import STEPS, HashedTexts, Step, begin
from helpers.no_sync import wait_for_no_disk
from helpers.service_points import SERVICES
from helpers.switched import switched
from kill_storm import kills_of as killed_at_random
from kill_storm import versions
from semantic_ids.catalog import read_definitions
from sidkit.cli.codebook_quality import STALE
from sidkit.core.repo import Repo

REGISTRY_KILLS = 2
READING = (
    ("codebooks", "list"), ("codebooks", "show", "new"), ("codebooks", "codes", "--items", "i001,nothing"),
    ("codebooks", "items", "--codes", "0"), ("codebooks", "health", "new"), ("ranker", "list"),
    ("codebooks", "similar", "i001"),
    ("audit",), ("doctor",),
)  # fmt: skip
FEW = ("apply", "materialize", "publish", "promote", "refresh", "purge", "forget")
"""Steps that change more than files, which few kills are tried on."""
KILLS_OF_FEW = 2
BESIDE = ("embed", "embed more", "suffixes", "report", "suffixes of more", "rebuild", "refresh after a rebuild")
"""Steps whose results these do not need."""
CLOSINGS = {f"{when} closing of online.sqlite" for when in ("before", "after")}
IN_CI = [step for step in STEPS if not step.name.endswith((" saviorrec", " smile"))]
"""Codebooks of the other presets are killed by ``make kill-storm`` only: the same steps, with other arrays."""
RANDOM_KILLS = {"publish": 1, "purge": 1}
"""Steps that are killed at random moments too, and how often; ``make kill-storm`` does it at length."""


def opened_at(path: Path) -> Repo:
    return Repo.open(path)


def run_step(repo: Repo, step: Step, points: Points | None) -> None:
    import semantic_ids.pretrained.embed

    semantic_ids.pretrained.embed.TextEmbedder = HashedTexts  # type: ignore[assignment, misc]
    if points:
        points.watch()
    told = repo.path.parent / "told.txt"
    assert command(step.line(repo), told) == 0, told.read_text()


def chosen(points: list[str], most: int) -> list[int]:
    """The points to kill at, so many as are asked for; of the commits of Feast's registry some. Spread evenly.

    What is on disk after a change is there before the next one too, so of two such points only the second counts. With points
    on servers, only those count: files are the same under every profile.
    """
    after = {number for number, point in enumerate(points[:-1]) if point.startswith("after")}
    apart = [
        number for number in range(len(points)) if number not in after or not points[number + 1].startswith("before")
    ]
    if any(point.endswith(SERVICES) for point in points):
        apart = [number for number in apart if points[number].endswith(SERVICES)]
    registry = [number for number in apart if "registry" in points[number]]
    passed_over = set(registry) - set(spread(registry, REGISTRY_KILLS))
    left = [number for number in apart if number not in passed_over]
    return spread(left, most)


def spread(numbers: list[int], most: int) -> list[int]:
    """At most so many of them, the last one too."""
    step = max(1, (len(numbers) - 1) / max(1, most - 1)) if numbers else 1
    return sorted({numbers[-1 - int(step * count)] for count in range(most) if step * count < len(numbers)})


def kills_of(place: KillPlace, step: Step, most: int | None) -> dict[str, Any]:
    """Kill one step at so many of its points, None: at all; the repo is left as an undisturbed run leaves it."""
    folder, path = place.folder, place.path

    def undisturbed() -> dict[str, Any]:
        points = place.points()
        run_step(opened_at(path), step, points)
        points.compare("the end")
        return {"points": list(points.seen), "gaps": list(points.gaps), "state": place.state()}

    def again() -> dict[str, Any]:
        if place.applies_at_once():
            read_definitions(path)  # `feast apply` would work at once
        run_step(opened_at(path), step, None)
        return place.state()

    if step.before:
        before = step.before
        assert (told := forked(folder, lambda: before(opened_at(path)))) is None, told["error"]
    place.keep("before")
    told = forked(folder, undisturbed)
    assert "error" not in told, told["error"]
    place.keep("after")
    kills = []
    for number in range(len(told["points"])) if most is None else chosen(told["points"], most):
        place.restore("before")
        at = place.points(number)
        killed = forked(folder, lambda at=at: (run_step(opened_at(path), step, at), at.seen)[1])
        if killed == "killed":
            wrong = differences(told["state"], forked(folder, again))
        elif "offline" in switched() and set(killed) | CLOSINGS == set(told["points"]) | CLOSINGS:
            # It ended before it came so far: Feast's own offline store hands rows over in more batches or fewer, and what
            # nothing holds any more is closed when the garbage collector likes.
            wrong = differences(told["state"], forked(folder, place.state))
            if not wrong:
                continue
        else:
            wrong = [f"not killed: {killed}"]
        kills.append({"point": f"{number}: {told['points'][number]}", "wrong": wrong})
    place.restore("after")
    return {"command": step.command, "points": told["points"], "gaps": told["gaps"], "kills": kills}


def changed_by_reading(place: KillPlace, arguments: tuple[str, ...]) -> list[str]:
    """The files, and on servers the services, that a command changed."""
    points = place.points()
    before = points.lasting()
    told = place.folder / "told.txt"
    assert command([*arguments, "--repo", place.path], told) in {0, STALE}, told.read_text()
    after = points.lasting()
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def main(folder: Path, profile: str = "local", everywhere: bool = False, few: bool = False) -> int:
    """Write what was found to ``campaign.json``; returns the number of kills after which something was wrong.

    ``everywhere`` kills at all points of all steps, ``few`` only at some points of :data:`FEW`, for which the steps before them
    are done without kills.
    """
    wait_for_no_disk()  # kills lose nothing that the system has
    import_rooms(IMPORTED_FOR_SERVICES if profile != "local" else ())
    with place_of(profile, folder) as place:
        begun(place, begin)
        steps = STEPS if everywhere else [step for step in IN_CI if step.name not in BESIDE] if few else IN_CI
        found: dict[str, Any] = {"at random": {}, "reading": {}}
        draw = random.Random(0)
        for step in steps:
            if few and step.name not in FEW:
                assert (told := forked(folder, lambda step=step: once(place, step))) is None, told["error"]
                continue
            most = None if everywhere else min(step.most, KILLS_OF_FEW) if few else step.most
            found[step.name] = kills_of(place, step, most)
            if step.name in RANDOM_KILLS:
                place.restore("before")
                again = replace(step, before=None)
                found["at random"][step.name] = killed_at_random(place, again, RANDOM_KILLS[step.name], draw)
            if step.name == "refresh":
                for arguments in READING:
                    found["reading"][" ".join(arguments)] = forked(
                        folder, lambda told=arguments: changed_by_reading(place, told)
                    )
            say(step.name, found[step.name])
            (folder / "campaign.json").write_text(json.dumps(found, indent=1))
    listed = [held for name, held in found.items() if name in {step.name for step in steps}]
    kills = [kill for held in listed for kill in held["kills"]]
    wrong = sum(bool(kill["wrong"]) for kill in kills)
    print(f"{len(kills)} kills at {sum(len(held['points']) for held in listed)} points, {wrong} wrong")  # noqa: T201
    return wrong


def once(place: KillPlace, step: Step) -> None:
    """Run a step undisturbed."""
    if step.before:
        step.before(opened_at(place.path))
    run_step(opened_at(place.path), step, None)


def say(name: str, found: dict[str, Any]) -> None:
    """A line on one step."""
    wrong = sum(bool(kill["wrong"]) for kill in found["kills"])
    counted = f"{len(found['points'])} points, {len(found['kills'])} kills, {wrong} wrong, {len(found['gaps'])} gaps"
    print(f"{name}: {counted}", flush=True)  # noqa: T201


def summary(found: dict[str, Any], profile: str) -> dict[str, Any]:
    """Per step: points, where the kills were, after which of them something was wrong, and changes between two points."""
    steps = [
        {
            "step": name, "command": held["command"], "points": len(held["points"]), "gaps": held["gaps"],
            "kills": [kill["point"] for kill in held["kills"]], "wrong": [kill for kill in held["kills"] if kill["wrong"]],
        }
        for name, held in found.items()
        if "points" in held
    ]  # fmt: skip
    return {
        "profile": profile, "points": sum(step["points"] for step in steps), "kills": sum(len(s["kills"]) for s in steps),
        "wrong": sum(len(step["wrong"]) for step in steps), "gaps": sum(len(step["gaps"]) for step in steps),
        "random_kills": sum(each["kills"] for each in found["at random"].values()),
        "random_wrong": sum(len(each["wrong"]) for each in found["at random"].values()),
        "versions": versions(), "steps": steps, "reading": found["reading"],
    }  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """The script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="An empty folder.")
    parser.add_argument("--all", action="store_true", help="Kill at all points of all steps.")
    parser.add_argument("--profile", choices=("local", "production"), default="local")
    parser.add_argument("--out", type=Path, help="A JSON file of results.")
    asked = parser.parse_args(arguments)
    asked.folder.mkdir(parents=True, exist_ok=True)
    wrong = main(asked.folder.absolute(), asked.profile, everywhere=asked.all)
    if asked.out is not None:
        found = json.loads((asked.folder / "campaign.json").read_text())
        asked.out.write_text(json.dumps(summary(found, asked.profile), indent=1) + "\n")
    return wrong


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]) > 0)
