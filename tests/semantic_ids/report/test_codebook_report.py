"""The page about a codebook: recounted from the table with plain Python."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.builders import DAY, fresh_repo, reseal
from helpers.codebook_builders import AS_OF, BARE, CUT, ITEMS, SPEC, bring, build, write_source
from helpers.report_builders import (
    CATEGORIES,
    NASTY,
    UNTITLED,
    Parsed,
    changed_once,
    coded,
    feast_left_out,
    nothing,
    published,
    unrolled,
)
from semantic_ids import lifecycle
from semantic_ids.catalog import table_path
from semantic_ids.quality.drift import stability
from semantic_ids.report import write_report
from semantic_ids.report.facts import Arrivals, Facts, collect_facts
from semantic_ids.report.figures import text
from semantic_ids.report.page import project, render
from semantic_ids.report.periods import MOST_PERIODS, by_period
from semantic_ids.report.tree import EXAMPLES, tree
from sidkit.core.clock import from_us, to_us
from sidkit.core.errors import LifeCycleError, UnknownVersionError
from sidkit.core.repo import Repo


@pytest.fixture
def without_feast() -> Iterator[None]:
    with feast_left_out():
        yield


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Tests only read it."""
    return changed_once(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def facts(repo: Repo) -> Facts:
    return collect_facts(repo, "a")


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
    monkeypatch.setattr("semantic_ids.report.page.tree", lambda items, levels, _: tree(items, levels, most))
    parsed = Parsed(render(facts))
    counts, leaves = unrolled(parsed.data["tree"])
    assert counts == whole
    kept = {path: len(rows) for path, rows in leaves.items() if rows}
    assert sum(kept.values()) == most
    listed = len(facts.items)
    assert f"{most} items are included" in parsed.text and f"{listed - most} are omitted" in parsed.text
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
    assert "2 levels, each refining the one before; 1 more that do not refine others" in parsed.text
    side_by_side = Parsed(render(replace(facts, residual_levels=0)))
    assert len(side_by_side.data["tree"]["levels"]) == 1
    assert "do not refine each other, so the tree groups items by the first code only" in side_by_side.text


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
    assert f"{text(own, 'share')} of items have a unique code" in parsed.text
    assert f"Largest bucket{facts.metrics['largest_bucket']}{max(buckets.values())}" in parsed.text
    assert f"{len(BARE)} without codes are not in the tree" in parsed.text
    for told in ("a", "published", facts.record.content_hash, "residual_kmeans", "8×6×4", "2020-01-21 00:00 UTC"):
        assert told in parsed.text


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
                assert item in told.text
            assert (f"and {-count - 12} more" in told.text) is (-count > 12)


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
    monkeypatch.setattr("semantic_ids.report.facts.MAP_ITEMS", 9)
    for _ in range(2):
        drawn = collect_facts(repo, "a")
        shown = drawn.items.ids.take(drawn.sample.rows).to_pylist()
        assert shown == sorted(sorted(coded(repo), key=lambda item: hashlib.md5(item.encode()).hexdigest())[:9])
    assert "a sample of 9 of" in Parsed(render(drawn)).text


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
    listed = Parsed(render(shown)).text
    for item in ("i001", "i002", "i003"):
        assert NASTY[item] in listed


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
    lifecycle.fit(repo, "a", SPEC, CUT)
    with pytest.raises(LifeCycleError, match="a is 'fitted'.*publish it first"):
        write_report(repo, "a", out)
    lifecycle.publish(repo, "a")
    lifecycle.retire(repo, "a")
    assert "retired" in Parsed(write_report(repo, "a", out).read_text()).text
    lifecycle.purge(repo, "a")
    with pytest.raises(LifeCycleError, match="a is 'purged'"):
        write_report(repo, "a", out)


def test_one_level_no_titles_and_content_that_waits(tmp_path: Path, without_feast: None) -> None:
    repo = published(tmp_path, SPEC.model_copy(update={"sizes": (8,), "beam": 1}), titles=False)
    bring(repo, {**ITEMS, "new": AS_OF}, AS_OF + DAY)
    pq.write_table(
        pq.read_table(repo.log / "items-00001.parquet").drop_columns(["title"]), repo.log / "items-00001.parquet"
    )
    reseal(repo.log / "items-00001.parquet")
    parsed = Parsed(write_report(repo, "a", tmp_path / "page.html").read_text())
    held = parsed.data["tree"]
    assert set(held["items"]["title"]) == {None}
    assert unrolled(held)[0] == Counter(tuple(row["codes"]) for row in coded(repo).values())
    assert "1 rows of content have no codes yet" in parsed.text


def test_without_any_codes_the_page_says_so(facts: Facts) -> None:
    parsed = Parsed(render(nothing(facts)))
    assert unrolled(parsed.data["tree"]) == (Counter(), {})
    assert "No item has codes." in parsed.text and "No items have arrived after the fit." in parsed.text


def test_figures_of_any_shape_are_told_and_missing_ones_are_dashes(facts: Facts) -> None:
    metrics = {
        "utilisation": [0.5, 1.0, None],
        "hit_rate_at_30": {"seen": 0.25, "new": float("nan")},
        "balance_last": {"before": 0.1234567, "after": 0.00001},
        "strange_figure": {"a": [1, 2.5], "b": "<i>text</i>", "c": True},
        "empty": [],
    }
    told = Parsed(render(replace(facts, metrics=metrics))).text
    assert "Utilisation per level50% · 100% · –" in told
    assert "Hit rate at 30seen 25% · new ––How often" in told
    assert "Balance lastbefore 0.1235 · after 1e-05–How evenly" in told
    assert "Strange figurea 1 · 2.5 · b <i>text</i> · c True–Value from the artefact" in told
    assert "Empty––" in told
    assert "Largest bucket–" in Parsed(render(replace(facts, metrics={}))).text
