"""A repo of an older release: refused with the command that migrates it, migrated once, and then as good as new."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.builders import forked_sidkit
from helpers.commands import ask, ask_well
from helpers.frozen_repo import PRESET, expected, frame, move_in, score, unpack
from sidkit import upgrade as upgrading
from sidkit.core.errors import RepoError
from sidkit.core.repo import FEAST_FILE, Repo, init_repo, template_folder
from sidkit.core.repo_format import FORMAT, format_of, write_format
from sidkit.stores.definition_files import TEXTS, text_hash
from sidkit.stores.old_paths import LINES, NEW_PATHS
from sidkit.upgrade import Step, upgrade


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen repo, migrated, in a folder of its own; an apply makes its registry its own."""
    repo = unpack(tmp_path_factory.mktemp("moved"))
    refused = ask("codebooks", "list", "--repo", repo)
    assert refused.code == 1
    assert f"in {repo}; run `sidkit upgrade --repo {repo}`" in refused.err
    assert f"format {FORMAT}" in ask_well("upgrade", "--repo", repo).out
    ask_well("apply", "--repo", repo)
    assert "sqlite:///data/registry.sqlite" in (repo / FEAST_FILE).read_text()
    ask_well("materialize", "--repo", repo)
    return repo


def test_a_migrated_repo_gives_the_codes_features_and_scores_of_the_release_that_made_it(
    moved: Path, tmp_path: Path
) -> None:
    known = expected()
    assert score(moved) == pytest.approx(known["scores"]["scores"], abs=1e-7)
    codes = ask_well("codebooks", "codes", "--repo", moved, "--items", ",".join(known["codes"])).out.splitlines()
    assert codes == [f"{item}\t{','.join(map(str, found))}" for item, found in known["codes"].items()]
    for now, then in zip(frame(moved, tmp_path), known["frame"], strict=True):
        assert {name: now[name] for name in then} == then


def test_what_was_kept_is_still_kept_after_a_migration(tmp_path: Path) -> None:
    repo = unpack(tmp_path)
    move_in(repo)
    ask_well("upgrade", "--repo", repo)
    unapplied = ask("frame", "--repo", repo, "--rows", tmp_path / "none.parquet", "--out", tmp_path / "out.parquet")
    assert "run `sidkit apply` and `sidkit materialize`" in unapplied.err
    ask_well("apply", "--repo", repo)
    told = ask_well("run", "--data", tmp_path / "source", "--repo", repo, "--preset", PRESET, "--json")
    assert "discarded" not in told.err
    assert ask_well("audit", "--repo", repo, "--rows", 20, "--preset", "frozen").code == 0
    again = ask_well("run", "--data", tmp_path / "source", "--repo", repo, "--preset", PRESET, "--json").err
    done = [line.split()[:2] for line in again.splitlines() if line.startswith(("reused ", "done "))]
    # The log of an older release is read once more; after that all is reused.
    assert [name for what, name in done if what == "done"] in ([], ["ingest"])
    assert len(done) == 12


def test_a_migration_changes_nothing_the_second_time(moved: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in moved.rglob("*.json")}
    assert "already up to date" in ask_well("upgrade", "--repo", moved).out
    write_format(moved, 1)
    told = ask_well("upgrade", "--repo", moved).out.splitlines()
    assert told[0] == f"data/format.json: format {FORMAT}"
    assert {path: path.stat().st_mtime_ns for path in moved.rglob("*.json") if path.name != "format.json"} == {
        path: when for path, when in before.items() if path.name != "format.json"
    }


