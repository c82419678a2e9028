"""Classes of a user's own: how they are named, what is refused before it is used, and what an artefact keeps of them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.builders import forked_script, one_thread
from helpers.codebook_builders import CUT, built_repo
from helpers.places import EXAMPLES, ROOT
from ranking.experiments.comparison.arms import load_arms
from ranking.models.histories import HISTORIES, HISTORY_NAMES
from ranking.models.laws import check_history, check_representation
from ranking.models.representations import BEHAVIOUR, REPRESENTATION_NAMES, REPRESENTATIONS, WITHOUT_CODES
from ranking.models.spec import ModelSpec
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import load_preset
from ranking.training.arm_spec import ArmSpec
from semantic_ids import lifecycle
from semantic_ids.codebook import Codebook
from semantic_ids.encoders import ENCODER_NAMES, ENCODERS
from semantic_ids.fitting import CodebookSpec, without_pairs
from semantic_ids.laws import check_encoder, check_quantizer
from semantic_ids.quality.sweep import SweepGrid
from semantic_ids.quantizers import QUANTIZER_NAMES, QUANTIZERS, ResidualKMeans
from sidkit.core.artifact import read_manifest
from sidkit.core.config import load_section
from sidkit.core.errors import ConfigError, LifeCycleError, PluginChangedError, PluginError
from sidkit.core.files import sha256
from sidkit.core.plugins import Reference, _imported_as
from sidkit.core.repo import Repo
from sidkit.datasets import named_dataset

OWN = """
from semantic_ids.encoders.content import ContentEncoder
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans


class Mine(ResidualKMeans):
    pass


class Narrow(ContentEncoder):
    name = "narrow"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A preset's folder with one file of a user's beside it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own.py").write_text(OWN)
    (folder / "own.toml").write_text(
        '[codebook]\nencoder = "own.py:Narrow"\nencoder_arguments = {dim = 6}\nquantizer = "own.py:Mine"\n'
        "sizes = [6, 4]\nforce = true\n"
    )
    return folder


def spec_in(folder: Path) -> CodebookSpec:
    return load_section(CodebookSpec, folder / "own.toml", "codebook")


def test_a_path_is_relative_to_the_file_that_names_it_then_to_the_working_directory(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = f"own.py:Mine@{sha256(own / 'own.py')[:12]}"
    assert spec_in(own).quantizer == reference
    with pytest.raises(PluginError, match=r"no file 'own.py' of the quantizer: looked for .*own.py; correct the path"):
        QUANTIZER_NAMES.resolved("own.py:Mine")
    monkeypatch.chdir(own)
    assert QUANTIZER_NAMES.resolved("own.py:Mine") == reference
    assert QUANTIZER_NAMES.resolved(str(own / "own.py:Mine"), tmp_path) == reference
    assert QUANTIZER_NAMES.find(reference) is QUANTIZER_NAMES.find("own.py:Mine")


def test_built_in_names_are_what_they_were_and_unknown_ones_are_refused_with_what_there_is() -> None:
    assert QUANTIZER_NAMES.resolved("pq") == "pq"
    assert QUANTIZER_NAMES.plugin("pq") is None
    with pytest.raises(
        ConfigError, match=r"no quantizer named 'nope'; available: residual_kmeans, .*path/to/file.py:Class"
    ):
        QUANTIZER_NAMES.find("nope")
    with pytest.raises(ValueError, match=r"no history named 'nope'; available: mean"):
        ModelSpec(history="nope")


LACKING = """
from semantic_ids.quantizers.base import Quantizer
from semantic_ids.encoders.base import Encoder
from ranking.models.representations.base import Representation
from ranking.models.histories.base import History
from sidkit.datasets.base import GeneratedDataset

class NoEncode(Quantizer):
    def __init__(self, sizes): self.sizes = sizes
    def fit(self, vectors, pairs=None): return self
    def decode(self, codes): return codes
    def tensors(self): return {}
    def load_tensors(self, tensors): return self

class NoSizes(NoEncode):
    def __init__(self, width): self.width = width
    def encode(self, vectors, beam=1): return vectors

class NoBase:
    def __init__(self, sizes): pass
    def fit(self): pass
    encode = decode = tensors = load_tensors = fit

class NoWidth(Encoder):
    def fit(self, items, pairs=None): return self
    def encode(self, items): return items
    def tensors(self): return {}
    def load_tensors(self, tensors): return self

class NoSpec(Representation):
    def forward(self, items): return items.content

class NoForward(History):
    def __init__(self, modality_dim, behaviour_dim, spec): pass

class NoWrite(GeneratedDataset):
    pass

number = 3
"""


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: CodebookSpec(quantizer=f"{path}:NoEncode"), r"NoEncode does not implement encode of .*Quantizer"),
        (lambda path: CodebookSpec(quantizer=f"{path}:NoSizes"), r"constructor of .*NoSizes does not accept sizes"),
        (lambda path: CodebookSpec(quantizer=f"{path}:NoBase"), r"NoBase does not derive from .*class NoBase\(Quantizer\)"),
        (lambda path: CodebookSpec(quantizer=f"{path}:number"), r"number is 3; expected a class that derives from"),
        (lambda path: CodebookSpec(quantizer=f"{path}:Gone"), r"has no class 'Gone'; available: NoEncode, NoSizes"),
        (lambda path: CodebookSpec(encoder=f"{path}:NoWidth"), r"NoWidth does not implement output_dim of .*Encoder"),
        (lambda path: ArmSpec(representations=(f"{path}:NoSpec",)), r"NoSpec does not implement from_spec of"),
        (lambda path: ModelSpec(history=f"{path}:NoForward"), r"NoForward does not implement forward of"),
        (lambda path: named_dataset(f"{path}:NoWrite"), r"NoWrite does not implement write of"),
    ],
)  # fmt: skip
def test_a_class_that_does_not_keep_its_contract_is_refused_when_it_is_named(
    tmp_path: Path, make: Any, problem: str
) -> None:
    path = tmp_path / "lacking.py"
    path.write_text(LACKING)
    with pytest.raises((ValueError, PluginError), match=problem):
        make(path)


