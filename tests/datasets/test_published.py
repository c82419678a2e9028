"""Adapters for published data sets: each file of the published layout ends up in the table, column and unit it belongs to."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidkit
from helpers import published_files
from ranking.experiments.comparison.comparison import data_name
from sidkit.api.checks import check_source
from sidkit.core.errors import ConfigError, ContractError, MissingTableError, SidkitWarning, TableSchemaError
from sidkit.datasets import DATASET_NAMES, PUBLISHED, convert, named_dataset
from sidkit.datasets.published import PublishedDataset

SETS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "movielens 1m": ("movielens", published_files.movielens_1m),
    "movielens csv": ("movielens", published_files.movielens_csv),
    "amazon_reviews": ("amazon_reviews", published_files.amazon_reviews),
    "mind": ("mind", published_files.mind),
    "kuairand": ("kuairand", published_files.kuairand),
    "hm": ("hm", published_files.hm),
    "yambda": ("yambda", published_files.yambda),
}


def tables_of(name: str, folder: Path, out: Path) -> dict[str, pd.DataFrame]:
    """The converted tables; what is left out is a subject of other tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SidkitWarning)
        convert(name, folder, out)
    frames = {file.stem: pq.read_table(file).to_pandas() for file in out.glob("*.parquet")}
    return {stem: frame.set_index("item_id") if stem == "items" else frame for stem, frame in frames.items()}


def utc(*parts: Any) -> pd.Timestamp:
    return pd.Timestamp(datetime(*parts, tzinfo=UTC))


def add_vectors(folder: Path) -> None:
    """Give every item of a converted folder a vector, as `sidkit data embed` does."""
    ids = pq.read_table(folder / "items.parquet").column("item_id")
    vectors = list(np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32))
    pq.write_table(pa.table({"item_id": ids, "text": vectors}), folder / "item_embeddings.parquet")


@pytest.mark.parametrize("case", SETS)
def test_converted_tables_keep_the_contract(case: str, tmp_path: Path) -> None:
    name, make = SETS[case]
    tables = tables_of(name, make(tmp_path / "raw"), tmp_path / "out")
    if "item_embeddings" not in tables:
        add_vectors(tmp_path / "out")
    checked = check_source(tmp_path / "out")
    assert {report.rejected for report in checked.tables} == {0} and len(checked.tables) >= 3
    adapter = DATASET_NAMES.find(name)(variant=str(tmp_path / "raw"))
    stated = {"feedback": adapter.feedback, "conversions": adapter.conversions}
    assert {key: checked.settings[key] for key in stated} == stated


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_adapter_states_its_terms_and_citation(name: str) -> None:
    kind = DATASET_NAMES.find(name)
    assert issubclass(kind, PublishedDataset)
    assert kind.name == name
    text = kind.__doc__ or ""
    assert all(word in text for word in ("Terms:", "Citation:", "``label``", "``created_at``", "Left out:"))


def test_movielens_1m_has_genres_years_and_users(tmp_path: Path) -> None:
    tables = tables_of("movielens", published_files.movielens_1m(tmp_path / "raw"), tmp_path / "out")
    log = tables["interactions"]
    assert log["label"].tolist() == [1, 0, 1]
    assert log["rating"].tolist() == [5, 3, 4]
    assert log["timestamp"][0] == utc(2000, 12, 31, 22, 12, 40)
    movie = tables["items"].loc["1"]
    assert movie["title"] == 'Toy "Tale" (1995)'
    assert movie["genres"].tolist() == ["Animation", "Children's"]
    assert movie["release_year"] == 1995
    assert movie["created_at"] == log["timestamp"].min()
    assert movie["text"] == 'Toy "Tale" (1995). Animation, Children\'s'
    assert tables["items"].loc["2", "title"] == "Les Misérables (1995)"
    users = tables["users"].set_index("user_id")
    assert users.loc["1"].tolist() == ["F", 1, "K-12 student", "48067"]


def test_movielens_csv_has_half_stars_and_movies_without_genres(tmp_path: Path) -> None:
    tables = tables_of("movielens", published_files.movielens_csv(tmp_path / "raw"), tmp_path / "out")
    assert tables["interactions"]["label"].tolist() == [0, 1, 1]
    assert tables["items"].loc["1", "title"] == "American President, The (1995)"
    assert tables["items"].loc["2", "genres"].tolist() == []
    assert "users" not in tables