@pytest.mark.parametrize("step", range(len(upgrading.STEPS)))
def test_a_killed_migration_is_finished_by_the_next(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm, killed = (Repo.open(unpack(tmp_path / name), any_format=True) for name in ("calm", "killed"))
    upgrade(calm)

    work = upgrading.STEPS[step].run

    def dies(repo: Repo) -> list[str]:
        work(repo)
        raise KeyboardInterrupt

    steps = [Step(2, dies) if number == step else each for number, each in enumerate(upgrading.STEPS)]
    with monkeypatch.context() as patched:
        patched.setattr(upgrading, "STEPS", steps)
        with pytest.raises(KeyboardInterrupt):
            upgrade(killed)
    assert format_of(killed.path) == 1
    upgrade(killed)
    assert manifests(killed.path) == manifests(calm.path)


def test_a_step_may_edit_feature_store_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = Repo.open(unpack(tmp_path), any_format=True)

    def other_timeout(edited: Repo) -> list[str]:
        path = edited.path / FEAST_FILE
        path.write_text(path.read_text().replace("cache_ttl_seconds: 60", "cache_ttl_seconds: 90"))
        return [f"{path}: cache_ttl_seconds"]

    monkeypatch.setattr(upgrading, "STEPS", [*upgrading.STEPS, Step(FORMAT, other_timeout)])
    assert any("cache_ttl_seconds" in line for line in upgrade(repo))
    assert "cache_ttl_seconds: 90" in (repo.path / FEAST_FILE).read_text()
    assert Repo.open(repo.path).path == repo.path


def test_definitions_of_an_earlier_release_are_replaced_on_demand(moved: Path, tmp_path: Path) -> None:
    assert set(TEXTS) == {path.name for path in template_folder().glob("*.py")}
    repo = shutil.copytree(moved, tmp_path / "repo")
    for path in sorted(repo.glob("*.py")):  # as Git writes them on Windows
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    advice = next(line for line in ask("doctor", "--repo", repo).out.splitlines() if "old-definitions" in line)
    assert "Run `sidkit upgrade --definitions`" in advice and "services.py" in advice
    ask_well("upgrade", "--definitions", "--repo", repo)
    for path in sorted(template_folder().glob("*.py")):
        assert (repo / path.name).read_bytes() == path.read_bytes()
        assert TEXTS[path.name][-1] == text_hash(path), f"add the hash of {path.name} to definition_files.json"
    ask_well("apply", "--repo", repo)
    ask_well("materialize", "--repo", repo)
    assert "old-definitions" not in ask_well("doctor", "--repo", repo).out
    assert score(repo) == pytest.approx(expected()["scores"]["scores"], abs=1e-7)


def test_definitions_with_changes_of_their_owner_are_not_replaced(tmp_path: Path) -> None:
    repo = unpack(tmp_path)
    move_in(repo)
    with (repo / "services.py").open("a") as file:
        file.write("mine = 1\n")
    before = {path.name: path.read_bytes() for path in repo.glob("*.py")}
    refused = ask("upgrade", "--definitions", "--repo", repo)
    assert refused.code == 1 and "changes of your own in services.py; merge the files" in refused.err
    assert {path.name: path.read_bytes() for path in repo.glob("*.py")} == before
    assert "already up to date" in ask_well("upgrade", "--repo", repo).out
    for path in template_folder().glob("*.py"):  # the advice
        (repo / path.name).write_bytes(path.read_bytes() + b"mine = 1\n")
    assert "already up to date" in ask_well("upgrade", "--definitions", "--repo", repo).out


OLD_PATHS = {new: old for old, new in NEW_PATHS.items()}


def with_old_paths(repo: Path) -> Path:
    """The ``feature_store.yaml`` of a repo as releases before 0.1.0 wrote it."""
    path = repo / FEAST_FILE
    text = path.read_text()
    for new, old in OLD_PATHS.items():
        assert text.count(f"type: {new}") == 1
        text = text.replace(f"type: {new}", f"type: {old}")
    path.write_text(text)
    return path


def test_a_repo_with_the_old_class_paths_still_applies_materializes_and_scores(moved: Path, tmp_path: Path) -> None:
    repo = shutil.copytree(moved, tmp_path / "repo")
    shutil.copytree(moved.parent / "source", tmp_path / "source")
    with_old_paths(repo)
    move_in(repo)
    for command in (
        ["apply"],
        ["materialize"],
        ["score", "--user", expected()["user"], "--items", expected()["items"][0]],
    ):
        done = forked_sidkit(*command, "--repo", repo, cwd=tmp_path)
        for new in NEW_PATHS.values():
            section = next(section for section, path in LINES if path == new)
            assert f"{section}.type: {new}" in done.stderr
    assert score(moved) == pytest.approx(expected()["scores"]["scores"], abs=1e-7)


def test_upgrade_writes_the_new_class_paths_and_nothing_else(moved: Path, tmp_path: Path) -> None:
    repo = shutil.copytree(moved, tmp_path / "repo")
    before = (repo / FEAST_FILE).read_text()
    path = with_old_paths(repo)
    told = ask_well("upgrade", "--repo", repo).out.splitlines()
    assert told[:3] == [f"{FEAST_FILE}: {old} is now {new}" for old, new in NEW_PATHS.items()]
    assert path.read_text() == before
    assert "already up to date" in ask_well("upgrade", "--repo", repo).out


def test_feast_finds_the_class_of_a_table_that_an_older_release_registered() -> None:
    from feast.importer import import_class

    assert import_class("sidkit.stores.packed_table", "PackedTable").__module__ == "sidkit.stores.online.infra"


def test_a_fresh_repo_states_its_format_and_a_later_one_is_refused(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    assert json.loads((repo.data / "format.json").read_text())["format"] == FORMAT
    write_format(repo.path, FORMAT + 1)
    with pytest.raises(RepoError, match=f"expected files of format {FORMAT}, got format {FORMAT + 1} .*; install"):
        Repo.open(repo.path)
    refused = ask("upgrade", "--repo", repo.path)
    assert refused.code == 1 and "install a later release" in refused.err


def test_a_number_that_cannot_be_read_is_written_anew(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    (repo.data / "format.json").write_text('{"fprmat": 2}')
    refused = ask("codebooks", "list", "--repo", repo.path)
    assert refused.code == 1 and "format.json" in refused.err and "run `sidkit upgrade --repo" in refused.err
    ask_well("upgrade", "--repo", repo.path)
    assert format_of(repo.path) == FORMAT


def test_a_repo_without_data_gets_its_number_from_the_next_command_that_writes(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    (repo.data / "format.json").unlink()
    with Repo.open(repo.path).locked():
        pass
    assert json.loads((repo.data / "format.json").read_text())["format"] == FORMAT


def manifests(repo: Path) -> dict[str, str]:
    return {path.relative_to(repo).as_posix(): path.read_text() for path in sorted(repo.rglob("*.json"))}
