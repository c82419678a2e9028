"""The life of codebooks on a small repo: who is known at the cut-off, what each step leaves behind, which is refused."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builders import DAY, START, embeddings_table, fresh_repo, interactions_table, items_table, write_tables
from oracle.features import EmbeddingVersion, Event, ItemVersion
from semantic_ids import pipeline
from semantic_ids.catalog import Catalog, table_path
from semantic_ids.codebook import Codebook
from semantic_ids.floors import Floors
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pipeline import CodebookSpec
from sidkit.artifact import read_manifest
from sidkit.errors import (
    ArtifactMissingError,
    CatalogLostError,
    ConfigError,
    FitError,
    LifeCycleError,
    SettingsChangedError,
    UnknownVersionError,
)
from sidkit.repo import Repo
from sidkit.tables import build_tables, ingest

DELAY = 60_000_000
CUT = START + 20 * DAY
AS_OF = START + 40 * DAY
SPEC = CodebookSpec(force=True, sizes=(8, 6, 4), encoder_arguments={"dim": 6}, beam=2)
ITEMS = {f"i{number:03d}": START + number * DAY // 2 for number in range(60)}
BARE = ("i007", "i059")
"""Items without any vector; every fourth of the others has no image."""
ASKED = (*list(ITEMS)[::7], *BARE)
"""Items that are read from the online store."""


def write_source(
    folder: Path, items: Mapping[str, int], bare: Collection[str] = BARE, edition: Mapping[str, int] | None = None
) -> Path:
    """Items with their creation times; a vector depends on the item's name and its edition alone."""
    embeddings = []
    for item in sorted(set(items) - set(bare)):
        seed = zlib.crc32(item.encode())
        vector = np.random.default_rng([seed, (edition or {}).get(item, 0)]).normal(size=10).astype("f4").tolist()
        vectors = {"text": tuple(vector[:6]), "image": tuple(vector[6:]) if seed % 4 else None}
        embeddings.append(EmbeddingVersion(item, None, vectors))
    versions = [ItemVersion(item, created, None, None, "c", 1.0) for item, created in items.items()]
    first = min(items)
    events = [Event("u1", first, START + 30 * DAY, 1), Event("u2", first, START + 31 * DAY, 0)]
    return write_tables(
        folder,
        {
            "interactions": interactions_table(events),
            "items": items_table(versions),
            "item_embeddings": embeddings_table(embeddings, ("text", "image")),
        },
    )


def build(repo: Repo, as_of_us: int = AS_OF, *, rebuild: bool = False) -> Repo:
    ingest(repo)
    build_tables(repo, as_of_us, rebuild=rebuild)
    return repo


def built_repo(folder: Path, items: Mapping[str, int] = ITEMS, **source: Any) -> Repo:
    write_source(folder / "source", items, **source)
    return build(fresh_repo(folder / "repo", folder / "source", modalities=("text", "image")))


def bring(repo: Repo, items: Mapping[str, int], as_of_us: int = AS_OF, *, rebuild: bool = False, **source: Any) -> None:
    """Let the source become another and the tables follow."""
    write_source(repo.path.parent / "source", items, **source)
    build(repo, as_of_us, rebuild=rebuild)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return built_repo(tmp_path)


def publish(repo: Repo, *names: str) -> None:
    for name in names:
        pipeline.fit(repo, name, SPEC, CUT)
        pipeline.publish(repo, name)


def rows(repo: Repo, name: str) -> dict[tuple[str, Any], dict[str, Any]]:
    """A codebook's table by item and moment."""
    listed = pq.read_table(table_path(repo, name)).to_pylist()
    keyed = {(row["item_id"], row["event_timestamp"]): row for row in listed}
    assert len(keyed) == len(listed)
    return keyed


def with_codes(repo: Repo, name: str) -> dict[tuple[str, Any], list[int]]:
    return {key: row["codes"] for key, row in rows(repo, name).items() if row["codes"] is not None}


def online(repo: Repo, name: str, items: Collection[str]) -> dict[str, list[int] | None]:
    """What serving reads for a codebook, under the feature name that all codebooks share."""
    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    asked = store.get_online_features(
        features=store.get_feature_service(f"ctr_{name}_content"),
        entity_rows=[{"item_id": item} for item in items],
        full_feature_names=True,
    ).to_dict()
    return dict(zip(asked["item_id"], asked["item_sid__codes"], strict=True))


