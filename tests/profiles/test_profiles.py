"""Profiles: what they state, how a repository's own is recognised, and a change of it that loses nothing."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

import sidkit
import sidkit.profiles
import sidkit.profiles.switch
from helpers.commands import ask, ask_well
from sidkit.core.config import Settings
from sidkit.core.errors import ConfigError, RepoError
from sidkit.core.repo import FEAST_FILE, SETTINGS_FILE, Repo, init_repo
from sidkit.core.toml_text import with_value
from sidkit.profiles import PROFILES, SECTIONS, Profile, profile_of
from sidkit.profiles.feast_file import read_values, sections_of, with_sections
from sidkit.profiles.switch import state_of, switch_profile

OTHER = Profile(
    name="other",
    summary="another registry, engine and memory limit",
    sections={
        **PROFILES["local"].sections,
        "registry": "registry:  # elsewhere\n  registry_type: sql\n  path: ${REGISTRY}\n",
        "batch_engine": "batch_engine:\n  type: local\n",
    },
    settings={"engine": {"memory_limit": "3GB"}, "catalog": {"url": "env:CATALOG"}},
    variables=("REGISTRY", "CATALOG"),
)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setitem(PROFILES, "other", OTHER)
    return OTHER


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return init_repo(tmp_path / "repo")


def texts(repo: Repo) -> tuple[str, str]:
    return (repo.path / FEAST_FILE).read_text(), (repo.path / SETTINGS_FILE).read_text()


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_states_every_section_and_settings_that_exist(name: str) -> None:
    profile = profile_of(name)
    assert profile.name == name and profile.summary
    assert set(profile.sections) == set(SECTIONS)
    for section, text in profile.sections.items():
        assert list(read_values(text, Path())) == [section]
    for table, keys in profile.settings.items():
        for key, value in keys.items():
            assert Settings.model_validate({table: {key: value}})
    texts_of = [*profile.sections.values(), str(profile.settings)]
    for variable in profile.variables:
        assert any(f"${{{variable}}}" in text or f"env:{variable}" in text for text in texts_of), variable


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("name", PROFILES)
def test_a_switched_repository_has_the_profile_and_switching_back_restores_the_values(
    repo: Repo, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sidkit.profiles.switch, "require", lambda *_, **__: None
    )  # what a profile runs on may be absent
    before = texts(repo)
    switch_profile(repo, name)
    assert state_of(repo) == sidkit.profiles.switch.ProfileState(name, (), ())
    switch_profile(repo, "local")
    assert state_of(repo).name == "local" and not state_of(repo).changed
    assert texts(repo)[0] == before[0]


@pytest.mark.usefixtures("other")
def test_a_switch_keeps_what_profiles_do_not_state(repo: Repo) -> None:
    path = repo.path / FEAST_FILE
    path.write_text(path.read_text().replace("project: sidkit", "project: shop  # ours") + "mlflow:\n  enabled: true\n")
    changes = switch_profile(repo, "other")
    assert changes == [
        "feature_store.yaml: registry", "feature_store.yaml: batch_engine", "sidkit.toml: catalog.url",
        "sidkit.toml: engine.memory_limit",
    ]  # fmt: skip
    text, settings = texts(repo)
    assert "project: shop  # ours" in text and "mlflow:\n  enabled: true\n" in text and "# elsewhere" in text
    assert text.startswith("# `sidkit profile switch`")
    assert 'memory_limit = "3GB"' in settings and "threads = 2" in settings and 'url = "env:CATALOG"' in settings
    assert repo.settings.engine.memory_limit == "3GB"
    assert switch_profile(repo, "other") == []
    assert stat.S_IMODE((repo.path / SETTINGS_FILE).stat().st_mode) == 0o600


@pytest.mark.usefixtures("other")
def test_values_that_were_edited_by_hand_are_not_lost(repo: Repo) -> None:
    path = repo.path / SETTINGS_FILE
    path.write_text(path.read_text().replace('"1500MB"', '"9GB"'))
    before = texts(repo)
    repo = Repo.open(repo.path)
    assert state_of(repo) == sidkit.profiles.switch.ProfileState(
        "local", ("engine.memory_limit",), ("engine.memory_limit",)
    )
    with pytest.raises(ConfigError, match=r"got others for engine.memory_limit; .*--replace-edited"):
        switch_profile(repo, "other")
    assert texts(repo) == before
    switch_profile(repo, "other", replace_edited=True)
    assert repo.settings.engine.memory_limit == "3GB"


@pytest.mark.usefixtures("other")
def test_a_switch_that_was_killed_between_both_files_is_finished_by_the_same_command(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sidkit.profiles.switch, "_write_settings", killed)
        with pytest.raises(KeyboardInterrupt):
            switch_profile(repo, "other")
    assert state_of(repo).changed
    switch_profile(repo, "other")
    assert state_of(repo) == sidkit.profiles.switch.ProfileState("other", (), ())


def test_an_unknown_profile_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a profile \(local.*\), got 'nope'"):
        sidkit.init(tmp_path / "new", profile="nope")
    assert not (tmp_path / "new").exists()


def test_a_damaged_feature_store_yaml_is_named(repo: Repo) -> None:
    for text, message in (("a: [", "expected YAML"), ("just text", "expected keys such as registry")):
        (repo.path / FEAST_FILE).write_text(text)
        with pytest.raises(RepoError, match=message):
            state_of(repo)


@pytest.mark.usefixtures("other")
def test_the_commands(tmp_path: Path) -> None:
    ask_well("init", tmp_path / "repo", "--profile", "other")
    shown = json.loads(ask_well("profile", "show", "--repo", tmp_path / "repo", "--json").out)
    assert (shown["name"], shown["changed"]) == ("other", []) and set(shown["profiles"]) == set(PROFILES)
    assert "* other: another registry" in ask_well("profile", "show", "--repo", tmp_path / "repo").out
    said = ask_well("profile", "switch", "local", "--repo", tmp_path / "repo")
    assert "next: sidkit apply" in said.out + said.err
    said = ask_well("profile", "switch", "local", "--repo", tmp_path / "repo")
    assert "has local already" in said.out + said.err
    assert ask("profile", "switch", "nope", "--repo", tmp_path / "repo").code == 1


def test_a_section_ends_at_the_next_key() -> None:
    text = "# head\na: 1\nb:\n  c: 2  # note\n\n# about d\nd: 3"
    assert sections_of(text) == {"": "# head\n", "a": "a: 1\n", "b": "b:\n  c: 2  # note\n\n# about d\n", "d": "d: 3"}
    assert with_sections(text, {"b": "b: 4", "e": "e: 5\n"}) == "# head\na: 1\nb: 4\nd: 3\ne: 5\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[engine]\nthreads = 2 # why\n", "[engine]\nthreads = 3 # why\n"),
        (
            "[engine]  # all\nx = 1\n[other]\nthreads = 2\n",
            "[engine]  # all\nthreads = 3\nx = 1\n[other]\nthreads = 2\n",
        ),
        ("[a]\nx = 1\n", "[a]\nx = 1\n\n[engine]\nthreads = 3\n"),
        ("[engine]", "[engine]\nthreads = 3\n"),
        ('[engine]\nthreads = "a # b"\n', "[engine]\nthreads = 3\n"),
    ],
)
def test_one_value_of_a_settings_file_is_replaced(text: str, expected: str) -> None:
    assert with_value(text, "engine", "threads", 3) == expected


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> Profile:
    shared = replace(OTHER, shares_artifacts=True)
    monkeypatch.setitem(PROFILES, "other", shared)
    return shared


@pytest.mark.usefixtures("shares")
def test_a_profile_for_several_machines_takes_the_url_of_their_artefacts(repo: Repo, tmp_path: Path) -> None:
    assert switch_profile(repo, "other", artifacts=f"file://{tmp_path}/shared")[-1] == "sidkit.toml: artifacts.url"
    assert repo.settings.artifacts.url == f"file://{tmp_path}/shared"
    assert sidkit.profiles.switch.unshared(repo) is None
    assert switch_profile(repo, "other", artifacts=f"file://{tmp_path}/shared") == []
    with pytest.raises(ConfigError, match=r"got others for artifacts\.url"):
        switch_profile(repo, "other", artifacts="env:ELSEWHERE")
    assert switch_profile(repo, "other", artifacts="env:ELSEWHERE", replace_edited=True) == [
        "sidkit.toml: artifacts.url"
    ]
    switch_profile(repo, "local")
    assert repo.settings.artifacts.url == "env:ELSEWHERE", "no profile states it, so none takes it away"
    assert state_of(repo).changed == ()


@pytest.mark.usefixtures("shares")
def test_a_path_of_artefacts_is_stored_as_an_absolute_url(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    switch_profile(repo, "other", artifacts="shared")
    assert repo.settings.artifacts.url == f"file://{tmp_path.resolve()}/shared"


@pytest.mark.usefixtures("shares")
@pytest.mark.parametrize(
    ("url", "message"), [(" ", "expected a URL"), ("nothing://x", "file system that is installed")]
)
def test_a_url_that_no_file_system_has_is_refused_before_anything_is_written(
    repo: Repo, tmp_path: Path, url: str, message: str
) -> None:
    before = texts(repo)
    with pytest.raises(ConfigError, match=message):
        switch_profile(repo, "other", artifacts=url)
    assert texts(repo) == before
    with pytest.raises(ConfigError, match=message):
        sidkit.init(tmp_path / "new", profile="other", artifacts=url)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("shares")
def test_the_commands_say_what_is_missing_if_no_url_is_given(tmp_path: Path) -> None:
    path, hint = tmp_path / "repo", "sidkit profile switch other --artifacts URL"
    said = ask_well("init", path, "--profile", "other")
    assert hint in " ".join((said.out + said.err).split())
    said = ask_well("profile", "switch", "other", "--repo", path, "--artifacts", tmp_path / "shared")
    assert hint not in " ".join((said.out + said.err).split())
    assert Repo.open(path).settings.artifacts.url == f"file://{tmp_path}/shared"
    said = ask_well("init", tmp_path / "second", "--profile", "other", "--artifacts", "memory://shop")
    assert hint not in said.out + said.err
    assert Repo.open(tmp_path / "second").settings.artifacts.url == "memory://shop"
