"""Each command is killed at every point where something becomes lasting, and then run again.

The tests run :func:`main` once in a process of its own: one that has imported everything and forks a child for each run, so
that hundreds of kills cost the imports of one. A child is killed by SIGKILL before or after a rename, a removal, a commit
(of the catalogue, of Feast's registry or of the online store) or a step within a transaction of the online store. Another
child runs the same command again, and what is then on disk must be what an undisturbed run leaves. That the points are all
there is, is checked too: in an undisturbed run no file may change between two points.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from helpers.builders import run_apart
from helpers.kill_points import Points, lasting_files
from helpers.life_state import command, differences, forked, import_rooms, state
from helpers.life_steps import PRESETS, STEPS, HashedTexts, Step, begin
from helpers.switched import switched
from kill_storm import copy
from kill_storm import kills_of as killed_at_random
from semantic_ids.catalog import read_definitions
from sidkit.cli import build_app
from sidkit.cli.codebook_quality import STALE
from sidkit.core.repo import Repo
from sidkit.presets import preset_path

pytestmark = pytest.mark.own_store("online", "the points at which it is killed are those of the packed file")

REGISTRY_KILLS = 2
ALL = "--all"
"""Of this file as a script: kill at all points of all steps."""
READING = (
    ("codebooks", "list"), ("codebooks", "show", "new"), ("codebooks", "codes", "--items", "i001,nothing"),
    ("codebooks", "items", "--codes", "0"), ("codebooks", "health", "new"), ("ranker", "list"),
    ("codebooks", "similar", "i001"),
    ("audit",), ("doctor",),
)  # fmt: skip
ELSEWHERE = {
    "init": "test_repo.py", "data check": "writes rejects only", "data synthetic": "one rename: test_synthetic.py",
    "codebooks assign": "one rename: test_assign_shards.py, killed", "codebooks pairs": "one rename: test_pair_shards.py",
    "tables shard": "one rename: test_table_shards.py",
    "codebooks sweep": "writes nothing: test_sweep.py", "run": "test_job.py: killed at every stage",
    "frame": "one rename, outside the repo", "score": "reads", "ranker promote": "test_job.py", "ranker evaluate": "reads",
    "ranker show": "reads", "ranker train": "test_train_command.py: a process killed",
    "ranker export": "one rename, outside the repo",
    "ranker compare": "test_comparison.py: killed twice", "leakage": "reads", "codebooks repair": "test_catalog_rot.py",
    "upgrade": "test_upgrade.py: killed after every step", "data convert": "renames, outside the repo",
    "relocate": "test_moved_repo.py", "codebooks export": "one rename, outside the repo", "features list": "reads",
    "ranker adapt": "test_adapted_ranker.py: killed between files and catalogue",
    "ranker log": "writes to MLflow only: test_mlflow_log.py", "serve": "reads; its log: test_served_log.py, killed",
    "audit skew": "reads", "monitor": "reads; its page is one rename",
    "events push": "one rename: test_ticks.py", "events items": "one rename: test_ticks.py",
    "events tick": "test_ticks.py: killed after the log, and after the online store",
    "artifacts list": "reads", "artifacts push": "test_artifact_root.py: killed at every step", "artifacts pull": "one rename",
    "artifacts sweep": "removes files that nothing lists: test_artifact_root.py",
    "profile show": "reads", "profile switch": "test_profiles.py: killed between both files",
}  # fmt: skip
"""Commands that are no part of the life here, and why."""
CATALOGUE, REGISTRY = "commit catalog.sqlite", "commit registry.sqlite"
ONLINE = {"commit online.sqlite", "closing of online.sqlite"}
"""A connection that closes moves the write-ahead log into the file."""
CLOSINGS = {f"{when} closing of online.sqlite" for when in ("before", "after")}
COUNTS = ("code_stats_*", "user_code_stats_*")
COUNTED = {f"replace {each}.json" for each in COUNTS}
RECOUNTED = {*COUNTED, *(f"replace {each}.parquet" for each in COUNTS)}
GROUND = {f"replace {name}.parquet" for name in ("item_content", "item_stats", "user_history", "user_stats")}
PUBLISHED = {
    "replace item_sid_*.parquet", "replace item_sid_*.json", "replace defined.json", CATALOGUE, REGISTRY,
    "making of sidkit_item_sid_*", "rows of sidkit_item_sid_*", *ONLINE,
    *(f"{step} of sidkit_{each}" for each in COUNTS for step in ("making", "rows")),
    *(f"replace {each}.{ending}" for each in COUNTS for ending in ("parquet", "json")),
}  # fmt: skip
LOGGED = {
    "replace interactions.parquet", "replace items.parquet", "replace item_embeddings.parquet", "replace part-0.parquet",
    "replace items-0.parquet", "replace item_embeddings-0.parquet", "replace manifest.json",
}  # fmt: skip
TAKEN_OUT = {"replace removed-0.parquet", "unlink removed-0.parquet"}
"""The list of rows that left the log is written, and removed where it is empty."""
WITHDRAWN = {"replace withdrawn.parquet", "replace withdrawn.json"}
REFRESHED = {"replace item_sid_*.parquet", "replace item_sid_*.json", *COUNTED}
KINDS: dict[str, set[str]] = {
    "ingest": LOGGED | TAKEN_OUT,
    "build": {*GROUND, "replace manifest.json"},
    "rows": {"replace rows.parquet", "replace rows.json"},
    "apply": {
        "making of registry.sqlite", REGISTRY, "beginning of online.sqlite", *ONLINE,
        *(f"making of sidkit_{kind[8:-8]}" for kind in GROUND),
    },
    "materialize": {"replace online.json", REGISTRY, *ONLINE, *(f"rows of sidkit_{kind[8:-8]}" for kind in GROUND)},
    "embed": {"making of vectors", "commit of vectors", "replace item_embeddings.parquet"},
    "embed more": {"making of vectors", "commit of vectors", "replace item_embeddings.parquet"},
    "fit": {CATALOGUE, "rename *"},
    "publish": PUBLISHED,
    "promote": {CATALOGUE, "closing of online.sqlite"},
    "retire": {CATALOGUE},
    "suffixes": {"replace sid_suffix_*.parquet", "replace sid_suffix_*.json"},
    "report": {"replace report.html"},
    "ingest more": LOGGED | TAKEN_OUT | {f"unlink {name}-0.parquet" for name in ("items", "item_embeddings", "part")},
    "build more": {"replace item_content.parquet", "replace manifest.json", *COUNTED},
    "refresh": REFRESHED,
    "suffixes of more": {"replace sid_suffix_*.parquet", "replace sid_suffix_*.json"},
    "rebuild": {*GROUND, "replace manifest.json", *WITHDRAWN, *RECOUNTED},
    "refresh after a rebuild": REFRESHED | RECOUNTED,
    "purge": {
        CATALOGUE, REGISTRY, *ONLINE, "replace defined.json", "dropping of sidkit_item_sid_*", "rmdir *",
        "unlink manifest.json", "unlink config.json", "unlink metrics.json", "unlink tensors.safetensors",
        "unlink item_sid_*.parquet", "unlink item_sid_*.json", "unlink item_neighbours_*.parquet",
        "unlink item_neighbours_*.json", "unlink sid_suffix_*.parquet",
        "unlink sid_suffix_*.json", *WITHDRAWN, *(f"dropping of sidkit_{each}" for each in COUNTS),
        *(f"unlink {each}.{ending}" for each in COUNTS for ending in ("parquet", "json")),
    },
    "forget": {
        REGISTRY, *ONLINE, *WITHDRAWN, *RECOUNTED, "compacting of online.sqlite",
        "replace pending.json", "replace key", "replace users.json", "unlink pending.json", "replace rows.json",
        "replace online.json",
        "replace rows.parquet", "replace manifest.json", "replace removed-0.parquet", "unlink removed-0.parquet",
        "replace part-00000-0.parquet",
        "unlink part-0.parquet", "unlink withdrawn.json", "unlink withdrawn.parquet",
        *(f"rows of sidkit_{name}" for name in ("item_content", "item_stats", "user_history", "user_stats")),
        *(f"rows of sidkit_{name}" for name in ("item_sid_*", *COUNTS)),
        *(f"replace {name}.parquet" for name in ("item_stats", "user_history", "user_stats")),
    },
    **{f"{step} {kind}": kinds for kind in ("saviorrec", "smile") for step, kinds in (
        ("fit", {CATALOGUE, "rename *"}), ("publish", PUBLISHED | WITHDRAWN), ("refresh", REFRESHED),
    )},
}  # fmt: skip
"""The kinds of points of each step, ``*`` for a codebook's name: the list that a new kind has to be put into."""
IN_CI = [step for step in STEPS if not step.name.endswith((" saviorrec", " smile"))]
"""Codebooks of the other presets are killed by ``make kill-storm`` only: the same steps, with other arrays."""
RANDOM_KILLS = {"publish": 1, "purge": 1}
"""Steps that are killed at random moments too, and how often; ``make kill-storm`` does it at length."""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("kills")
    said = run_apart(main, folder)
    assert (folder / "campaign.json").exists(), said
    found: dict[str, Any] = json.loads((folder / "campaign.json").read_text())
    return found


