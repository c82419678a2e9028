"""Looking codes up, both ways, against the published table read row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sidkit.stores.feast_repo as feast_repo
from helpers.builders import DAY, embeddings_table, reseal, write_tables
from helpers.codebook_builders import AS_OF, BARE, CUT, ITEMS, SPEC, bring, build, built_repo
from oracle.features import EmbeddingVersion
from semantic_ids import lifecycle, lookup
from semantic_ids.catalog import table_path
from semantic_ids.lookup import codes_of, items_of, known_ids
from sidkit.core.errors import ArtifactCorruptError, ConfigError, LifeCycleError, UnknownVersionError
from sidkit.core.repo import Repo
from sidkit.stores import registered
from sidkit.tables import read_log

SIZES = SPEC.sizes or ()
relaxed = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def without_feast() -> pytest.MonkeyPatch:
    """Look-ups read the tables; publishing without Feast saves its start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feast_repo, "apply_repo", lambda _: "")
        patch.setattr(feast_repo, "materialize", lambda *_: {})
        patch.setattr(registered, "of_codebook", lambda *_: [])
        yield patch


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory, without_feast: pytest.MonkeyPatch) -> Repo:
    """Two published codebooks, of which b serves; i003 and i004 changed their content once. Tests only read it."""
    repo = built_repo(tmp_path_factory.mktemp("look-up"))
    for name, sizes in (("a", SIZES), ("b", (5, 5))):
        lifecycle.fit(repo, name, SPEC.model_copy(update={"sizes": sizes}), CUT)
        lifecycle.publish(repo, name)
    bring(repo, ITEMS, AS_OF + DAY, edition={"i003": 1, "i004": 2})
    lifecycle.refresh(repo)
    lifecycle.promote(repo, "b")
    return repo


def newest(repo: Repo, name: str) -> dict[str, list[int]]:
    """The last row of each item, where it has codes."""
    found: dict[str, list[int] | None] = {}
    for row in sorted(pq.read_table(table_path(repo, name)).to_pylist(), key=lambda row: row["event_timestamp"]):
        found[row["item_id"]] = row["codes"]
    return {item: codes for item, codes in found.items() if codes is not None}


@relaxed
@given(asked=st.lists(st.sampled_from([*ITEMS, "unknown", "", "i'; --"]), max_size=12))
def test_items_have_their_newest_codes_or_none_in_the_order_asked(repo: Repo, asked: list[str]) -> None:
    known = newest(repo, "a")
    found = codes_of(repo, asked, "a")
    assert found == {item: known.get(item) for item in asked}
    assert list(found) == list(dict.fromkeys(asked))


def test_ids_are_not_looked_up_in_a_damaged_table(repo: Repo) -> None:
    assert known_ids(repo, ["i003", "unknown"]) == {"i003"}
    path = repo.tables / "item_stats.parquet"
    whole = path.read_bytes()
    path.write_bytes(b"")
    try:
        with pytest.raises(ArtifactCorruptError, match=r"item_stats\.parquet"):
            known_ids(repo, ["i003"])
    finally:
        path.write_bytes(whole)


def test_an_item_without_any_vector_has_no_codes(repo: Repo) -> None:
    assert codes_of(repo, BARE, "a") == dict.fromkeys(BARE)


def test_the_serving_codebook_is_the_default(repo: Repo) -> None:
    assert codes_of(repo, ["i003"]) == codes_of(repo, ["i003"], "b") != codes_of(repo, ["i003"], "a")
    codes = ",".join(map(str, newest(repo, "b")["i003"]))
    assert items_of(repo, codes) == items_of(repo, codes, "b")


@relaxed
@given(data=st.data())
def test_a_prefix_has_the_items_whose_newest_codes_begin_with_it(repo: Repo, data: st.DataObject) -> None:
    depth = data.draw(st.integers(1, len(SIZES)))
    of_an_item = st.sampled_from(sorted(newest(repo, "a").values())).map(lambda codes: codes[:depth])
    any_codes = st.tuples(*(st.integers(-1, size) for size in SIZES[:depth])).map(list)
    prefix = data.draw(of_an_item | any_codes)
    most = data.draw(st.sampled_from([0, 1, 3, 1000, 10**20]))
    expected = [
        (item, codes, f"title of {item}")
        for item, codes in sorted(newest(repo, "a").items())
        if codes[:depth] == prefix
    ]
    assert items_of(repo, ",".join(map(str, prefix)), "a", most) == expected[:most]


def test_every_item_is_found_under_its_own_codes(repo: Repo) -> None:
    for item, codes in list(codes_of(repo, list(ITEMS), "a").items())[::5]:
        if codes is not None:
            assert item in [found for found, _, _ in items_of(repo, ", ".join(map(str, codes)), "a")]


