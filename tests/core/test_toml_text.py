"""TOML that is written is read back as the same values."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidkit.core.repo import init_repo
from sidkit.core.toml_text import toml_tables

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False), TEXTS)


@given(
    st.dictionaries(
        TEXTS, st.one_of(VALUES, st.lists(TEXTS, max_size=3), st.dictionaries(TEXTS, VALUES, min_size=1)), min_size=1
    )
)
def test_tables_are_read_back_as_they_were_written(values: dict[str, Any]) -> None:
    assert tomllib.loads(toml_tables("source", values)) == {"source": values}


def test_a_new_repository_has_the_further_keys_of_its_source(tmp_path: Path) -> None:
    further = {
        "unknown_items": "keep",
        "max_reject_share": 0.25,
        "tables": {"items": ["a.csv", 'b "2".csv']},
        "columns": {"timestamp": "ts", "items": {"created_at": "added on"}},
        "label": {"column": "event", "values": ["buy", 2]},
        "times": {"assume_timezone": "Europe/Berlin"},
    }
    source = init_repo(tmp_path / "repo", source_url="x", further=further).settings.source
    stated = source.model_dump(mode="json", include=set(further), exclude_defaults=True)
    assert stated == further


@pytest.mark.parametrize("control", ["\x00", "\x1f", "\x7f", "\n", "\\", '"', "\u2028"])
def test_a_control_character_is_escaped(control: str) -> None:
    assert tomllib.loads(toml_tables("a", {control: control})) == {"a": {control: control}}
