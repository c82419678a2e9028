"""The page about a codebook: recounted from the table with plain Python, and opened in a browser."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sidkit.stores.feast_repo as feast_repo
from builders import fresh_repo
from semantic_ids import pipeline
from semantic_ids.catalog import table_path
from semantic_ids.drift import stability
from semantic_ids.report import write_report
from semantic_ids.report.figures import text
from semantic_ids.report.gather import Arrivals, Facts, Listed, Sampled, gather
from semantic_ids.report.page import json_in_html, project, render
from semantic_ids.report.periods import MOST_PERIODS, by_period
from semantic_ids.report.tree import EXAMPLES, tree
from sidkit.clock import from_us, to_us
from sidkit.errors import LifeCycleError, UnknownVersionError
from sidkit.repo import Repo
from test_codebook_life import AS_OF, BARE, CUT, DAY, ITEMS, SPEC, bring, build, write_source

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


@pytest.fixture(scope="module")
def without_feast() -> Iterator[None]:
    """A report reads the tables; publishing without Feast saves its start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feast_repo, "apply_repo", lambda _: "")
        patch.setattr(feast_repo, "materialize", lambda *_: {})
        yield


def published(folder: Path, spec: Any = SPEC, **source: Any) -> Repo:
    write_source(folder / "source", ITEMS)
    titled(folder / "source", **source)
    repo = build(fresh_repo(folder / "repo", folder / "source", modalities=("text", "image")))
    pipeline.fit(repo, "a", spec, CUT)
    pipeline.publish(repo, "a")
    return repo


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, without_feast: None) -> Repo:
    """A published codebook; i003 and i010 changed their content once. Tests only read it."""
    repo = published(tmp_path_factory.mktemp("report"))
    write_source(repo.path.parent / "source", ITEMS, edition={"i003": 1, "i010": 2})
    titled(repo.path.parent / "source")
    build(repo, AS_OF + DAY)
    pipeline.refresh(repo)
    return repo


@pytest.fixture(scope="module")
def facts(repo: Repo) -> Facts:
    return gather(repo, "a")