@pytest.mark.parametrize("packed", [False, True])
def test_amazon_items_are_dated_by_their_details_and_know_no_average_rating(tmp_path: Path, packed: bool) -> None:
    raw = published_files.amazon_reviews(tmp_path / "raw", packed=packed)
    tables = tables_of("amazon_reviews", raw, tmp_path / "out")
    log, items = tables["interactions"].sort_values("timestamp", ignore_index=True), tables["items"]
    assert log["label"].tolist() == [1, 1, 1]
    assert log["timestamp"][1] == pd.Timestamp(1588687728923, unit="ms", tz="UTC")
    assert items.loc["B0A", "created_at"] == utc(2018, 1, 5)
    assert items.loc["B0A", "brand"] == "Comby"
    assert items.loc["B0A", "price"] == pytest.approx(9.99)
    assert items.loc["B0A", "categories"].tolist() == ["Beauty", "Hair"]
    assert items.loc["B0A", "text"] == "Comb. Wood. Small. A comb."
    assert items.loc["B0C", "created_at"] == log["timestamp"][2]  # no metadata
    assert not {"average_rating", "rating_number"} & set(items.columns)


def test_mind_candidates_of_an_impression_have_one_request(tmp_path: Path) -> None:
    tables = tables_of("mind", published_files.mind(tmp_path / "raw"), tmp_path / "out")
    log = tables["interactions"]
    first = log[log["request_id"] == "MINDsmall_train-1"]
    assert dict(zip(first["item_id"], first["label"], strict=True)) == {"N1": 1, "N2": 0}
    assert set(first["timestamp"]) == {utc(2019, 11, 11, 9, 5, 58)}
    assert utc(2019, 11, 15, 0, 37, 50) in set(log["timestamp"])  # half past midnight in twelve hours
    assert tables["items"].loc["N1", "entities"].tolist() == ["Q80976"]
    assert tables["items"].loc["N1", "title"] == 'The "Brands" they swear by'


def test_mind_news_of_a_history_existed_when_it_was_shown(tmp_path: Path) -> None:
    tables = tables_of("mind", published_files.mind(tmp_path / "raw"), tmp_path / "out")
    assert tables["items"].loc["N3", "created_at"] == utc(2019, 11, 11, 9, 5, 58)
    assert "N3" not in set(tables["interactions"]["item_id"])


def test_kuairand_exposures_have_their_context_and_no_statistics_of_the_future(tmp_path: Path) -> None:
    tables = tables_of("kuairand", published_files.kuairand(tmp_path / "raw"), tmp_path / "out")
    log = tables["interactions"].set_index("timestamp").sort_index()
    assert log["label"].tolist() == [1, 0, 1]
    assert log["converted"].tolist() == [1, 0, 1]
    assert log["is_rand"].tolist() == [0, 0, 1]
    assert log["hour"].tolist() == [4, 18, 4]
    assert log["tab"].tolist() == ["1", "1", "4"]
    video = tables["items"].loc["11"]
    assert video["created_at"] == utc(2020, 7, 7, 16)  # midnight of July 8 in China
    assert video["tags"].tolist() == ["12", "65"]
    assert video["duration_seconds"] == pytest.approx(17.2)
    assert tables["items"].loc["12", "created_at"] == utc(2022, 4, 21, 10, 30)  # not described
    users = tables["users"].set_index("user_id")
    assert users.loc["7", "follow_user_num_range"] == "(0,10]"
    assert not {"user_active_degree", "follow_user_num"} & set(users.columns)


def test_hm_ids_are_texts_and_prices_are_those_of_the_first_purchase(tmp_path: Path) -> None:
    tables = tables_of("hm", published_files.hm(tmp_path / "raw"), tmp_path / "out")
    log = tables["interactions"].sort_values(["user_id", "item_id"])
    assert log["item_id"].tolist() == ["0108775015", "0108775015", "0110065001"]  # c1 bought two pieces
    assert log["sales_channel"].tolist() == ["online", "store", "online"]
    top = tables["items"].loc["0108775015"]
    assert top["created_at"] == utc(2018, 9, 20)
    assert top["price"] == pytest.approx(0.0508)
    assert top["category"] == "Vest top"
    assert top["text"] == "Strap top. Jersey top, with narrow straps."
    users = tables["users"].set_index("user_id")
    assert users.loc["c1", "age"] == 49
    assert pd.isna(users.loc["c2", "age"])


def test_yambda_plays_are_positive_from_half_of_the_track_on(tmp_path: Path) -> None:
    raw = published_files.yambda(tmp_path / "raw")
    tables = tables_of("yambda", raw, tmp_path / "out")
    played = pq.read_table(raw / "listens.parquet").to_pandas()
    log = tables["interactions"]
    assert log["label"].tolist() == (played["played_ratio_pct"] >= 50).astype(int).tolist()
    assert (log["timestamp"] - utc(2024, 1, 1)).dt.total_seconds().tolist() == played["timestamp"].tolist()
    assert tables["items"].loc["50", "artists"].tolist() == ["1", "3"]
    assert tables["items"].loc["60", "duration_seconds"] == 160
    assert set(tables["item_embeddings"]["item_id"]) == set(tables["items"].index) == set(log["item_id"])


