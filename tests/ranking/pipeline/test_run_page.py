"""The HTML report of a run: what it contains, and how it looks in a browser."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.browser import Page
from helpers.builders import FinishedJob
from helpers.report_builders import Parsed
from ranking.pipeline.report.page import render
from ranking.pipeline.report.plots import _Axis, arm_charts, forest
from semantic_ids.report.facts import Facts, collect_facts

NASTY = "</script><img src=x onerror=alert(1)>{{ data }}"


@pytest.fixture(scope="module")
def facts(finished: FinishedJob) -> Facts:
    return collect_facts(finished.repo, finished.result.codebook.name)


def test_a_run_leaves_a_page_with_its_sentences_arms_differences_stages_and_commands(finished: FinishedJob) -> None:
    result = finished.result
    page = Parsed(result.report.read_text(encoding="utf-8"))
    said = " ".join(page.text.split())
    for sentence in result.conclusions:
        assert sentence in said
    for arm in result.evaluation.arms:
        assert arm in said
    for stage in result.stages:
        assert stage.name in said
    assert f"sidkit codebooks report {result.codebook.name}" in said
    assert "sidkit score --repo" in said
    overall = result.evaluation.arms["id"]["all"].auc
    assert f"{overall:.4f}" in said
    assert page.data["total"] > 0


def test_the_page_loads_nothing_and_escapes_what_came_from_the_user(finished: FinishedJob, facts: Facts) -> None:
    page = render(replace(finished.result, warnings=(NASTY,), data=NASTY), facts)
    assert "<img" not in page
    assert "{{ data }}" in page
    elements = Parsed(page).elements
    assert not [tag for tag, attributes in elements if tag in {"img", "iframe"} or "src" in attributes]
    assert [attributes["href"] for tag, attributes in elements if tag == "link"] == ["data:,"]


def test_marks_lie_on_their_axis(finished: FinishedJob) -> None:
    evaluation = finished.result.evaluation
    charts = [*arm_charts(evaluation, ("all", "cold", "warm")), forest("gains", evaluation.differences)]
    assert forest("none", []) is None
    for chart in charts:
        assert chart is not None and chart.marks
        for mark in chart.marks:
            assert all(
                0 <= place <= 100 for place in (mark.start, mark.value, mark.low, mark.high) if place is not None
            )
            if mark.low is not None and mark.high is not None:
                assert mark.low <= mark.value <= mark.high
    better = [mark for mark in charts[-1].marks if mark.kind == "better"]  # type: ignore[union-attr]
    assert all(mark.low is not None and mark.low > mark.start for mark in better)


@pytest.mark.parametrize(
    ("low", "high"), [(0.5, 0.7312), (0.4987, 0.5009), (-0.0004, 0.0013), (-0.12, 0.3), (0.0, 1e-6)]
)
def test_ticks_are_round_numbers_within_the_axis(low: float, high: float) -> None:
    axis = _Axis.over([low, high])
    ticks = axis.ticks(signed=True)
    values = [float(tick.text) for tick in ticks]
    assert 2 <= len(ticks) <= 6
    steps = {f"{later - earlier:.1e}"[:3] for earlier, later in pairwise(values)}
    assert steps in ({"1.0"}, {"2.0"}, {"5.0"})
    assert all(axis.at(value) == pytest.approx(tick.at, abs=0.01) for value, tick in zip(values, ticks, strict=True))
    assert all(0 <= tick.at <= 100 for tick in ticks)
    assert "0" in {tick.text.rstrip("0").rstrip(".") for tick in ticks} or not low <= 0 <= high


@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser_the_page_fits_and_the_tree_opens(finished: FinishedJob, tmp_path: Path, width: int) -> None:
    page = Page(finished.result.report, tmp_path / "profile")
    try:
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        page.open(finished.result.report)
        page.do("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.do("document.documentElement.scrollWidth") <= width
        assert page.do(
            "[...document.querySelectorAll('.mark svg')].every((each) => each.getBoundingClientRect().width > 100)"
        )
        assert page.do("document.querySelectorAll('rect.bar-arm').length") >= len(finished.result.evaluation.arms)
        page.do("document.querySelector('.branch').click()")
        assert page.do("document.querySelectorAll('.tree .inside .branch').length") > 0
        assert page.events_of("Runtime.exceptionThrown", "Log.entryAdded") == []
        requested = {event["params"]["request"]["url"] for event in page.events_of("Network.requestWillBeSent")}
        assert requested == {finished.result.report.resolve().as_uri()}
    finally:
        page.close()
