"""An open store is read again exactly when its registry or its configuration may have changed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sidkit.core.repo import Repo
from sidkit.stores.registry_files import RegistryFiles

CONFIG = """
project: shop
provider: local
registry:
  registry_type: {kind}
  path: {path}
entity_key_serialization_version: 3
"""


def test_a_write_and_another_configuration_are_seen_once(tmp_path: Path) -> None:
    path, config = tmp_path / "registry.sqlite", tmp_path / "feature_store.yaml"
    config.write_text(CONFIG.format(kind="sql", path=f"sqlite:///{path}"))
    with closing(sqlite3.connect(path)) as opened, opened:
        opened.execute("CREATE TABLE held (value)")
    files, repo = RegistryFiles(), Repo(tmp_path)
    assert [files.changed(repo) for _ in range(3)] == [True, False, False]
    with closing(sqlite3.connect(path)) as opened, opened:
        opened.execute("INSERT INTO held VALUES (1)")
    os.utime(path, ns=(1, 1))  # a coarse clock may give both writes one time
    assert [files.changed(repo) for _ in range(2)] == [True, False]
    config.write_text(config.read_text() + "\n")
    assert [files.changed(repo) for _ in range(2)] == [True, False]


def test_a_registry_in_no_file_may_always_have_changed(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text(CONFIG.format(kind="sql", path="postgresql://host/registry"))
    files = RegistryFiles()
    assert [files.changed(Repo(tmp_path)) for _ in range(2)] == [True, True]
