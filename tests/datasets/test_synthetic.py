"""The synthetic worlds: deterministic, honest about what content shows, and in the input contract."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, roc_auc_score

from helpers.builders import fresh_repo
from sidkit.cli.data import synthetic
from sidkit.core.arrays import Doubles
from sidkit.core.errors import ConfigError
from sidkit.datasets.population import draw_items
from sidkit.datasets.synthetic import Sizes, write_world
from sidkit.datasets.worlds import WORLDS, worlds_hash
from sidkit.tables import ingest

TABLES = ("interactions", "items", "item_embeddings", "oracle")
SMALL = Sizes(2_400)
P = WORLDS["strong"]
FIRST = ("strong", "weak", "none")
"""The worlds that differ in content only."""


@dataclass
class World:
    """One large world as frames, with what only its maker knows."""

    log: pd.DataFrame
    oracle: pd.DataFrame
    items: pd.DataFrame
    content: Doubles  # [items, columns]: text, image (zeros where missing), one column per category
    latent: Doubles
    quality: Doubles


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("worlds")
    for world in FIRST:
        write_world(root / world, world, Sizes(100_000))
    return {world: root / world for world in FIRST}


def read(folder: Path) -> World:
    items = pq.read_table(folder / "items.parquet").to_pandas()
    vectors = pq.read_table(folder / "item_embeddings.parquet")
    text = vectors["text"].combine_chunks().flatten().to_numpy().reshape(-1, P.text_dim)
    image = np.zeros((len(items), P.image_dim))
    image[vectors["image"].is_valid()] = vectors["image"].combine_chunks().flatten().to_numpy().reshape(-1, P.image_dim)
    categories = pd.get_dummies(items["category"]).to_numpy(float)
    # The first of the generator's random streams makes the items; their creation times show that these are they.
    stream = np.random.default_rng(np.random.SeedSequence(0).spawn(4)[0])
    drawn = draw_items(P, len(items), stream, stream)
    created = items["created_at"].astype("int64").to_numpy()
    np.testing.assert_array_equal(drawn.created_us, created)
    elapsed = np.maximum(created - P.start_us, 0)[:, None] / (P.days * 86_400e6)
    return World(
        log=pq.read_table(folder / "interactions.parquet").to_pandas(),
        oracle=pq.read_table(folder / "oracle.parquet").to_pandas(),
        items=items,
        content=np.hstack([text, image, categories]),
        latent=drawn.mixture.points + elapsed * drawn.drift,
        quality=drawn.quality.astype(float),
    )


@pytest.fixture(scope="module")
def worlds(folders: dict[str, Path]) -> dict[str, World]:
    return {name: read(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def strong(worlds: dict[str, World]) -> World:
    return worlds["strong"]


def predictable(content: Doubles, target: Doubles) -> float:
    """How much of the target a ridge regression finds in content, on items that it has not seen."""
    seen = np.arange(len(content)) % 2 == 0
    model = Ridge(10.0).fit(content[seen], target[seen])
    return float(r2_score(target[~seen], model.predict(content[~seen])))


def same(left: Path, right: Path, tables: tuple[str, ...] = TABLES) -> list[bool]:
    pairs = ((pq.read_table(left / f"{name}.parquet"), pq.read_table(right / f"{name}.parquet")) for name in tables)
    return [one.equals(other) for one, other in pairs]


def test_worlds_are_frozen() -> None:
    # A world that is tuned to a model after the fact proves nothing: whoever changes this hash, or the counts below,
    # makes every published number of a synthetic world void and has to say so.
    assert worlds_hash(*FIRST) == "3ced9129da719bb6"
    assert worlds_hash("clustered") == "4057bad72b1ba3e2"
    assert {*FIRST, "clustered"} == set(WORLDS)


def fingerprint(folder: Path) -> str:
    """Hash of everything generated that is not a floating-point number, whose last digits depend on the machine."""
    hashed = hashlib.sha256()
    for name in ("interactions", "items", "oracle"):
        table = pq.read_table(folder / f"{name}.parquet").to_pandas()
        exact = table[[column for column in table if not pd.api.types.is_float_dtype(table[column])]]
        hashed.update(exact.to_csv(index=False).encode())
    return hashed.hexdigest()[:16]


@pytest.mark.parametrize(
    ("world", "clicks", "items", "hashed", "probability", "knowable"),
    [
        ("strong", 1_045, 240, "4a3adc3136148224", 188.8487083, 183.8963504),
        ("weak", 1_045, 240, "ba1457107f2c3e13", 188.8487083, 174.2236328),
        ("none", 1_045, 240, "dc636407d287ee2c", 188.8487083, 138.3513533),
        ("clustered", 1_076, 800, "f4a107f779512805", 210.8564206, 169.0231780),
    ],
)
def test_the_generator_is_frozen_too(
    tmp_path: Path, world: str, clicks: int, items: int, hashed: str, probability: float, knowable: float
) -> None:
    written = write_world(tmp_path / "world", world, Sizes(12_000))
    assert (written["clicks"], written["items"], written["users"]) == (clicks, items, 120)
    assert fingerprint(tmp_path / "world") == hashed
    oracle = pq.read_table(tmp_path / "world" / "oracle.parquet").to_pandas()
    assert oracle["probability"].pow(2).sum() == pytest.approx(probability, rel=1e-6)
    assert oracle["knowable_probability"].pow(2).sum() == pytest.approx(knowable, rel=1e-5)


def test_the_same_seed_gives_the_same_tables_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_world(tmp_path / name, "weak", SMALL, seed)
    assert same(tmp_path / "a", tmp_path / "b") == [True] * 4
    assert same(tmp_path / "a", tmp_path / "c") == [False] * 4


def test_worlds_of_one_seed_differ_in_content_only(folders: dict[str, Path]) -> None:
    for other in ("weak", "none"):
        assert same(folders["strong"], folders[other]) == [True, False, False, False]
        true = [
            pq.read_table(folders[world] / "oracle.parquet").drop_columns(["knowable_probability"])
            for world in ("strong", other)
        ]
        assert true[0].equals(true[1])
        lives = [
            pq.read_table(folders[world] / "items.parquet", columns=["item_id", "created_at", "removed_at"])
            for world in ("strong", other)
        ]
        assert lives[0].equals(lives[1])


def test_the_counts_are_those_of_the_files(tmp_path: Path) -> None:
    told = write_world(tmp_path / "world", "none", Sizes(5_000, users=30, items=80))
    log = pq.read_table(tmp_path / "world" / "interactions.parquet").to_pandas()
    assert (told["impressions"], told["clicks"]) == (len(log), log["label"].sum())
    assert (told["users"], told["items"]) == (30, 80)
    assert 4_500 < len(log) <= 5_000  # a page is shorter where fewer than ten items are drawn
    assert log["user_id"].nunique() <= 30
    assert len(pq.read_table(tmp_path / "world" / "items.parquet")) == 80


def test_about_one_impression_in_twelve_is_clicked(strong: World) -> None:
    assert len(strong.log) == 100_000
    assert 0.07 < strong.log["label"].mean() < 0.09
    assert set(strong.log["label"]) == {0, 1}


def test_the_oracle_lies_beside_the_log_row_by_row(strong: World) -> None:
    keys = ["request_id", "position", "user_id", "item_id", "timestamp"]
    pd.testing.assert_frame_equal(strong.oracle[keys], strong.log[keys])


def test_the_oracle_is_hard_to_beat_and_calibrated(strong: World) -> None:
    probability, label = strong.oracle["probability"], strong.log["label"]
    assert 0.75 < roc_auc_score(label, probability) < 0.85
    by_tenth = pd.DataFrame({"p": probability, "y": label}).groupby(pd.qcut(probability, 10), observed=True).mean()
    np.testing.assert_allclose(by_tenth["p"], by_tenth["y"], atol=0.01)


def test_conversions_are_some_of_the_clicks(strong: World) -> None:
    assert (strong.log["converted"] <= strong.log["label"]).all()
    assert 0.1 < strong.log["converted"].sum() / strong.log["label"].sum() < 0.25


def test_one_image_in_five_is_missing_and_no_text(folders: dict[str, Path]) -> None:
    table = pq.read_table(folders["strong"] / "item_embeddings.parquet")
    assert 0.18 < table["image"].null_count / len(table) < 0.22
    assert table["text"].null_count == 0


def test_three_items_in_ten_are_born_late(strong: World) -> None:
    born = strong.items["created_at"].astype("int64")
    span = P.days * 86_400_000_000
    assert 0.27 < (born >= P.start_us + 0.6 * span).mean() < 0.33
    assert 0.45 < (born < P.start_us).mean() < 0.55
    assert born.max() < P.start_us + span


def test_items_are_shown_only_while_they_exist(strong: World) -> None:
    shown = strong.log.merge(strong.items, on="item_id", validate="many_to_one")
    assert len(shown) == len(strong.log)
    assert (shown["timestamp"] >= shown["created_at"]).all()
    assert not (shown["timestamp"] >= shown["removed_at"]).any()
    assert strong.items["removed_at"].notna().any()


def test_a_request_is_one_page_of_distinct_items(strong: World) -> None:
    pages = strong.log.groupby("request_id")
    assert not strong.log.duplicated(["request_id", "item_id"]).any()
    assert not strong.log.duplicated(["request_id", "position"]).any()
    assert (pages[["user_id", "timestamp"]].nunique() == 1).all(axis=None)
    assert set(strong.log["position"]) == set(range(10))


def test_lower_positions_are_clicked_less_even_at_equal_quality(strong: World) -> None:
    by_position = strong.log.groupby("position")["label"].mean()
    assert (by_position.diff().dropna() < 0).all()
    assert by_position[0] > 2 * by_position[9]
    item = strong.log["item_id"].str[1:].astype(int).to_numpy()
    position = strong.log["position"].to_numpy()
    causes = np.column_stack([np.ones(len(item)), strong.quality[item], position])
    probability = strong.oracle["probability"].to_numpy()
    logit = np.log(probability / (1 - probability))
    _, of_quality, of_position = np.linalg.lstsq(causes, logit, rcond=None)[0]
    assert of_quality == pytest.approx(P.quality_weight, abs=0.05)
    assert of_position == pytest.approx(P.position_weight, abs=0.02)


def test_content_shows_taste_in_strong_less_in_weak_and_nothing_in_none(worlds: dict[str, World]) -> None:
    found = {name: predictable(world.content, world.latent) for name, world in worlds.items()}
    assert found["strong"] > 0.8
    assert 0.1 < found["weak"] < 0.5
    assert found["none"] < 0.02


def test_content_never_shows_quality(worlds: dict[str, World]) -> None:
    for world in worlds.values():
        assert predictable(world.content, world.quality) < 0.02
        price = world.items["price"].to_numpy()
        assert abs(np.corrcoef(np.log(price), world.quality)[0, 1]) < 0.05


def test_a_world_keeps_the_input_contract(tmp_path: Path) -> None:
    write_world(tmp_path / "world", "strong", SMALL)
    repo = fresh_repo(tmp_path / "repo", tmp_path / "world", modalities=("text", "image"), conversions=True)
    assert [report.rejected for report in ingest(repo).tables] == [0, 0, 0]


@pytest.mark.parametrize(
    ("world", "sizes", "message"),
    [
        ("stronger", SMALL, "no world named 'stronger'; available: strong, weak, none, clustered"),
        ("strong", Sizes(2_399), "at least 2,400 impressions and 32 items, got 2,399 impressions and 100 items"),
        ("strong", Sizes(4_000, items=31), "got 4,000 impressions and 31 items"),
        ("strong", Sizes(4_000, items=0), "expected at least 1 of items, got 0"),
        ("strong", Sizes(4_000, users=0), "expected at least 1 of users, got 0"),
        ("strong", Sizes(4_000, users=-5), "expected at least 1 of users, got -5"),
    ],
)
def test_an_impossible_world_is_refused_before_anything_is_written(
    tmp_path: Path, world: str, sizes: Sizes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_world(tmp_path / "world", world, sizes)
    assert list(tmp_path.iterdir()) == []


def test_the_smallest_world_can_be_made(tmp_path: Path) -> None:
    assert write_world(tmp_path / "world", "strong", Sizes(2_400, users=1, items=32))["users"] == 1


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="expected a new folder"):
        write_world(tmp_path, "strong", SMALL)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthetic(tmp_path / "world", world="none", impressions=4_000, users=40, items=90, seed=0)
    assert "impressions (" in capsys.readouterr().out
    assert sorted(file.stem for file in (tmp_path / "world").iterdir()) == sorted(TABLES)