def registered(repo: Repo) -> tuple[set[str], set[str]]:
    """The registry's feature views and services."""
    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    return {view.name for view in store.list_feature_views()}, {svc.name for svc in store.list_feature_services()}


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder, *folder.iterdir())}


@pytest.mark.parametrize(("after_us", "known"), [(-1, True), (0, True), (1, False)])
def test_a_fit_sees_what_could_be_read_at_the_cut_off_and_nothing_later(
    tmp_path: Path, after_us: int, known: bool
) -> None:
    repos = [
        built_repo(tmp_path / name, items)
        for name, items in (("without", ITEMS), ("with", {**ITEMS, "new": CUT - DELAY + after_us}))
    ]
    hashes = [pipeline.fit(repo, "a", SPEC, CUT).content_hash for repo in repos]
    assert (hashes[0] != hashes[1]) is known
    fitted_on = [read_manifest(repo.codebooks / "a")["rows"] for repo in repos]
    # i000 to i039 are created half a day apart before the cut-off; i007 has no vector.
    assert fitted_on == [39, 39 + known]


def tensors(repo: Repo, name: str) -> dict[str, list[float]]:
    codebook = Codebook.load(repo.codebooks / name)
    held = {**codebook.encoder.tensors(), **codebook.quantizer.tensors()}
    return {key: tensor.tolist() for key, tensor in held.items()}


def test_of_content_that_changed_a_fit_takes_what_was_newest_at_the_cut_off(tmp_path: Path, repo: Repo) -> None:
    before = pipeline.fit(repo, "before", SPEC, CUT)
    bring(repo, ITEMS, AS_OF + DAY, edition={"i003": 1})
    again = pipeline.fit(repo, "again", SPEC, CUT)
    assert tensors(repo, "again") == tensors(repo, "before")
    assert (before.fit_start_us, before.fit_end_us) == (again.fit_start_us, again.fit_end_us) == (START + DELAY, CUT)
    # Once the change is known, it is as if the content had never been other.
    pipeline.fit(repo, "after", SPEC, AS_OF + DAY)
    other = built_repo(tmp_path / "other", edition={"i003": 1})
    pipeline.fit(other, "after", SPEC, AS_OF)
    assert tensors(repo, "after") == tensors(other, "after")


def test_the_same_fit_again_keeps_the_artefact_as_it_lies(repo: Repo) -> None:
    first = pipeline.fit(repo, "a", SPEC, CUT)
    before = files(repo.codebooks / "a")
    assert pipeline.fit(repo, "a", SPEC, CUT) == first
    assert files(repo.codebooks / "a") == before


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        ({"sizes": (8, 6, 5)}, CUT),
        ({"beam": 1}, CUT),
        ({"quantizer_arguments": {"seed": 1}}, CUT),
        ({"encoder_arguments": {"dim": 5}}, CUT),
        ({}, CUT - 1),
    ],
)
def test_other_arguments_under_a_name_that_is_taken_are_refused(repo: Repo, change: dict[str, Any], cut: int) -> None:
    first = pipeline.fit(repo, "a", SPEC, CUT)
    before = files(repo.codebooks / "a")
    with pytest.raises(LifeCycleError, match="other arguments; fit under a new name"):
        pipeline.fit(repo, "a", SPEC.model_copy(update=change), cut)
    assert Catalog.open(repo).codebook("a") == first
    assert files(repo.codebooks / "a") == before


def test_codes_below_a_floor_are_not_kept_and_the_level_is_named(repo: Repo) -> None:
    high = SPEC.model_copy(update={"floors": Floors(perplexity=(0.0, 1.0, 0.0))})
    with pytest.raises(FitError, match=r"perplexity of level 2 is .* below its floor of 1 .*fewer codes"):
        pipeline.fit(repo, "low", high, CUT)
    assert not (repo.codebooks / "low").exists()
    with pytest.raises(LifeCycleError, match="only a fitted codebook"):
        pipeline.publish(repo, "low")
    pipeline.fit(repo, "low", SPEC, CUT)


