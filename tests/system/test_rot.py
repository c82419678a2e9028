"""A flipped bit in any file that the kit wrote: the right value, one error with the command that repairs it, or a cache that is
discarded and made again."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from helpers.commands import Answer, ask, ask_well
from helpers.frozen_repo import PRESET, expected, frame, score, usable
from ranking.training.arm_spec import RankerSpec
from ranking.training.arms import ArmDetails, ArmResult
from ranking.training.predictions import read_predictions, write_predictions
from semantic_ids.catalog import Catalog
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import checked, seal_folder
from sidkit.core.repo import Repo

CODEBOOK = expected()["codebook"]
DISCARDED = "discarding and rebuilding it"
PROOF = bool(os.environ.get("SIDKIT_PROOF"))


def flip(path: Path, seed: int) -> str:
    """Flip one bit of a file at a random place; returns where."""
    draw = random.Random(f"{path.name} {seed}")
    data = bytearray(path.read_bytes())
    place, bit = draw.randrange(len(data)), draw.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name}, byte {place}, bit {bit}"


@dataclass(frozen=True)
class Kept:
    """A finished repo; :meth:`restore` brings back what a test changed."""

    path: Path
    files: dict[Path, bytes]
    online: Path

    def restore(self) -> None:
        with closing(sqlite3.connect(self.online)) as kept, closing(sqlite3.connect(self._online)) as changed:
            kept.backup(changed)
        for path in [path for path in self.path.rglob("*") if path.is_file()]:
            if self._mine(path) and path not in self.files:
                path.unlink()
        for path, content in self.files.items():
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    @property
    def _online(self) -> Path:
        return self.path / "data" / "online.sqlite"

    @staticmethod
    def _mine(path: Path) -> bool:
        return "sqlite" not in path.name and path.name != ".sidkit.lock"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    repo = usable(tmp_path_factory.mktemp("rot"))
    run(repo)
    files = {path: path.read_bytes() for path in repo.rglob("*") if path.is_file() and Kept._mine(path)}
    kept = Kept(repo, files, repo.parent / "kept.sqlite")
    shutil.copy(kept._online, kept.online)
    return kept


@pytest.fixture
def repo(finished: Kept) -> Path:
    finished.restore()
    return finished.path


def run(repo: Path, preset: Path = PRESET) -> Answer:
    return ask_well("run", "--data", repo.parent / "source", "--repo", repo, "--preset", preset, "--json")


def repaired(answer: Answer, path: Path) -> None:
    """The answer is one line that names the file and a command; the command repairs it."""
    assert answer.code == 1, answer
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert str(path) in answer.err, answer.err
    command = re.search(r"`sidkit ([^`]+)`", answer.err)
    assert command is not None, answer.err
    ask_well(*shlex.split(command[1]))


LOG = ("data/log/interactions/part-*.parquet", "data/log/items-*.parquet", "data/log/item_embeddings-*.parquet")


@pytest.mark.parametrize("pattern", [*LOG, "data/log/manifest.json"])
def test_a_damaged_log_is_named_and_read_again(repo: Path, pattern: str) -> None:
    rows = pq.read_table(repo / "data" / "rows.parquet")
    [path] = sorted(repo.glob(pattern))[:1]
    flip(path, 0)
    repaired(ask("tables", "rows", "--repo", repo), path)
    ask_well("tables", "rows", "--repo", repo)
    assert pq.read_table(repo / "data" / "rows.parquet").equals(rows)


@pytest.mark.parametrize("name", ["item_content", "item_stats", "user_history", "user_stats"])
def test_a_damaged_feature_table_is_named_by_feast_too_and_built_again(repo: Path, tmp_path: Path, name: str) -> None:
    right = frame(repo, tmp_path)
    path = repo / "data" / "tables" / f"{name}.parquet"
    flip(path, 0)
    repaired(ask("frame", "--repo", repo, "--rows", tmp_path / "asked.parquet", "--out", tmp_path / "o.parquet"), path)
    assert frame(repo, tmp_path) == right
    flip(path, 1)
    for command in (("materialize",), ("tables", "build")):
        answer = ask(*command, "--repo", repo)
        assert answer.code == 1 and str(path) in answer.err, answer


def test_a_damaged_manifest_of_the_tables_is_named_and_built_again(repo: Path, tmp_path: Path) -> None:
    right = frame(repo, tmp_path)
    path = repo / "data" / "tables" / "manifest.json"
    flip(path, 0)
    repaired(ask("materialize", "--repo", repo), path)
    ask_well("codebooks", "refresh", "--repo", repo)
    again = frame(repo, tmp_path)
    for row in (*right, *again):
        row.pop("item_sid__assigned_at_us")  # a wall clock, which services of the frozen repo's definitions have
    assert again == right


def test_damaged_codes_are_named_and_assigned_again(repo: Path) -> None:
    known = expected()["codes"]
    path = repo / "data" / "tables" / f"item_sid_{CODEBOOK}.parquet"
    flip(path, 0)
    question = ("codebooks", "codes", "--repo", repo, "--items", ",".join(known))
    repaired(ask(*question), path)
    assert [line.split("\t")[1] for line in ask_well(*question).out.splitlines()] == [
        ",".join(map(str, codes)) for codes in known.values()
    ]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.json"])
def test_damaged_labelled_rows_are_made_again(repo: Path, name: str) -> None:
    rows = pq.read_table(repo / "data" / "rows.parquet")
    flip(repo / "data" / name, 0)
    assert DISCARDED in ask_well("tables", "rows", "--repo", repo).err
    assert pq.read_table(repo / "data" / "rows.parquet").equals(rows)


def test_labelled_rows_that_are_damaged_are_not_audited(repo: Path) -> None:
    path = repo / "data" / "rows.parquet"
    flip(path, 0)
    repaired(ask("audit", "--repo", repo, "--rows", 5), path)
    assert ask_well("audit", "--repo", repo, "--rows", 5).code == 0


def test_a_damaged_list_of_defined_codebooks_is_written_anew_from_the_registry(repo: Path) -> None:
    path = repo / "data" / "defined.json"
    before = path.read_text()
    flip(path, 0)
    assert DISCARDED in ask_well("codebooks", "list", "--repo", repo).err
    assert path.read_text() == before
    assert ask_well("codebooks", "list", "--repo", repo).err == ""


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_the_run_that_made_a_damaged_ranker_makes_it_again(repo: Path, name: str) -> None:
    path = repo / "artifacts" / "rankers" / Catalog.open(Repo.open(repo)).serving_ranker().name / name
    before = score(repo)
    made_again(repo, path, PRESET)
    assert score(repo) == before


@pytest.mark.parametrize("name", ["tensors.safetensors", "manifest.json"])
def test_the_run_that_made_a_damaged_codebook_makes_it_again(repo: Path, tmp_path: Path, name: str) -> None:
    # A codebook of this machine: another processor may round a fit otherwise, and a frozen codebook is never replaced.
    preset = tmp_path / "own.toml"
    preset.write_text(PRESET.read_text().replace("sizes = [4, 4, 4]", "sizes = [4, 4]"))
    run(repo, preset)
    codebook = Catalog.open(Repo.open(repo)).serving_ranker().codebook
    assert codebook != CODEBOOK
    made_again(repo, repo / "artifacts" / "codebooks" / codebook / name, preset)


def made_again(repo: Path, path: Path, preset: Path) -> None:
    """A damaged file of an artefact is named with the command that repairs it, and comes back bit by bit."""
    before = path.parent.joinpath("tensors.safetensors").read_bytes()
    flip(path, 0)
    refused = ask("score", "--repo", repo, "--user", "u1", "--items", "i1", "--at", expected()["at"])
    assert refused.code == 1 and str(path) in refused.err and "`sidkit run" in refused.err
    assert DISCARDED in run(repo, preset).err
    assert path.parent.joinpath("tensors.safetensors").read_bytes() == before


def of_another_version(folder: Path) -> str:
    """Make an artefact one of a version whose tensors had other names; returns that version."""
    tensors, version = folder / "tensors.safetensors", "9.0.0"
    save_file({f"former.{name}": value for name, value in load_file(tensors).items()}, tensors)
    manifest = json.loads((folder / "manifest.json").read_text())
    seal_folder(folder, {**manifest, "libraries": {**manifest["libraries"], "sidkit": version}})
    return version


@pytest.mark.parametrize("kind", ["rankers", "codebooks"])
def test_an_artefact_of_another_version_is_said_to_be_one_and_is_made_again_once_it_is_deleted(
    repo: Path, tmp_path: Path, kind: str
) -> None:
    preset = tmp_path / "own.toml"
    preset.write_text(PRESET.read_text().replace("sizes = [4, 4, 4]", "sizes = [4, 4]"))
    run(repo, preset)
    serving = Catalog.open(Repo.open(repo)).serving_ranker()
    folder = repo / "artifacts" / kind / (serving.name if kind == "rankers" else serving.codebook)
    before = score(repo)
    version = of_another_version(folder)
    refused = ask("score", "--repo", repo, "--user", "u1", "--items", "i1", "--at", expected()["at"])
    assert refused.code == 1 and len(refused.err.strip().splitlines()) == 1, refused.err
    assert f"{folder}: cannot be read by sidkit" in refused.err and f"as sidkit {version} wrote them" in refused.err
    assert f"install sidkit {version}, or delete the folder and run the command that made it again" in refused.err
    shutil.rmtree(folder)
    assert DISCARDED not in run(repo, preset).err
    assert score(repo) == before


CACHES = (
    "frame/arrays.safetensors", "frame/rows.parquet", "frame/items.parquet", "frame/manifest.json",
    "predictions/id-s0.parquet", "verdict.json", "hit_rate.json", "stages.json",
)  # fmt: skip


@pytest.mark.parametrize("name", CACHES)
def test_a_damaged_cache_of_a_run_is_discarded_and_made_again(repo: Path, name: str) -> None:
    folder = repo / "artifacts" / "runs" / "frozen"
    verdict = (folder / "verdict.json").read_bytes()
    flip(folder / name, 0)
    told = [line for line in run(repo).err.splitlines() if DISCARDED in line]
    assert len(told) == 1 and str(folder / name) in told[0]
    assert (folder / "verdict.json").read_bytes() == verdict
    assert DISCARDED not in run(repo).err


def test_a_damaged_frame_is_not_audited(repo: Path) -> None:
    path = repo / "artifacts" / "runs" / "frozen" / "frame" / "arrays.safetensors"
    flip(path, 0)
    answer = ask("audit", "--repo", repo, "--preset", "frozen", "--rows", 5)
    assert answer.code == 1 and str(path) in answer.err and "`sidkit run`" in answer.err


@pytest.mark.parametrize("seed", range(30 if PROOF else 10))
def test_any_bit_of_any_file_of_the_kit_is_noticed_or_changes_nothing(repo: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    files = [path for path in sorted(repo.glob("data/**/*")) if path.is_file() and path.suffix in {".json", ".parquet"}]
    path = draw.choice([path for path in files if "rejects" not in path.parts])
    where = flip(path, seed)
    known = expected()
    question = ("codebooks", "codes", "--repo", repo, "--items", ",".join(known["items"]))
    answer = ask(*question)
    if answer.code:
        assert str(path) in answer.err and "`sidkit " in answer.err, (where, answer)
    else:
        right = {item: ",".join(map(str, known["codes"][item])) for item in known["items"]}
        assert dict(line.split("\t") for line in answer.out.splitlines()) == right, where
    for read in (
        lambda: ask("tables", "build", "--repo", repo, "--as-of", known["at"]),
        lambda: ask("data", "ingest", "--repo", repo),
    ):
        answer = read()
        assert answer.code == 0 or (str(path) in answer.err and "`sidkit " in answer.err), (where, answer)


def test_a_file_is_read_once_per_process_and_state(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidkit.core import integrity

    path = repo / "data" / "tables" / "item_stats.parquet"
    os.utime(path, ns=(10**18, 10**18))
    read: list[Path] = []
    hashed = integrity.sha256

    def counted(asked: Path) -> str:
        read.append(asked)
        return hashed(asked)

    monkeypatch.setattr(integrity, "sha256", counted)
    for _ in range(3):
        checked(path)
    assert read == [path]
    flip(path, 0)
    with pytest.raises(ArtifactCorruptError, match="does not match its SHA-256"):
        checked(path)


def test_files_of_users_are_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(b"anything")
    for foreign in ('{"files": {"table.parquet": "0"}}', "no JSON", '["table.parquet"]'):
        (tmp_path / "manifest.json").write_text(foreign)
        assert checked(path) == path


def test_a_reader_beside_a_writer_accepts_the_old_file_and_the_new_one(tmp_path: Path) -> None:
    from sidkit.core.integrity import hashes_of, read_verified, replaced, write_sealed

    path, manifest = tmp_path / "table.parquet", tmp_path / "table.json"
    path.write_bytes(b"old")
    write_sealed(manifest, {"files": hashes_of(tmp_path, [path.name]), "rows": 1})
    assert "pending" not in read_verified(manifest)
    with replaced(path, manifest) as temporary:
        temporary.write_bytes(b"new")
    assert checked(path).read_bytes() == b"new"  # a writer that was killed here leaves nothing that looks damaged
    path.write_bytes(b"old")
    assert checked(path).read_bytes() == b"old"
    path.write_bytes(b"bad")
    with pytest.raises(ArtifactCorruptError):
        checked(path)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_trial_of_a_comparison_is_not_believed(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from ranking.experiments.comparison.trials import Plan, Trial, TrialDetails

    trial = Trial("id", 0, 0, "frame", "mark")
    plan = Plan(tmp_path, tmp_path, RankerSpec(), {}, {}, (trial,))
    kept = np.random.default_rng(seed).random(50)
    result, stated = ArmResult(0.5, kept[:20], kept[20:], None, ArmDetails(trees=3)), TrialDetails(trees=3, mark="mark")
    write_predictions(plan.path(trial), result, {"mark": "mark"})
    assert plan.details(trial) == stated
    flip(plan.path(trial), seed)
    told = plan.details(trial)
    if told is None:
        assert DISCARDED in capsys.readouterr().err and not plan.path(trial).exists()
    else:
        assert told == stated
        assert read_predictions(plan.path(trial)).tolist() == kept[20:].tolist()
