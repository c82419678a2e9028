"""`--arms all` compares what the data allow, and names every other arm with the reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from helpers.comparison_builders import arm_file, compare
from ranking.experiments.comparison.arms import load_arms, optional_arms, shipped_arms
from ranking.experiments.comparison.results import ComparisonResult
from ranking.experiments.comparison.skipped import SkippedArms
from sidkit.cli.compare_report import print_comparison
from sidkit.core.errors import EvaluationError, FitError
from sidkit.core.progress import SILENT, Progress

NEEDS_ATTRIBUTES = "content_attributes"


class Remarks(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def remark(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two arms that the data allow, one that reads a modality they lack, and a blend of it. Tests only read it."""
    folder = tmp_path_factory.mktemp("all")
    blend = arm_file(folder, "mixed", f'kind = "blend"\nof = ["id", "{NEEDS_ATTRIBUTES}"]\n')
    arms = ["id", "gbdt", NEEDS_ATTRIBUTES, blend]
    return compare(folder / "repo", arms, optional=frozenset({NEEDS_ATTRIBUTES, "mixed"}))[1]


def test_what_the_data_do_not_allow_is_named_and_the_rest_is_compared(compared: dict[str, Any]) -> None:
    assert list(compared["arms"]) == ["id", "gbdt"]
    assert {unit["arm"] for unit in compared["units"]} == {"id", "gbdt"}
    assert list(compared["skipped"]) == [NEEDS_ATTRIBUTES, "mixed"]
    assert "expects a modality 'attributes'" in compared["skipped"][NEEDS_ATTRIBUTES]
    assert "sidkit data embed SOURCE --attributes" in compared["skipped"][NEEDS_ATTRIBUTES]
    assert compared["skipped"]["mixed"] == f"it is made from {NEEDS_ATTRIBUTES}"


def test_people_read_what_was_skipped_in_the_terminal_and_on_the_page(compared: dict[str, Any]) -> None:
    from ranking.experiments.comparison.report.page import render

    result = ComparisonResult.of_json(compared, Path("arms.json"))
    assert result.skipped == compared["skipped"]
    shown = io.StringIO()
    print_comparison(Console(file=shown, width=200), result)
    assert f"skipped {NEEDS_ATTRIBUTES}: attribute_graph expects" in shown.getvalue()
    page = render([compared])
    assert "Skipped arms" in page
    assert f"it is made from {NEEDS_ATTRIBUTES}" in page
    assert "Skipped arms" not in render([{key: value for key, value in compared.items() if key != "skipped"}])


def test_an_arm_that_was_named_is_not_skipped(tmp_path: Path) -> None:
    assert optional_arms(["id", NEEDS_ATTRIBUTES]) == frozenset()
    with pytest.raises(FitError, match="expects a modality 'attributes'"):
        compare(tmp_path / "repo", ["id", NEEDS_ATTRIBUTES])


def test_all_selects_every_shipped_arm_and_only_unnamed_ones_may_be_skipped() -> None:
    shipped = set(shipped_arms())
    assert set(load_arms(["all"])) == shipped
    assert set(load_arms(["papers"])) < shipped
    assert optional_arms(["all"]) == shipped
    assert optional_arms(["all", "A3", NEEDS_ATTRIBUTES]) == shipped - {"id_codes", NEEDS_ATTRIBUTES}
    assert optional_arms(["papers", "all"]) == shipped - set(load_arms(["papers"]))
    assert optional_arms(["papers"]) == frozenset()


@settings(max_examples=100, deadline=None, database=None)
@given(st.data())
def test_exactly_the_arms_that_need_a_failed_codebook_are_skipped(data: st.DataObject) -> None:
    arms = load_arms(["all"])
    direct = {name for name, arm in arms.items() if not arm.of}
    codebooks = {name: data.draw(st.integers(0, 3), label=name) for name in arms}
    failing = data.draw(st.sets(st.integers(0, 3), max_size=3), label="failing")
    calls: list[int] = []
    progress = Remarks()
    skipped = SkippedArms(frozenset(arms), progress)

    def make(number: int) -> str:
        calls.append(number)
        if number in failing:
            raise data.draw(st.sampled_from([FitError, EvaluationError]))(f"no {number}")
        return f"book {number}"

    for name in arms:
        number = codebooks[name]
        assert skipped.made(name, str(number), lambda number=number: make(number)) == (
            None if number in failing else f"book {number}"
        )
    assert all(calls.count(number) == 1 for number in failing & set(calls))

    def impossible(name: str) -> bool:
        return codebooks[name] in failing or any(map(impossible, arms[name].of))

    expected = [name for name in arms if not impossible(name)]
    if not expected:
        with pytest.raises(FitError, match="the data allow none"):
            skipped.possible(arms)
        return
    assert list(skipped.possible(arms)) == expected
    assert set(skipped.reasons) == set(arms) - set(expected)
    assert len(progress.lines) == len(skipped.reasons)
    for name in direct & set(skipped.reasons):
        assert skipped.reasons[name] == f"no {codebooks[name]}"
    assert list(skipped.possible(arms)) == expected  # again, without another remark
    assert len(progress.lines) == len(skipped.reasons)


def test_an_unexpected_failure_is_not_taken_for_a_reason() -> None:
    def broken() -> str:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        SkippedArms(frozenset({"id"}), SILENT).made("id", "book", broken)
