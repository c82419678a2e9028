"""Exports of codes: what is read back is exactly what was published."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sidkit.stores.feast_repo as feast_repo
from helpers.codebook_builders import AS_OF, BARE, CUT, ITEMS, SPEC, bring, built_repo
from semantic_ids import lifecycle
from semantic_ids.export import export_codes, write_trie
from semantic_ids.lookup import all_codes
from sidkit.api.codebooks import ProjectCodebook
from sidkit.cli.codebooks import export
from sidkit.core.errors import ConfigError
from sidkit.core.repo import Repo
from sidkit.stores import registered

Trie = dict[str, Any]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A published codebook of few codes, so that items collide; some items have no content. Tests only read it."""
    repo = built_repo(tmp_path_factory.mktemp("export"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feast_repo, "apply_repo", lambda _: "")
        patch.setattr(feast_repo, "materialize", lambda *_: {})
        patch.setattr(registered, "of_codebook", lambda *_: [])
        lifecycle.fit(repo, "few", SPEC.model_copy(update={"sizes": (3, 3)}), CUT)
        lifecycle.publish(repo, "few")
        bring(repo, ITEMS, AS_OF + 86_400_000_000, edition={"i003": 1})
        lifecycle.refresh(repo)
    return repo


def published(repo: Repo) -> dict[str, tuple[int, ...] | None]:
    rows = all_codes(repo, "few").to_pylist()
    return {row["item_id"]: None if row["codes"] is None else tuple(row["codes"]) for row in rows}


def decoded(trie: Trie, levels: int, prefix: tuple[int, ...] = ()) -> list[tuple[tuple[int, ...], list[str]]]:
    """All codes of a trie with their items, in the order of the file."""
    if len(prefix) < levels - 1:
        return [leaf for key, node in trie.items() for leaf in decoded(node, levels, (*prefix, int(key)))]
    return [((*prefix, int(key)), items) for key, items in trie.items()]


def test_the_trie_decodes_to_the_codes_of_every_item(repo: Repo, tmp_path: Path) -> None:
    report = export_codes(repo, tmp_path / "trie.json", "few")
    leaves = decoded(json.loads(report.path.read_text()), 2)
    assert {item: codes for codes, items in leaves for item in items} == {
        item: codes for item, codes in published(repo).items() if codes is not None
    }
    assert [codes for codes, _ in leaves] == sorted({codes for codes, _ in leaves})
    assert any(len(items) > 1 for _, items in leaves)
    assert report.distinct == len(leaves)
    assert report.colliding == sum(len(items) for _, items in leaves if len(items) > 1)
    assert report.without_codes == sum(codes is None for codes in published(repo).values()) >= len(BARE)


def test_parquet_says_which_codebook_the_codes_are_of(repo: Repo, tmp_path: Path) -> None:
    ProjectCodebook(repo, "few").export(tmp_path / "codes.parquet")
    table = pq.read_table(tmp_path / "codes.parquet")
    assert {row["item_id"]: row["codes"] and tuple(row["codes"]) for row in table.to_pylist()} == published(repo)
    assert table.schema.metadata[b"codebook"] == b"few"
    assert json.loads(table.schema.metadata[b"sizes"]) == [3, 3]


def test_csv_has_a_column_per_level(repo: Repo, tmp_path: Path) -> None:
    export_codes(repo, tmp_path / "codes.csv", "few")
    with (tmp_path / "codes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["item_id", "code_0", "code_1"]
    read = {row["item_id"]: (row["code_0"], row["code_1"]) for row in rows}
    assert read == {
        item: ("", "") if codes is None else tuple(map(str, codes)) for item, codes in published(repo).items()
    }


def test_another_suffix_is_refused(repo: Repo, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"expected a file that ends in .parquet, .csv or .json, got 'codes.txt'; rename"
    ):
        export_codes(repo, tmp_path / "codes.txt", "few")
    assert not list(tmp_path.iterdir())


def test_the_command_counts_items_and_collisions(
    repo: Repo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export("few", tmp_path / "trie.json", repo.path)
    assert "distinct codes" in capsys.readouterr().out
    assert (tmp_path / "trie.json").is_file()


@given(
    st.integers(1, 4).flatmap(
        lambda levels: st.dictionaries(
            st.tuples(*[st.integers(0, 3)] * levels), st.lists(st.text(max_size=3), min_size=1, max_size=3), max_size=20
        )
    ),
    st.integers(1, 5),
)
def test_a_trie_of_any_codes_decodes_to_them(groups: dict[tuple[int, ...], list[str]], size: int) -> None:
    rows = sorted(groups.items())
    file = io.StringIO()
    write_trie(file, [rows[start : start + size] for start in range(0, len(rows), size)])
    trie = json.loads(file.getvalue())
    assert decoded(trie, len(rows[0][0]) if rows else 1) == rows