def test_a_file_that_cannot_be_imported_and_a_name_that_is_too_long_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import a_library_that_is_not_there\n")
    with pytest.raises(PluginError, match=r"broken.py cannot be imported \(ModuleNotFoundError.*must be installed"):
        QUANTIZER_NAMES.resolved("broken.py:Any", tmp_path)
    (tmp_path / f"{'long' * 20}.py").write_text(OWN)
    with pytest.raises(PluginError, match=r"expected at most 64 characters, got .*; shorten"):
        QUANTIZER_NAMES.resolved(f"{'long' * 20}.py:Mine", tmp_path)


def test_a_reference_finds_its_source_in_another_process(own: Path) -> None:
    spec = spec_in(own)
    assert isinstance(pickle.loads(pickle.dumps(spec.quantizer)), Reference)
    script = (
        "import pickle, sys; spec = pickle.load(sys.stdin.buffer); from semantic_ids.fitting import build_models; "
        "print(type(build_models(spec, 100)[1]).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(spec), capture_output=True, check=True, cwd=ROOT
    )
    assert done.stdout.decode().strip() == "Mine"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return built_repo(tmp_path)


def test_a_codebook_keeps_the_source_of_its_plug_ins_and_outlives_the_original(repo: Repo, own: Path) -> None:
    spec, digest = spec_in(own), sha256(own / "own.py")
    record = lifecycle.fit(repo, "a", spec, CUT)
    assert (record.quantizer, record.encoder) == (f"own.py:Mine@{digest[:12]}", f"own.py:Narrow@{digest[:12]}")
    folder = repo.codebooks / "a"
    stated = read_manifest(folder)["plugins"]
    assert [(each["group"], each["sha256"]) for each in stated] == [
        ("sidkit.encoders", digest), ("sidkit.quantizers", digest),
    ]  # fmt: skip
    assert sha256(folder / stated[0]["file"]) == digest
    (own / "own.py").unlink()
    script = (
        "import sys; from pathlib import Path; from semantic_ids.codebook import Codebook; "
        "book = Codebook.load(Path(sys.argv[1])); print(type(book.quantizer).__name__, book.encoder.output_dim)"
    )
    done = forked_script(script, folder, cwd=ROOT)
    assert done.stdout.split() == ["Mine", "6"]
    lifecycle.publish(repo, "a")