def test_other_content_under_a_name_that_is_taken_is_refused(repo: Repo) -> None:
    pipeline.fit(repo, "a", SPEC, CUT)
    bring(repo, ITEMS, rebuild=True, edition=dict.fromkeys(ITEMS, 1))
    with pytest.raises(LifeCycleError, match="other data"):
        pipeline.fit(repo, "a", SPEC, CUT)


def test_a_fit_that_cannot_be_is_refused_before_anything_is_written(repo: Repo) -> None:
    refused: list[tuple[type[Exception], str, CodebookSpec, int]] = [
        (FitError, "lies beyond the tables", SPEC, AS_OF + 1),
        (FitError, "no item with content was known", SPEC, START + DELAY - 1),
        (ConfigError, "no 'nothing'", SPEC.model_copy(update={"encoder": "nothing"}), CUT),
        (ConfigError, "no quantizer 'nothing'", SPEC.model_copy(update={"quantizer": "nothing"}), CUT),
    ]
    for error, message, spec, cut in refused:
        with pytest.raises(error, match=message):
            pipeline.fit(repo, "a", spec, cut)
    with pytest.raises(ConfigError, match="cannot name a codebook"):
        pipeline.fit(repo, "A", SPEC, CUT)
    assert Catalog.open(repo).codebooks() == []
    assert not repo.codebooks.exists()


def test_items_without_any_vector_are_no_ground_for_a_fit(tmp_path: Path) -> None:
    repo = built_repo(tmp_path, bare=[item for item in ITEMS if item < "i040"])
    with pytest.raises(FitError, match="no item with content was known"):
        pipeline.fit(repo, "a", SPEC, CUT)


def test_a_fit_that_failed_leaves_its_name_free(repo: Repo) -> None:
    with pytest.raises(FitError, match="39 rows for 8 codes"):
        pipeline.fit(repo, "a", SPEC.model_copy(update={"force": False}), CUT)
    assert not (repo.codebooks / "a").exists()
    with pytest.raises(LifeCycleError, match="a is 'fitting'"):
        pipeline.publish(repo, "a")
    assert pipeline.fit(repo, "a", SPEC.model_copy(update={"sizes": (4, 4)}), CUT).sizes == (4, 4)


def test_a_codebook_needs_tables_made_with_the_settings_of_the_others(tmp_path: Path, repo: Repo) -> None:
    empty = fresh_repo(tmp_path / "empty", tmp_path / "source")
    with pytest.raises(ArtifactMissingError, match="holds no tables"):
        pipeline.fit(empty, "a", SPEC, CUT)
    pipeline.fit(repo, "a", SPEC, CUT)
    toml = repo.path / "sidkit.toml"
    toml.write_text(toml.read_text().replace("history_length = 50", "history_length = 49"))
    with pytest.raises(SettingsChangedError, match=r"a in codebooks.*history_length: made with 50, now 49"):
        pipeline.fit(Repo.open(repo.path), "b", SPEC, CUT)


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
    pipeline.publish(repo, "a")
    assert online(repo, "a", ["i003"]) == {"i003": None}
    assert [row["codes"] for (item, _), row in sorted(rows(repo, "a").items()) if item == "i003"] == [had, None]


def test_publishing_twice_changes_nothing(repo: Repo) -> None:
    publish(repo, "a")
    table, seen = table_path(repo, "a"), registered(repo)
    before = (table.read_bytes(), table.stat().st_ino, online(repo, "a", ASKED))
    report = pipeline.publish(repo, "a")
    assert (report.new_rows, report.rows) == (0, len(rows(repo, "a")))
    assert (table.read_bytes(), table.stat().st_ino, online(repo, "a", ASKED)) == before
    assert registered(repo) == seen
    assert Catalog.open(repo).codebook("a").state == "published"


def test_two_codebooks_live_side_by_side_under_the_same_feature_names(repo: Repo) -> None:
    publish(repo, "a")
    pipeline.fit(repo, "b", SPEC.model_copy(update={"sizes": (5, 5), "quantizer_arguments": {"seed": 3}}), CUT + DAY)
    pipeline.publish(repo, "b")
    views, services = registered(repo)
    assert {"item_sid_a", "item_sid_b"} <= views
    parts = ("", "_user", "_item", "_content")
    assert services == {f"ctr_{name}{part}" for name in "ab" for part in parts}
    for name in "ab":
        newest = {item: codes for (item, _), codes in sorted(with_codes(repo, name).items())}
        read = online(repo, name, ASKED)
        assert read == {item: newest.get(item) for item in ASKED}
    assert online(repo, "a", ["i003"]) != online(repo, "b", ["i003"])


