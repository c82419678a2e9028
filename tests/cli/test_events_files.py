"""Files for ``sidkit events``: what cannot be read is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidkit.cli.events import items, push
from sidkit.core.errors import ConfigError, ContractError
from sidkit.core.repo import init_repo


@pytest.mark.parametrize("name", ["nul\0", "x" * 300])
def test_a_path_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    repo = init_repo(tmp_path / "repo").path
    for command in (push, items):
        with pytest.raises(ConfigError, match="expected a path"):
            command(str(tmp_path / name), repo)


@pytest.mark.parametrize("line", ["{", "[]", "null", '"text"', "1"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    repo = init_repo(tmp_path / "repo").path
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{{}}\n{line}\n")
    with pytest.raises(ContractError, match="line 2"):
        push(str(file), repo)
