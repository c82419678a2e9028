"""Sampled negatives: what may be drawn, what must match the positive, and what never changes."""

from __future__ import annotations

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

from builders import DAY, START, fresh_repo, moments, write_tables
from sidkit.config import NegativeSettings
from sidkit.datasets.negatives import Catalogue, Positives, draw_negatives, row_keys
from sidkit.repo import Repo
from sidkit.tables import ingest, read_log
from sidkit.tables.labelled_rows import build_labelled_rows

NEVER = np.iinfo(np.int64).max
DELAYS = (60_000_000, 1, DAY // 2)


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

    def stratum(self, item: int, moment: int) -> tuple[int, int]:
        """Age in days and clicks of the last seven days as known when the day began, both in powers of two."""
        day = moment // DAY * DAY
        known = day - self.delay
        touches = [touch for (_, touched), times in self.touches.items() if touched == item for touch in times]
        clicks = sum(known - 7 * DAY < touch <= known for touch in touches)
        return (max(day - self.created[item], 0) // DAY).bit_length(), clicks.bit_length()

    def candidates(self, p: Positive) -> set[int]:
        page = {other.item for other in self.positives if other.request == p.request}
        return {item for item in range(len(self.created)) if self.exists(item, p.moment)} - page

    def same_touch(self, p: Positive) -> set[int]:
        had = self.had(p.user, p.item, p.moment)
        return {item for item in self.candidates(p) if self.had(p.user, item, p.moment) == had}

    def best(self, p: Positive) -> set[int]:
        stratum = self.stratum(p.item, p.moment)
        return {item for item in self.same_touch(p) if self.stratum(item, p.moment) == stratum}


def draw(log: Log, **how: Any) -> list[list[int]]:
    """What is drawn for each positive, in the order of the slots."""
    rows = pd.DataFrame([(p.user, p.item, p.moment, str(p.request)) for p in log.positives], columns=list("uimr"))
    positives = Positives(
        user=rows["u"].to_numpy(np.int64),
        item=rows["i"].to_numpy(np.int64),
        request=pd.factorize(rows["r"])[0].astype(np.int64),
        moment_us=rows["m"].to_numpy(np.int64),
        key=row_keys(rows["u"], rows["i"], rows["m"], rows["r"]),
    )
    catalogue = Catalogue(np.array(log.created, np.int64), np.array(log.removed, np.int64))
    drawn = draw_negatives(positives, catalogue, NegativeSettings(**how), log.delay)
    assert drawn.shape == (len(log.positives), how.get("per_positive", 4))
    return [[int(item) for item in row] for row in drawn]


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
@given(log=LOGS, strategy=STRATEGIES, per_positive=st.integers(1, 6), seed=st.integers(-3, 3))
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
@given(log=LOGS)
def test_age_and_activity_match_while_enough_such_items_exist(log: Log) -> None:
    for positive, drawn in zip(log.positives, draw(log), strict=True):
        best = log.best(positive)
        assert len(best & set(drawn)) == min(4, len(best))


def test_where_candidates_abound_everything_matches() -> None:
    log = crowded()
    judged = Counter[bool]()
    for positive, drawn in list(zip(log.positives, draw(log), strict=True))[::4]:
        best = log.best(positive)
        returning = log.had(positive.user, positive.item, positive.moment)
        if len(best) >= (8 if returning else 25):
            assert set(drawn) <= best
            judged[returning] += 1
    assert judged[False] > 30
    assert judged[True] > 5


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
