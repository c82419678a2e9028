"""The audit recomputes code statistics and counts per user and item from the log, and names what was planted."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import DAY, START, complete, fresh_repo, moments, set_world, write_tables
from helpers.hand_codes import HandMade
from oracle.logs import LAST, random_world
from ranking.audit.compare_cells import audit_rows
from ranking.audit.frames import AuditedRows
from ranking.audit.reference import LogReference, log_reference
from ranking.data.schema import BUILT_IN
from semantic_ids.catalog import table_path
from sidkit.core.artifact import write_artifact
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest, read_log

HOUR, SECOND = 3_600_000_000, 1_000_000
DELAY = 60 * SECOND
Version = tuple[str, int, tuple[int, ...] | None]
"""Item, time from which serving reads its codes, codes."""


def write_codes(repo: Repo, versions: list[Version], **stats: Any) -> None:
    items, times_us, codes = zip(*versions, strict=True)
    table = pa.table(
        {"item_id": items, "event_timestamp": moments(times_us), "codes": pa.array(codes, pa.list_(pa.int64()))}
    )
    pq.write_table(table, table_path(repo, "hand"))
    described = {"kind": "codebook", "name": "hand", "stats": stats}
    write_artifact(repo.codebooks / "hand", described, lambda folder: (folder / "x").write_text("x") and None)


# A log small enough to count by hand.

VERSIONS: list[Version] = [
    ("a", START - DAY, (3, 1)),
    ("a", START + 10 * DAY, (5, 1)),
    ("b", START - DAY, (3, 2)),
    ("c", START - DAY, None),
]
EVENTS = [
    ("u1", "a", START + 10 * SECOND, 1, 1),
    ("u2", "b", START + 20 * SECOND, 0, 0),
    ("u2", "c", START + 30 * SECOND, 1, 0),
    ("u1", "b", START + HOUR, 1, 0),
    ("u1", "a", START + 10 * DAY - 1, 1, 0),
    ("u1", "a", START + 10 * DAY, 0, 0),
]
SECTION = "[features]"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("codes")
    users, items, times_us, labels, converted = zip(*EVENTS, strict=True)
    source = write_tables(
        folder / "source",
        {
            "interactions": pa.table(
                {
                    "user_id": users,
                    "item_id": items,
                    "timestamp": moments(times_us),
                    "label": pa.array(labels, pa.int8()),
                    "converted": pa.array(converted, pa.int8()),
                    "device": ["phone", "tablet", "phone", "web", "web", None],
                    "seen_at": moments([us - DAY for us in times_us]),
                }
            ),
            "items": pa.table({"item_id": ["a", "b", "c"], "created_at": moments([START - 2 * DAY] * 3)}),
            "item_embeddings": pa.table(
                {"item_id": ["a", "b"], "text": pa.array([[1.0, 2.0], [2.0, 1.0]], pa.list_(pa.float32()))}
            ),
        },
    )
    made = fresh_repo(folder / "repo", source, toml={"conversions = false": "conversions = true"})
    text = (made.path / "sidkit.toml").read_text()
    head, _, rest = text.partition(SECTION)
    tail = rest[rest.index("[catalog]") :]
    context = '[features]\naffinity = ["item_id"]\n\n[features.context]\ndevice = "category"\nseen_at = "date"\n\n'
    (made.path / "sidkit.toml").write_text(f"{head}{context}{tail}")
    made = Repo.open(made.path)
    ingest(made)
    build_tables(made, START + 60 * DAY)
    write_codes(made, VERSIONS, depths=[1, 2], cadence_seconds=3600, user_cadence_seconds=86_400)
    return made


def asked(*rows: tuple[str, str, int]) -> tuple[Any, Any, Any]:
    users, items, at_us = zip(*rows, strict=True)
    return np.array(users, dtype=object), np.array(items, dtype=object), np.array(at_us, dtype=np.int64)


def cells(repo: Repo, *rows: tuple[str, str, int], rate: float = 0.25) -> list[dict[str, Any]]:
    """Cells of code statistics as a saved frame has them."""
    codebook: Any = HandMade(("text",))
    keys = asked(*rows)
    with log_reference(repo, codebook) as reference:
        plain = reference.cells(*keys)
        users = [{f"user_rate_{window}": 0.5 for window in ("30d", "all")} for _ in rows]
        return reference.by_code.saved_cells(*keys, plain, users, rate)


def test_a_window_end_is_read_after_the_delay_and_not_before(repo: Repo) -> None:
    early, late = cells(repo, ("u1", "b", START + HOUR + DELAY - 1), ("u1", "b", START + HOUR + DELAY))
    assert early["code_stats_d1__exposures_all"] == 0
    # The event at exactly the window end counts: a, b, and b again; c has no codes.
    assert late["code_stats_d1__exposures_all"] == late["code_stats_d1__exposures_1d"] == 3
    assert (late["code_stats_d1__clicks_1d"], late["code_stats_d1__conversions_1d"]) == (2, 1)
    assert (late["code_stats_d2__exposures_1d"], late["code_stats_d2__clicks_1d"]) == (2, 1)


def test_users_have_a_cadence_of_their_own(repo: Repo) -> None:
    before, after = cells(repo, ("u1", "a", START + DAY + DELAY - 1), ("u1", "a", START + DAY + DELAY))
    assert START % DAY == 0
    assert before["user_code_stats_d1__exposures_all"] == 0 and before["code_stats_d1__exposures_all"] == 3
    assert (after["user_code_stats_d1__exposures_30d"], after["user_code_stats_d2__clicks_30d"]) == (2, 1)
    assert "user_code_stats_d1__exposures_7d" not in after


def test_an_event_counts_for_the_codes_of_its_time_and_a_row_reads_those_of_its_own(repo: Repo) -> None:
    at = START + 11 * DAY
    of_a, of_b = cells(repo, ("u1", "a", at), ("u1", "b", at))
    assert (of_a["code_stats_d1__exposures_all"], of_a["code_stats_d1__clicks_all"]) == (1, 0)
    assert (of_b["code_stats_d1__exposures_all"], of_b["code_stats_d1__clicks_all"]) == (4, 3)
    # Of the history a, b, a, only b has the prefix 3 as of the row.
    assert (of_b["code_affinity_d1__count"], of_a["code_affinity_d1__count"]) == (1, 2)
    assert of_b["code_affinity_d1__share"] == pytest.approx(1 / 3)
    assert of_b["code_affinity_d1__gap_days"] == pytest.approx((11 * DAY - HOUR) / DAY)


def test_rates_are_smoothed_towards_the_shallower_prefix(repo: Repo) -> None:
    [cell] = cells(repo, ("u2", "b", START + 2 * HOUR))
    shallow = (2 + 10 * 0.25) / (3 + 10)
    deep = (1 + 10 * shallow) / (2 + 10)
    assert cell["code_stats_d1__rate_1d"] == pytest.approx(shallow)
    assert cell["code_stats_d2__rate_1d"] == pytest.approx(deep)
    assert cell["code_stats__item_rate_1d"] == pytest.approx((1 + 10 * deep) / (2 + 10))
    assert cell["user_code_stats_d1__rate_all"] == cell["user_code_stats_d2__rate_all"] == 0.5
    [later] = cells(repo, ("u2", "b", START + 2 * DAY))
    of_user = (0 + 10 * 0.5) / (1 + 10)
    assert later["user_code_stats_d1__rate_all"] == pytest.approx(of_user)
    assert later["user_code_stats_d2__rate_30d"] == pytest.approx(10 * of_user / (1 + 10))


def test_an_item_without_codes_has_counts_of_nothing_and_the_priors(repo: Repo) -> None:
    [cell] = cells(repo, ("u1", "c", START + 5 * DAY))
    assert {cell[f"code_stats_d{depth}__exposures_all"] for depth in (1, 2)} == {0}
    assert {cell[f"code_stats_d{depth}__rate_7d"] for depth in (1, 2)} == {0.25}
    assert {cell[f"user_code_stats_d{depth}__rate_all"] for depth in (1, 2)} == {0.5}
    assert cell["code_stats__item_rate_all"] == pytest.approx((1 + 10 * 0.25) / (1 + 10))
    assert cell["code_affinity_d1__count"] == 0 and np.isnan(cell["code_affinity_d1__gap_days"])


# Planted faults.

AT = START + 11 * DAY
ROWS = [("u1", "a", START + 3 * HOUR), ("u2", "b", START + 2 * DAY), ("u1", "b", AT), ("u2", "c", AT)]


def frame_of(repo: Repo, rows: list[tuple[str, str, int]], found: list[dict[str, Any]]) -> AuditedRows:
    """A saved frame of rows with some cells."""
    return AuditedRows("test", len(rows), np.arange(len(rows)), *asked(*rows), found, 0.25, BUILT_IN)


def audited(repo: Repo, rows: list[tuple[str, str, int]], found: list[dict[str, Any]]) -> Any:
    codebook: Any = HandMade(("text",))
    with log_reference(repo, codebook) as reference:
        return audit_rows(repo, frame_of(repo, rows, found), reference)


def saved(repo: Repo, rows: list[tuple[str, str, int]], **changed: Any) -> list[dict[str, Any]]:
    """Sound cells of rows, through the audit's own reference; or those of a reference with changed attributes."""
    codebook: Any = HandMade(("text",))
    with log_reference(repo, codebook) as reference:
        for name, value in changed.items():
            setattr(reference.by_code, name, value)
        return [dict(cell) for cell in _cells(reference, rows)]