def test_serving_moves_with_promotion_and_retiring_keeps_view_and_data_until_the_purge(repo: Repo) -> None:
    from sidkit.stores.feast_repo import apply_repo

    publish(repo, "a", "b")
    pipeline.promote(repo, "a")
    pipeline.promote(repo, "b")
    catalog = Catalog.open(repo)
    assert (catalog.serving_codebook().name, catalog.codebook("a").state) == ("b", "published")
    read = online(repo, "a", ASKED)
    pipeline.retire(repo, "a")
    apply_repo(repo)
    assert "item_sid_a" in registered(repo)[0]
    assert online(repo, "a", ASKED) == read
    kept = online(repo, "b", ASKED)
    for _ in range(2):
        pipeline.purge(repo, "a")
        views, services = registered(repo)
        assert "item_sid_a" not in views
        assert not [name for name in services if name.startswith("ctr_a")]
        assert not [path for path in repo.path.rglob("*item_sid_a*") if path.is_file()]
        assert not (repo.codebooks / "a").exists()
        assert online(repo, "b", ASKED) == kept
    assert Catalog.open(repo).codebook("a").state == "purged"
    with pytest.raises(LifeCycleError, match="a is 'purged'.*fit under a new name"):
        pipeline.fit(repo, "a", SPEC, CUT)


STEPS: dict[str, Callable[[Repo, str], object]] = {
    "publish": pipeline.publish, "promote": pipeline.promote, "retire": pipeline.retire, "purge": pipeline.purge,
    "refresh": pipeline.refresh,
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
@given(walk=st.lists(st.tuples(st.sampled_from(["fit", *STEPS]), st.sampled_from("ab")), max_size=14))
def test_any_walk_through_the_steps_ends_where_the_model_ends_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, untouched: Repo, walk: list[tuple[str, str]]
) -> None:
    import sidkit.stores.feast_repo as feast_repo

    repo = Repo.open(shutil.copytree(untouched.path, tmp_path_factory.mktemp("walk") / "repo"))
    model: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        # Feast has its own tests here; what is walked is the order of the steps.
        patch.setattr(feast_repo, "apply_repo", lambda _: "")
        patch.setattr(feast_repo, "materialize", lambda *_: {})
        for step, name in walk:
            if step == "fit":
                allowed = model.get(name) != "purged"
                act = lambda repo, name: pipeline.fit(repo, name, SPEC, CUT)  # noqa: E731
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
    with pytest.raises(LifeCycleError, match="ranker old serves on it; promote another ranker first"):
        pipeline.retire(repo, "a")
    assert catalog.codebook("a").state == "published"
    catalog.set_ranker_state("new", "serving")
    pipeline.retire(repo, "a")


def test_a_refresh_gives_codes_to_new_and_changed_items_and_leaves_the_others(repo: Repo) -> None:
    publish(repo, "a", "b")
    pipeline.fit(repo, "c", SPEC, CUT)
    assert [(report.name, report.new_rows) for report in pipeline.refresh(repo)] == [("a", 0), ("b", 0)]
    before, artefact = rows(repo, "a"), files(repo.codebooks / "a")
    bring(repo, {**ITEMS, "new": AS_OF, "bare": AS_OF}, AS_OF + DAY, bare=[*BARE, "bare"], edition={"i003": 1})
    reports = pipeline.refresh(repo)
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
    (report,) = pipeline.refresh(repo, "a")
    after = rows(repo, "a")
    assert after.keys() == before.keys()
    assert report.new_rows == len(after)
    assert with_codes(repo, "a") != {key: row["codes"] for key, row in before.items() if row["codes"] is not None}
    assert min(row["assigned_at_us"] for row in after.values()) > max(row["assigned_at_us"] for row in before.values())
    assert pipeline.refresh(repo, "a")[0].new_rows == 0


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
