"""The fair ceiling of synthetic worlds: calibrated, below the oracle, and blind to what nobody has seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from sidkit.core.arrays import Doubles
from sidkit.datasets.knowledge import Impressions, Knowledge
from sidkit.datasets.population import Content, Items, draw_content, draw_items
from sidkit.datasets.synthetic import Sizes, write_world
from sidkit.datasets.worlds import WORLDS


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return rows_of(tmp_path_factory.mktemp("world"), "clustered")


@pytest.fixture(scope="module", params=["strong", "none", "clustered"])
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    if request.param == "clustered":
        shared: pd.DataFrame = request.getfixturevalue("clustered")
        return shared
    return rows_of(tmp_path_factory.mktemp("world"), request.param)


def rows_of(root: Path, world: str) -> pd.DataFrame:
    """Impressions of a world with labels, probabilities and the number of earlier impressions of the item."""
    folder = root / world
    write_world(folder, world, Sizes(100_000), seed=2)
    frame = pq.read_table(folder / "oracle.parquet").to_pandas()
    frame["label"] = pq.read_table(folder / "interactions.parquet", columns=["label"])["label"].to_numpy()
    frame["prior"] = frame.groupby("item_id").cumcount()
    return frame


def test_the_ceiling_is_below_the_oracle_and_above_chance(rows: pd.DataFrame) -> None:
    for part in (rows, rows[rows["prior"] < 10], rows[rows["prior"] >= 10]):
        ceiling = roc_auc_score(part["label"], part["knowable_probability"])
        assert 0.5 < ceiling < roc_auc_score(part["label"], part["probability"])
        assert log_loss(part["label"], part["knowable_probability"]) > log_loss(part["label"], part["probability"])


def test_the_ceiling_is_calibrated(rows: pd.DataFrame) -> None:
    knowable, true = rows["knowable_probability"], rows["probability"]
    bins = pd.qcut(knowable, 10, labels=False)
    by_bin = pd.DataFrame({"knowable": knowable, "true": true}).groupby(bins).mean()
    np.testing.assert_allclose(by_bin["knowable"], by_bin["true"], rtol=0.08)
    assert knowable.mean() == pytest.approx(true.mean(), rel=0.03)


@dataclass(frozen=True)
class Drawn:
    """A world's items with what content shows, and the state of knowledge before the first impression."""

    items: Items
    content: Content

    @classmethod
    def of(cls, world: str, count: int = 400) -> Drawn:
        streams = [np.random.default_rng(seed) for seed in range(3)]
        items = draw_items(WORLDS[world], count, streams[0], streams[1])
        return cls(items, draw_content(WORLDS[world], items, streams[2]))

    def shown(self, world: str, *, clicks: list[int], item: int = 3) -> Doubles:
        """Knowable probabilities of impressions of one item to one user."""
        p = WORLDS[world]
        taste = np.zeros((len(clicks), p.latent_dim), np.float32)
        taste[:, 0] = 1
        rows = Impressions(
            item=np.full(len(clicks), item),
            taste=taste,
            elapsed=np.zeros(len(clicks), np.float32),
            position=np.zeros(len(clicks), np.int64),
            click=np.array(clicks, np.int8),
        )
        count = len(self.items.quality)
        return Knowledge(p, self.items, self.content).observe(rows, np.arange(count), np.ones(count))


@pytest.mark.parametrize("world", ["strong", "clustered"])
def test_an_item_without_impressions_does_not_show_its_own_quality(world: str) -> None:
    drawn = Drawn.of(world)
    quality = drawn.items.quality.copy()
    quality[3] += 2
    other = replace(drawn, items=replace(drawn.items, quality=quality))
    np.testing.assert_array_equal(drawn.shown(world, clicks=[0]), other.shown(world, clicks=[0]))


def test_an_item_without_impressions_shows_the_quality_of_its_cluster() -> None:
    drawn = Drawn.of("clustered")
    better = drawn.items.cluster_quality.copy()
    better[drawn.items.mixture.cluster[3]] += 1
    other = replace(drawn, items=replace(drawn.items, cluster_quality=better))
    before, after = drawn.shown("clustered", clicks=[0])[0], other.shown("clustered", clicks=[0])[0]
    p = WORLDS["clustered"]
    assert np.log(after / before) == pytest.approx(p.quality_weight * p.quality_from_cluster, rel=0.15)


@pytest.mark.parametrize("world", list(WORLDS))
def test_a_click_raises_the_next_probability_and_an_impression_without_one_lowers_it(world: str) -> None:
    drawn = Drawn.of(world)
    before, clicked = drawn.shown(world, clicks=[1, 0])
    _, passed = drawn.shown(world, clicks=[0, 0])
    assert passed < before < clicked
    assert before == drawn.shown(world, clicks=[0, 0])[0]


def test_a_long_past_shows_the_click_rate_whatever_the_prior() -> None:
    rng = np.random.default_rng(0)
    clicks = (rng.random(5_000) < 0.4).astype(int).tolist()
    p = WORLDS["none"]
    at_first_position = np.log(0.4 / 0.6) + p.position_weight * np.arange(p.slots)
    expected = (1 / (1 + np.exp(-at_first_position))).mean()
    assert Drawn.of("none").shown("none", clicks=clicks)[-1] == pytest.approx(expected, abs=0.03)


def test_new_items_keep_coming(clustered: pd.DataFrame) -> None:
    cold = clustered[(clustered["prior"] < 10) & (np.arange(len(clustered)) >= 80_000)]
    assert cold["label"].sum() > 500


def test_clusters_share_quality() -> None:
    drawn = draw_items(WORLDS["clustered"], 8_000, np.random.default_rng(0), np.random.default_rng(1))
    quality = pd.Series(drawn.quality.astype(float))
    assert quality.std() == pytest.approx(1, abs=0.15)
    within = quality - quality.groupby(drawn.mixture.cluster).transform("mean")
    assert within.std() == pytest.approx(0.6, abs=0.03)


def test_what_is_shown_depends_on_the_user(tmp_path: Path) -> None:
    """Two impressions of a user are of one cluster more often than two of any users; in ``strong`` they are not."""
    shares = {}
    for world in ("strong", "clustered"):
        write_world(tmp_path / world, world, Sizes(20_000, items=1_000))
        log = pq.read_table(tmp_path / world / "interactions.parquet").to_pandas()
        streams = [np.random.default_rng(child) for child in np.random.SeedSequence(0).spawn(5)]
        items = draw_items(WORLDS[world], 1_000, streams[0], streams[4])
        log["cluster"] = items.mixture.cluster[log["item_id"].str[1:].astype(int)]
        overall = log["cluster"].value_counts(normalize=True)
        by_user = log.groupby("user_id")["cluster"].value_counts(normalize=True)
        shares[world] = by_user.pow(2).groupby("user_id").sum().mean() / overall.pow(2).sum()
    assert shares["clustered"] > 1.5 * shares["strong"]
