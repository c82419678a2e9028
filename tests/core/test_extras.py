"""What is missing is named up front, with the command that installs it."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from helpers.places import ROOT
from ranking.pipeline.presets import Preset, check_extras, load_preset
from semantic_ids.fitting import CodebookSpec, codebook_modules
from sidkit.core.errors import MissingExtraError
from sidkit.core.extras import EXTRAS_OF, require
from sidkit.presets import preset_names


def hidden(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let modules look as if they were not installed."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_every_module_is_in_the_extras_of_the_table_and_in_no_other() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {
        extra: {re.split(r"[^\w-]", line)[0] for line in lines}
        for extra, lines in listed.items()
        if extra not in {"all", "dev"}
    }
    for package, extras in EXTRAS_OF.values():
        assert set(extras) == {extra for extra, named in packages.items() if package in named}, package


def test_what_is_installed_is_not_imported_by_the_check() -> None:
    before = set(sys.modules)
    require("torch", "faiss", purpose="this test")
    assert not (set(sys.modules) - before) & {"torch", "faiss"}


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        (["torch"], "this preset needs torch, which is not installed; run: pip install 'sidkit[rank]'"),
        (
            ["torch", "faiss"],
            "this preset needs torch and faiss-cpu, which are not installed; run: pip install 'sidkit[rank]'",
        ),
        (["scipy"], "this preset needs scipy, which is not installed; run: pip install 'sidkit[rank]'"),
        (
            ["torch", "safetensors", "faiss", "scipy", "sklearn"],
            "this preset needs torch, safetensors, faiss-cpu, scipy and scikit-learn, which are not installed; run: "
            "pip install 'sidkit[rank]'",
        ),
    ],
)
def test_a_preset_names_all_that_is_missing_in_one_line(
    monkeypatch: pytest.MonkeyPatch, missing: list[str], says: str
) -> None:
    hidden(monkeypatch, *missing)
    with pytest.raises(MissingExtraError) as raised:
        check_extras(load_preset("rqkmeans"))
    assert str(raised.value) == says
    assert raised.value.packages == tuple(EXTRAS_OF[module][0] for module in missing)


def test_a_preset_needs_only_what_its_parts_need(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden(monkeypatch, "sklearn", "sentencepiece")
    with pytest.raises(MissingExtraError, match="scikit-learn"):
        check_extras(load_preset("rqkmeans"))
    check_extras(Preset.model_validate({"arms": {"id": {"representations": ["id"]}}}))
    with pytest.raises(MissingExtraError, match="sentencepiece"):
        check_extras(Preset.model_validate({"arms": {"spm": {"representations": ["spm"]}}}))


def test_every_preset_can_be_run_with_the_extras_that_the_documents_name() -> None:
    for name in preset_names():
        check_extras(load_preset(name))


@pytest.mark.parametrize(
    ("spec", "needs", "spares"),
    [
        ({}, {"faiss", "safetensors"}, {"torch"}),
        ({"quantizer": "rq_vae"}, {"faiss", "torch"}, set()),
        ({"encoder": "behaviour"}, {"torch", "scipy"}, set()),
        ({"encoder": "collaborative"}, {"scipy"}, {"torch"}),
    ],
)
def test_a_codebook_needs_torch_only_if_it_trains_a_network(
    spec: dict[str, str], needs: set[str], spares: set[str]
) -> None:
    modules = set(codebook_modules(CodebookSpec.model_validate(spec)))
    assert needs <= modules
    assert not spares & modules
