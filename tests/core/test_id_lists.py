"""Ids on the command line: how they are written, and what is reported of those that do not exist."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from helpers.builders import FinishedJob
from ranking.serving.features import known_in
from ranking.serving.scorer import Scorer
from sidkit.cli import build_app
from sidkit.core.clock import iso
from sidkit.core.errors import ConfigError, ServingError
from sidkit.core.id_lists import comma_separated, read_ids
from sidkit.stores.offline.plan import ViewRows

plain = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z"), exclude_characters=","), min_size=1, max_size=8)
spaces = st.text(" \t", max_size=2)


few = settings(max_examples=30, deadline=None)


@few
@given(ids=st.lists(st.tuples(spaces, plain, spaces), min_size=1, max_size=8), empty=st.booleans())
def test_spaces_around_commas_do_not_matter(ids: list[tuple[str, str, str]], empty: bool) -> None:
    text = ",".join(before + item + after for before, item, after in ids) + (", ," if empty else "")
    if not text.startswith("@"):
        assert read_ids([text]) == [item for _, item, _ in ids]


@few
@given(lists=st.lists(st.lists(plain, min_size=1, max_size=3), max_size=3), exact=st.lists(st.text(max_size=5)))
def test_options_repeat_and_exact_ids_come_last_as_they_are(lists: list[list[str]], exact: list[str]) -> None:
    expected = [item for part in lists for item in part] + [item for item in exact if item]
    texts = [" , ".join(part) for part in lists]
    if not expected:
        with pytest.raises(ConfigError, match="expected item ids, got none; write --items ID,ID or --items @FILE"):
            read_ids(texts, exact)
    elif not any(text.startswith("@") for text in texts):
        assert read_ids(texts, exact) == expected


@few
@given(ids=st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1), min_size=1, max_size=6))
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n \n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_holds_one_id_per_line(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], end: str, encoding: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "ids.txt"
    path.write_bytes(end.join([*ids, ""]).encode(encoding))
    wanted = [item.removeprefix("\ufeff") if not at and encoding == "utf-8" else item for at, item in enumerate(ids)]
    assert read_ids([f"@{path}", "x"]) == [*(item for item in wanted if item), "x"]


@pytest.mark.parametrize(
    ("lists", "exact", "problem"),
    [
        ([""], None, "expected item ids, got none"),
        ([" , ,"], [""], "expected item ids, got none"),
        (["@no-such-file"], None, r"'no-such-file' cannot be read \(No such file or directory\)"),
        (["@"], None, "cannot be read"),
        (["@a\0b"], None, "cannot be read"),
        (["i1,\udcff"], None, "expected ids in UTF-8"),
        (None, ["\udcff"], "expected ids in UTF-8"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(lists: list[str], exact: list[str] | None, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        read_ids(lists, exact)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(b"i1\n\xff\n")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        read_ids([f"@{tmp_path / 'ids'}"])


def test_names_between_commas() -> None:
    assert comma_separated(" a, b ,,c d ") == ["a", "b", "c d"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


@pytest.mark.parametrize("later_us", [0, 86_400_000_000])
def test_unknown_ids_are_reported_flagged_and_refused_when_strict(
    finished: FinishedJob, tmp_path: Path, later_us: int
) -> None:
    repo, at = finished.repo.path, iso(finished.result.as_of_us + later_us)
    items = pq.read_table(finished.repo.tables / "item_content.parquet")["item_id"].unique().to_pylist()[:2]
    user = pq.read_table(finished.repo.tables / "user_history.parquet")["user_id"][0].as_py()
    asked = ["score", "--repo", repo, "--at", at, "--user"]
    first, second = items
    (tmp_path / "ids").write_text("zzz\n")

    spaced = run(*asked, user, "--items", f" {first} , {second} ", "--strict", "--json")
    assert spaced.exit_code == 0 and spaced.stderr == ""
    told = json.loads(spaced.stdout)
    assert told["user_known"] is True
    assert [(row["item_id"], row["known"]) for row in told["items"]] == [(first, True), (second, True)]
    assert told["scores"] == {row["item_id"]: row["score"] for row in told["items"]}

    done = run(*asked, user, "--items", f"{first},zzz", "--items", f"@{tmp_path / 'ids'}", "--item", "a, b", "--json")
    told = json.loads(done.stdout)
    flags = [(row["item_id"], row["known"]) for row in told["items"]]
    assert flags == [(first, True), ("zzz", False), ("zzz", False), ("a, b", False)]
    assert done.stderr == "sidkit: 2 unknown items ('zzz', 'a, b'): scored without their features\n"

    stranger = run(*asked, "nobody", "--items", first, "--json")
    assert json.loads(stranger.stdout)["user_known"] is False
    assert stranger.stderr == "sidkit: unknown user 'nobody': scored without their features\n"
    for who, what in ((user, "zzz"), ("nobody", first)):
        refused = run(*asked, who, "--items", what, "--strict")
        assert isinstance(refused.exception, ServingError) and refused.stdout == ""
    assert str(refused.exception).startswith("unknown user 'nobody'; correct the ids")


def test_the_scorer_says_what_it_does_not_know(finished: FinishedJob) -> None:
    scorer, at_us = Scorer(finished.repo), finished.result.as_of_us
    answer = scorer.answer("nobody", ["zzz", "i1", "zzz"], at_us)
    assert answer.known.tolist() == [False, True, False] and answer.user_known is False
    assert answer.values[0] == pytest.approx(answer.values[2], abs=1e-6)  # rows of a product round differently
    with pytest.raises(ServingError, match=r"1 unknown item \('zzz'\) and unknown user 'nobody'; correct the ids"):
        scorer.answer("nobody", ["zzz", "i1", "zzz"], at_us, strict=True)


def test_an_item_without_a_vector_is_known() -> None:
    bare = ViewRows("item_content", np.array([0, -1, -1]), pa.table({"item_content__text": pa.nulls(1)}))
    seen = ViewRows("item_stats", np.array([-1, 0, -1]), pa.table({"item_stats__clicks_all": [3]}))
    assert known_in([bare, seen], 3).tolist() == [True, True, False]
    assert known_in([], 2).tolist() == [False, False]


def test_codes_of_unknown_items_are_reported(finished: FinishedJob) -> None:
    repo = finished.repo.path
    done = run("codebooks", "codes", "--items", "i1, zzz", "--item", "a,b", "--repo", repo)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["i1", "zzz", "a,b"]
    assert done.stderr == "sidkit: 2 unknown items ('zzz', 'a,b')\n"
    told = json.loads(run("codebooks", "codes", "--items", "i1,zzz,i1", "--repo", repo, "--json").stdout)
    assert [(row["item_id"], row["known"]) for row in told] == [("i1", True), ("zzz", False), ("i1", True)]
    assert told[1]["codes"] is None and told[0]["codes"]
    refused = run("codebooks", "codes", "--items", "i1,zzz", "--repo", repo, "--strict")
    assert isinstance(refused.exception, ConfigError) and refused.stdout == ""
    assert run("codebooks", "codes", "--items", " i1", "--repo", repo, "--strict").exit_code == 0