def _cells(reference: LogReference, rows: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
    from ranking.audit.expected import saved_cells

    keys = asked(*rows)
    plain = reference.cells(*keys)
    users = [saved_cells(row, item, at, 0.25) for row, (_, item, at) in zip(plain, rows, strict=True)]
    return reference.by_code.saved_cells(*keys, plain, users, 0.25)


def one_click_more(found: list[dict[str, Any]]) -> None:
    found[2]["code_stats_d2__clicks_30d"] += 1


def a_better_rate(found: list[dict[str, Any]]) -> None:
    found[1]["code_stats__item_rate_7d"] += 0.01


def one_place_more(found: list[dict[str, Any]]) -> None:
    found[2]["code_affinity_d1__share"] = 2 / 3


@pytest.mark.parametrize(
    ("fault", "row", "feature"),
    [
        (one_click_more, 2, "code_stats_d2__clicks_30d"),
        (a_better_rate, 1, "code_stats__item_rate_7d"),
        (one_place_more, 2, "code_affinity_d1__share"),
    ],
)
def test_one_changed_cell_is_named(
    repo: Repo, fault: Callable[[list[dict[str, Any]]], None], row: int, feature: str
) -> None:
    found = saved(repo, ROWS)
    sound = audited(repo, ROWS, found)
    assert sound.difference is None and sound.cells == sum(map(len, found))
    fault(found)
    difference = audited(repo, ROWS, found).difference
    assert (difference.row, difference.feature) == (row, feature)


def test_counts_from_the_future_are_named_with_the_time_from_which_they_are_known(repo: Repo) -> None:
    rows = [("u1", "b", START + HOUR + DELAY - 1)]
    found = saved(repo, [("u1", "b", START + HOUR + DELAY)])
    wanted = ("code_stats_d1__exposures_all",)
    difference = audited(repo, rows, [{name: found[0][name] for name in wanted}]).difference
    assert (difference.feature, difference.expected, difference.found) == (wanted[0], 0, 3)
    assert difference.found_known_from > difference.at and "AFTER the row" in difference.as_text()


@pytest.mark.parametrize(
    ("attribute", "cadence_us", "view"),
    [("_cadence_us", 60 * SECOND, "code_stats_"), ("_user_cadence_us", HOUR, "user_code_stats_")],
)
def test_another_cadence_is_named(repo: Repo, attribute: str, cadence_us: int, view: str) -> None:
    rows = [("u1", "b", START + HOUR // 2), ("u2", "b", START + 5 * HOUR)]
    difference = audited(repo, rows, saved(repo, rows, **{attribute: cadence_us})).difference
    assert difference.feature.startswith(view)


def test_one_event_among_many_is_not_lost_in_a_tolerance(repo: Repo) -> None:
    from ranking.audit.compare_cells import _same

    reference: Any = None
    for name in ("code_stats_d1__clicks_all", "item_exposures_all", "user_item_id_stats__clicks_7d"):
        assert _same(name, 1_000_000.0, 1_000_000.0, {}, reference)
        assert not _same(name, 1_000_000.0, 1_000_001.0, {}, reference)


def test_codebooks_without_statistics_have_no_cells(repo: Repo) -> None:
    codebook: Any = HandMade(("text",))
    codebook.name = "older"
    keys = asked(*ROWS)
    with log_reference(repo, codebook) as reference:
        assert reference.by_code.saved_cells(*keys, [], [], 0.25) == [{}] * len(ROWS)
        assert reference.by_code.plain_cells(*keys) == [{}] * len(ROWS)


# Counts per user and item.


def test_counts_per_user_and_item_have_the_cadence_of_user_stats(repo: Repo) -> None:
    rows = [
        ("u1", "a", START + 2 * 60 * SECOND - 1),
        ("u1", "a", START + 2 * 60 * SECOND),
        ("u2", "a", START + 9 * DAY),
    ]
    codebook: Any = HandMade(("text",))
    with log_reference(repo, codebook) as reference:
        early, late, other = reference.by_value.cells(*asked(*rows), 0.25)
        timeline = reference.timeline("user_item_id_stats__clicks_all", "u1", "a", START + 11 * DAY)
    assert early["user_item_id_stats__clicks_all"] == 0 and early["user_item_id_stats__rate_1d"] == 0.25
    assert late["user_item_id_stats__clicks_all"] == late["user_item_id_stats__exposures_1d"] == 1
    assert late["user_item_id_stats__rate_1d"] == pytest.approx((1 + 2.5) / (1 + 10))
    assert other["user_item_id_stats__exposures_all"] == 0
    assert timeline == [(START + 2 * 60 * SECOND, 1.0), (START + 10 * DAY + DELAY, 2.0)]


def test_a_count_of_another_users_item_is_named(repo: Repo) -> None:
    rows = [("u2", "a", START + 11 * DAY)]
    found = {"user_item_id_stats__exposures_all": 3.0}  # those of u1
    difference = audited(repo, rows, [found]).difference
    assert (difference.feature, difference.expected) == ("user_item_id_stats__exposures_all", 0)


# Context columns.


def test_context_is_that_of_the_event_behind_a_row(repo: Repo) -> None:
    rows = [(user, item, us) for user, item, us, *_ in EVENTS]
    found = [
        {"context__device": device, "context__seen_at": 1.0}
        for device in ("phone", "tablet", "phone", "web", "web", None)
    ]
    sound = audited(repo, rows, found)
    assert sound.difference is None and sound.cells == 2 * len(rows) and not sound.not_audited
    found[3]["context__device"] = "phone"
    difference = audited(repo, rows, found).difference
    assert (difference.row, difference.feature, difference.expected) == (3, "context__device", "web")


def test_a_sampled_negative_has_the_context_of_its_users_event_at_that_time(repo: Repo) -> None:
    rows = [("u1", "c", START + HOUR)]
    assert audited(repo, rows, [{"context__device": "web"}]).difference is None
    assert audited(repo, rows, [{"context__device": "phone"}]).difference.feature == "context__device"


# An index and bisection against loops over all events.


def looped(
    events: list[tuple[Any, ...]],
    versions: list[Version],
    row: tuple[str, str, int],
    settings: Any,
    stats: dict[str, Any],
) -> dict[str, int | None]:
    """Counts of a row by the definition, without any index."""

    def codes(item: str, at_us: int) -> tuple[int, ...] | None:
        known = [version for version in versions if version[0] == item and version[1] <= at_us]
        return max(known, key=lambda version: version[1])[2] if known else None

    user, item, at_us = row
    own, counts = codes(item, at_us), dict[str, int | None]()
    lengths = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "all": 10**18}
    for depth in stats["depths"]:
        for view, cadence, windows in (
            ("code_stats", stats["cadence_seconds"], lengths),
            ("user_code_stats", stats["user_cadence_seconds"], ("30d", "all")),
        ):
            step = max(cadence * SECOND, settings.cadence)
            end_us = (min(at_us, LAST + 60 * DAY) - settings.delay) // step * step
            same = [
                event
                for event in events
                if own is not None
                and (theirs := codes(event[1], event[2])) is not None
                and theirs[:depth] == own[:depth]
                and event[2] <= end_us
                and (view == "code_stats" or event[0] == user)
            ]
            for window in windows:
                inside = [event for event in same if event[2] > end_us - lengths[window]]
                stem = f"{view}_d{depth}"
                counts[f"{stem}__exposures_{window}"] = None if settings.positives_only or not same else len(inside)
                counts[f"{stem}__clicks_{window}"] = sum(event[3] for event in inside) if same else None
                if view == "code_stats":
                    converted = sum(event[4] for event in inside)
                    counts[f"{stem}__conversions_{window}"] = converted if same and settings.has_conversions else None
    return counts


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_a_loop_over_all_events(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    world = complete(random_world(draw, n_users=8, n_items=12, n_events=250, n_queries=60))
    settings = replace(world.settings, cadence=60 * SECOND) if seed % 2 else world.settings
    world = replace(world, settings=settings)
    made = fresh_repo(tmp_path / "repo", tmp_path / "source", modalities=("text", "image"))
    made = set_world(made.path, tmp_path / "source", world)
    ingest(made)
    build_tables(made, LAST + 60 * DAY)
    with duckdb.connect() as opened:
        listed = ", ".join(f"'{part}'" for part in read_log(made).parts)
        events = opened.execute(
            f"SELECT user_id, item_id, epoch_us(timestamp), label, coalesce(converted, 0) FROM read_parquet([{listed}])"
        ).fetchall()
    times_us = [event[2] for event in events]
    items = sorted({event[1] for event in events})
    keys = {(draw.choice(items), draw.choice(times_us) + draw.choice((-DAY, -1, 0, 0, 1))) for _ in range(60)}
    versions = [
        (item, us, None if draw.random() < 0.15 else tuple(draw.randint(0, 1) for _ in range(3)))
        for item, us in {*keys, *((item, min(times_us) - draw.choice((0, DAY))) for item in items)}
    ]
    stats = {
        "depths": draw.choice(([1, 2, 3], [1, 3], [2])),
        "cadence_seconds": draw.choice((3600, 7000)),
        "user_cadence_seconds": draw.choice((86_400, 3600)),
    }
    write_codes(made, versions, **stats)
    queries = [query for query in world.queries if query[2] <= LAST + 60 * DAY]
    # Rows around window ends and the delay, where an inclusive limit shows.
    queries += [
        (user, item, us + settings.delay + draw.choice((-1, 0, HOUR)))
        for user, item, us, *_ in draw.sample(events, min(40, len(events)))
    ]
    queries = [query for query in queries if query[2] <= LAST + 60 * DAY]
    codebook: Any = HandMade(world.modalities)
    with log_reference(made, codebook) as reference:
        found = reference.by_code.plain_cells(*asked(*queries))
    for query, cell in zip(queries, found, strict=True):
        assert cell == looped(events, versions, query, settings, stats), query
    assert any(value for cell in found for value in cell.values())
