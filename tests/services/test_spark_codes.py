"""Codes that Spark assigns are those of this process."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from helpers.attribute_world import attribute_repo, attribute_tables
from helpers.builders import copy_of, write_tables
from helpers.spark_builders import needs_spark, on_spark
from semantic_ids import lifecycle
from semantic_ids.catalog import table_path
from semantic_ids.codebook import load_codebook
from semantic_ids.spark_codes import assign_on_spark
from sidkit.core.engine import literal
from sidkit.tables import build_tables, ingest, read_log

pytestmark = [
    needs_spark,
    pytest.mark.filterwarnings("ignore:The spark data source API is an experimental feature:RuntimeWarning"),
]


def test_codes_are_the_same_and_only_rows_without_codes_are_assigned(tmp_path: Path) -> None:
    tables = attribute_tables(300)
    vectors = tables["item_embeddings"].column("text").to_pylist()
    vectors[3] = None  # an item without content
    tables["item_embeddings"] = pa.table(
        {"item_id": tables["item_embeddings"].column("item_id"), "text": pa.array(vectors, pa.list_(pa.float32()))}
    )
    write_tables(tmp_path / "source", tables)
    local = attribute_repo(tmp_path / "local", tmp_path / "source")
    ingest(local)
    as_of_us = read_log(local).last_us + 60_000_000
    build_tables(local, as_of_us)
    lifecycle.fit(local, "one", lifecycle.CodebookSpec(force=True, sizes=(4, 4)), as_of_us)
    spark = on_spark(copy_of(local, tmp_path / "spark"))
    reports = [lifecycle.publish(repo, "one") for repo in (local, spark)]
    assert (reports[0].rows, reports[0].new_rows, reports[0].without_content) == (
        reports[1].rows, reports[1].new_rows, reports[1].without_content,
    )  # fmt: skip
    assert reports[0].without_content > 0
    one, other = (
        "(SELECT item_id, event_timestamp, codes, round(residual_norm, 5) "
        f"FROM read_parquet({literal(table_path(repo, 'one'))}))"
        for repo in (local, spark)
    )
    with duckdb.connect() as opened:
        assert opened.execute(f"FROM {one} EXCEPT ALL FROM {other}").fetchall() == []
        known = tmp_path / "known.parquet"
        opened.execute(
            f"COPY (FROM read_parquet({literal(table_path(local, 'one'))}) ORDER BY ALL LIMIT 50) TO {literal(known)}"
        )
    codebook = load_codebook(spark.codebooks / "one")
    files = assign_on_spark(
        spark, spark.codebooks / "one", codebook.encoder.modalities_, spark.tables / "item_content.parquet", known,
        tmp_path / "parts",
    )  # fmt: skip
    with duckdb.connect() as opened:
        listed = ", ".join(map(literal, files))
        assert opened.execute(f"SELECT count(*) FROM read_parquet([{listed}])").fetchone() == (reports[0].rows - 50,)
    assert lifecycle.refresh(spark, "one")[0].new_rows == 0
    assert not (spark.data / "tmp" / "spark" / "codes-one").exists()
