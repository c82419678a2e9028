"""Each step of a codebook's life is killed at every point where something becomes lasting, and then run again.

The tests run this file once as a script: a process that has imported everything and forks a child for each run, so that
hundreds of kills cost the imports of one. A child is killed by SIGKILL before or after a rename, a removal, a commit (of
the catalogue or of Feast's registry) or a write to the online store. Another child runs the same step again, and what is
then on disk must be what an undisturbed run leaves.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import DAY
from codebook_builders import AS_OF, CUT, ITEMS, SPEC, bring, built_repo, rows
from semantic_ids import pipeline
from semantic_ids.catalog import Catalog, read_definitions
from sidkit.artifact import read_manifest
from sidkit.repo import Repo

OTHER = SPEC.model_copy(update={"sizes": (5, 5), "quantizer_arguments": {"seed": 3}})
STEPS: dict[str, Callable[[Repo], object]] = {
    "fit": lambda repo: pipeline.fit(repo, "new", OTHER, CUT + DAY),
    "publish": lambda repo: pipeline.publish(repo, "new"),
    "promote": lambda repo: pipeline.promote(repo, "new"),
    "retire": lambda repo: pipeline.retire(repo, "old"),
    "refresh": lambda repo: pipeline.refresh(repo, "new"),
    "refresh after a rebuild": lambda repo: pipeline.refresh(repo, "new"),
    "purge": lambda repo: pipeline.purge(repo, "old"),
}
BEFORE: dict[str, Callable[[Repo], object]] = {
    "refresh": lambda repo: bring(repo, {**ITEMS, "late": AS_OF}, AS_OF + DAY, edition={"i003": 1}),
    "refresh after a rebuild": lambda repo: bring(
        repo, {**ITEMS, "late": AS_OF}, AS_OF + DAY, rebuild=True, edition={"i004": 1}
    ),
}
REGISTRY_KILLS = 4
IMPORTED_ONCE = (
    "faiss", "safetensors.numpy", "feast.repo_operations", "feast.infra.online_stores.sqlite",
    "feast.infra.compute_engines.local.compute", "feast.infra.registry.sql", "ibis.backends.duckdb", "polars",
    "sidkit.stores.asof_duckdb",
)  # fmt: skip


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("kills")
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        cwd=folder, capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "campaign.json").read_text())
    return found


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_was_killed_anywhere_ends_alike_when_it_is_run_again(campaign: dict[str, Any], step: str) -> None:
    kills = campaign[step]
    assert len(kills) >= 2
    assert {kill["point"]: kill["wrong"] for kill in kills if kill["wrong"]} == {}


def test_kills_hit_renames_commits_removals_and_online_writes(campaign: dict[str, Any]) -> None:
    points = {step: " ".join(kill["point"] for kill in kills) for step, kills in campaign.items()}
    for step in ("fit", "publish", "promote", "retire", "purge"):
        assert "commit catalog.sqlite" in points[step]
    for step, hit in (
        ("fit", "rename new"),
        ("publish", "replace item_sid_new.parquet"),
        ("publish", "replace item_sid_new.json"),
        ("publish", "commit registry.sqlite"),
        ("publish", "online_write_batch"),
        ("refresh", "replace item_sid_new.parquet"),
        ("publish", "making of sidkit_item_sid_new"),
        ("purge", "commit registry.sqlite"),
        ("purge", "dropping of sidkit_item_sid_old"),
        ("purge", "unlink tensors.safetensors"),
    ):
        assert f"before {hit}" in points[step]
        if "unlink" not in hit:
            assert f"after {hit}" in points[step]


class Points:
    """Counts the points of a run and kills the process at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.seen: list[str] = []

    def reach(self, point: str) -> None:
        if len(self.seen) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(point)

    def around(self, owner: Any, name: str, told: Callable[..., str | None], *, after: bool = True) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            what = told(*arguments)
            if what:
                self.reach(f"before {what}")
            result = original(*arguments, **named)
            if what and after:
                self.reach(f"after {what}")
            return result

        setattr(owner, name, watched)

    def watch(self) -> None:
        """Wrap everything by which a step leaves something lasting. Only ever done in a child."""
        from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteTable
        from sqlalchemy.engine.default import DefaultDialect

        self.around(Path, "rename", lambda path, target: f"rename {Path(target).name}")
        self.around(Path, "replace", lambda path, target: f"replace {Path(target).name}")
        self.around(os, "unlink", lambda path, **_: f"unlink {Path(path).name}", after=False)
        self.around(DefaultDialect, "do_commit", lambda _, connection: committed(connection))
        self.around(SqliteOnlineStore, "online_write_batch", lambda *_: "online_write_batch")
        self.around(SqliteTable, "update", lambda table: f"making of {table.name}")
        self.around(SqliteTable, "teardown", lambda table: f"dropping of {table.name}")


def committed(connection: Any) -> str | None:
    """The database that a commit changes, if it changes one."""
    if not connection.in_transaction:
        return None
    return f"commit {Path(connection.cursor().execute('PRAGMA database_list').fetchone()[2]).name}"


