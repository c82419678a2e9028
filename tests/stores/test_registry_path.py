"""Where a relative SQLite path of the SQL registry leads."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest


class TestRegistryPath:
    """Where a relative SQLite path of the SQL registry leads."""

    @staticmethod
    def config(repo: Path, registry: Any) -> Any:
        from feast.repo_config import RepoConfig

        from sidkit.stores.registry_path import resolve_registry_against_repo

        resolve_registry_against_repo()
        return RepoConfig(
            project="p", provider="local", registry=registry, online_store={"type": "sqlite"}, repo_path=repo,
            entity_key_serialization_version=3,
        )  # fmt: skip

    def test_a_relative_sqlite_path_lies_in_the_repo_whatever_the_working_directory(
        self, tmp_path: Path, elsewhere: Path
    ) -> None:
        config = self.config(tmp_path / "r", {"registry_type": "sql", "path": "sqlite:///data/deep/registry.sqlite"})
        expected = f"sqlite:///{tmp_path}/r/data/deep/registry.sqlite"
        assert config.registry.path == expected
        assert config.registry.path == expected, "asked again"
        sqlite3.connect(tmp_path / "r" / "data" / "deep" / "registry.sqlite").close()  # its folder is there
        assert not (elsewhere / "data").exists()

    def test_a_relative_repo_path_is_taken_from_the_working_directory_once(self, elsewhere: Path) -> None:
        config = self.config(Path("feature_repo"), {"registry_type": "sql", "path": "sqlite:///registry.sqlite"})
        assert config.registry.path == f"sqlite:///{elsewhere}/feature_repo/registry.sqlite"

    @pytest.mark.parametrize(
        "path",
        ["sqlite:////somewhere/registry.sqlite", "sqlite://", "sqlite:///:memory:", "postgresql+psycopg://host/data",
         "mysql+pymysql://host/data"],
    )  # fmt: skip
    def test_any_other_path_is_left_alone(self, tmp_path: Path, path: str) -> None:
        assert self.config(tmp_path, {"registry_type": "sql", "path": path}).registry.path == path
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("registry", ["data/registry.db", {"path": "data/registry.db"}])
    def test_a_file_registry_is_left_alone(self, tmp_path: Path, registry: Any) -> None:
        assert self.config(tmp_path, registry).registry.path == "data/registry.db"

    def test_wrapping_twice_is_harmless(self, tmp_path: Path) -> None:
        from feast.repo_config import RepoConfig

        from sidkit.stores.registry_path import resolve_registry_against_repo

        resolve_registry_against_repo()
        once = RepoConfig.registry
        resolve_registry_against_repo()
        assert RepoConfig.registry is once
