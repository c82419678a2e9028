"""Items to embed, and what a run made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.builders import write_tables
from semantic_ids.pretrained import EmbedReport, TextSpec, embed_items

TITLES = {
    "shoes": "red running shoes for men",
    "sneakers": "crimson jogging sneakers",
    "kettle": "stainless steel electric kettle",
    "teapot": "porcelain teapot with strainer",
    "novel": "a detective novel set in Vienna",
    "thriller": "crime thriller paperback",
}


def write_items(folder: Path, titles: dict[str, str | None], **further: pa.Array) -> Path:
    columns = {"item_id": pa.array(list(titles)), "title": pa.array(list(titles.values()), pa.string())}
    return write_tables(folder, {"items": pa.table({**columns, **further})})


def vectors_of(report: EmbedReport, *modalities: str) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(report.out).to_pylist()
    return {row["item_id"]: {name: row[name] for name in modalities} for row in rows}


def embed_texts(folder: Path, minilm: Path, **spec: Any) -> EmbedReport:
    return embed_items(folder, folder, {"text": TextSpec(model=str(minilm), **spec)}, folder / "cache")