def chosen(points: list[str]) -> list[int]:
    """Every point, but of the many commits of Feast's registry some that are spread evenly."""
    registry = [number for number, point in enumerate(points) if "registry" in point]
    some = set(registry[:: max(1, len(registry) // REGISTRY_KILLS)]) | set(registry[-1:])
    return [number for number in range(len(points)) if number not in set(registry) - some]


def state(repo: Repo) -> dict[str, Any]:
    """What lies in the repo, but for times at which things were done."""
    catalog = Catalog.open(repo)
    codebooks = [{**vars(record), "changed_at_us": 0} for record in catalog.codebooks()]
    published = [record.name for record in catalog.codebooks() if record.defined]
    return {
        "catalogue": codebooks,
        "artefacts": {path.name: read_manifest(path)["content_hash"] for path in sorted(repo.codebooks.iterdir())},
        "codes": {
            name: [{**row, "assigned_at_us": 0} for _, row in sorted(rows(repo, name).items())] for name in published
        },
        "registry": registry(repo),
        "online": dict(online_tables(repo)),
        "files": sorted(
            path.relative_to(repo.path).as_posix()
            for path in repo.path.rglob("*")
            if path.is_file() and "tmp" not in path.parts and "__pycache__" not in path.parts
        ),
    }


def registry(repo: Repo) -> dict[str, Any]:
    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    return {
        "views": sorted(
            (view.name, sorted(view.tags.items()), [(field.name, str(field.dtype)) for field in view.features])
            for view in store.list_feature_views()
        ),
        "services": sorted(
            (svc.name, sorted(svc.tags.items()), sorted((p.name, p.name_alias) for p in svc.feature_view_projections))
            for svc in store.list_feature_services()
        ),
    }


def online_tables(repo: Repo) -> Iterator[tuple[str, list[str]]]:
    path = repo.data / "online.sqlite"
    if not path.exists():
        return
    connection = sqlite3.connect(path)
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1").fetchall():
        held = connection.execute(
            f"SELECT entity_key, feature_name, value, event_ts FROM {table} WHERE feature_name <> 'assigned_at_us'"
        )
        yield table, sorted(map(str, held.fetchall()))
    connection.close()


def forked(folder: Path, work: Callable[[], Any]) -> Any:
    """What the work returns as JSON, done in a child; ``"killed"`` where the child was."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            answer.write_text(json.dumps(work(), default=str))
        except BaseException:  # noqa: BLE001
            answer.write_text(json.dumps({"error": traceback.format_exc()}))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return "killed"
    return json.loads(answer.read_text())


def put_back(kept: Path, path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(kept, path)


def differences(expected: Any, got: Any) -> list[str]:
    if "error" in got:
        return [got["error"]]
    return [f"{part}: {expected[part]} became {got[part]}" for part in expected if expected[part] != got[part]]


def run_step(repo: Repo, step: str, points: Points | None) -> None:
    if points:
        points.watch()
    with repo.locked():
        STEPS[step](repo)


def kills_of(folder: Path, path: Path, step: str) -> list[dict[str, Any]]:
    """Kill one step at each of its points; the repo is left as an undisturbed run leaves it."""
    kept, done = folder / "before", folder / "after"

    def opened() -> Repo:
        return Repo.open(path)

    def undisturbed() -> dict[str, Any]:
        points = Points(None)
        run_step(opened(), step, points)
        seen = list(points.seen)
        return {"points": seen, "state": state(opened())}

    def again() -> dict[str, Any]:
        read_definitions(path)  # `feast apply` would work at once
        run_step(opened(), step, None)
        return state(opened())

    if step in BEFORE:
        assert forked(folder, lambda: BEFORE[step](opened()) and None) is None
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(path, kept)
    told = forked(folder, undisturbed)
    assert "error" not in told, told["error"]
    shutil.rmtree(done, ignore_errors=True)
    shutil.copytree(path, done)
    kills = []
    for number in chosen(told["points"]):
        put_back(kept, path)
        at = Points(number)
        killed = forked(folder, lambda at=at: run_step(opened(), step, at))
        wrong = differences(told["state"], forked(folder, again)) if killed == "killed" else [f"not killed: {killed}"]
        kills.append({"point": f"{number}: {told['points'][number]}", "wrong": wrong})
    put_back(done, path)
    return kills


def main(folder: Path) -> None:
    from sidkit.stores.feast_repo import quiet_feast

    quiet_feast()
    for name in IMPORTED_ONCE:
        importlib.import_module(name)

    path = folder / "repo"

    def begin() -> None:
        repo = built_repo(folder)
        pipeline.fit(repo, "old", SPEC, CUT)
        pipeline.publish(repo, "old")
        pipeline.promote(repo, "old")

    assert forked(folder, begin) is None
    found = {step: kills_of(folder, path, step) for step in STEPS}
    (folder / "campaign.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