def test_a_codebook_whose_plug_in_changed_or_is_missing_is_refused_with_both_hashes(repo: Repo, own: Path) -> None:
    lifecycle.fit(repo, "a", spec_in(own), CUT)
    folder, digest = repo.codebooks / "a", sha256(own / "own.py")
    path = folder / read_manifest(folder)["plugins"][0]["file"]
    text = path.read_text()
    path.write_text(f"raise SystemExit('it was executed')\n{text}")
    with pytest.raises(PluginChangedError, match=f"expected {digest}, got {sha256(path)}.*not executed.*restore"):
        Codebook.load(folder)
    path.unlink()
    with pytest.raises(PluginChangedError, match=f"is missing: expected {digest}, got nothing"):
        Codebook.load(folder)
    path.write_text(text)
    assert Codebook.load(folder).sizes == (6, 4)


def test_another_source_is_another_codebook(repo: Repo, own: Path) -> None:
    lifecycle.fit(repo, "a", spec_in(own), CUT)
    lifecycle.fit(repo, "a", spec_in(own), CUT)  # the same again is kept
    (own / "own.py").write_text(f"{OWN}\n# a remark\n")
    with pytest.raises(LifeCycleError, match="on different data or with different arguments"):
        lifecycle.fit(repo, "a", spec_in(own), CUT)


