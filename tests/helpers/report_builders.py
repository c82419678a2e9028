"""A published codebook with careless titles, and its table read row by row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidkit.stores.feast_repo as feast_repo
from helpers.builders import DAY, fresh_repo
from helpers.codebook_builders import AS_OF, CUT, ITEMS, SPEC, build, write_source
from semantic_ids import lifecycle
from semantic_ids.catalog import table_path
from semantic_ids.report.facts import Arrivals, Facts, Listed, Sampled
from sidkit.core.repo import Repo

NASTY = {
    "i001": "</script><script>document.title = 'taken'</script>",
    "i002": "\"double\" & 'single' <img src=x onerror=alert(1)>",
    "i003": "🎈 ไทย 日本語 עברית \u202ereversed",
    "i004": "{{data}} {{script}} \\u003c \u2028 \u2029 <!-- ]]>",
    "i005": "https://example.org/picture.png",
    "i006": "   ",
    "i008": None,
    "i009": "long " * 100,
}
UNTITLED = ("i006", "i008")
CATEGORIES = ("plain", '<b>bold</b> & "sons"', None)


def titled(folder: Path, *, titles: bool = True) -> None:
    """Give the source's items titles that a careless page would trip over."""
    items = pq.read_table(folder / "items.parquet")
    ids = items.column("item_id").to_pylist()
    category = pa.array([CATEGORIES[int(item[1:]) % 3] for item in ids], pa.string())
    items = items.set_column(items.schema.get_field_index("category"), "category", category)
    place = items.schema.get_field_index("title")
    named = pa.array([NASTY.get(item, f"title of {item}") for item in ids], pa.string())
    items = items.set_column(place, "title", named) if titles else items.remove_column(place)
    pq.write_table(items, folder / "items.parquet")


def published(folder: Path, spec: Any = SPEC, **source: Any) -> Repo:
    write_source(folder / "source", ITEMS)
    titled(folder / "source", **source)
    repo = build(fresh_repo(folder / "repo", folder / "source", modalities=("text", "image")))
    lifecycle.fit(repo, "a", spec, CUT)
    lifecycle.publish(repo, "a")
    return repo


@contextmanager
def feast_left_out() -> Iterator[None]:
    """A report reads the tables; publishing without Feast saves its start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feast_repo, "apply_repo", lambda _: "")
        patch.setattr(feast_repo, "materialize", lambda *_: {})
        yield


def changed_once(folder: Path) -> Repo:
    """A published codebook; i003 and i010 changed their content once."""
    with feast_left_out():
        repo = published(folder)
        write_source(folder / "source", ITEMS, edition={"i003": 1, "i010": 2})
        titled(folder / "source")
        build(repo, AS_OF + DAY)
        lifecycle.refresh(repo)
    return repo


def newest(repo: Repo) -> dict[str, dict[str, Any]]:
    """The last row of each item."""
    listed = pq.read_table(table_path(repo, "a")).to_pylist()
    return {row["item_id"]: row for row in sorted(listed, key=lambda row: row["event_timestamp"])}


def coded(repo: Repo) -> dict[str, dict[str, Any]]:
    return {item: row for item, row in newest(repo).items() if row["codes"] is not None}


def nothing(facts: Facts) -> Facts:
    """The facts of a table in which no item has codes."""
    empty = np.zeros(0, np.int64)
    listed = Listed(*[pa.array([], pa.string())] * 3, np.zeros((0, 3), np.int64), np.zeros(0))
    return replace(
        facts, items=listed, fit_codes=empty, arrivals=Arrivals(empty, empty, np.zeros(0)),
        sample=Sampled(empty, np.zeros((0, 0), np.float32)), metrics={}, assigned_us=None,
    )  # fmt: skip


class Parsed(HTMLParser):
    """A page's elements with their attributes, its scripts, and the text of elements by id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._raw = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._raw = tag if tag in {"script", "style"} else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts[-1] += data
        elif not self._raw:
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


def unrolled(held: dict[str, Any]) -> tuple[Counter[tuple[int, ...]], dict[tuple[int, ...], list[int]]]:
    """Counts of all prefixes, and the embedded items of each leaf, as rows of ``held["items"]``."""
    counts: Counter[tuple[int, ...]] = Counter()
    paths: list[tuple[int, ...]] = [()]
    sizes = [len(held["levels"][0]["code"])]
    for level in held["levels"]:
        above = [path for path, size in zip(paths, sizes, strict=True) for _ in range(size)]
        paths = [(*path, code) for path, code in zip(above, level["code"], strict=True)]
        counts.update(dict(zip(paths, level["count"], strict=True)))
        sizes = level["children"]
    rows = iter(range(len(held["items"]["id"])))
    leaves = {path: [next(rows) for _ in range(size)] for path, size in zip(paths, sizes, strict=True)}
    assert next(rows, None) is None
    return counts, leaves
