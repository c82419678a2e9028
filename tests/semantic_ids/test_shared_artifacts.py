"""Two copies of a repository, as on two machines, with one catalogue and one folder of artefacts."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

import sidkit
from helpers.codebook_builders import ASKED, CUT, ITEMS, SPEC, build, online, with_codes, write_source
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.catalog_repair import repair_catalog
from semantic_ids.codebook import load_committed
from sidkit.core.artifact import write_artifact
from sidkit.core.artifact_root import ArtifactRoot
from sidkit.core.errors import ArtifactError, ArtifactMissingError, ConfigError
from sidkit.core.repo import Repo
from sidkit.core.shared_artifacts import SharedArtifacts, share_report


def machine(folder: Path, name: str, url: str) -> Repo:
    """A repository on the common source, with the common catalogue."""
    from helpers.builders import fresh_repo

    toml = {
        'url = "sqlite:///data/catalog.sqlite"': f'url = "sqlite:///{folder}/catalog.sqlite"\n\n[artifacts]\nurl = "{url}"'
    }
    return build(fresh_repo(folder / name, folder / "source", modalities=("text", "image"), toml=toml))


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/shared" if request.param == "file" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def machines(tmp_path: Path, url: str) -> tuple[Repo, Repo]:
    write_source(tmp_path / "source", ITEMS)
    return machine(tmp_path, "one", url), machine(tmp_path, "other", url)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_codebook_of_one_machine_is_published_and_served_by_another(machines: tuple[Repo, Repo]) -> None:
    one, other = machines
    lifecycle.fit(one, "book", SPEC, CUT)
    lifecycle.publish(one, "book")
    lifecycle.promote(one, "book")
    assert not other.codebooks.exists()
    assert Catalog.open(other).serving_codebook().name == "book"
    assert files(other.codebooks / "book") == files(one.codebooks / "book")
    lifecycle.publish(other, "book")
    assert with_codes(other, "book") == with_codes(one, "book")
    assert online(other, "book", ASKED) == online(one, "book", ASKED)


def test_the_definitions_of_another_machine_need_no_command_first(machines: tuple[Repo, Repo]) -> None:
    one, other = machines
    lifecycle.fit(one, "book", SPEC, CUT)
    lifecycle.publish(one, "book")
    sidkit.open(other.path).apply()
    assert (other.codebooks / "book" / "manifest.json").is_file()


def test_a_fit_that_another_machine_made_is_not_made_again(machines: tuple[Repo, Repo]) -> None:
    one, other = machines
    fitted = lifecycle.fit(one, "book", SPEC, CUT)
    assert lifecycle.fit(other, "book", SPEC, CUT) == fitted
    assert files(other.codebooks / "book") == files(one.codebooks / "book")


def test_a_damaged_copy_is_replaced_when_it_is_next_used(
    machines: tuple[Repo, Repo], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = machines
    lifecycle.fit(one, "book", SPEC, CUT)
    record = Catalog.open(other).codebook("book")
    (other.codebooks / "book" / "tensors.safetensors").write_bytes(b"damaged")
    load_committed(other.codebooks / "book", Catalog.open(other).codebook("book"))
    assert files(other.codebooks / "book") == files(one.codebooks / "book")
    assert "does not match its SHA-256" in capsys.readouterr().err
    assert record.content_hash == Catalog.open(one).codebook("book").content_hash


def test_the_catalogue_names_a_codebook_only_after_its_upload(
    machines: tuple[Repo, Repo], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machines

    def failing(*_: Any) -> None:
        raise ArtifactError("no network")

    with monkeypatch.context() as broken:
        broken.setattr(ArtifactRoot, "upload", failing)
        with pytest.raises(ArtifactError, match="no network"):
            lifecycle.fit(one, "book", SPEC, CUT)
    assert [each.state for each in Catalog.open(other).codebooks()] == ["fitting"]
    lifecycle.fit(one, "book", SPEC, CUT)  # the local files are used again
    assert Catalog.open(other).codebook("book").state == "fitted"
    assert (other.codebooks / "book" / "manifest.json").is_file()


def test_a_purged_codebook_leaves_the_shared_folder(machines: tuple[Repo, Repo], url: str) -> None:
    one, _ = machines
    lifecycle.fit(one, "book", SPEC, CUT)
    lifecycle.retire(one, "book")
    assert ArtifactRoot(url).names("codebooks") == ["book"]
    lifecycle.purge(one, "book")
    assert ArtifactRoot(url).names("codebooks") == []


def test_a_codebook_without_any_files_left_can_still_be_purged(machines: tuple[Repo, Repo], url: str) -> None:
    one, other = machines
    lifecycle.fit(one, "book", SPEC, CUT)
    ArtifactRoot(url).remove("codebooks", "book")
    with pytest.raises(ArtifactMissingError, match="run `sidkit artifacts push` on the machine that made it"):
        sidkit.open(other.path).pull_artifacts()
    lifecycle.retire(other, "book")
    lifecycle.purge(other, "book")
    assert Catalog.open(other).codebook("book").state == "purged"


def test_artefacts_of_a_repository_are_pushed_when_a_folder_is_named_later(tmp_path: Path) -> None:
    write_source(tmp_path / "source", ITEMS)
    url = f"file://{tmp_path}/shared"
    one = machine(tmp_path, "one", "")
    lifecycle.fit(one, "book", SPEC, CUT)
    with pytest.raises(ConfigError, match=r"expected artifacts.url in .*sidkit.toml, got none; set it"):
        sidkit.open(one.path).push_artifacts()
    text = (one.path / "sidkit.toml").read_text()
    (one.path / "sidkit.toml").write_text(text.replace('[artifacts]\nurl = ""', f'[artifacts]\nurl = "{url}"'))
    project = sidkit.open(one.path)
    assert [(each.kind, each.name) for each in project.push_artifacts()] == [("codebooks", "book")]
    assert project.push_artifacts() == []
    assert project.list_artifacts() == [("codebooks", "book", 1)]


def test_a_lost_catalogue_is_rebuilt_from_the_shared_folder(machines: tuple[Repo, Repo], tmp_path: Path) -> None:
    one, other = machines
    fitted = lifecycle.fit(one, "book", SPEC, CUT)
    (tmp_path / "catalog.sqlite").unlink()
    assert [(each.kind, each.name, each.state) for each in repair_catalog(other)] == [("codebook", "book", "fitted")]
    assert Catalog.open(other).codebook("book").content_hash == fitted.content_hash


def test_a_report_of_a_run_is_pulled_by_another_machine(machines: tuple[Repo, Repo]) -> None:
    one, other = machines
    run = one.runs / "rqkmeans"
    run.mkdir(parents=True)
    (run / "report.html").write_text("<p>first</p>")
    share_report(one, "rqkmeans")
    sidkit.open(other.path).pull_artifacts()
    assert (other.path / "artifacts" / "reports" / "rqkmeans" / "report.html").read_text() == "<p>first</p>"
    (run / "report.html").write_text("<p>second</p>")
    (run / "frame").mkdir()
    (run / "frame" / "rows.parquet").write_bytes(b"rows of users stay on their machine")
    share_report(one, "rqkmeans")
    assert [(each.kind, each.files) for each in sidkit.open(other.path).pull_artifacts()] == [("reports", 2)]
    assert (other.path / "artifacts" / "reports" / "rqkmeans" / "report.html").read_text() == "<p>second</p>"
    assert sidkit.open(other.path).pull_artifacts() == []


def test_a_machine_without_the_shared_folder_uses_its_own_copy(machines: tuple[Repo, Repo], tmp_path: Path) -> None:
    one, _ = machines
    lifecycle.fit(one, "book", SPEC, CUT)
    shutil.rmtree(tmp_path / "shared", ignore_errors=True)
    load_committed(one.codebooks / "book", Catalog.open(one).codebook("book"))


def test_a_ranker_of_one_machine_is_read_by_another(machines: tuple[Repo, Repo]) -> None:
    one, other = machines
    lifecycle.fit(one, "book", SPEC, CUT)
    manifest = write_artifact(
        one.rankers / "r1", {"name": "r1"}, lambda folder: (folder / "w").write_bytes(b"1") and None
    )
    facts = {"codebook": "book", "service": "ctr_book", "arm": "id", "fit_end_us": 1}
    Catalog.open(one).add_ranker("r1", content_hash=manifest["content_hash"], **facts)
    assert Catalog.open(other).ranker("r1").state == "fitted"
    assert files(other.rankers / "r1") == files(one.rankers / "r1")
    Catalog.open(one).set_ranker_state("r1", "serving")
    shutil.rmtree(other.rankers)
    assert Catalog.open(other).serving_ranker().name == "r1"
    assert files(other.rankers / "r1") == files(one.rankers / "r1")


def test_the_doctor_names_a_shared_folder_that_cannot_be_read(tmp_path: Path) -> None:
    write_source(tmp_path / "source", ITEMS)
    (tmp_path / "file").write_text("no folder")
    one = machine(tmp_path, "one", f"file://{tmp_path}/shared")
    sidkit.open(one.path).apply()
    assert [problem.code for problem in sidkit.open(one.path).doctor()] == []
    text = (one.path / "sidkit.toml").read_text()
    (one.path / "sidkit.toml").write_text(text.replace(f"file://{tmp_path}/shared", "nosuch://bucket"))
    (problem,) = sidkit.open(one.path).doctor()
    assert (problem.code, problem.warning) == ("artifacts", True)
    assert "install its package" in problem.problem


def test_an_intact_copy_is_used_without_the_shared_file_system(tmp_path: Path) -> None:
    write_source(tmp_path / "source", ITEMS)
    one = machine(tmp_path, "one", f"file://{tmp_path}/shared")
    lifecycle.fit(one, "book", SPEC, CUT)
    text = (one.path / "sidkit.toml").read_text()
    (one.path / "sidkit.toml").write_text(text.replace(f"file://{tmp_path}/shared", "nosuch://bucket"))
    offline = Repo.open(one.path)
    load_committed(offline.codebooks / "book", Catalog.open(offline).codebook("book"))
    shutil.rmtree(offline.codebooks / "book")
    with pytest.raises(ConfigError, match="install its package"):
        Catalog.open(offline).codebook("book")


def test_the_folder_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source(tmp_path / "source", ITEMS)
    one = machine(tmp_path, "one", "env:SHARED_FOLDER")
    with pytest.raises(ConfigError, match="SHARED_FOLDER"):
        SharedArtifacts.of(one)
    monkeypatch.setenv("SHARED_FOLDER", f"file://{tmp_path}/named")
    lifecycle.fit(one, "book", SPEC, CUT)
    assert ArtifactRoot(f"file://{tmp_path}/named").names("codebooks") == ["book"]