ACME = """
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans


class AcmeCodes(ResidualKMeans):
    name = "acme"
"""


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution with an entry point: a module and its metadata, as pip leaves them."""
    site = tmp_path / "site"
    info = site / "acme_codes-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "acme_codes.py").write_text(ACME)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-codes\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[sidkit.quantizers]\nacme = acme_codes:AcmeCodes\n")
    monkeypatch.syspath_prepend(site)
    yield site
    sys.modules.pop("acme_codes", None)
    _imported_as.pop("acme_codes", None)


def test_an_entry_point_is_recorded_by_distribution_version_and_hash(repo: Repo, acme: Path) -> None:
    digest = sha256(acme / "acme_codes.py")
    spec = CodebookSpec(quantizer="acme", sizes=(6, 4), force=True, encoder_arguments={"dim": 6})
    assert spec.quantizer == f"acme@1.2+{digest[:12]}"
    lifecycle.fit(repo, "a", spec, CUT)
    folder = repo.codebooks / "a"
    (stated,) = read_manifest(folder)["plugins"]
    assert stated == {
        "reference": spec.quantizer, "group": "sidkit.quantizers", "sha256": digest, "distribution": "acme-codes",
        "version": "1.2", "module": "acme_codes",
    }  # fmt: skip
    assert not (folder / "plugins").exists()
    assert type(Codebook.load(folder).quantizer).__name__ == "AcmeCodes"

    metadata = acme / "acme_codes-1.2.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
    with pytest.raises(PluginChangedError, match=r"expected acme-codes 1.2, .*got acme-codes 1.3, .*acme-codes==1.2"):
        Codebook.load(folder)
    metadata.write_text(metadata.read_text().replace("1.3", "1.2"))
    (acme / "acme_codes.py").write_text(f"{ACME}# patched\n")
    with pytest.raises(PluginChangedError, match=f"expected acme-codes 1.2, acme_codes {digest}, got .*not executed"):
        Codebook.load(folder)
    with pytest.raises(ValueError, match=r"acme_codes.py changed after this process imported it; restart the process"):
        CodebookSpec(quantizer="acme")
    sys.path.remove(str(acme))
    with pytest.raises(
        PluginChangedError, match=r"is missing: expected acme-codes 1.2.*got nothing.*install acme-codes"
    ):
        Codebook.load(folder)


def test_a_quantizer_that_cannot_do_without_pairs_gives_way_to_the_default(own: Path) -> None:
    (own / "own.py").write_text(OWN.replace("    pass", "    needs_pairs = True"))
    spec = spec_in(own)
    assert spec.needs_pairs
    assert without_pairs(spec).quantizer == "residual_kmeans"
    learned = CodebookSpec(quantizer="rq_vae", quantizer_arguments={"contrast": 0.1, "epochs": 2})
    assert learned.needs_pairs
    assert without_pairs(learned).quantizer_arguments == {"contrast": 0.0, "epochs": 2}


def test_the_laws_hold_for_the_kits_own_and_for_the_example() -> None:
    example = EXAMPLES / "quantile_codes.py"
    check_quantizer(QUANTIZER_NAMES.find(f"{example}:QuantileCodes"), sizes=(8, 4), force=True)
    check_quantizer(QUANTIZERS["residual_kmeans"], sizes=(8, 4), force=True)
    check_encoder(ENCODERS["content"], dim=5)
    check_encoder(ENCODERS["collaborative"])
    arm = load_preset(str(EXAMPLES / "quantile_codes.toml")).arms["ordinal"]
    for name in (*arm.representations, "spm", "rq_opq_gate"):
        check_representation(REPRESENTATION_NAMES.find(name))
    for name in HISTORIES:
        check_history(HISTORY_NAMES.find(name))


class Forgetful(ResidualKMeans):
    def tensors(self) -> dict[str, Any]:
        return {key: tensor * 0 for key, tensor in super().tensors().items()}


class Shifted(ResidualKMeans):
    def encode(self, vectors: Any, beam: int = 1) -> Any:
        return super().encode(vectors - vectors.mean(axis=0) if len(vectors) else vectors, beam)


class Wide(ResidualKMeans):
    def encode(self, vectors: Any, beam: int = 1) -> Any:
        return super().encode(vectors, beam).astype("int64")


@pytest.mark.parametrize(
    ("kind", "law"),
    [(Forgetful, "must give the same codes"), (Shifted, "other rows of its batch"), (Wide, "must return int32")],
)
def test_a_broken_law_is_named(kind: type[ResidualKMeans], law: str) -> None:
    with pytest.raises(PluginError, match=rf"{kind.__name__} violates its contract: .*{law}"):
        check_quantizer(kind, sizes=(8, 4), force=True)


def test_a_repo_refuses_another_version_of_the_code_that_wrote_its_source(tmp_path: Path) -> None:
    (tmp_path / "world.py").write_text((EXAMPLES / "toy_world.py").read_text())
    data = f"{tmp_path / 'world.py'}:ToyWorld:noisy"
    named = named_dataset(data)
    assert named is not None
    assert named.variant == "noisy"
    repo = prepare_repo(data, tmp_path / "repo")
    one_thread(repo)
    assert repo.settings.source.modalities == ("text",)
    prepare_repo(data, repo.path)
    before = sha256(tmp_path / "world.py")
    (tmp_path / "world.py").write_text(f"{(EXAMPLES / 'toy_world.py').read_text()}# later\n")
    with pytest.raises(PluginChangedError, match=f"expected {before}, got {sha256(tmp_path / 'world.py')}.*as --data"):
        prepare_repo(data, repo.path)
    with pytest.raises(PluginChangedError, match="got synthetic"):
        prepare_repo("synthetic", repo.path)
    made = prepare_repo("synthetic", tmp_path / "other")
    (made.data / "source").mkdir()
    with pytest.raises(ConfigError, match="was created for other data than world.py:ToyWorld"):
        prepare_repo(data, made.path)


def test_the_encoders_registry_names_a_plug_in_by_its_reference(own: Path) -> None:
    spec = spec_in(own)
    encoder = ENCODER_NAMES.find(spec.encoder)(dim=3)  # type: ignore[call-arg]
    assert ENCODER_NAMES.name_of(encoder) == spec.encoder
    assert ENCODER_NAMES.name_of(ENCODERS["content"]()) == "content"


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_the_classes_say_what_is_known_of_them_without_torch(name: str) -> None:
    kind = REPRESENTATION_NAMES.find(name)
    assert kind.knows_ids is (name in BEHAVIOUR)
    assert kind.reads_codes is (name not in WITHOUT_CODES)


def test_sweeps_and_arms_name_plug_ins_relative_to_their_own_files(own: Path) -> None:
    with (own / "own.toml").open("a") as file:
        file.write(
            '[sweep]\nencoders = ["own.py:Narrow"]\nquantizers = ["own.py:Mine", "pq"]\n'
            'quantizer_arguments = {"own.py:Mine" = {iterations = 3}}\nlevels = [2]\nsizes = [4]\n'
        )
    mine, _ = load_section(SweepGrid, own / "own.toml", "sweep").candidates()
    assert (mine.encoder, mine.quantizer) == (spec_in(own).encoder, spec_in(own).quantizer)
    assert mine.quantizer_arguments == {"iterations": 3}
    arm = own / "arms" / "mine.toml"
    arm.parent.mkdir()
    arm.write_text('title = "mine"\nrepresentations = ["sid"]\ncodebook_changes = {quantizer = "../own.py:Mine"}\n')
    spec = load_arms([str(arm)])["mine"].codebook_spec()
    assert (spec.quantizer, spec.encoder) == (spec_in(own).quantizer, "content")
