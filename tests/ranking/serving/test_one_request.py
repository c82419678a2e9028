"""Requests from arrays give what the general reader gives, and see every row that is written later."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.attribute_world import FEATURES, ITEMS, USERS, attribute_repo, attribute_source
from helpers.builders import DAY, START, FinishedJob, copy_of
from helpers.online_builders import PACKED_REDIS, redis_options
from helpers.own_views import EXTRA, add_own_views
from ranking.data.dataset import Dataset
from ranking.data.service_schema import service_schema
from ranking.pipeline.prepare import Prepared
from ranking.serving.features import OnlineFeatures
from ranking.serving.golden import golden_rows
from ranking.serving.scorer import Scorer
from ranking.serving.static_items import StaticItems
from semantic_ids.code_stats import CodeStatsSpec
from semantic_ids.codebook import Codebook
from semantic_ids.lifecycle import CodebookSpec
from sidkit.core.clock import from_us
from sidkit.core.errors import ServingError
from sidkit.core.repo import Repo
from sidkit.core.stages import Stages
from sidkit.stores.feast_repo import apply_repo, materialize, open_store

END = START + 41 * DAY
RATE, LENGTH = 0.2, 20
CANDIDATES = [*(f"i{n}" for n in range(ITEMS)), "nothing", "i3", "null"]
ONLINE = re.compile(r"^online_store:\n(?:  .*\n)+", re.M)
CONTEXT = {"cell_id": 2, "budget": 3.5, "device": "phone"}


@pytest.fixture(scope="module")
def on_file(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Attributes of every kind, context, affinities, statistics of codes, and own views of users, cells and requests."""
    folder = tmp_path_factory.mktemp("requests")
    affinity = 'affinity = ["category", "genres", "item_id"]'
    features = FEATURES.replace('affinity = ["category"]', affinity)
    made = attribute_repo(folder / "repo", attribute_source(folder / "source"), features)
    prepared = Prepared(made, Stages(made.runs / "some" / "stages.json"), made.settings.source.url, 0)
    spec = CodebookSpec(force=True, sizes=(4, 4), stats=CodeStatsSpec(depths=(1, 2)))
    with made.locked():
        log = prepared.ingest()
        facts: dict[str, Any] = prepared.tables(log, END).facts
        add_own_views(made, EXTRA)
        prepared.codebook("c", spec, START + 30 * DAY, [log, facts["rows"]])
    materialize(made, END)
    return made


