"""The page of a comparison: what it says without a script, and what a browser draws."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.browser import Page
from helpers.comparison_builders import arm_file, compare
from ranking.experiments.comparison.report import write_page
from ranking.experiments.comparison.report.page import render

ARMS = ["id", "id_codes", "id_codes_shuffled", "gated", "gbdt", "two_maps"]
FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arms on one codebook, with a gate and with two attentions. Tests only read it."""
    folder = tmp_path_factory.mktemp("page")
    gated = arm_file(folder, "gated", 'representations = ["rq_opq_gate"]\n[model]\ngate_parts = "rq"\n')
    maps = arm_file(folder, "two_maps", 'representations = ["id", "content"]\n[model]\nhistory = "bidirectional"\n')
    return compare(folder / "repo", ["id", "id_codes", "id_codes_shuffled", gated, "gbdt", maps], impressions=24_000)[1]


@pytest.fixture(scope="module")
def two(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Two data sets; the second has a name and titles that would break a careless page, and no gate."""
    nasty = "</script><img src=x onerror=alert(1)>"
    other = json.loads(json.dumps(facts))
    other["data"] = nasty
    other["probes"] = {"mutation": {}, "gates": {}, "attention": {}}
    for row in other["rows"]:
        row["data"] = nasty
    for told in other["arms"].values():
        told["title"] = nasty
    return [facts, other]


class Texts(HTMLParser):
    """Cells of the tables, and what would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"td", "th"}:
            self.cells.append("")
        self.loaded += [value or "" for name, value in attrs if name in {"src", "href"} and value and value[0] != "#"]

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_the_tables_hold_every_arm_with_its_figures(facts: dict[str, Any]) -> None:
    read = Texts()
    read.feed(render([facts]))
    assert set(read.loaded) == {"data:,"}
    cells = " | ".join(read.cells)
    for row in facts["rows"]:
        if row["metric"] == "auc" and row["slice"] == "all":
            assert f"{row['mean']:.4f}" in cells
    for arm, told in facts["arms"].items():
        assert f"{arm} {told['title']}" in cells
        if told["parameters"]:
            assert f"{told['parameters']:,}" in cells
            assert f"{told['first_epoch_auc']['all']:.4f}" in cells
    assert set(facts["liveness"]) == set(ARMS) - {"gbdt"}
    for arm, parts in facts["liveness"].items():
        for part in parts:
            assert f"{arm} {part['name']} | {part['kind']}" in cells
    for name, told in facts["slices"].items():
        assert f"{name} | {told['rows']:,} | {told['positives']:,} | {told['users']:,}" in cells


def test_the_page_may_load_nothing_and_its_data_cannot_break_out(two: list[dict[str, Any]]) -> None:
    page = render(two)
    assert "default-src 'none'" in page
    assert "<img" not in page
    assert page.count("</script>") == 2
    (embedded,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)
    assert [each["data"] for each in json.loads(embedded)] == [each["data"] for each in two]


def test_the_same_facts_give_the_same_page(facts: dict[str, Any], tmp_path: Path) -> None:
    first, again = (write_page([facts], tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == again


def test_in_a_browser_every_plot_is_drawn_and_follows_what_is_chosen(two: list[dict[str, Any]], tmp_path: Path) -> None:
    facts = two[0]
    page = Page(write_page(two, tmp_path / "page.html"), tmp_path / "profile")

    def arms_in(box: str) -> list[str]:
        return sorted(set(page.do(f"[...document.querySelectorAll('#{box} g[data-arm]')].map((g) => g.dataset.arm)")))

    def choose(box: str, value: str) -> None:
        page.do(
            f"""(() => {{ const box = document.getElementById("{box}"); box.value = {json.dumps(value)};
            box.dispatchEvent(new Event("change")); }})()"""
        )
        page.do(FRAMES)

    own = {"control": "id_codes_shuffled"}
    try:
        page.do(FRAMES)
        offered = page.do("[...document.querySelectorAll('#baseline option')].map((each) => each.value)")
        assert "control" in offered and "id_codes_shuffled" not in offered, "it is the control of one arm"
        for metric, baseline, name in (
            ("auc", "id_codes", "all"),
            ("auc", "id", "prior 0-99"),
            ("logloss", "id_codes", "all"),
            ("auc", "control", "all"),
        ):
            choose("slice", name)
            choose("metric", metric)
            choose("baseline", baseline)
            told = [
                row for row in facts["rows"]
                if (row["metric"], row["baseline"], row["slice"]) == (metric, own.get(baseline, baseline), name)
                and row["delta_low"] is not None
            ]  # fmt: skip
            assert arms_in("deltas") == sorted(row["arm"] for row in told) != []
            marks = page.do(
                "[...document.querySelectorAll('#deltas .grid + text')].map((each) => Number(each.textContent))"
            )
            assert len(marks) >= 2 and np.diff(marks) == pytest.approx(marks[1] - marks[0]), "ticks are not rounded"
            for row in told:
                drawn = page.do(
                    f"""document.querySelector('#deltas g[data-arm="{row["arm"]}"]').getAttribute("class")"""
                )
                assert drawn == f"row {row['verdict'].replace(' ', '-')}"
        assert arms_in("buckets") == sorted(ARMS)
        page.do("document.querySelector('#buckets-legend [data-arm=oracle]').click()")
        page.do(FRAMES)
        assert "oracle" in arms_in("buckets")
        assert arms_in("calibration") == sorted(ARMS)
        assert arms_in("gates") == ["gated"]
        assert arms_in("mutation") == ["gated", "id", "id_codes", "two_maps"]
        drawn = page.do("[...document.querySelectorAll('svg[role=img] path')].map((path) => path.getAttribute('d'))")
        assert drawn and not any("NaN" in path or "undefined" in path for path in drawn)
        # An arm that is switched off goes from all plots that share the legend.
        page.do("document.querySelector('#buckets-legend [data-arm=id_codes]').click()")
        page.do(FRAMES)
        assert "id_codes" not in arms_in("buckets") + arms_in("mutation") + arms_in("calibration")
        choose("attention-arm", "two_maps")
        examples = facts["probes"]["attention"]["two_maps"]
        assert page.do("document.querySelectorAll('.example').length") == len(examples) > 0
        title = examples[0]["title"]
        assert title in page.do("document.querySelector('.example h3').textContent")
        # The other data set has neither gates nor attention, and says so.
        choose("data", two[1]["data"])
        assert arms_in("gates") == arms_in("mutation") == []
        assert "No arm of this comparison has a gate" in page.do("document.getElementById('gates').textContent")
        assert "Nothing to show" in page.do("document.getElementById('attention').textContent")
        assert page.do("document.querySelectorAll('img').length") == 0
        assert page.events_of("Runtime.exceptionThrown", "Log.entryAdded") == []
        assert len({event["params"]["request"]["url"] for event in page.events_of("Network.requestWillBeSent")}) == 1
    finally:
        page.close()