@pytest.mark.parametrize("step", [step.name for step in IN_CI])
def test_a_step_that_was_killed_anywhere_ends_alike_when_it_is_run_again(campaign: dict[str, Any], step: str) -> None:
    kills = campaign[step]["kills"]
    assert len(kills) >= 2
    assert {kill["point"]: kill["wrong"] for kill in kills if kill["wrong"]} == {}


@pytest.mark.parametrize("step", RANDOM_KILLS)
def test_so_does_a_step_that_was_killed_at_random_moments(campaign: dict[str, Any], step: str) -> None:
    told = campaign["at random"][step]
    assert told["kills"] == RANDOM_KILLS[step]
    assert told["wrong"] == []


@pytest.mark.parametrize("step", [step.name for step in IN_CI])
def test_every_point_of_a_step_is_of_a_known_kind(campaign: dict[str, Any], step: str) -> None:
    points = campaign[step]["points"]
    plain = [re.sub(r"(?<=-)\d{5}(?=\.)|(?<=[ _])(new|old|saviorrec|smile)(?=\.|$)", _plain, point) for point in points]
    assert {point.split(" ", maxsplit=1)[1] for point in plain} == KINDS[step]
    before, after = (sorted(p.split(" ", 1)[1] for p in plain if p.startswith(when)) for when in ("before", "after"))
    assert before == after


