"""``sidkit run --settings``: a settings file for a repository that the run creates."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.builders import write_tables
from helpers.commands import ask
from helpers.contract_builders import good
from ranking.pipeline.prepare import prepare_repo
from sidkit.core.errors import ConfigError, ContractError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A log whose users have a column of another name."""
    tables = good()
    names = ["uid" if name == "user_id" else name for name in tables["interactions"].column_names]
    tables["interactions"] = tables["interactions"].rename_columns(names)
    return write_tables(tmp_path / "source", tables)


def test_a_run_reads_the_data_with_the_settings_file(source: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('[source.columns]\nuser_id = "uid"\n')
    with pytest.raises(ContractError, match="user_id"):
        prepare_repo(str(source), tmp_path / "without")
    repo = prepare_repo(str(source), tmp_path / "repo", settings)
    assert repo.settings.source.columns == {"user_id": "uid"}
    assert prepare_repo(str(source), tmp_path / "repo").path == repo.path
    with pytest.raises(ConfigError, match=r"expected no --settings, because .*repo exists"):
        prepare_repo(str(source), tmp_path / "repo", settings)


def test_the_command_passes_the_settings_file_on(source: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('[source.columns]\nuser_id = "nobody"\n')
    refused = ask("run", "--data", source, "--repo", tmp_path / "repo", "--settings", settings)
    assert refused.code == 1 and "'nobody'" in refused.err
