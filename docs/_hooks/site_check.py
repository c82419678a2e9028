"""Checks of built pages: links, anchors, navigation, and requests to other hosts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_CSS_URL = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)")


@dataclass
class Page:
    """The anchors and links of one HTML page; ``loads`` are files that a browser requests to show it."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    navigation: set[str] = field(default_factory=set)
    loads: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    """Collects the anchors and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._navs = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._navs += tag == "nav"
        for name in ("id", "name") if tag == "a" else ("id",):
            if name in given:
                self.page.anchors.add(given[name])
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
            if self._navs:
                self.page.navigation.add(given["href"])
        elif tag == "link" and not {"canonical", "prev", "next"} & set(given.get("rel", "").split()):
            self.page.loads.append(given.get("href", ""))
        elif "src" in given:
            self.page.loads.append(given["src"])

    def handle_endtag(self, tag: str) -> None:
        self._navs -= tag == "nav"


def read_page(path: Path) -> Page:
    """Parse an HTML file."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.page


def problems_of(site: Path) -> list[str]:
    """One message per broken link or anchor, request to another host, and page missing from the navigation."""
    site = site.resolve()
    # The error page is served at any address, so its links start at the root of the host.
    pages = {path: read_page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    problems = []
    for path, page in pages.items():
        where = path.relative_to(site)
        problems += [f"{where}: requests {each} from another host" for each in page.loads if urlsplit(each).netloc]
        for link in (*page.links, *(each for each in page.loads if not urlsplit(each).netloc)):
            if problem := _broken(site, path, link, pages):
                problems.append(f"{where}: {problem}")
    for path in sorted(site.rglob("*.css")):
        for url in _CSS_URL.findall(path.read_text(encoding="utf-8")):
            problems.append(f"{path.relative_to(site)}: requests {url} from another host")
    home = site / "index.html"
    linked = {_target(home, link)[0] for link in pages[home].navigation if not urlsplit(link).scheme}
    problems += [f"{path.relative_to(site)}: missing from the navigation" for path in pages if path not in linked]
    return problems


def _target(path: Path, link: str) -> tuple[Path, str]:
    """The file and the anchor that a relative link on a page points to."""
    parts = urlsplit(link)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    return (target / "index.html" if target.is_dir() else target), unquote(parts.fragment)


def _broken(site: Path, path: Path, link: str, pages: dict[Path, Page]) -> str | None:
    if urlsplit(link).scheme or link in {"", "#"}:
        return None
    target, anchor = _target(path, link)
    if not target.is_file():
        return f"the link {link} points to no file"
    if not target.is_relative_to(site):
        return f"the link {link} leaves the site"
    if anchor and target in pages and anchor not in pages[target].anchors:
        return f"the link {link} points to no anchor"
    return None