def _plain(found: re.Match[str]) -> str:
    return "0" if found[0].isdigit() else "*"


@pytest.mark.parametrize("step", [step.name for step in IN_CI])
def test_no_file_changes_between_the_points_of_a_step(campaign: dict[str, Any], step: str) -> None:
    assert campaign[step]["gaps"] == []


def test_every_step_has_its_kinds_and_every_command_its_place() -> None:
    assert [step.name for step in STEPS] == list(KINDS)
    reading = {" ".join(arguments[:2]) for arguments in READING}
    placed = {step.command for step in STEPS} | reading | set(ELSEWHERE)
    assert placed == set(commands(typer.main.get_command(build_app())))


def commands(found: Any, *before: str) -> list[str]:
    inner = getattr(found, "commands", None)
    if inner is None:
        return [" ".join(before)]
    own = [" ".join(before)] if found.invoke_without_command else []
    return own + [name for key, each in inner.items() for name in commands(each, *before, key)]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_commands_that_read_change_no_file(campaign: dict[str, Any], arguments: tuple[str, ...]) -> None:
    assert campaign["reading"][" ".join(arguments)] == []


@pytest.mark.parametrize("preset", ["rqkmeans", "saviorrec", "smile"])
def test_the_codebooks_here_are_of_the_kinds_of_the_shipped_presets(preset: str) -> None:
    tiny, shipped = (
        tomllib.loads(path.read_text())["codebook"] for path in (PRESETS / f"tiny_{preset}.toml", preset_path(preset))
    )
    assert (tiny["encoder"], tiny["quantizer"]) == (shipped["encoder"], shipped["quantizer"])
    assert {**shipped.get("quantizer_arguments", {}), **tiny.get("quantizer_arguments", {})} == tiny.get(
        "quantizer_arguments", {}
    )


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

    What is on disk after a change is there before the next one too, so of two such points only the second counts.
    """
    after = {number for number, point in enumerate(points[:-1]) if point.startswith("after")}
    apart = [
        number for number in range(len(points)) if number not in after or not points[number + 1].startswith("before")
    ]
    registry = [number for number in apart if "registry" in points[number]]
    passed_over = set(registry) - set(spread(registry, REGISTRY_KILLS))
    left = [number for number in apart if number not in passed_over]
    return spread(left, most)


def spread(numbers: list[int], most: int) -> list[int]:
    """At most so many of them, the last one too."""
    step = max(1, (len(numbers) - 1) / max(1, most - 1)) if numbers else 1
    return sorted({numbers[-1 - int(step * count)] for count in range(most) if step * count < len(numbers)})


def kills_of(folder: Path, path: Path, step: Step) -> dict[str, Any]:
    """Kill one step at each of its points; the repo is left as an undisturbed run leaves it."""
    kept, done = folder / "before", folder / "after"

    def undisturbed() -> dict[str, Any]:
        points = Points(path)
        run_step(opened_at(path), step, points)
        points.compare("the end")
        return {"points": list(points.seen), "gaps": list(points.gaps), "state": state(opened_at(path))}

    def again() -> dict[str, Any]:
        if (path / "data" / "catalog.sqlite").exists():
            read_definitions(path)  # `feast apply` would work at once
        run_step(opened_at(path), step, None)
        return state(opened_at(path))

    if step.before:
        before = step.before
        assert (told := forked(folder, lambda: before(opened_at(path)))) is None, told["error"]
    copy(path, kept)
    told = forked(folder, undisturbed)
    assert "error" not in told, told["error"]
    copy(path, done)
    kills = []
    every = range(len(told["points"]))
    for number in every if ALL in sys.argv else chosen(told["points"], step.most):
        copy(kept, path)
        at = Points(path, number)
        killed = forked(folder, lambda at=at: (run_step(opened_at(path), step, at), at.seen)[1])
        if killed == "killed":
            wrong = differences(told["state"], forked(folder, again))
        elif "offline" in switched() and set(killed) | CLOSINGS == set(told["points"]) | CLOSINGS:
            # It ended before it came so far: Feast's own offline store hands rows over in more batches or fewer, and what
            # nothing holds any more is closed when the garbage collector likes.
            wrong = differences(told["state"], forked(folder, lambda: state(opened_at(path))))
            if not wrong:
                continue
        else:
            wrong = [f"not killed: {killed}"]
        kills.append({"point": f"{number}: {told['points'][number]}", "wrong": wrong})
    copy(done, path)
    return {"command": step.command, "points": told["points"], "gaps": told["gaps"], "kills": kills}


def changed_by_reading(path: Path, arguments: tuple[str, ...]) -> list[str]:
    """The files that a command changed."""
    before = lasting_files(path)
    told = path.parent / "told.txt"
    assert command([*arguments, "--repo", path], told) in {0, STALE}, told.read_text()
    after = lasting_files(path)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def main(folder: Path) -> int:
    import_rooms()
    path = folder / "repo"
    assert forked(folder, lambda: begin(folder) and None) is None
    found: dict[str, Any] = {"at random": {}, "reading": {}}
    draw = random.Random(0)
    steps = STEPS if ALL in sys.argv else IN_CI
    for step in steps:
        found[step.name] = kills_of(folder, path, step)
        if step.name in RANDOM_KILLS:
            copy(folder / "before", path)
            again = replace(step, before=None)
            found["at random"][step.name] = killed_at_random(folder, path, again, RANDOM_KILLS[step.name], draw)
        if step.name == "refresh":
            for arguments in READING:
                found["reading"][" ".join(arguments)] = forked(
                    folder, lambda told=arguments: changed_by_reading(path, told)
                )
    (folder / "campaign.json").write_text(json.dumps(found, indent=1))
    kills = [kill for step in steps for kill in found[step.name]["kills"]]
    wrong = sum(bool(kill["wrong"]) for kill in kills)
    print(f"{len(kills)} kills at {sum(len(found[step.name]['points']) for step in steps)} points, {wrong} wrong")  # noqa: T201
    return wrong


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) > 0)
