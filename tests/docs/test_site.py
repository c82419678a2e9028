"""The documentation builds without a warning, its links hold, and its pages render in a browser at two widths."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helpers.browser import Page, chromium
from helpers.places import ROOT

DOCS = ROOT / "docs"
EXTRA = ("material", "mkdocs", "mkdocstrings")


@pytest.fixture(scope="module")
def hooks() -> Iterator[Any]:
    """Imports a module of the site's hooks by name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(DOCS / "_hooks"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        pytest.skip(f"docs extra absent: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("site") / "html"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return folder


def html_of(site: Path, page: str) -> str:
    """The article of a page as text without tags."""
    return unescape(re.sub(r"<[^>]+>", "", (site / page / "index.html").read_text().split("<article")[1]))


def test_no_link_is_broken_and_no_other_host_is_asked_for_a_file(site: Path, hooks: Any) -> None:
    check: ModuleType = hooks("site_check")
    assert check.problems_of(site) == []
    assert len(list(site.rglob("*.html"))) == len(list(DOCS.rglob("*.md"))) + len(GENERATED) + 1


GENERATED = ("cli", "python", "semantic-ids", "settings", "presets")
"""Pages of the reference that exist in the built site only."""


def test_the_reference_names_every_command_setting_and_key(site: Path, hooks: Any) -> None:
    from ranking.pipeline.presets import Preset
    from sidkit.core.config import Settings

    cli = html_of(site, "reference/cli")
    for path, command in hooks("site_cli").commands():
        assert " ".join(path) in cli
        for parameter in command.params:
            assert all(name in cli for name in parameter.opts if name.startswith("--") and name != "--help"), path
    models = hooks("site_models")
    for page, model in (("reference/settings", Settings), ("reference/presets", Preset)):
        text = html_of(site, page)
        for path, section in models.sections(model).items():
            assert f"[{path}]" in text
            assert all(key.name in text and key.meaning for key in models.keys(section))


def test_the_reference_names_every_error(site: Path) -> None:
    from sidkit.core import errors

    text = html_of(site, "reference/errors")
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 20
    assert all(name in text for name in kinds)


def test_public_names_are_on_the_pages_of_the_api(site: Path) -> None:
    import semantic_ids
    import sidkit

    for package, page in ((sidkit, "reference/python"), (semantic_ids, "reference/semantic-ids")):
        text = html_of(site, page)
        elsewhere = {"__version__", "Settings", "SidkitError", "SidkitWarning"}
        assert all(name in text for name in set(package.__all__) - elsewhere)


def test_no_markup_of_sphinx_is_shown(site: Path) -> None:
    for path in (site / "reference").rglob("*.html"):
        assert not re.search(r":(class|func|math|meth|mod):|<p>(\.\. \w+)?::", path.read_text()), path


def test_the_numbers_of_a_figure_are_in_the_text(hooks: Any) -> None:
    figures = hooks("site_figures")
    drawn = re.compile(r"^```figure\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
    pages = {page: page.read_text() for page in (DOCS / "results").glob("*.md")}
    assert sum("```figure" in text for text in pages.values()) > 15
    for page, text in pages.items():
        # The overview of the rankers draws numbers of the pages of the data sets.
        shown = [page, *page.parent.glob("rankers-*.md")] if page.stem == "rankers" else [page]
        plain = "".join(drawn.sub("", pages[each]) for each in shown).replace(",", "")
        for block in drawn.findall(text):
            caption, bars = figures.parse(block)
            scale = 1000 if caption.startswith("Thousands") else 1
            for bar in bars:
                number = f"{bar.value * scale:.0f}" if scale > 1 else bar.text.replace(",", "").lstrip("+")
                assert number in plain, (page.name, bar)
                assert bar.low <= bar.value <= bar.high


def test_a_broken_page_is_reported(tmp_path: Path, hooks: Any) -> None:
    (tmp_path / "index.html").write_text(
        '<nav><a href="index.html">home</a><a href="a.html">a</a></nav><a href="gone.html">x</a><a href="a.html#no">y</a>'
        '<script src="https://cdn.example/x.js"></script>'
    )
    (tmp_path / "a.html").write_text('<h1 id="top"><a href="index.html">home</a></h1>')
    (tmp_path / "b.html").write_text("")
    (tmp_path / "style.css").write_text("@font-face { src: url(//fonts.example/x.woff2); }")
    assert hooks("site_check").problems_of(tmp_path) == [
        "index.html: requests https://cdn.example/x.js from another host",
        "index.html: the link gone.html points to no file",
        "index.html: the link a.html#no points to no anchor",
        "style.css: requests //fonts.example/x.woff2 from another host",
        "b.html: missing from the navigation",
    ]


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The address of a server of the built pages on this machine; the search needs one."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium()
    page = Page(f"{address}/index.html", tmp_path_factory.mktemp("browser") / "profile")
    yield page
    page.close()


def test_the_pages_render_at_1280_and_400_pixels(site: Path, address: str, browser: Page) -> None:
    pages = sorted(site.rglob("index.html"))
    for path in pages if os.environ.get("SIDKIT_PROOF") else pages[:: len(pages) // 12]:  # all with `make proof`
        name = path.relative_to(site)
        browser.open(f"{address}/{name}")
        browser.do("document.head.insertAdjacentHTML('beforeend', '<style>* { transition: none !important }</style>')")
        for width in (1280, 400):
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
            )
            seen = browser.do(
                "[document.documentElement.scrollWidth, document.querySelector('h1').getBoundingClientRect().height, "
                "[...document.images].filter(each => !each.complete || !each.naturalWidth).length]"
            )
            assert seen[0] <= width, f"{name} overflows at {width} pixels: {seen[0]}"
            assert seen[1] > 0 and seen[2] == 0, (name, width, seen)
        errors = [each for each in browser.events_of("Log.entryAdded") if each["params"]["entry"]["level"] == "error"]
        assert not errors and not browser.events_of("Runtime.exceptionThrown"), (name, errors)
        requests = {each["params"]["request"]["url"] for each in browser.events_of("Network.requestWillBeSent")}
        assert all(url.startswith((address, "data:", "blob:")) for url in requests), (name, requests)


def test_no_text_of_a_diagram_is_cut_off(address: str, browser: Page) -> None:
    diagrams = sorted((DOCS / "assets").glob("*.svg"))
    assert {path.stem for path in diagrams} == {"cold-start", "movielens", "semantic-ids", "time", "versions"}
    for path in diagrams:
        browser.open(f"{address}/assets/{path.name}")
        right, width = browser.do(
            "[Math.max(...[...document.querySelectorAll('text')].map(each => each.getBBox().x + each.getBBox().width)), "
            "document.documentElement.viewBox.baseVal.width]"
        )
        assert right <= width - 5, (path.name, right)


def test_the_search_finds_a_page(address: str, browser: Page) -> None:
    browser.open(f"{address}/index.html")
    browser.do(
        "new Promise(done => { const input = document.querySelector('.md-search__input'); input.focus(); "
        "input.value = 'point-in-time'; input.dispatchEvent(new Event('input', {bubbles: true})); "
        "input.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})); "
        "const wait = () => document.querySelector('.md-search-result__link') ? done(true) : setTimeout(wait, 50); wait(); })"
    )
    links = browser.do("[...document.querySelectorAll('.md-search-result__link')].map(each => each.href)")
    assert any("concepts/time" in link or "retrieval" in link or "glossary" in link for link in links), links
