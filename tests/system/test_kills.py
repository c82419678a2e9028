"""Each command is killed at every point where something becomes lasting, and then run again.

The tests run :func:`kill_campaign.main` once in a process of its own. That the points are all there is, is checked too:
in an undisturbed run no file may change between two points. ``tests/services/test_production_kills.py`` does the same on
servers.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
import typer

from helpers.builders import run_apart
from helpers.life_steps import PRESETS, STEPS
from helpers.places import ROOT
from kill_campaign import IN_CI, RANDOM_KILLS, READING, main
from sidkit.cli import build_app
from sidkit.presets import preset_path

pytestmark = pytest.mark.own_store("online", "the points at which it is killed are those of the packed file")

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


def test_the_figures_of_the_page_are_those_that_were_measured() -> None:
    results, page = ROOT / "benchmarks" / "results", (ROOT / "docs" / "results" / "faults.md").read_text()
    local, production = (
        json.loads((results / f"kill_points{profile}.json").read_text()) for profile in ("", "_production")
    )
    storm = json.loads((results / "kill_storm.json").read_text())
    rows = {"points": "points", "kills": "kills at points", "gaps": "changes between two points", "wrong": "wrong"}
    for key, row in rows.items():
        assert f"| {row} | {local[key]} | {production[key]} |" in page
    assert f"| kills at random moments | {storm['kills']} | {production['random_kills']} |" in page
    assert storm["wrong"] == local["random_wrong"] == production["random_wrong"] == 0