@pytest.fixture(scope="module", params=["file", "redis"])
def repo(request: pytest.FixtureRequest, on_file: Repo, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """The same with the packed store on either database."""
    if request.param == "file":
        return on_file
    own = copy_of(on_file, tmp_path_factory.mktemp("redis") / "repo")
    path, options = own.path / "feature_store.yaml", redis_options(request.getfixturevalue("redis_address"))
    section = "\n".join(f"  {key}: {value}" for key, value in {"type": PACKED_REDIS, **options}.items())
    text = path.read_text()
    assert ONLINE.search(text)
    path.write_text(ONLINE.sub(f"online_store:\n{section}\n", text))
    return filled(own)


def filled(repo: Repo) -> Repo:
    apply_repo(repo)
    materialize(repo, END)
    return repo


def own_copy(repo: Repo, path: Path) -> Repo:
    """A copy to change, with an online store of its own."""
    own = copy_of(repo, path)
    yaml = own.path / "feature_store.yaml"
    text = yaml.read_text()
    if PACKED_REDIS not in text:
        return own
    yaml.write_text(re.sub(r"key_prefix: \S+", f"key_prefix: {redis_options('')['key_prefix']}", text))
    return filled(own)


def name_of(repo: Repo) -> str:
    [codebook] = repo.codebooks.iterdir()
    return codebook.name


def readers(repo: Repo, vectors: Any = "content", **options: Any) -> tuple[OnlineFeatures, OnlineFeatures]:
    """A reader of requests from arrays, and the general one, of all features of the service."""
    store, codebook = open_store(repo), Codebook.load(repo.codebooks / name_of(repo))
    service = f"ctr_{codebook.name}"
    schema = service_schema(store, service, repo.settings.features)
    assert {"affinity__category_share", "user_genres_stats__rate_all", "code_stats_d2__rate_30d"} <= set(schema.names)
    assert {"context__device", "odds__is_phone", "user_recency__hours_since_last_click"} <= set(schema.names)
    fast, general = (OnlineFeatures(store, service, codebook, schema, vectors, **options) for _ in range(2))
    assert fast._fast is not None
    general._fast = None
    return fast, general


def same_request(fast: OnlineFeatures, general: OnlineFeatures, user: str, items: list[str], at_us: int) -> Dataset:
    asked: Any = {"rate": RATE, "history_length": LENGTH, "context": CONTEXT}
    one, other = (each.request(user, items, at_us, **asked) for each in (fast, general))
    np.testing.assert_array_equal(one.data.numeric, other.data.numeric)
    np.testing.assert_array_equal(one.known, other.known)
    assert one.user_known == other.user_known
    for left, right in zip(_plain(one.data), _plain(other.data), strict=True):
        np.testing.assert_array_equal(left, right)
    return one.data


def _plain(data: Dataset) -> list[Any]:
    """What a model reads, with the items in place of their indices."""
    items, past = data.items, data.history_items[data.history]
    plain: list[Any] = [data.history_us[data.history], past > 0]
    for index in (data.candidate, past):
        plain += [items.ids[index], items.codes[index], items.content[index]]
    coded = [*((each, data.candidate) for each in [items.attributes] if each is not None), (data.coded, None)]
    for values, index in coded:
        assert values is not None
        for codes, listed in zip(values.codes.T, values.values, strict=True):
            plain.append(pd.Series(listed.to_pylist())[codes if index is None else codes[index]].astype(str).to_numpy())
    return plain


@pytest.mark.parametrize("vectors", ["content", "decoded"])
def test_random_requests_equal_those_of_the_general_reader(repo: Repo, vectors: str) -> None:
    fast, general = readers(repo, vectors)
    rng = np.random.default_rng(0)
    for _ in range(8):
        user = str(rng.choice([*(f"u{n}" for n in range(USERS)), "nobody"]))
        items = rng.choice(CANDIDATES, rng.integers(1, len(CANDIDATES))).tolist()
        data = same_request(fast, general, user, items, END + int(rng.integers(0, 30 * DAY)))
    assert data.history.any(), "the last request's user has a history"
    same_request(fast, general, "nobody", ["nothing"], END)


def test_the_bound_changes_no_feature(repo: Repo) -> None:
    _, general = readers(repo)
    for static_bytes in (0, 20_000):
        fast, _ = readers(repo, static_bytes=static_bytes)
        assert fast._fast is not None
        held = fast._fast.sides.static
        for start in range(0, ITEMS, 7):
            same_request(fast, general, f"u{start}", CANDIDATES[start : start + 12], END)
            same_request(fast, general, f"u{start}", CANDIDATES, END)
        assert len(held) <= held.room < ITEMS


def test_requests_for_ids_that_are_no_texts_are_refused_as_before(repo: Repo) -> None:
    fast, _ = readers(repo)
    asked: Any = {"rate": RATE, "history_length": LENGTH, "context": CONTEXT}
    with pytest.raises(ServingError, match="item_id as int64; convert the keys"):
        fast.request("u1", [1, 2], END, **asked)  # type: ignore[list-item]


def test_the_templates_on_demand_view_equals_its_function(repo: Repo) -> None:
    from sidkit.stores.on_demand import ServiceViews
    from sidkit.stores.template_views import template_function

    store = open_store(repo)
    views = ServiceViews.of(store, store.get_feature_service(f"ctr_{name_of(repo)}_user"))
    [recency] = [view for view in views.on_demand if view.name == "user_recency"]
    assert template_function(recency.view) is not None, (
        "the template's function was changed: change template_views.py too"
    )
    times = [[START + 5, START], None, [], [START + 7 * DAY]]
    import pyarrow as pa

    columns = {"user_history__timestamps_us": pa.array(times, pa.list_(pa.int64())), "at_us": pa.array([END] * 4)}
    made = recency._made(pa.table(columns))["user_recency__hours_since_last_click"].to_pylist()
    frame = pa.table(columns).to_pandas().rename(columns={"user_history__timestamps_us": "timestamps_us"})
    by_feast = recency.view.feature_transformation.udf(frame)["hours_since_last_click"]
    np.testing.assert_array_equal(pd.Series(made, dtype="float64"), by_feast)
    [click_gap] = [view for view in views.on_demand if view.name == "click_gap"]
    assert template_function(click_gap.view) is None


def pushed_content(repo: Repo, item: str, at_us: int, price: float, **keys: Any) -> None:
    """Write a row of one item's content to the online store, as a push or a late correction does."""
    store = open_store(repo)
    row = {
        "item_id": [item],
        "text": [np.full(6, 2.0, dtype=np.float32)],
        "category": ["bread"],
        "price": [np.float32(price)],
        "created_at_us": [START],
        "event_timestamp": [pd.Timestamp(from_us(at_us))],
        "created_timestamp": [pd.Timestamp(from_us(keys.get("created_us", at_us)))],
    }
    view = store.get_feature_view("item_content")
    frame = pd.DataFrame({name: value for name, value in row.items() if name in {*_columns(view), "item_id"}})
    frame[["event_timestamp", "created_timestamp"]] = pd.DataFrame(
        {name: row[name] for name in ("event_timestamp", "created_timestamp")}
    )
    store.write_to_online_store("item_content", frame)


def _columns(view: Any) -> list[str]:
    return [feature.name for feature in view.features]


def test_rows_that_are_written_later_are_seen_by_the_next_request(repo: Repo, tmp_path: Path) -> None:
    own = own_copy(repo, tmp_path / "repo")
    fast, general = readers(own)
    before = same_request(fast, general, "u1", CANDIDATES, END)
    pushed_content(own, "i5", END, 7.5)
    after = same_request(fast, general, "u1", CANDIDATES, END)
    changed = (before.numeric != after.numeric) & ~(np.isnan(before.numeric) & np.isnan(after.numeric))
    assert np.flatnonzero(changed.any(axis=1)).tolist() == [5]
    pushed_content(own, "i5", END, 8.5, created_us=END + 1)  # a correction of the same moment
    corrected = same_request(fast, general, "u1", CANDIDATES, END)
    assert (corrected.numeric[5] != after.numeric[5]).any()
    pushed_content(own, "i5", END - DAY, 9.5)  # an older row replaces nothing
    assert np.array_equal(same_request(fast, general, "u1", CANDIDATES, END).numeric, corrected.numeric, equal_nan=True)
    pushed_content(own, "nothing", END, 1.0)  # an item that was unknown
    known = fast.request("u1", ["nothing"], END, rate=RATE, history_length=LENGTH, context=CONTEXT).known
    assert known.all()
    same_request(fast, general, "u1", CANDIDATES, END)


def test_counts_that_are_pushed_are_seen_and_other_writes_read_nothing_again(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_copy(repo, tmp_path / "repo")
    fast, general = readers(own)
    same_request(fast, general, "u1", CANDIDATES, END)
    store = open_store(own)
    for name in ("item_stats", f"code_stats_{name_of(own)}", "user_stats", f"user_code_stats_{name_of(own)}"):
        view = store.get_feature_view(name)
        keys = {"item_id": "i4", "user_id": "u1", "sid_prefix": f"{name_of(own)}/1"}
        row: dict[str, Any] = {key.name: [keys[key.name]] for key in view.entity_columns}
        row |= {feature.name: [901] for feature in view.features}
        row |= {moment: [pd.Timestamp(from_us(END + 1))] for moment in ("event_timestamp", "created_timestamp")}
        before = fast.request("u1", CANDIDATES, END + 1, rate=RATE, history_length=LENGTH, context=CONTEXT)
        store.write_to_online_store(name, pd.DataFrame(row))
        after = same_request(fast, general, "u1", CANDIDATES, END + 1)
        assert not np.array_equal(before.data.numeric, after.numeric, equal_nan=True), name

    def refuse(*_: object) -> None:
        raise AssertionError("an unchanged item was read again")

    monkeypatch.setattr(StaticItems, "_read", refuse)
    fast.request("u1", CANDIDATES, END + 1, rate=RATE, history_length=LENGTH, context=CONTEXT)


def test_an_online_file_without_marks_is_read_again_after_any_commit(on_file: Repo, tmp_path: Path) -> None:
    import sqlite3

    own = copy_of(on_file, tmp_path / "repo")
    [path] = (own.path / "data").glob("online*.sqlite")
    with sqlite3.connect(path) as opened:
        opened.execute('DROP TABLE "packed:marks"')  # as an earlier release wrote it
    opened.close()
    fast, general = readers(own)
    first = same_request(fast, general, "u1", CANDIDATES, END)
    pushed_content(own, "i5", END, 7.5)
    assert not np.array_equal(same_request(fast, general, "u1", CANDIDATES, END).numeric, first.numeric, equal_nan=True)


def test_rows_older_than_a_ttl_are_missing(repo: Repo, tmp_path: Path) -> None:
    own = own_copy(repo, tmp_path / "repo")
    for name, view in (("item_views.py", "item_content"), ("item_views.py", "item_stats")):
        path = own.path / name
        path.write_text(path.read_text().replace(f'name="{view}",\n', f'name="{view}",\n    ttl=timedelta(days=33),\n'))
    path.write_text(path.read_text().replace("from pathlib", "from datetime import timedelta\nfrom pathlib"))
    apply_repo(own)
    fast, general = readers(own)
    at = [END, END + int(timedelta(days=10) / timedelta(microseconds=1)), END + 60 * DAY]
    missing = [np.isnan(same_request(fast, general, "u2", CANDIDATES, each).numeric).sum() for each in at]
    without = [
        (same_request(fast, general, "u2", CANDIDATES, each).items.content == 0).all(axis=1).sum() for each in at
    ]
    assert without[0] < without[-1], (missing, without)


def test_rankers_of_a_codebook_share_their_items(finished: FinishedJob) -> None:
    one = Scorer(finished.repo)
    other = Scorer(finished.repo, like=one)
    at_us = finished.result.as_of_us
    items = [f"i{n}" for n in range(30)]
    expected = one.score("u1", items, at_us)
    assert one._features._fast is not None
    assert other._features._fast is not None
    assert other._features._fast.sides.static is one._features._fast.sides.static
    np.testing.assert_array_equal(other.score("u1", items, at_us), expected)
    assert other.preload(items, at_us) == 0
    assert Scorer(finished.repo).preload(items, at_us) == 30


def test_scores_of_rows_that_share_a_history_equal_those_of_single_rows(finished: FinishedJob) -> None:
    scorer = Scorer(finished.repo)
    at_us = finished.result.as_of_us
    items = [f"i{n}" for n in range(40)]
    for user in ("u1", "u5", "nobody"):
        alone = [scorer.score(user, [item], at_us)[0] for item in items]
        np.testing.assert_allclose(scorer.score(user, items, at_us), alone, atol=1e-6)


def test_golden_rows_score_online_as_offline(finished: FinishedJob) -> None:
    scorer = Scorer(finished.repo)
    data = golden_rows(finished.repo, scorer)
    general = Scorer(finished.repo)
    general._features._fast = None
    at_us = finished.result.as_of_us
    for user, item in zip(data.rows.user_ids[::8].tolist(), data.rows.item_ids[::8].tolist(), strict=True):
        items = [item, "i1", "i2"]
        np.testing.assert_allclose(scorer.score(user, items, at_us), general.score(user, items, at_us), atol=1e-6)
