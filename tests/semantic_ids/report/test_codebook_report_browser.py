"""The page about a codebook, opened in a browser: clicked, walked by keyboard, searched, with many items and with none."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from helpers.browser import Page
from helpers.builders import DAY
from helpers.codebook_builders import CUT
from helpers.report_builders import NASTY, UNTITLED, changed_once, coded, nothing
from semantic_ids.report import write_report
from semantic_ids.report.facts import Arrivals, Facts, Listed, Sampled, collect_facts
from semantic_ids.report.page import render
from semantic_ids.report.periods import by_period
from sidkit.core.repo import Repo


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Tests only read it."""
    return changed_once(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def facts(repo: Repo) -> Facts:
    return collect_facts(repo, "a")


def many(facts: Facts, count: int = 100_000) -> Facts:
    """The facts of many items in 64 x 64 x 64 codes."""
    draw = np.random.default_rng(3)
    codes = (64 * draw.beta(1, 4, size=(count, 3))).astype(np.int64)
    ids = pa.array([f"item-{number:06d}" for number in range(count)])
    titles = pa.array([f"A title of usual length for the item of number {number}" for number in range(count)])
    categories = pa.array([f"category {number % 40}" for number in range(count)])
    listed = Listed(ids, titles, categories, codes, draw.random(count))
    arrivals = Arrivals(np.full(count, CUT) + DAY * draw.integers(-300, 300, count), codes[:, 0], listed.residual_norm)
    return replace(
        facts, items=listed, record=replace(facts.record, sizes=(64, 64, 64)), fit_codes=codes[::2, 0],
        arrivals=arrivals, sample=Sampled(np.arange(0, count, 50), draw.normal(size=(count // 50, 8)).astype("f4")),
    )  # fmt: skip


OPEN = 'document.querySelector(`[data-path="${path}"]`)'
FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def test_in_a_browser_one_clicks_from_the_first_code_to_the_items(repo: Repo, facts: Facts, tmp_path: Path) -> None:
    file = write_report(repo, "a", tmp_path / "page.html")
    table = coded(repo)
    page = Page(file, tmp_path / "profile")
    try:
        # Every branch is opened by its button, and what stands below it is what the table holds.
        for depth in (1, 2, 3):
            expected = Counter(",".join(map(str, row["codes"][:depth])) for row in table.values())
            shown = page.do(
                f"""[...document.querySelectorAll(".branch")].filter((b) => b.dataset.path.split(",").length === {depth})
                .map((b) => {{ b.click(); return [b.dataset.path, b.querySelector(".counted").textContent,
                b.getAttribute("aria-expanded")]; }})"""
            )
            assert {path: (count.split()[0], state) for path, count, state in shown} == {
                path: (str(count), "true") for path, count in expected.items()
            }
        leaves = page.do(
            """[...document.querySelectorAll(".tree .items")].map((list) => [
            list.closest("li").querySelector(".branch").dataset.path,
            [...list.children].map((row) => row.querySelector(".title").textContent)])"""
        )
        assert {path: sorted(titles) for path, titles in leaves} == {
            path: sorted(
                f"{NASTY[item][:159]}…" if item == "i009" else item if item in UNTITLED else NASTY.get(item, f"title of {item}")  # type: ignore[index]
                for item, row in table.items() if ",".join(map(str, row["codes"])) == path
            )
            for path in {",".join(map(str, row["codes"])) for row in table.values()}
        }  # fmt: skip
        # Nothing of a title ran, nothing was asked of a network, and no rule of the page was broken.
        assert page.do("document.title") == "Codebook a"
        assert page.do("document.querySelectorAll('img, b b, .tree b').length") == 0
        assert page.events_of("Runtime.exceptionThrown", "Log.entryAdded") == []
        assert {event["params"]["request"]["url"] for event in page.events_of("Network.requestWillBeSent")} == {
            file.as_uri()
        }
        # The charts and the map are drawn.
        page.do(FRAMES)
        assert page.do("[...document.querySelectorAll('.level svg path')].every((bars) => bars.getBBox().width > 0)")
        assert page.do("document.querySelectorAll('#drift circle').length") == len(
            by_period(facts.arrivals, facts.fit_codes, 8, CUT)[1]
        )
        assert page.do(
            """(() => { const map = document.querySelector("canvas");
            return map.getContext("2d").getImageData(0, 0, map.width, map.height).data.some((part) => part > 0); })()"""
        )
    finally:
        page.close()


def test_in_a_browser_the_keyboard_walks_and_the_search_finds(repo: Repo, tmp_path: Path) -> None:
    page = Page(write_report(repo, "a", tmp_path / "page.html"), tmp_path / "profile")
    here = "document.activeElement.dataset.path"
    try:
        first, second = page.do("[...document.querySelectorAll('.branch')].slice(0, 2).map((b) => b.dataset.path)")
        page.do("document.querySelector('.branch').focus()")
        page.press("ArrowDown")
        assert page.do(here) == second
        page.press("ArrowUp", "Enter")
        assert page.do(f"[{here}, document.activeElement.getAttribute('aria-expanded')]") == [first, "true"]
        page.press("ArrowRight")
        assert page.do(here).startswith(f"{first},")
        page.press("ArrowLeft", "ArrowLeft")
        assert page.do(f"[{here}, document.activeElement.getAttribute('aria-expanded')]") == [first, "false"]
        # The map tells each dot that the arrow keys come to.
        page.do("document.querySelector('canvas').focus()")
        page.press("ArrowRight")
        told = page.do("document.getElementById('map-detail').textContent")
        (item,) = [item for item in coded(repo) if re.search(rf"\b{item}\b", told)]
        assert f"codes {', '.join(map(str, coded(repo)[item]['codes']))}" in told
        # A title that is found is shown at its place in the tree.
        for order in ("count", "code"):
            found = page.do(
                f"""(async () => {{
                const order = document.getElementById("order");
                order.value = "{order}"; order.dispatchEvent(new Event("change"));
                const find = document.getElementById("find");
                find.value = "<IMG src"; find.dispatchEvent(new Event("input"));
                while (!document.querySelector("#search-results button")) await new Promise((done) => setTimeout(done, 20));
                document.querySelector("#search-results button").click();
                const row = document.querySelector(".sought");
                return [row.querySelector(".title").textContent, row === document.activeElement,
                    row.closest("ul").closest("li").querySelector(".branch").dataset.path]; }})()"""
            )
            assert found == [NASTY["i002"], True, ",".join(map(str, coded(repo)["i002"]["codes"]))]
        assert page.events_of("Runtime.exceptionThrown", "Log.entryAdded") == []
    finally:
        page.close()


def test_in_a_browser_a_hundred_thousand_items_are_drawn_a_few_at_a_time(facts: Facts, tmp_path: Path) -> None:
    large = many(facts)
    file = tmp_path / "page.html"
    file.write_text(render(large), encoding="utf-8")
    empty = tmp_path / "empty.html"
    empty.write_text(render(nothing(facts)), encoding="utf-8")
    page = Page(file, tmp_path / "profile")
    try:
        assert page.do("document.querySelectorAll('*').length") < 5_000
        listed = [",".join(map(str, codes)) for codes in large.items.codes.tolist()]
        path, fullest = Counter(listed).most_common(1)[0]
        first, second, _ = path.split(",")
        seen = page.do(
            f"""(() => {{
            const MORE = ".more-button:not([hidden])";
            for (const path of ["{first}", "{first},{second}", "{path}"]) {{
                let button;
                while (!(button = {OPEN})) [...document.querySelectorAll(MORE)].at(-1).click();
                button.click();
            }}
            const leaf = document.querySelector('[data-path="{path}"]');
            return [leaf.querySelector(".counted").textContent, leaf.parentElement.querySelectorAll(".items li").length,
                leaf.parentElement.querySelector(".left-out")?.textContent, document.querySelectorAll("*").length]; }})()"""
        )
        carried = seen[1]
        assert seen[0].startswith(f"{fullest} items") and 0 < carried < fullest
        assert seen[2].startswith(f"{fullest - carried} more items with this code, not included in this page.")
        assert seen[3] < 10_000
        page.open(empty)
        assert "No item has codes." in page.do("document.getElementById('tree').textContent")
        assert page.events_of("Runtime.exceptionThrown", "Log.entryAdded") == []
    finally:
        page.close()