def test_yambda_likes_are_positives_only(tmp_path: Path) -> None:
    raw = published_files.yambda(tmp_path / "raw")
    tables = tables_of("yambda", raw / "likes.parquet", tmp_path / "out")
    assert tables["interactions"]["label"].tolist() == [1] * 5
    dataset = named_dataset(f"yambda:{raw / 'likes.parquet'}")
    assert dataset is not None
    assert dataset.make().feedback == "positives_only"


@pytest.mark.parametrize(
    ("name", "make", "counted"),
    [
        ("movielens", published_files.movielens_1m, "1 x an item without a date"),
        ("amazon_reviews", published_files.amazon_reviews, "1 x a further review of the same user, product and time"),
        ("mind", published_files.mind, "2 x a candidate without a label"),
        ("hm", published_files.hm, "1 x a further piece of a purchase"),
        ("yambda", published_files.yambda, "2 x a row of dislikes"),
    ],
)
def test_what_is_left_out_is_counted(
    name: str, make: Callable[[Path], Path], counted: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    convert(name, make(tmp_path / "raw"), tmp_path / "out")
    assert any(counted in str(warning.message) for warning in recwarn)


def test_a_malformed_value_is_rejected_by_name_when_it_is_read(tmp_path: Path) -> None:
    raw = published_files.movielens_csv(tmp_path / "raw")
    with (raw / "ratings.csv").open("a") as file:
        file.write("3,1,4.0,yesterday\n3,1,four,1112484819\n")
    tables_of("movielens", raw, tmp_path / "out")
    add_vectors(tmp_path / "out")
    reasons: dict[str, int] = {}
    with pytest.raises(ContractError):
        check_source(tmp_path / "out", report=lambda tables: reasons.update(tables[2].reasons))
    assert reasons == {"timestamp is missing": 1, "label is missing": 1}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    raw = published_files.hm(tmp_path / "raw")
    (raw / "articles.csv").unlink()
    with pytest.raises(MissingTableError, match=r"expected the articles \(articles.csv or .*customers.csv"):
        convert("hm", raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    raw = published_files.movielens_csv(tmp_path / "raw")
    (raw / "movies.csv").write_text("movieId,name\n1,Toy Story\n")
    with pytest.raises(TableSchemaError, match=r"expected column 'title', 'genres' in .*movies.csv, got movieId, name"):
        convert("movielens", raw, tmp_path / "out")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    raw = published_files.amazon_reviews(tmp_path / "raw")
    (raw / "review_categories" / "All_Beauty.jsonl").write_text('{"user_id": "A", \n')
    with pytest.raises(ContractError, match=r"interactions: .* cannot be read as published"):
        convert("amazon_reviews", raw, tmp_path / "out")


def test_a_name_or_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="available: movielens, amazon_reviews, mind, kuairand, hm, yambda"):
        convert("netflix", tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="does not exist; download and unpack"):
        convert("mind", tmp_path / "missing", tmp_path / "out")
    with pytest.raises(ConfigError, match="write it as mind:PATH"):
        sidkit.init(tmp_path / "repo", data="mind")
    with pytest.raises(ConfigError, match="expected a new folder"):
        convert("mind", tmp_path, tmp_path)


def test_a_repository_is_created_from_published_files(tmp_path: Path) -> None:
    raw = published_files.yambda(tmp_path / "raw")
    with pytest.warns(SidkitWarning, match="dislikes"):
        project = sidkit.init(tmp_path / "repo", data=f"yambda:{raw}")
    assert project.settings.source.modalities == ("audio",)
    assert project.ingest().rows == 40


def test_changed_files_are_noticed(tmp_path: Path) -> None:
    raw = published_files.movielens_1m(tmp_path / "raw")
    dataset = named_dataset(f"movielens:{raw}")
    assert dataset is not None
    before = dataset.make().fingerprint()
    assert before == dataset.make().fingerprint()
    with (raw / "ratings.dat").open("a") as file:
        file.write("2::2::1::978302110\n")
    assert before != dataset.make().fingerprint()


def test_results_are_named_after_the_folder() -> None:
    assert data_name("movielens:data/ml-1m") == "movielens_ml-1m"


def test_the_folder_of_an_archive_may_be_renamed(tmp_path: Path) -> None:
    raw = published_files.mind(tmp_path / "raw")
    shutil.move(raw / "MINDsmall_train", tmp_path / "train")
    log = tables_of("mind", tmp_path / "train", tmp_path / "out")["interactions"]
    assert set(log["request_id"]) == {"train-1", "train-2"}
