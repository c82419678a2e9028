"""Tiny invented files in the layouts of published data sets."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KUAIRAND_LOG = (
    "user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "is_follow", "is_comment", "is_forward",
    "is_hate", "long_view", "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter",
    "is_rand", "tab",
)  # fmt: skip
KUAIRAND_USER = (
    "user_id", "user_active_degree", "is_lowactive_period", "is_live_streamer", "is_video_author", "follow_user_num",
    "follow_user_num_range", "fans_user_num", "fans_user_num_range", "friend_user_num", "friend_user_num_range",
    "register_days", "register_days_range", *(f"onehot_feat{number}" for number in range(18)),
)  # fmt: skip
KUAIRAND_VIDEO = (
    "video_id", "author_id", "video_type", "upload_dt", "upload_type", "visible_status", "video_duration", "server_width",
    "server_height", "music_id", "music_type", "tag",
)  # fmt: skip
HM_ARTICLE = (
    "article_id", "product_code", "prod_name", "product_type_no", "product_type_name", "product_group_name",
    "graphical_appearance_no", "graphical_appearance_name", "colour_group_code", "colour_group_name",
    "perceived_colour_value_id", "perceived_colour_value_name", "perceived_colour_master_id",
    "perceived_colour_master_name", "department_no", "department_name", "index_code", "index_name", "index_group_no",
    "index_group_name", "section_no", "section_name", "garment_group_no", "garment_group_name", "detail_desc",
)  # fmt: skip


def movielens_1m(folder: Path) -> Path:
    """Two users, three movies (one without a rating), with the separators and the encoding of MovieLens 1M."""
    folder.mkdir(parents=True)
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n", encoding="latin-1")
    (folder / "movies.dat").write_text(
        'M1::Toy "Tale" (1995)::Animation|Children\'s\n2::Les Misérables (1995)::Drama\n3::Unseen (1999)::Drama\n'.replace(
            "M1", "1"
        ),
        encoding="latin-1",
    )
    (folder / "ratings.dat").write_text(
        "1::1::5::978300760\n1::2::3::978300761\n2::1::4::978302109\n", encoding="latin-1"
    )
    return folder


def movielens_csv(folder: Path) -> Path:
    """The same in the layout of MovieLens 20M and 32M: half stars, quoted titles, a movie without genres."""
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,1,3.5,1112486027\n1,2,4.0,1112484676\n2,1,4.5,1112484819\n"
    )
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n1,"American President, The (1995)",Comedy|Drama|Romance\n2,Amélie,(no genres listed)\n',
        encoding="utf-8",
    )
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,classic,1443148538\n")
    return folder


def amazon_reviews(folder: Path, *, packed: bool = False) -> Path:
    """Three reviews of two products, one of them twice; one product has no metadata; prices as a number, a text and null."""
    reviews: list[dict[str, Any]] = [
        {"rating": 5.0, "title": "Good", "text": "t", "images": [], "asin": "B0A1", "parent_asin": "B0A",
         "user_id": "AE1", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True},
        {"rating": 2.0, "title": "Bad", "text": "t", "images": [], "asin": "B0A2", "parent_asin": "B0A",
         "user_id": "AE2", "timestamp": 1577404520050, "helpful_vote": 3, "verified_purchase": False},
        {"rating": 4.0, "title": "Ok", "text": "t", "images": [], "asin": "B0C", "parent_asin": "B0C",
         "user_id": "AE1", "timestamp": 1588687730000, "helpful_vote": 0, "verified_purchase": True},
    ]  # fmt: skip
    reviews.append(reviews[0])
    meta: list[dict[str, Any]] = [
        {"main_category": "All Beauty", "title": "Comb", "average_rating": 4.8, "rating_number": 10,
         "features": ["Wood", "Small"], "description": ["A comb."], "price": 9.99, "images": [], "videos": [],
         "store": "Combs Inc", "categories": ["Beauty", "Hair"], "parent_asin": "B0A", "bought_together": None,
         "details": {"Brand": "Comby", "Date First Available": "January 5, 2018"}},
        {"main_category": "All Beauty", "title": "Never reviewed", "average_rating": 1.0, "rating_number": 1,
         "features": [], "description": [], "price": "—", "images": [], "videos": [], "store": None,
         "categories": [], "parent_asin": "B0B", "bought_together": None, "details": {}},
    ]  # fmt: skip
    _json_lines(folder / "review_categories" / "All_Beauty.jsonl", reviews, packed)
    _json_lines(folder / "meta_categories" / "meta_All_Beauty.jsonl", meta, packed)
    return folder


def mind(folder: Path) -> Path:
    """A training and a validation folder; one news only in a history, one never, and candidates without a label."""
    entities = '[{"Label": "Prince Philip", "Type": "P", "WikidataId": "Q80976", "Confidence": 1.0}]'
    news = {
        "N1": (
            "N1",
            "lifestyle",
            "royals",
            'The "Brands" they swear by',
            "Notebooks.",
            "https://a/1",
            entities,
            entities,
        ),
        "N2": ("N2", "news", "world", "Second", "", "https://a/2", "[]", ""),
        "N3": ("N3", "sports", "golf", "Only in a history", "Abstract.", "https://a/3", "[]", "[]"),
        "N4": ("N4", "sports", "golf", "Never seen", "Abstract.", "https://a/4", "[]", "[]"),
    }
    behaviors = {
        "MINDsmall_train": ["1\tU1\t11/11/2019 9:05:58 AM\tN3\tN1-1 N2-0", "2\tU2\t11/12/2019 6:11:30 PM\t\tN2-1"],
        "MINDsmall_dev": ["1\tU1\t11/15/2019 12:37:50 AM\tN3 N1\tN2-0 N1-0", "2\tU2\t11/15/2019 7:00:00 AM\tN2\tN1 N2"],
    }
    for split, names in (("MINDsmall_train", "N1 N2 N3"), ("MINDsmall_dev", "N1 N2 N4")):
        (folder / split).mkdir(parents=True)
        lines = ["\t".join(news[name]) for name in names.split()]
        (folder / split / "news.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / split / "behaviors.tsv").write_text("\n".join(behaviors[split]) + "\n", encoding="utf-8")
    return folder


def kuairand(folder: Path) -> Path:
    """Standard and random exposures of KuaiRand-Pure; one video is not described."""
    first = dict.fromkeys(KUAIRAND_LOG, 0) | {
        "user_id": 7, "video_id": 11, "date": 20220421, "hourmin": 400, "time_ms": 1650485801301, "is_click": 1,
        "long_view": 1, "tab": 1,
    }  # fmt: skip
    second = first | {"video_id": 12, "hourmin": 1830, "time_ms": 1650537000000, "is_click": 0, "long_view": 0}
    drawn = first | {"user_id": 8, "video_id": 11, "time_ms": 1650600000000, "is_rand": 1, "tab": 4}
    _csv(folder / "data" / "log_standard_4_08_to_4_21_pure.csv", KUAIRAND_LOG, [first, second])
    _csv(folder / "data" / "log_random_4_22_to_5_08_pure.csv", KUAIRAND_LOG, [drawn])
    person = dict.fromkeys(KUAIRAND_USER, 1) | {"user_id": 7, "follow_user_num_range": "(0,10]"}
    _csv(folder / "data" / "user_features_pure.csv", KUAIRAND_USER, [person, person | {"user_id": 8}])
    described = (11, 441, "NORMAL", "2020-07-08", "ShortImport", 1, 17200.0, 720, 1280, 98, 4, "12,65")
    video = dict(zip(KUAIRAND_VIDEO, described, strict=True))
    late = video | {"video_id": 13, "upload_dt": "2022-05-01", "tag": "", "video_duration": ""}
    _csv(folder / "data" / "video_features_basic_pure.csv", KUAIRAND_VIDEO, [video, late])
    return folder


def hm(folder: Path) -> Path:
    """Three purchases, one of them of two pieces; ids with a leading 0; an article without a purchase."""
    article = dict.fromkeys(HM_ARTICLE, "x") | {
        "article_id": "0108775015", "product_code": "0108775", "prod_name": "Strap top", "product_type_name": "Vest top",
        "detail_desc": "Jersey top, with narrow straps.",
    }  # fmt: skip
    unsold = article | {"article_id": "0999999001", "detail_desc": ""}
    _csv(folder / "articles.csv", HM_ARTICLE, [article, article | {"article_id": "0110065001"}, unsold])
    header = ("customer_id", "FN", "Active", "club_member_status", "fashion_news_frequency", "age", "postal_code")
    rows = [("c1", "", "", "ACTIVE", "NONE", "49", "52043e"), ("c2", "1.0", "1.0", "ACTIVE", "Regularly", "", "2973ab")]
    _csv(folder / "customers.csv", header, [dict(zip(header, row, strict=True)) for row in rows])
    (folder / "transactions_train.csv").write_text(
        "t_dat,customer_id,article_id,price,sales_channel_id\n"
        "2018-09-20,c1,0108775015,0.0508,2\n2018-09-20,c1,0108775015,0.0508,2\n"
        "2018-09-21,c2,0108775015,0.0300,1\n2018-09-21,c2,0110065001,0.0169,2\n"
    )
    return folder


def yambda(folder: Path, users: int = 6, tracks: int = 8, plays: int = 40) -> Path:
    """Plays, likes and audio vectors in the flat layout; returns the folder of the events."""
    random = np.random.default_rng(0)
    events = folder / "flat" / "50m"
    events.mkdir(parents=True)
    item = 50 + 10 * random.integers(0, tracks, plays)
    item[:tracks] = 50 + 10 * np.arange(tracks)
    listened = {
        "uid": pa.array(100 * random.integers(1, users + 1, plays), pa.uint32()),
        "timestamp": pa.array(np.sort(5 * random.integers(0, 5_000_000, plays)), pa.uint32()),
        "item_id": pa.array(item, pa.uint32()),
        "is_organic": pa.array(random.integers(0, 2, plays), pa.uint8()),
        "played_ratio_pct": pa.array(random.permutation(plays) * 100 // plays, pa.uint16()),
        "track_length_seconds": pa.array(100 + item, pa.uint32()),
    }
    pq.write_table(pa.table(listened), events / "listens.parquet")
    liked = {name: listened[name].slice(0, 5) for name in ("uid", "timestamp", "item_id", "is_organic")}
    pq.write_table(pa.table(liked), events / "likes.parquet")
    pq.write_table(pa.table({name: liked[name].slice(0, 2) for name in liked}), events / "dislikes.parquet")
    every = np.arange(50, 50 + 10 * tracks + 100, 10)  # more tracks than the log has
    vectors = list(random.normal(size=(len(every), 8)))
    pq.write_table(
        pa.table({"item_id": pa.array(every, pa.uint32()), "embed": vectors, "normalized_embed": vectors}),
        folder / "embeddings.parquet",
    )
    pq.write_table(pa.table({"artist_id": [3, 1], "item_id": [50, 50]}), folder / "artist_item_mapping.parquet")
    return events


def _csv(path: Path, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _json_lines(path: Path, rows: Sequence[dict[str, Any]], packed: bool) -> None:
    path.parent.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if packed:
        path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
