"""The life of codebooks on a small repo: what each step after the fit leaves behind, and which is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, embeddings_table, fresh_repo, write_tables
from helpers.codebook_builders import (
    AS_OF,
    ASKED,
    BARE,
    CUT,
    ITEMS,
    SPEC,
    bring,
    build,
    built_repo,
    files,
    online,
    publish,
    registered,
    rows,
    with_codes,
)
from oracle.features import EmbeddingVersion
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog, table_path
from semantic_ids.codebook import Codebook
from semantic_ids.item_vectors import ItemVectors
from sidkit.core.errors import CatalogLostError, LifeCycleError, UnknownVersionError
from sidkit.core.repo import Repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return built_repo(tmp_path)


def test_every_content_row_has_the_codes_that_the_codebook_gives_its_content(repo: Repo) -> None:
    bring(repo, ITEMS, AS_OF + DAY, edition={"i003": 1})
    publish(repo, "a")
    content = pq.read_table(repo.tables / "item_content.parquet")
    items = ItemVectors.from_arrow(content, ("text", "image"))
    expected = Codebook.load(repo.codebooks / "a").assign(items)
    keys = list(zip(content["item_id"].to_pylist(), content["event_timestamp"].to_pylist(), strict=True))
    assert len(keys) == len(ITEMS) + 1
    table = rows(repo, "a")
    assert with_codes(repo, "a") == {
        key: codes for key, codes, there in zip(keys, expected.codes.tolist(), expected.encodable, strict=True) if there
    }
    for key, norm, created in zip(
        keys, expected.residual_norm.tolist(), content["created_timestamp"].to_pylist(), strict=True
    ):
        if key[0] not in BARE:
            assert table[key]["residual_norm"] == pytest.approx(norm, abs=1e-5)
            assert table[key]["created_timestamp"] == created


def test_items_without_any_vector_have_no_codes_anywhere(repo: Repo) -> None:
    publish(repo, "a")
    assert not {item for item, _ in with_codes(repo, "a")} & set(BARE)
    read = online(repo, "a", ["i003", "i007", "unknown"])
    assert read["i003"] is not None
    assert read["i007"] is read["unknown"] is None


def test_an_item_that_lost_its_vectors_has_no_codes_any_more(repo: Repo) -> None:
    publish(repo, "a")
    had = online(repo, "a", ["i003"])["i003"]
    assert had
    embeddings = pq.read_table(repo.path.parent / "source" / "item_embeddings.parquet").to_pylist()
    for row in embeddings:
        if row["item_id"] == "i003":
            row["text"] = row["image"] = None
    listed = [
        EmbeddingVersion(row["item_id"], None, {"text": row["text"], "image": row["image"]}) for row in embeddings
    ]
    write_tables(repo.path.parent / "source", {"item_embeddings": embeddings_table(listed, ("text", "image"))})
    build(repo, AS_OF + DAY)
    lifecycle.publish(repo, "a")
    assert online(repo, "a", ["i003"]) == {"i003": None}
    assert [row["codes"] for (item, _), row in sorted(rows(repo, "a").items()) if item == "i003"] == [had, None]


def test_publishing_twice_changes_nothing(repo: Repo) -> None:
    publish(repo, "a")
    table, seen = table_path(repo, "a"), registered(repo)
    before = (table.read_bytes(), table.stat().st_ino, online(repo, "a", ASKED))
    report = lifecycle.publish(repo, "a")
    assert (report.new_rows, report.rows) == (0, len(rows(repo, "a")))
    assert (table.read_bytes(), table.stat().st_ino, online(repo, "a", ASKED)) == before
    assert registered(repo) == seen
    assert Catalog.open(repo).codebook("a").state == "published"


def test_two_codebooks_live_side_by_side_under_the_same_feature_names(repo: Repo) -> None:
    publish(repo, "a")
    lifecycle.fit(repo, "b", SPEC.model_copy(update={"sizes": (5, 5), "quantizer_arguments": {"seed": 3}}), CUT + DAY)
    lifecycle.publish(repo, "b")
    views, services = registered(repo)
    assert {"item_sid_a", "item_sid_b"} <= views
    parts = ("", "_user", "_item", "_content")
    assert services == {f"ctr_{name}{part}" for name in "ab" for part in parts} | {"codes_a", "codes_b"}
    for name in "ab":
        newest = {item: codes for (item, _), codes in sorted(with_codes(repo, name).items())}
        read = online(repo, name, ASKED)
        assert read == {item: newest.get(item) for item in ASKED}
    assert online(repo, "a", ["i003"]) != online(repo, "b", ["i003"])


def test_serving_moves_with_promotion_and_retiring_keeps_view_and_data_until_the_purge(repo: Repo) -> None:
    from sidkit.stores.feast_repo import apply_repo

    publish(repo, "a", "b")
    lifecycle.promote(repo, "a")
    lifecycle.promote(repo, "b")
    catalog = Catalog.open(repo)
    assert (catalog.serving_codebook().name, catalog.codebook("a").state) == ("b", "published")
    read = online(repo, "a", ASKED)
    lifecycle.retire(repo, "a")
    apply_repo(repo)
    assert "item_sid_a" in registered(repo)[0]
    assert online(repo, "a", ASKED) == read
    kept = online(repo, "b", ASKED)
    for _ in range(2):
        lifecycle.purge(repo, "a")
        views, services = registered(repo)
        assert "item_sid_a" not in views
        assert not [name for name in services if name.startswith("ctr_a")]
        assert not {"code_stats_a", "user_code_stats_a"} & views and "codes_a" not in services
        for table in ("item_sid_a", "code_stats_a"):
            assert not [path for path in repo.path.rglob(f"*{table}*") if path.is_file()]
        assert not (repo.codebooks / "a").exists()
        assert online(repo, "b", ASKED) == kept
    assert Catalog.open(repo).codebook("a").state == "purged"
    with pytest.raises(LifeCycleError, match="a is 'purged'.*fit under a new name"):
        lifecycle.fit(repo, "a", SPEC, CUT)


STEPS: dict[str, Callable[[Repo, str], object]] = {
    "publish": lifecycle.publish, "promote": lifecycle.promote, "retire": lifecycle.retire, "purge": lifecycle.purge,
    "refresh": lifecycle.refresh,
}  # fmt: skip
ALLOWED = {
    "publish": {"fitted", "published", "serving"},
    "promote": {"published", "serving"},
    "retire": {"fitting", "fitted", "published", "retired"},
    "purge": {"retired", "purged"},
    "refresh": {"published", "serving"},
}


def next_state(step: str, state: str) -> str:
    """A few-line model of a codebook's life."""
    return {
        "publish": "published" if state == "fitted" else state,
        "promote": "serving", "retire": "retired", "purge": "purged", "refresh": state,
    }[step]  # fmt: skip


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repo to copy."""
    return built_repo(tmp_path_factory.mktemp("untouched"))


@settings(deadline=None, max_examples=20)
@example(walk=[(step, "a") for step in ("fit", "publish", "promote", "publish", "refresh", "promote", "fit")])
@example(walk=[(step, "a") for step in ("fit", "publish", "refresh", "retire", "purge", "purge", "fit")])
@given(walk=st.lists(st.tuples(st.sampled_from(["fit", *STEPS]), st.sampled_from("ab")), max_size=14))
def test_any_walk_through_the_steps_ends_where_the_model_ends_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, untouched: Repo, walk: list[tuple[str, str]]
) -> None:
    import sidkit.stores.feast_repo as feast_repo
    import sidkit.stores.online_damage as online_damage
    import sidkit.stores.registered as registered_objects

    repo = Repo.open(shutil.copytree(untouched.path, tmp_path_factory.mktemp("walk") / "repo"))
    model: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        # Feast has its own tests here; what is walked is the order of the steps.
        patch.setattr(feast_repo, "apply_repo", lambda _: "")
        patch.setattr(feast_repo, "materialize", lambda *_: {})
        patch.setattr(online_damage, "drop_online_table", lambda *_: None)
        patch.setattr(registered_objects, "of_codebook", lambda *_: [])
        for step, name in walk:
            if step == "fit":
                allowed = model.get(name) != "purged"
                act = lambda repo, name: lifecycle.fit(repo, name, SPEC, CUT)  # noqa: E731
            else:
                allowed = model.get(name) in ALLOWED[step]
                act = STEPS[step]
            if allowed:
                act(repo, name)
                if step == "promote":
                    model = {other: "published" if state == "serving" else state for other, state in model.items()}
                model[name] = model.get(name, "fitted") if step == "fit" else next_state(step, model[name])
            else:
                with pytest.raises((LifeCycleError, UnknownVersionError), match=name):
                    act(repo, name)
            assert {record.name: record.state for record in Catalog.open(repo).codebooks()} == model


REFUSED = [
    (step, state)
    for step, allowed in ALLOWED.items()
    for state in ("fitting", "fitted", "published", "serving", "retired", "purged")
    if state not in allowed
]


@pytest.mark.parametrize(("step", "state"), REFUSED)
def test_a_step_out_of_order_is_refused_and_says_the_state(tmp_path: Path, step: str, state: str) -> None:
    repo = fresh_repo(tmp_path / "repo", "")
    catalog = Catalog.open(repo)
    catalog.begin_fit("a", "residual_kmeans", "content", (8, 4))
    catalog.set_state("a", state)
    with pytest.raises(LifeCycleError, match=f"^a is '{state}': ") as caught:
        STEPS[step](repo, "a")
    assert (caught.value.name, caught.value.state) == ("a", state)
    assert catalog.codebook("a").state == state


def test_a_codebook_that_a_serving_ranker_needs_is_not_retired(repo: Repo) -> None:
    publish(repo, "a")
    catalog = Catalog.open(repo)
    for name, codebook in (("old", "a"), ("new", "b")):
        catalog.add_ranker(name, content_hash="h", codebook=codebook, service="s", arm="id", fit_end_us=1)
    catalog.set_ranker_state("old", "serving")
    with pytest.raises(LifeCycleError, match="the serving ranker old uses it; promote another first"):
        lifecycle.retire(repo, "a")
    assert catalog.codebook("a").state == "published"
    catalog.set_ranker_state("new", "serving")
    lifecycle.retire(repo, "a")


def test_a_refresh_gives_codes_to_new_and_changed_items_and_leaves_the_others(repo: Repo) -> None:
    publish(repo, "a", "b")
    lifecycle.fit(repo, "c", SPEC, CUT)
    assert [(report.name, report.new_rows) for report in lifecycle.refresh(repo)] == [("a", 0), ("b", 0)]
    before, artefact = rows(repo, "a"), files(repo.codebooks / "a")
    bring(repo, {**ITEMS, "new": AS_OF, "bare": AS_OF}, AS_OF + DAY, bare=[*BARE, "bare"], edition={"i003": 1})
    reports = lifecycle.refresh(repo)
    assert [report.name for report in reports] == ["a", "b"]
    after = rows(repo, "a")
    assert {key: after[key] for key in before} == before
    added = {key: row for key, row in after.items() if key not in before and row["codes"] is not None}
    assert sorted(item for item, _ in added) == ["i003", "new"]
    assert min(row["assigned_at_us"] for row in added.values()) > max(row["assigned_at_us"] for row in before.values())
    assert reports[0].rows == len(after)
    assert files(repo.codebooks / "a") == artefact
    assert not table_path(repo, "c").exists()


def test_after_tables_were_built_anew_all_codes_are_assigned_anew(repo: Repo) -> None:
    publish(repo, "a")
    before = rows(repo, "a")
    # Built anew, the changed content counts from the item's creation: same keys, other vectors.
    bring(repo, ITEMS, rebuild=True, edition=dict.fromkeys(ITEMS, 1))
    (report,) = lifecycle.refresh(repo, "a")
    after = rows(repo, "a")
    assert after.keys() == before.keys()
    assert report.new_rows == len(after)
    assert with_codes(repo, "a") != {key: row["codes"] for key, row in before.items() if row["codes"] is not None}
    assert min(row["assigned_at_us"] for row in after.values()) > max(row["assigned_at_us"] for row in before.values())
    assert lifecycle.refresh(repo, "a")[0].new_rows == 0


def test_nothing_is_applied_while_the_catalogue_is_lost(repo: Repo) -> None:
    from sidkit.stores.feast_repo import apply_repo

    publish(repo, "a")
    before = (registered(repo), online(repo, "a", ASKED))
    catalogue = repo.data / "catalog.sqlite"
    kept = catalogue.read_bytes()
    catalogue.unlink()
    with pytest.raises(CatalogLostError, match="nothing was applied"):
        apply_repo(repo)
    assert (registered(repo), online(repo, "a", ASKED)) == before
    catalogue.write_bytes(kept)
    apply_repo(repo)
    assert (registered(repo), online(repo, "a", ASKED)) == before
