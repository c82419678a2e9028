"""A changed ``[features]`` in an existing repository: the stages rebuild and apply what depends on it, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.attribute_world import FEATURES, attribute_repo, attribute_source, set_features
from helpers.builders import DAY, START
from ranking.pipeline.prepare import Prepared
from semantic_ids.lifecycle import CodebookSpec
from sidkit.core.errors import RepoError
from sidkit.core.progress import Progress
from sidkit.core.repo import Repo
from sidkit.core.stages import StageDone, Stages
from sidkit.stores.feast_repo import apply_changed_features, open_store

SPEC = CodebookSpec(force=True, sizes=(4, 4))
END = START + 41 * DAY


class Said(Progress):
    """What a job says, and which stages it ran anew."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.ran: list[str] = []

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    def stage_finished(self, done: StageDone) -> None:
        if not done.reused:
            self.ran.append(done.name)


def stages(repo: Repo) -> Said:
    """Run the stages from the log to a published codebook."""
    said = Said()
    prepared = Prepared(
        repo, Stages(repo.runs / "some" / "stages.json", said), repo.settings.source.url, 0, progress=said
    )
    with repo.locked():
        log = prepared.ingest()
        facts: dict[str, Any] = prepared.tables(log, END).facts
        prepared.codebook("c", SPEC, START + 30 * DAY, [log, facts["rows"]])
    return said


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("stages")
    repo = attribute_repo(folder / "repo", attribute_source(folder / "source"))
    stages(repo)
    return repo


def fields(repo: Repo, view: str) -> set[str]:
    views = {each.name: each for each in open_store(repo).list_feature_views()}
    return {field.name for field in views[view].features} if view in views else set()


def test_nothing_runs_again_while_the_settings_stay(repo: Repo) -> None:
    assert stages(repo).ran == []


def test_a_removed_and_an_added_attribute_reach_tables_and_registry(repo: Repo) -> None:
    set_features(repo, FEATURES.replace('weight = "number"\n', ""))
    said = stages(repo)
    assert said.ran == ["tables"]
    tables = ("item_attributes", "user_category_stats")
    assert said.remarks == [f"features.items: removed weight; {name} was rebuilt" for name in tables]
    assert "weight" not in fields(repo, "item_attributes")
    set_features(repo, FEATURES)
    assert stages(repo).remarks == [f"features.items: added weight; {name} was rebuilt" for name in tables]
    assert "weight" in fields(repo, "item_attributes")


def test_definitions_of_an_older_release_are_refused_with_the_files_to_copy(repo: Repo) -> None:
    path = repo.path / "user_views.py"
    text = path.read_text()
    set_features(repo, "[features]")
    stages(repo)
    path.write_text(text[: text.index("if definitions.features.users:")])
    set_features(repo, FEATURES)
    with pytest.raises(
        RepoError, match=r"the feature views user_attributes, user_category_stats of \[features\].*copy sources.py"
    ):
        stages(repo)
    path.write_text(text)  # the remedy
    stages(repo)
    assert not apply_changed_features(repo)
    assert fields(repo, "user_attributes") == {"country"}
