"""Sampled negatives: what may be drawn, what must match the positive, and what never changes."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, START, fresh_repo, moments, write_tables
from sidkit.core.config import NegativeSettings
from sidkit.core.repo import Repo
from sidkit.datasets.negatives import Catalogue, Drawn, Positives, Serving, draw_negatives, row_keys
from sidkit.tables import ingest, read_log
from sidkit.tables.labelled_rows import build_labelled_rows

NEVER = np.iinfo(np.int64).max
DELAYS = (60_000_000, 1, DAY // 2)
CADENCE = 3_600_000_000
HISTORY = 5


@dataclass(frozen=True)
class Positive:
    user: int
    item: int
    moment: int
    basket: int = 0

    @property
    def request(self) -> tuple[int, int, int]:
        return self.user, self.moment, self.basket


@dataclass(frozen=True)
class Log:
    """Positives in time order and, per item, from when to when it exists."""

    positives: tuple[Positive, ...]
    created: tuple[int, ...]
    removed: tuple[int, ...]
    delay: int

    def exists(self, item: int, moment: int) -> bool:
        return self.created[item] <= moment < self.removed[item]

    @cached_property
    def touches(self) -> dict[tuple[int, int], list[int]]:
        found: dict[tuple[int, int], list[int]] = {}
        for p in self.positives:
            found.setdefault((p.user, p.item), []).append(p.moment)
        return found

    def had(self, user: int, item: int, moment: int) -> bool:
        return any(touch + self.delay <= moment for touch in self.touches.get((user, item), []))

    def position(self, item: int, moment: int) -> list[float]:
        """Clicks of 1, 7, 30 and all days as served at the moment, and age in quarters of an hour, all in octaves."""
        end = (moment - self.delay) // CADENCE * CADENCE
        times = [touch for (_, touched), all_of in self.touches.items() if touched == item for touch in all_of]
        clicks = [sum(end - days * DAY < touch <= end for touch in times) for days in (1, 7, 30, 100_000)]
        age = max(moment - self.created[item], 0) * 96 / DAY
        return [math.log2(1 + value) for value in (*clicks, age)]

    def kind(self, user: int, item: int, moment: int) -> str:
        """Whether the user never had the item, had it, or finds it in the history."""
        known = [
            (p.moment, -p.item, p.item) for p in self.positives if p.user == user and p.moment + self.delay <= moment
        ]
        listed = [item for *_, item in sorted(known, reverse=True)[:HISTORY]]
        return "recent" if item in listed else "older" if item in {item for *_, item in known} else "never"

    def candidates(self, p: Positive) -> set[int]:
        page = {other.item for other in self.positives if other.request == p.request}
        return {item for item in range(len(self.created)) if self.exists(item, p.moment)} - page

    def same_touch(self, p: Positive) -> set[int]:
        had = self.had(p.user, p.item, p.moment)
        return {item for item in self.candidates(p) if self.had(p.user, item, p.moment) == had}


def drawing(log: Log, wanted: list[int] | None = None, **how: Any) -> Drawn:
    rows = pd.DataFrame([(p.user, p.item, p.moment, str(p.request)) for p in log.positives], columns=list("uimr"))
    positives = Positives(
        user=rows["u"].to_numpy(np.int64),
        item=rows["i"].to_numpy(np.int64),
        request=pd.factorize(rows["r"])[0].astype(np.int64),
        moment_us=rows["m"].to_numpy(np.int64),
        key=row_keys(rows["u"], rows["i"], rows["m"], rows["r"]),
    )
    names = row_keys(pd.Series(range(len(log.created))))
    catalogue = Catalogue(np.array(log.created, np.int64), np.array(log.removed, np.int64), names)
    some = np.array(wanted, np.int64) if wanted is not None else None
    serving = Serving(log.delay, CADENCE, HISTORY)
    drawn = draw_negatives(positives, catalogue, NegativeSettings(**how), serving, some)
    assert drawn.items.shape == (len(log.positives if wanted is None else wanted), how.get("per_positive", 4))
    assert drawn.missing == (drawn.items < 0).sum()
    return drawn


def draw(log: Log, rows: list[int] | None = None, **how: Any) -> list[list[int]]:
    """What is drawn for each positive, in the order of the slots."""
    return [[int(item) for item in row] for row in drawing(log, rows, **how).items]


TIMES = st.one_of(
    st.integers(0, 12 * DAY), st.integers(0, 12).map(lambda day: day * DAY), st.just(5 * DAY + 60_000_000)
)


@st.composite
def logs(draw_: st.DrawFn) -> Log:
    created = draw_(st.lists(TIMES.map(lambda time: time - 4 * DAY), min_size=1, max_size=14))
    lives = draw_(st.lists(st.none() | st.integers(0, 10 * DAY), min_size=len(created), max_size=len(created)))
    positive = st.builds(
        Positive,
        user=st.integers(0, 2),
        item=st.integers(0, len(created) - 1),
        moment=TIMES.map(lambda time: START // DAY * DAY + time),
        basket=st.integers(0, 1),
    )
    positives = draw_(st.lists(positive, min_size=1, max_size=25, unique_by=lambda p: (p.request, p.item)))
    return Log(
        tuple(sorted(positives, key=lambda p: (p.moment, p.user, p.basket, p.item))),
        tuple(START // DAY * DAY + time for time in created),
        tuple(
            NEVER if life is None else START // DAY * DAY + time + life
            for time, life in zip(created, lives, strict=True)
        ),
        draw_(st.sampled_from(DELAYS)),
    )


def crowded(seed: int = 0, items: int = 240, count: int = 700) -> Log:
    """A log in which most positives have many good candidates, first touches and returns alike."""
    rng = random.Random(seed)
    begin = START // DAY * DAY
    created = [begin - rng.choice((0, 1, 3, 40)) * DAY - 1 for _ in range(items)]
    popular = [rng.paretovariate(1.2) for _ in range(items)]
    positives = {
        Positive(rng.randrange(6), rng.choices(range(items), popular)[0], begin + rng.randrange(10 * DAY))
        for _ in range(count)
    }
    ordered = tuple(sorted(positives, key=lambda p: p.moment))
    return Log(ordered, tuple(created), (NEVER,) * items, delay=3_600_000_000)


STRATEGIES = st.sampled_from(["stratified", "uniform"])
LOGS = logs() | st.builds(crowded, st.integers(0, 99), st.integers(8, 60), st.integers(40, 150))
law = settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])


@law
@given(log=LOGS, strategy=STRATEGIES, per_positive=st.integers(1, 6), seed=st.integers(0, 6))
def test_negatives_exist_are_distinct_and_not_positive_in_the_same_request(
    log: Log, strategy: str, per_positive: int, seed: int
) -> None:
    for positive, drawn in zip(
        log.positives, draw(log, strategy=strategy, per_positive=per_positive, seed=seed), strict=True
    ):
        filled = [item for item in drawn if item != -1]
        assert len(set(filled)) == len(filled)
        assert set(filled) <= log.candidates(positive)
        assert positive.item not in filled


@law
@given(log=LOGS, strategy=STRATEGIES, per_positive=st.integers(1, 6))
def test_fewer_are_drawn_only_where_too_few_items_exist(log: Log, strategy: str, per_positive: int) -> None:
    for positive, drawn in zip(log.positives, draw(log, strategy=strategy, per_positive=per_positive), strict=True):
        assert sum(item != -1 for item in drawn) == min(per_positive, len(log.candidates(positive)))


def test_a_basket_of_almost_everything_still_gets_the_few_items_left() -> None:
    basket = tuple(Positive(0, item, START + DAY) for item in range(56))
    log = Log(basket, (START,) * 60, (NEVER,) * 60, 1)
    assert [sorted(row) for row in draw(log)] == [[56, 57, 58, 59]] * 56


@law
@given(log=LOGS, strategy=STRATEGIES)
def test_had_before_matches_while_enough_such_items_exist(log: Log, strategy: str) -> None:
    for positive, drawn in zip(log.positives, draw(log, strategy=strategy), strict=True):
        matching = log.same_touch(positive)
        assert len(matching & set(drawn)) == min(4, len(matching))


@law
@given(log=LOGS, strategy=STRATEGIES)
def test_what_the_history_lists_matches_while_enough_such_items_exist(log: Log, strategy: str) -> None:
    for positive, drawn in list(zip(log.positives, draw(log, strategy=strategy), strict=True))[::3]:
        own = log.kind(positive.user, positive.item, positive.moment)
        matching = {item for item in log.candidates(positive) if log.kind(positive.user, item, positive.moment) == own}
        assert len(matching & set(drawn)) == min(4, len(matching))


@law
@given(log=LOGS)
def test_it_is_counted_what_is_far_and_what_does_not_match_in_touch(log: Log) -> None:
    found = drawing(log)
    far = other = 0
    for positive, drawn in zip(log.positives, found.items.tolist(), strict=True):
        own, had = log.position(positive.item, positive.moment), log.same_touch(positive)
        for item in drawn:
            if item != -1:
                apart = zip(own, log.position(item, positive.moment), strict=True)
                far += max(abs(one - another) for one, another in apart) > 2
                other += item not in had
    assert (found.far, found.other_touch) == (far, other)


def test_a_twin_is_drawn_before_what_differs() -> None:
    """Of forty items with clicks of their own week, four share the positive's; only they are near it."""
    begin = START // DAY * DAY
    now = begin + 20 * DAY
    clicks = [(item, 6 if item < 5 else 0 if item % 2 else 90) for item in range(40)]
    before = [
        Positive(1000 + number, item, now - DAY // 2 - number - 100 * item)
        for item, many in clicks
        for number in range(many)
    ]
    last = Positive(0, 0, now)
    log = Log((*sorted(before, key=lambda p: p.moment), last), (begin,) * 40, (NEVER,) * 40, 1)
    for seed in range(20):
        assert sorted(draw(log, [len(before)], seed=seed)[0]) == [1, 2, 3, 4]


def test_activity_is_that_of_the_very_moment() -> None:
    """Within one day an item wakes up; before that its match is the dormant one, afterwards the busy one."""
    begin = START // DAY * DAY
    dormant, woken, busy = 0, 1, 2
    clicks = [Positive(50 + n, busy, begin + n * DAY // 200) for n in range(190)]
    clicks += [Positive(500 + n, woken, begin + DAY // 4 + n * DAY // 400) for n in range(100)]
    asked = [Positive(9000 + n, woken, begin + (DAY // 5 if n < 100 else 19 * DAY // 20) + n) for n in range(200)]
    ordered = sorted([*clicks, *asked], key=lambda p: p.moment)
    log = Log(tuple(ordered), (begin - 40 * DAY,) * 3, (NEVER,) * 3, 1)
    rows = [place for place, p in enumerate(ordered) if p.user >= 9000]
    first, late = Counter[int](), Counter[int]()
    for n, row in enumerate(draw(log, rows, per_positive=1)):
        (first if n < 100 else late)[row[0]] += 1
    assert first[dormant] == 100
    assert late[busy] == 100


@law
@given(log=LOGS, data=st.data(), strategy=STRATEGIES)
def test_a_row_draws_the_same_whatever_other_rows_are_drawn_for(log: Log, data: st.DataObject, strategy: str) -> None:
    everyone = draw(log, strategy=strategy)
    rows = data.draw(st.lists(st.integers(0, len(log.positives) - 1), unique=True))
    assert draw(log, rows, strategy=strategy) == [everyone[row] for row in rows]


def test_a_catalogue_that_grows_keeps_the_draws() -> None:
    log = crowded(count=150)
    later = log.positives[-1].moment + 1
    assert draw(log) == draw(replace(log, created=(*log.created, *[later] * 50), removed=(*log.removed, *[NEVER] * 50)))


def test_coldness_does_not_give_the_label_away() -> None:
    log = crowded(seed=1)
    drawn = draw(log)
    new = [
        [log.created[item] > START - 2 * DAY for item in (p.item, *row)]
        for p, row in zip(log.positives, drawn, strict=True)
    ]
    of_positives = sum(row[0] for row in new) / len(new)
    of_negatives = sum(sum(row[1:]) for row in new) / (4 * len(new))
    assert 0.1 < of_positives < 0.9
    assert of_negatives == pytest.approx(of_positives, abs=0.03)


@law
@given(log=LOGS, strategy=STRATEGIES, data=st.data())
def test_a_longer_log_keeps_the_negatives_of_a_shorter_one(log: Log, strategy: str, data: st.DataObject) -> None:
    ends = sorted({p.moment for p in log.positives})
    end = data.draw(st.sampled_from(ends))
    shorter = replace(log, positives=tuple(p for p in log.positives if p.moment <= end))
    assert draw(log, strategy=strategy)[: len(shorter.positives)] == draw(shorter, strategy=strategy)


def test_the_seed_decides_the_draws() -> None:
    log = crowded(count=100)
    assert draw(log, seed=3) == draw(log, seed=3)
    differing = [one != other for one, other in zip(draw(log, seed=3), draw(log, seed=4), strict=True)]
    assert sum(differing) > 0.9 * len(differing)


def test_the_same_positive_draws_the_same_whoever_stands_beside_it() -> None:
    log = crowded(count=60)
    alone = replace(log, positives=log.positives[:1])
    assert draw(alone) == draw(log)[:1]


def test_uniform_draws_are_uniform() -> None:
    begin = START // DAY * DAY
    log = Log(
        (Positive(0, 0, begin + 5),), (begin - 300 * DAY, *[begin - n * DAY for n in range(1, 21)]), (NEVER,) * 21, 1
    )
    counts = Counter(item for seed in range(200) for row in draw(log, strategy="uniform", seed=seed) for item in row)
    assert set(counts) == set(range(1, 21))  # whatever their age
    assert max(abs(count - 40) for count in counts.values()) < 26  # four standard deviations


def test_a_log_without_positives_has_no_negatives() -> None:
    assert draw(Log((), (START,), (NEVER,), 1)) == []


def test_an_item_can_be_drawn_from_its_creation_until_its_removal() -> None:
    now = START + 5
    created, removed = (START, now, now + 1, START, START), (NEVER, NEVER, NEVER, now, now + 1)
    assert sorted(draw(Log((Positive(0, 0, now),), created, removed, 1))[0]) == [-1, -1, 1, 4]


def test_a_catalogue_of_one_item_has_no_negatives() -> None:
    begin = START // DAY * DAY
    assert draw(Log((Positive(0, 0, begin),), (begin,), (NEVER,), 1)) == [[-1] * 4]


def written(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def labelled(repo: Repo) -> list[dict[str, Any]]:
    table = pq.read_table(repo.labelled_rows)
    rows: list[dict[str, Any]] = table.set_column(
        table.column_names.index("event_timestamp"), "moment", table["event_timestamp"].cast(pa.int64())
    ).to_pylist()
    return rows


def positives_repo(
    folder: Path, requests: bool = False, toml: dict[str, str] | None = None, stray: bool = False
) -> Repo:
    """A repo on a log of positives: the crowded one, or with ``stray`` one that also holds items nobody knows."""
    log = crowded(seed=2, items=40, count=80)
    rows = [(f"u{p.user}", f"i{p.item}", p.moment, f"r{p.user}") for p in log.positives]
    if stray:
        rows.append(("u0", "stranger", START + DAY, "r0"))
    user, item, moment, request = zip(*rows, strict=True)
    columns = {"user_id": user, "item_id": item, "timestamp": moments(moment), "label": [1] * len(rows)}
    items = {"item_id": [f"i{n}" for n in range(40)], "created_at": moments(log.created)}
    source = write_tables(
        folder / "source",
        {
            "interactions": pa.table({**columns, "request_id": request} if requests else columns),
            "items": pa.table(items),
            "item_embeddings": pa.table({"item_id": items["item_id"], "text": [[1.0]] * 40}),
        },
    )
    repo = fresh_repo(folder / "repo", source, feedback="positives_only", toml=toml or {})
    ingest(repo)
    return repo


@pytest.mark.parametrize("requests", [False, True], ids=["no requests", "requests"])
def test_labelled_rows_are_the_positives_and_their_negatives(tmp_path: Path, requests: bool) -> None:
    repo = positives_repo(tmp_path, requests, {"per_positive = 4": "per_positive = 3"})
    log = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in repo.log.rglob("*.*")}
    report = build_labelled_rows(repo)
    rows = labelled(repo)
    positives = [row for row in rows if not row["sampled"]]
    negatives = [row for row in rows if row["sampled"]]
    assert (
        (report.rows, report.sampled)
        == (len(rows), len(negatives))
        == (4 * read_log(repo).rows, 3 * read_log(repo).rows)
    )
    assert {row["label"] for row in positives} == {1}
    assert {row["label"] for row in negatives} == {0}

    page = ("user_id", "request_id", "moment")
    pages = Counter(tuple(row[key] for key in page) for row in positives)
    assert Counter(tuple(row[key] for key in page) for row in negatives) == {key: 3 * n for key, n in pages.items()}
    expected = {f"r{n}" for n in range(6)} if requests else {f"{row['user_id']}@{row['moment']}" for row in positives}
    assert {row["request_id"] for row in rows} == expected
    taken = {(row["request_id"], row["item_id"]) for row in positives}
    assert not [row for row in negatives if (row["request_id"], row["item_id"]) in taken]

    delay = repo.settings.time.delay_us
    for row in rows:
        touches = [p["moment"] for p in positives if (p["user_id"], p["item_id"]) == (row["user_id"], row["item_id"])]
        assert row["had_before"] == any(touch + delay <= row["moment"] for touch in touches)
    assert {row["had_before"] for row in positives} == {False, True}
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in repo.log.rglob("*.*")} == log


def test_labelled_rows_are_written_again_only_for_a_reason(tmp_path: Path) -> None:
    repo = positives_repo(tmp_path)
    assert not build_labelled_rows(repo).unchanged
    before, rows = written(repo.labelled_rows), labelled(repo)
    assert build_labelled_rows(repo).unchanged
    assert written(repo.labelled_rows) == before
    settings_file = repo.path / "sidkit.toml"
    settings_file.write_text(settings_file.read_text().replace("seed = 0", "seed = 1"))
    assert not build_labelled_rows(Repo.open(repo.path)).unchanged
    now = labelled(repo)
    assert [row for row in now if not row["sampled"]] == [row for row in rows if not row["sampled"]]
    assert now != rows


def test_positives_of_unknown_items_stay_without_negatives(tmp_path: Path) -> None:
    repo = positives_repo(tmp_path, toml={'unknown_items = "reject"': 'unknown_items = "keep"'}, stray=True)
    build_labelled_rows(repo)
    rows = [row for row in labelled(repo) if row["request_id"] == f"u0@{START + DAY}"]
    assert [(row["item_id"], row["label"]) for row in rows] == [("stranger", 1)]


def test_a_log_of_impressions_is_labelled_as_it_is(tmp_path: Path) -> None:
    delay = 60_000_000
    log = pa.table(
        {
            "user_id": ["u0", "u0", "u1", "u0", "u0"], "item_id": ["i0", "i1", "i0", "i0", "i0"],
            "timestamp": moments([START, START, START + 1, START + delay - 1, START + delay]), "label": [1, 0, 0, 0, 1],
        }
    )  # fmt: skip
    items = {"item_id": ["i0", "i1"], "created_at": moments([START, START])}
    source = write_tables(
        tmp_path / "source",
        {
            "interactions": log,
            "items": pa.table(items),
            "item_embeddings": pa.table({"item_id": items["item_id"], "text": [[1.0]] * 2}),
        },
    )
    repo = fresh_repo(tmp_path / "repo", source)
    ingest(repo)
    report = build_labelled_rows(repo)
    assert (report.rows, report.sampled) == (5, 0)
    told = [
        (row["user_id"], row["item_id"], row["label"], row["request_id"], row["had_before"]) for row in labelled(repo)
    ]
    assert told == [
        ("u0", "i0", 1, None, False), ("u0", "i1", 0, None, False), ("u1", "i0", 0, None, False),
        ("u0", "i0", 0, None, False), ("u0", "i0", 1, None, True),
    ]  # fmt: skip