@pytest.mark.parametrize("codes", ["", ",", "1,", "x", "1;2", "1.5", "1 2", "None"])
def test_what_are_no_codes_is_refused_with_an_example(repo: Repo, codes: str) -> None:
    with pytest.raises(ConfigError, match="expected codes as integers separated by commas, such as 17,3"):
        items_of(repo, codes, "a")


def test_more_codes_than_levels_are_refused(repo: Repo) -> None:
    with pytest.raises(ConfigError, match="expected at most 3 codes, the levels of a, got 4"):
        items_of(repo, "1,2,3,4", "a")


def test_a_code_beyond_all_integers_is_refused_or_has_no_items(repo: Repo) -> None:
    try:
        found = items_of(repo, "99999999999999999999", "a")
    except ConfigError:
        return
    assert found == []


def test_a_negative_number_of_items_is_refused(repo: Repo) -> None:
    with pytest.raises(ConfigError):
        items_of(repo, "1", "a", most=-1)


@pytest.mark.parametrize(
    "look_up", [lambda repo, name: codes_of(repo, ["i003"], name), lambda repo, name: items_of(repo, "1", name)]
)
def test_only_a_published_codebook_is_looked_up(tmp_path: Path, without_feast: pytest.MonkeyPatch, look_up) -> None:  # type: ignore[no-untyped-def]
    repo = built_repo(tmp_path)
    with pytest.raises(UnknownVersionError, match="'nope'"):
        look_up(repo, "nope")
    with pytest.raises(UnknownVersionError, match="serving"):
        look_up(repo, None)
    lifecycle.fit(repo, "a", SPEC, CUT)
    with pytest.raises(LifeCycleError, match="a is 'fitted'.*once it is published"):
        look_up(repo, "a")
    lifecycle.publish(repo, "a")
    assert look_up(repo, "a") == look_up(repo, None)
    lifecycle.retire(repo, "a")
    look_up(repo, "a")
    lifecycle.purge(repo, "a")
    with pytest.raises(LifeCycleError, match="a is 'purged'"):
        look_up(repo, "a")


def test_an_item_that_lost_its_vectors_is_no_longer_found(tmp_path: Path, without_feast: pytest.MonkeyPatch) -> None:
    repo = built_repo(tmp_path)
    lifecycle.fit(repo, "a", SPEC, CUT)
    lifecycle.publish(repo, "a")
    had = codes_of(repo, ["i003"])["i003"]
    assert had
    rows = pq.read_table(tmp_path / "source" / "item_embeddings.parquet").to_pylist()
    listed = [
        EmbeddingVersion(
            row["item_id"], None, {name: None if row["item_id"] == "i003" else row[name] for name in ("text", "image")}
        )
        for row in rows
    ]
    write_tables(tmp_path / "source", {"item_embeddings": embeddings_table(listed, ("text", "image"))})
    build(repo, AS_OF + DAY)
    lifecycle.refresh(repo)
    assert codes_of(repo, ["i003"]) == {"i003": None}
    assert "i003" not in [item for item, _, _ in items_of(repo, ",".join(map(str, had)))]


def test_the_title_is_the_newest_one_and_may_be_missing(tmp_path: Path, without_feast: pytest.MonkeyPatch) -> None:
    repo = built_repo(tmp_path)
    lifecycle.fit(repo, "a", SPEC, CUT)
    lifecycle.publish(repo, "a")
    (first, _, _), *_ = found = items_of(repo, str(codes_of(repo, ["i003"])["i003"][0]), most=1000)
    snapshot = read_log(repo).items
    items = pq.read_table(snapshot)
    # Versions of an item come as rows with updated_at; a title of any of them would do for a careless reader.
    versions = []
    for number in range(4):
        renamed = pa.array([f"title {number}"] * len(items))
        moment = pa.array([1000 + number] * len(items)).cast(items.schema.field("created_at").type)
        versions.append(
            items.set_column(items.schema.get_field_index("title"), "title", renamed).append_column(
                "updated_at", moment
            )
        )
    for order in (versions, versions[::-1]):
        pq.write_table(pa.concat_tables(order), snapshot)
        reseal(snapshot)
        assert items_of(repo, str(codes_of(repo, [first])[first][0]), most=1)[0][2] == "title 3"
    pq.write_table(items.drop_columns(["title"]), snapshot)
    reseal(snapshot)
    assert items_of(repo, str(found[0][1][0]), most=1000) == [(item, codes, None) for item, codes, _ in found]


@pytest.mark.parametrize("ask", [lambda repo: codes_of(repo, ["i003"], "a"), lambda repo: items_of(repo, "0", "a")])
def test_a_codebook_that_is_purged_while_it_is_read_is_told(
    repo: Repo, ask: Callable[[Repo], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "table_path", lambda _, name: repo.tables / f"item_sid_{name}_was_here.parquet")
    with pytest.raises(LifeCycleError, match="a is 'purged': it was purged during this read"):
        ask(repo)
