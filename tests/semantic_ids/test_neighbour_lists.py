"""Neighbour lists of a codebook: against loops, bounded by the fit end, and as a feature view."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.builders import DAY, START
from helpers.codebook_builders import AS_OF, CUT, ITEMS, SPEC, built_repo, registered
from helpers.commands import ask_well
from oracle.features import Event
from ranking.audit.artifacts import audit_artifacts
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.neighbour_lists import (
    NeighbourList,
    NeighbourLists,
    NeighbourSpec,
    content_list,
    make_lists,
    mixed_list,
    neighbours_of,
    neighbours_path,
    pair_list,
)
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.errors import ConfigError, FitError, LifeCycleError
from sidkit.core.repo import Repo

LISTS = ("content", "text", "co_clicks", "mixed")
WITH_LISTS = SPEC.model_copy(update={"neighbours": NeighbourSpec(lists=LISTS, count=4, least_clicks=2)})
CLICKS = tuple(
    Event(f"v{user}", f"i{item:03d}", START + (30 if late else 18) * DAY + user, 1)
    for late, pairs in ((False, ((0, 1), (0, 1), (0, 2), (0, 2))), (True, ((3, 4), (3, 4))))
    for user, pair in enumerate(pairs, start=10 * late)
    for item in pair
)
"""Users click two items each: before the cut-off i000 with i001 and with i002, after it i003 with i004."""


def rows_of(each: NeighbourList) -> list[dict[int, float]]:
    """Neighbour -> weight of each item."""
    return [
        {int(at): float(share) for at, share in zip(near, weight, strict=True) if at >= 0}
        for near, weight in zip(each.near, each.weight, strict=True)
    ]


def nearest_by_hand(vectors: np.ndarray, count: int) -> list[dict[int, float]]:
    found: list[dict[int, float]] = []
    unit = [row / np.linalg.norm(row) if np.any(row) else row for row in vectors.astype(float)]
    others = [at for at, row in enumerate(unit) if np.any(row)]
    for own, row in enumerate(unit):
        if own not in others:
            found.append({})
            continue
        near = sorted((at for at in others if at != own), key=lambda at: -float(row @ unit[at]))[:count]
        around = np.array([unit[at] for at in near]).reshape(len(near), -1)
        far = ((around - row) ** 2 / (around.std(axis=0) + 1e-3)).sum(axis=1)
        weight = np.exp(-0.5 * (far - far.min()))
        found.append(dict(zip(near, weight / weight.sum(), strict=True)))
    return found


def some_pairs(seed: int, items: int = 8) -> ItemPairs:
    rng = np.random.default_rng(seed)
    keys = rng.choice(items * items, 20, replace=False)
    trigger, target = keys // items, keys % items
    differs = trigger != target
    weight = rng.random(len(keys)).astype(np.float32) + 0.1
    return ItemPairs(trigger[differs], target[differs], weight[differs], rng.integers(0, 9, items), 0)


def assert_same(found: list[dict[int, float]], expected: list[dict[int, float]]) -> None:
    assert [sorted(row) for row in found] == [sorted(row) for row in expected]
    for left, right in zip(found, expected, strict=True):
        assert left == pytest.approx(right, abs=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_a_content_list_is_that_of_a_loop(seed: int, count: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(8, 3)).astype(np.float32)
    vectors[5] = 0
    found = content_list(vectors, count)
    assert_same(rows_of(found), nearest_by_hand(vectors, count))
    assert (np.diff(found.weight, axis=1) <= 0).all(), "nearest first"


@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]))
def test_a_mixed_list_adds_both_and_cold_items_have_content_alone(seed: int, count: int, share: float) -> None:
    vectors, pairs = np.random.default_rng(seed).normal(size=(8, 3)).astype(np.float32), some_pairs(seed)
    content, clicked = content_list(vectors, count), pair_list(pairs, 8, count)
    enough = pairs.clicks >= 5
    found = rows_of(mixed_list(content, clicked, enough, share, count))
    by_content, by_clicks = rows_of(content), rows_of(clicked)
    for item, row in enumerate(found):
        used = share if enough[item] and by_clicks[item] else 1.0
        both = {
            at: used * by_content[item].get(at, 0.0) + (1 - used) * by_clicks[item].get(at, 0.0)
            for at in by_content[item] | by_clicks[item]
        }
        expected = sorted((weight for weight in both.values() if weight > 0), reverse=True)[:count]
        assert sorted(row.values(), reverse=True) == pytest.approx(np.array(expected) / sum(expected), abs=1e-5)
        assert all(both[at] / sum(expected) == pytest.approx(weight, abs=1e-5) for at, weight in row.items())
        if not enough[item]:
            assert_same([row], [by_content[item]])


@given(st.integers(0, 10**6))
def test_a_list_of_clicks_has_the_heaviest_triggers_of_a_target(seed: int) -> None:
    pairs = some_pairs(seed)
    found = rows_of(pair_list(pairs, 8, 2))
    for item, row in enumerate(found):
        weights = {int(pairs.trigger[at]): float(pairs.weight[at]) for at in np.flatnonzero(pairs.target == item)}
        kept = sorted(weights, key=lambda at: (-weights[at], at))[:2]
        assert_same([row], [{at: weights[at] / sum(weights[each] for each in kept) for at in kept}])


def test_lists_are_the_same_after_they_were_written(tmp_path: Path) -> None:
    ids = [f"i{at}" for at in range(8)]
    lists = {"content": content_list(np.eye(8, 3, dtype=np.float32), 3), "co_clicks": pair_list(some_pairs(1), 8, 3)}
    NeighbourLists.made(ids, lists).write(tmp_path / "lists.parquet")
    read = NeighbourLists.read(tmp_path / "lists.parquet")
    assert read is not None and read.names == ("content", "co_clicks") and read.learned_from_clicks
    assert read.ids.to_pylist() == ids
    for name, each in lists.items():
        assert rows_of(read.of(name)) == rows_of(each)
    with pytest.raises(
        FitError, match=r"no neighbour list 'text', expected one of content, co_clicks.*fit the codebook"
    ):
        read.of("text")


def test_an_unknown_list_is_refused_and_so_is_content_that_was_trained_on_clicks() -> None:
    content = ItemVectors.of(np.eye(3, dtype=np.float32), "text")
    fused = np.zeros((3, 0), dtype=np.float32)
    with pytest.raises(FitError, match=r"a modality of the source \(text\), got 'image'; correct it"):
        make_lists(NeighbourSpec(lists=("image",)), ["a", "b", "c"], content, fused, None)
    with pytest.raises(FitError, match=r"not trained on clicks.*name modalities instead"):
        make_lists(NeighbourSpec(lists=("content",)), ["a", "b", "c"], content, fused, None)
    with pytest.raises(ValueError, match="expected distinct lists, got text, text"):
        NeighbourSpec(lists=("text", "text"))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    made = built_repo(tmp_path_factory.mktemp("lists"), clicks=CLICKS)
    lifecycle.fit(made, "listed", WITH_LISTS, CUT)
    lifecycle.publish(made, "listed")
    lifecycle.fit(made, "plain", SPEC, CUT)
    lifecycle.publish(made, "plain")
    return made


def test_lists_hold_items_and_clicks_that_were_known_at_the_fit_end(repo: Repo) -> None:
    book = Codebook.load(repo.codebooks / "listed")
    assert book.neighbours is not None and book.learned_from_clicks
    assert not Codebook.load(repo.codebooks / "plain").learned_from_clicks
    named = set(book.neighbours.ids.to_pylist())
    delay = repo.settings.time.delay_us
    assert named and all(ITEMS[item] + delay <= CUT for item in named), "no item born later"
    for name in LISTS:
        assert set(book.neighbours.table.column(f"{name}_ids").combine_chunks().flatten().to_pylist()) <= named
    clicked = {row["item_id"]: row["co_clicks_ids"] for row in book.neighbours.table.to_pylist()}
    assert clicked["i000"] == ["i001", "i002"] and clicked["i001"] == ["i000"]
    assert not clicked["i003"], "clicks after the fit end make no pairs"


def test_later_clicks_and_items_change_no_list(repo: Repo, tmp_path: Path) -> None:
    other = built_repo(tmp_path, clicks=tuple(each for each in CLICKS if each.timestamp < START + 20 * DAY))
    lifecycle.fit(other, "listed", WITH_LISTS, CUT)
    left, right = (Codebook.load(each.codebooks / "listed").neighbours for each in (repo, other))
    assert left is not None and right is not None and left.table.equals(right.table)


def test_the_view_has_the_lists_from_the_fit_end_on(repo: Repo) -> None:
    import pandas as pd

    from sidkit.stores.feast_repo import open_store

    views = registered(repo)[0]
    assert "item_neighbours_listed" in views and "item_neighbours_plain" not in views
    store, names = (
        open_store(repo),
        [f"item_neighbours_listed:{name}_{part}" for name in LISTS for part in ("ids", "weights")],
    )
    asked = pd.DataFrame(
        {
            "item_id": ["i000", "i000", "i055"],
            "event_timestamp": pd.to_datetime([CUT - 1, CUT, AS_OF], unit="us", utc=True),
        }
    )
    found = store.get_historical_features(asked, names).to_df().sort_values(["item_id", "event_timestamp"])
    lists = found["co_clicks_ids"].tolist()
    assert lists[0] is None or len(np.atleast_1d(lists[0])) == 0 or np.all(pd.isna(lists[0])), "not before the fit end"
    assert list(lists[1]) == ["i001", "i002"]
    assert lists[2] is None or np.all(pd.isna(lists[2])), "an item of the future has none"
    online = store.get_online_features(names, [{"item_id": "i000"}]).to_dict()
    assert online["co_clicks_ids"] == [["i001", "i002"]]
    assert sum(online["content_weights"][0]) == pytest.approx(1, abs=1e-5)


def test_the_neighbours_of_an_item_are_printed_and_returned(repo: Repo) -> None:
    import sidkit

    codebook = sidkit.open(repo.path).codebook("listed")
    near = codebook.neighbours("i000", "co_clicks")
    assert near["item_id"].tolist() == ["i001", "i002"] and near["weight"].sum() == pytest.approx(1)
    asked = ("codebooks", "similar", "i000", "--name", "listed", "--list", "co_clicks", "--repo", repo.path)
    assert [line.split("\t")[0] for line in ask_well(*asked).out.split("\n") if line] == ["i001", "i002"]
    assert [row["item_id"] for row in json.loads(ask_well(*asked, "--json").out)] == ["i001", "i002"]
    assert not len(codebook.neighbours("i003", "co_clicks"))
    with pytest.raises(ConfigError, match="known when the codebook was fitted, got 'i059'"):
        codebook.neighbours("i059")
    with pytest.raises(FitError, match="no neighbour list 'content', expected one of none"):
        sidkit.open(repo.path).codebook("plain").neighbours("i000")


def test_a_codebook_whose_view_is_missing_is_not_promoted_and_the_audit_names_it(tmp_path: Path) -> None:
    repo = built_repo(tmp_path)
    definitions = repo.path / "semantic_id_views.py"
    now = definitions.read_text()
    older = now.replace(", item_neighbours_views)", ")")
    assert older != now
    definitions.write_text(older)
    lifecycle.fit(repo, "listed", WITH_LISTS, CUT)
    lifecycle.publish(repo, "listed")
    assert "item_neighbours_listed" not in registered(repo)[0]
    with pytest.raises(
        LifeCycleError, match=r"item_neighbours_listed.*missing from the registry.*sidkit upgrade --definit"
    ):
        lifecycle.promote(repo, "listed")
    assert any("item_neighbours_listed" in problem.problem for problem in audit_artifacts(repo).problems)
    definitions.write_text(now)
    lifecycle.publish(repo, "listed")
    lifecycle.promote(repo, "listed")
    assert audit_artifacts(repo).problems == ()
    neighbours_path(repo, "listed").unlink()
    assert any(
        "item_neighbours_listed.parquet is missing" in problem.problem for problem in audit_artifacts(repo).problems
    )


def test_a_refresh_restores_the_table_and_a_purge_removes_it(tmp_path: Path) -> None:
    repo = built_repo(tmp_path)
    lifecycle.fit(repo, "listed", WITH_LISTS, CUT)
    lifecycle.publish(repo, "listed")
    table = neighbours_path(repo, "listed")
    before = pq.read_table(table)
    table.write_bytes(b"damaged")
    lifecycle.refresh(repo, "listed")
    assert pq.read_table(table).equals(before)
    assert neighbours_of(repo, "listed") == LISTS
    (repo.codebooks / "listed" / "manifest.json").rename(tmp_path / "manifest.json")
    assert neighbours_of(repo, "listed") == LISTS, "the table states them where the artefact cannot be read"
    (tmp_path / "manifest.json").rename(repo.codebooks / "listed" / "manifest.json")
    lifecycle.retire(repo, "listed")
    lifecycle.purge(repo, "listed")
    assert not table.exists() and not table.with_suffix(".json").exists()
    assert "item_neighbours_listed" not in registered(repo)[0]
    assert Catalog.open(repo).codebook("listed").state == "purged"


def test_a_codebook_without_lists_is_the_codebook_of_earlier_releases(repo: Repo) -> None:
    folder = repo.codebooks / "plain"
    assert not (folder / "neighbours.parquet").exists()
    assert "neighbours" not in (folder / "manifest.json").read_text() and not neighbours_of(repo, "plain")
    assert "neighbours" not in SPEC.model_dump() and "neighbours" in WITH_LISTS.model_dump()