class Parsed(HTMLParser):
    """A page's elements with their attributes, its scripts, and the text of elements by id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.told = ""
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
            self.told += data

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


def newest(repo: Repo) -> dict[str, dict[str, Any]]:
    """The last row of each item."""
    listed = pq.read_table(table_path(repo, "a")).to_pylist()
    return {row["item_id"]: row for row in sorted(listed, key=lambda row: row["event_timestamp"])}


def coded(repo: Repo) -> dict[str, dict[str, Any]]:
    return {item: row for item, row in newest(repo).items() if row["codes"] is not None}


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


def test_the_tree_is_that_of_the_table_counted_row_by_row(repo: Repo, facts: Facts) -> None:
    held = Parsed(render(facts)).data["tree"]
    counts, leaves = unrolled(held)
    table = coded(repo)
    expected = Counter(tuple(row["codes"][:depth]) for row in table.values() for depth in (1, 2, 3))
    assert counts == expected
    for path, rows in leaves.items():
        there = [held["items"]["id"][row] for row in rows]
        assert sorted(there) == sorted(item for item, row in table.items() if tuple(row["codes"]) == path)
        assert there == sorted(there, key=lambda item: table[item]["residual_norm"])
    assert held["items"]["extra"] == []
    assert held["levels"][0]["code"] == sorted({row["codes"][0] for row in table.values()})


def test_items_have_their_titles_and_categories(facts: Facts) -> None:
    held = Parsed(render(facts)).data["tree"]
    for item, title, category in zip(*(held["items"][key] for key in ("id", "title", "category")), strict=True):
        expected = NASTY.get(item, f"title of {item}")
        if item in UNTITLED:
            assert title is None
        elif item == "i009":
            assert title == f"{expected[:159]}…"  # type: ignore[index]
        else:
            assert title == expected
        assert (held["categories"][category] if category >= 0 else None) == CATEGORIES[int(item[1:]) % 3]


def test_a_branch_tells_its_most_frequent_category(repo: Repo, facts: Facts) -> None:
    held = tree(facts.items, 1)
    (level,) = held["levels"]
    inside = defaultdict(list)
    for item, row in coded(repo).items():
        inside[row["codes"][0]].append(CATEGORIES[int(item[1:]) % 3])
    for code, category, share in zip(level["code"], level["category"], level["share"], strict=True):
        counts = Counter(name for name in inside[code] if name is not None)
        if not counts:
            assert (category, share) == (-1, 0)
        else:
            assert share == max(counts.values()) == counts[held["categories"][category]]


@pytest.mark.parametrize("most", [0, 1, 5, 24, 40])
def test_what_a_light_page_leaves_out_is_counted_and_told(
    facts: Facts, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = unrolled(tree(facts.items, 3))
    monkeypatch.setattr("semantic_ids.report.page.tree", lambda items, levels: tree(items, levels, most))
    parsed = Parsed(render(facts))
    counts, leaves = unrolled(parsed.data["tree"])
    assert counts == whole
    kept = {path: len(rows) for path, rows in leaves.items() if rows}
    assert sum(kept.values()) == most
    listed = len(facts.items)
    assert f"it carries {most} of them" in parsed.told and f"{listed - most} are left out" in parsed.told
    if most >= EXAMPLES * sum(len(path) == 1 for path in whole):
        for code in (path[0] for path in whole if len(path) == 1):
            shown = sum(size for path, size in kept.items() if path[0] == code)
            assert shown >= min(EXAMPLES, whole[code,])


def test_codes_that_refine_nothing_are_no_levels_but_stand_with_the_items(repo: Repo, facts: Facts) -> None:
    parsed = Parsed(render(replace(facts, residual_levels=2)))
    held = parsed.data["tree"]
    counts, leaves = unrolled(held)
    table = coded(repo)
    assert counts == Counter(tuple(row["codes"][:depth]) for row in table.values() for depth in (1, 2))
    assert [[*path, *held["items"]["extra"][row]] for path, rows in leaves.items() for row in rows] == [
        table[held["items"]["id"][row]]["codes"] for rows in leaves.values() for row in rows
    ]
    assert [level["extra"] for level in parsed.data["levels"]] == [False, False, True]
    assert "2 levels, each refining the one before; 1 more that refine none" in parsed.told
    side_by_side = Parsed(render(replace(facts, residual_levels=0)))
    assert len(side_by_side.data["tree"]["levels"]) == 1
    assert "stand side by side, so the tree groups items by the first alone" in side_by_side.told


def test_bars_and_figures_are_those_of_the_table(repo: Repo, facts: Facts) -> None:
    parsed = Parsed(render(facts))
    codes = [row["codes"] for row in coded(repo).values()]
    for level, bars in enumerate(parsed.data["levels"]):
        counts = Counter(row[level] for row in codes)
        assert bars["size"] == facts.record.sizes[level]
        assert list(zip(bars["codes"], bars["counts"], strict=True)) == sorted(
            counts.items(), key=lambda pair: (-pair[1], pair[0])
        )
    buckets = Counter(map(tuple, codes))
    own = sum(count == 1 for count in buckets.values()) / len(codes)
    assert f"{text(own, 'share')} of items have a code of their own" in parsed.told
    assert f"Largest bucket{facts.metrics['largest_bucket']}{max(buckets.values())}" in parsed.told
    assert f"{len(BARE)} without codes are not in the tree" in parsed.told
    for told in ("a", "published", facts.record.content_hash, "residual_kmeans", "8×6×4", "2020-01-21 00:00 UTC"):
        assert told in parsed.told


def test_collisions_are_listed_fullest_first_with_their_items(repo: Repo, facts: Facts) -> None:
    one_code = replace(facts.items, codes=facts.items.codes[:, :1].repeat(3, axis=1) % 4)
    for items in (facts.items, one_code):
        page = render(replace(facts, items=items))
        buckets = defaultdict(list)
        for item, codes in zip(items.ids.to_pylist(), items.codes.tolist(), strict=True):
            buckets[tuple(codes)].append(item)
        shared = sorted(((-len(there), codes) for codes, there in buckets.items() if len(there) > 1))
        found = re.findall(r"<details><summary><code>([\d, ]+)</code> <b>(\d+) items</b>", page)
        assert found == [(", ".join(map(str, codes)), str(-count)) for count, codes in shared[:20]]
        for (count, codes), block in zip(shared, re.findall(r'<ul class="items">(.*?)</ul>', page), strict=False):
            told = Parsed(block)
            for item in sorted(buckets[codes])[:12]:
                assert item in told.told
            assert (f"and {-count - 12} more" in told.told) is (-count > 12)


def test_each_item_counts_in_the_period_of_its_arrival_with_its_first_codes(repo: Repo, facts: Facts) -> None:
    first: dict[str, dict[str, Any]] = {}
    known: dict[str, list[int] | None] = {}
    for row in sorted(pq.read_table(table_path(repo, "a")).to_pylist(), key=lambda row: row["event_timestamp"]):
        if row["codes"] is not None:
            first.setdefault(row["item_id"], row)
        if to_us(row["event_timestamp"]) <= CUT:
            known[row["item_id"]] = row["codes"]
    expected = defaultdict(list)
    for row in first.values():
        moment = row["event_timestamp"].astimezone(UTC)
        expected[moment.date().isoformat(), to_us(moment) > CUT].append(row)
    found = Parsed(render(facts)).data["drift"]
    assert [(period["label"], period["after_fit"]) for period in found] == sorted(expected)
    fit = np.bincount([codes[0] for codes in known.values() if codes], minlength=8)
    for period in found:
        rows = expected[period["label"], period["after_fit"]]
        assert period["items"] == len(rows)
        assert period["residual_norm"] == pytest.approx(fmean(row["residual_norm"] for row in rows))
        measured = stability(fit, np.bincount([row["codes"][0] for row in rows], minlength=8))
        assert (period["stability"], period["chance"]) == (measured.psi, measured.noise)


def label_of(unit: str, moment: datetime) -> str:
    """The period of a moment, the slow way."""
    return {
        "day": f"{moment.date()}",
        "week": f"{moment.date() - timedelta(days=moment.weekday())}",
        "month": f"{moment.year:04d}-{moment.month:02d}",
        "quarter": f"{moment.year} Q{(moment.month + 2) // 3}",
        "year": f"{moment.year}",
        "decade": f"{moment.year // 10}0s",
    }[unit]


@given(
    start=st.datetimes(datetime(1950, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),
    days=st.lists(st.integers(0, 20) | st.integers(0, 15_000), min_size=1, max_size=20),
    cut=st.integers(0, 15_000),
)
def test_periods_are_those_of_the_calendar(start: datetime, days: list[int], cut: int) -> None:
    moments = [to_us(start) + day * DAY for day in days]
    fit_end = to_us(start) + cut * DAY
    arrivals = Arrivals(np.array(moments), np.zeros(len(moments), np.int64), np.ones(len(moments)))
    unit, found = by_period(arrivals, np.zeros(3, np.int64), 4, fit_end)
    expected = Counter((label_of(unit, from_us(moment)), moment > fit_end) for moment in moments)
    assert Counter({(period.label, period.after_fit): period.items for period in found}) == expected
    assert [period.label for period in found] == sorted(period.label for period in found)
    assert len({period.label for period in found}) <= MOST_PERIODS


def test_the_map_is_the_plane_of_largest_spread_and_its_sign_is_settled() -> None:
    drawn = np.random.default_rng(5).normal(size=(200, 6)) @ np.diag([9, 5, 2, 1, 1, 1])
    vectors = drawn.astype(np.float32)
    flat, kept = project(vectors)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    spreads, axes = np.linalg.eigh(centred.T @ centred)
    assert kept == pytest.approx(spreads[-2:].sum() / spreads.sum())
    for place, axis in enumerate((axes[:, -1], axes[:, -2])):
        settled = axis * np.sign(axis[np.abs(axis).argmax()])
        assert flat[:, place] == pytest.approx(centred @ settled, abs=1e-3)
    assert project(vectors[:1])[0].tolist() == [[0.0, 0.0]]
    assert project(vectors[:, :1])[0].shape == (200, 2)


def test_the_map_shows_items_with_codes_where_their_vectors_lie(repo: Repo, facts: Facts) -> None:
    drawn = Parsed(render(facts)).data["map"]
    table = coded(repo)
    assert sorted(drawn["id"]) == sorted(table)
    assert drawn["codes"] == [table[item]["codes"] for item in drawn["id"]]
    flat, _ = project(facts.sample.vectors)
    places = np.array([drawn["x"], drawn["y"]]).T
    assert np.abs(places).max() == 10_000
    assert places / 10_000 * np.abs(flat).max() == pytest.approx(flat, abs=1e-3)


def test_a_sample_is_drawn_alike_every_time_and_not_by_id(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semantic_ids.report.gather.MAP_ITEMS", 9)
    for _ in range(2):
        drawn = gather(repo, "a")
        shown = drawn.items.ids.take(drawn.sample.rows).to_pylist()
        assert shown == sorted(sorted(coded(repo), key=lambda item: hashlib.md5(item.encode()).hexdigest())[:9])
    assert "a sample of 9 of" in Parsed(render(drawn)).told


def test_no_title_gets_out_of_its_place(facts: Facts) -> None:
    page = render(facts)
    parsed = Parsed(page)
    tags = Counter(tag for tag, _ in parsed.elements)
    assert (tags["script"], tags["style"], tags["img"], tags["title"]) == (2, 1, 0, 1)
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    policy = next(held["content"] for _, held in parsed.elements if "http-equiv" in held)
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert policy and policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{digest}'" in policy
    assert "{{" not in page.replace("{{data}} {{script}}", "")
    shown = replace(facts, items=replace(facts.items, codes=facts.items.codes * 0))
    listed = Parsed(render(shown)).told
    for item in ("i001", "i002", "i003"):
        assert NASTY[item] in listed


@given(
    st.recursive(
        st.text() | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_in_a_page_reads_as_what_it_was_and_closes_no_element(value: Any) -> None:
    embedded = json_in_html(value)
    assert json.loads(embedded) == value
    assert not set(embedded) & set("<>&\u2028\u2029")


def test_a_page_loads_nothing(facts: Facts) -> None:
    page = render(facts)
    parsed = Parsed(page)
    for _, attributes in parsed.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    own = page.replace(parsed.scripts[0], "").replace(str(NASTY["i005"]), "")
    for word in ("http:", "https:", "url(", "@import", "fetch(", "XMLHttpRequest", "WebSocket", "innerHTML"):
        assert word not in own, word


def test_the_same_inputs_give_the_same_bytes(repo: Repo, tmp_path: Path) -> None:
    pages = [write_report(repo, "a", tmp_path / name / "page.html") for name in ("one", "two")]
    assert pages[0] == tmp_path / "one" / "page.html"
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert write_report(repo, "a", pages[0]).read_bytes() == pages[1].read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["page.html"]


def test_only_a_published_codebook_has_a_page(tmp_path: Path, without_feast: None) -> None:
    write_source(tmp_path / "source", ITEMS)
    repo = build(fresh_repo(tmp_path / "repo", tmp_path / "source", modalities=("text", "image")))
    out = tmp_path / "page.html"
    with pytest.raises(UnknownVersionError, match="'a'"):
        write_report(repo, "a", out)
    pipeline.fit(repo, "a", SPEC, CUT)
    with pytest.raises(LifeCycleError, match="a is 'fitted'.*publish it first"):
        write_report(repo, "a", out)
    pipeline.publish(repo, "a")
    pipeline.retire(repo, "a")
    assert "retired" in Parsed(write_report(repo, "a", out).read_text()).told
    pipeline.purge(repo, "a")
    with pytest.raises(LifeCycleError, match="a is 'purged'"):
        write_report(repo, "a", out)


def test_one_level_no_titles_and_content_that_waits(tmp_path: Path, without_feast: None) -> None:
    repo = published(tmp_path, SPEC.model_copy(update={"sizes": (8,), "beam": 1}), titles=False)
    bring(repo, {**ITEMS, "new": AS_OF}, AS_OF + DAY)
    pq.write_table(
        pq.read_table(repo.log / "items-00001.parquet").drop_columns(["title"]), repo.log / "items-00001.parquet"
    )
    parsed = Parsed(write_report(repo, "a", tmp_path / "page.html").read_text())
    held = parsed.data["tree"]
    assert set(held["items"]["title"]) == {None}
    assert unrolled(held)[0] == Counter(tuple(row["codes"]) for row in coded(repo).values())
    assert "1 rows of content have no codes yet" in parsed.told


def nothing(facts: Facts) -> Facts:
    """The facts of a table in which no item has codes."""
    empty = np.zeros(0, np.int64)
    listed = Listed(*[pa.array([], pa.string())] * 3, np.zeros((0, 3), np.int64), np.zeros(0))
    return replace(
        facts, items=listed, fit_codes=empty, arrivals=Arrivals(empty, empty, np.zeros(0)),
        sample=Sampled(empty, np.zeros((0, 0), np.float32)), metrics={}, assigned_us=None,
    )  # fmt: skip


def test_without_any_codes_the_page_says_so(facts: Facts) -> None:
    parsed = Parsed(render(nothing(facts)))
    assert unrolled(parsed.data["tree"]) == (Counter(), {})
    assert "No item has codes." in parsed.told and "No item arrived after the fit yet." in parsed.told


def test_figures_of_any_shape_are_told_and_missing_ones_are_dashes(facts: Facts) -> None:
    metrics = {
        "utilisation": [0.5, 1.0, None],
        "hit_rate_at_30": {"seen": 0.25, "new": float("nan")},
        "balance_last": {"before": 0.1234567, "after": 0.00001},
        "strange_figure": {"a": [1, 2.5], "b": "<i>text</i>", "c": True},
        "empty": [],
    }
    told = Parsed(render(replace(facts, metrics=metrics))).told
    assert "Utilisation per level50% · 100% · –" in told
    assert "Hit rate at 30seen 25% · new ––How often" in told
    assert "Balance lastbefore 0.1235 · after 1e-05–How evenly" in told
    assert "Strange figurea 1 · 2.5 · b <i>text</i> · c True–As the artefact" in told
    assert "Empty––" in told
    assert "Largest bucket–" in Parsed(render(replace(facts, metrics={}))).told


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


def chromium() -> str:
    """The browser, or the skip that says it is not there."""
    named = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, filter(None, named)) if path), None)
    if found is None:
        pytest.skip("chromium absent: the page is not opened in a browser")
    return found


class Page:
    """One page in a headless Chromium, driven over its pipe (messages are JSON and end in NUL)."""

    def __init__(self, file: Path, folder: Path) -> None:
        binary = chromium()
        folder.mkdir()
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # The browser reads fd 3 and writes fd 4; moved out of their way first, neither is overwritten.
        moved = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        launch = (
            "import os, sys; commands, answers = map(int, sys.argv[1:3]); "
            "os.dup2(commands, 3); os.dup2(answers, 4); os.execv(sys.argv[3], sys.argv[3:])"
        )
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
                 "--disable-background-networking", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
                 "--window-size=1280,900", f"--user-data-dir={folder}"]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", launch, *map(str, moved), binary, *flags],
            pass_fds=moved, env={**os.environ, "HOME": str(folder)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (commands, answers, *moved):
            os.close(end)
        self._read, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
            self.open(file)
        except BaseException:
            self.close()
            raise

    def open(self, file: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        while "Page.loadEventFired" not in {event["method"] for event in self.events}:
            self._next()

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def do(self, script: str) -> Any:
        """The value of a script in the page; what it promises is waited for."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                code = {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" and kind == "keyDown" else {}
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **code)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def told(self, *methods: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["method"] in methods]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], 60)
            more = os.read(self._answers, 1 << 16) if ready else b""
            assert more, "the browser went silent"
            self._read += more
        line, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


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
        assert page.told("Runtime.exceptionThrown", "Log.entryAdded") == []
        assert {event["params"]["request"]["url"] for event in page.told("Network.requestWillBeSent")} == {
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
        told = page.do("document.getElementById('map-told').textContent")
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
                while (!document.querySelector("#found button")) await new Promise((done) => setTimeout(done, 20));
                document.querySelector("#found button").click();
                const row = document.querySelector(".sought");
                return [row.querySelector(".title").textContent, row === document.activeElement,
                    row.closest("ul").closest("li").querySelector(".branch").dataset.path]; }})()"""
            )
            assert found == [NASTY["i002"], True, ",".join(map(str, coded(repo)["i002"]["codes"]))]
        assert page.told("Runtime.exceptionThrown", "Log.entryAdded") == []
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
        assert seen[2].startswith(f"{fullest - carried} items more with this code: not in this page.")
        assert seen[3] < 10_000
        page.open(empty)
        assert "No item has codes." in page.do("document.getElementById('tree').textContent")
        assert page.told("Runtime.exceptionThrown", "Log.entryAdded") == []
    finally:
        page.close()
