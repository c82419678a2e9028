"""`sidkit data check`: shares are of the catalogue and of the events, and what will disappoint is said."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers.builders import DAY, START, moments, write_tables
from helpers.contract_builders import N_EVENTS, N_ITEMS, VECTORS, Tables, changed, good
from helpers.dirty_builders import check
from sidkit.cli import build_app
from sidkit.contract.shares import _of


def facts(tables: Tables, name: str, **source: object) -> dict[str, str]:
    return check(tables, **source).reports[name].facts


def test_a_share_of_vectors_is_of_the_catalogue() -> None:
    tables = good()
    born = moments([START] * 96)
    tables["items"] = pa.concat_tables(
        [tables["items"], pa.table({"item_id": [f"x{n}" for n in range(96)], "created_at": born})]
    )
    assert facts(tables, "item_embeddings")["text share"] == "4.0% of the catalogue's items (4 of 100)"
    assert facts(tables, "items")["items with events"] == "4.0% of the catalogue's items (4 of 100)"


def test_vectors_that_tell_no_items_apart_are_counted() -> None:
    vectors = [VECTORS[0], VECTORS[0], [0.0, 0.0], [0.0, 0.0]]
    found = facts(changed("item_embeddings", text=pa.array(vectors, pa.list_(pa.float32()))), "item_embeddings")
    assert found["text distinct"] == "50.0% of the vectors (2 of 4)"
    assert found["text all zero"] == "50.0% of the vectors (2 of 4)"
    assert not {"text distinct", "text all zero"} & set(facts(good(), "item_embeddings"))


def test_events_that_will_have_no_content_are_counted() -> None:
    tables = changed("items", created_at=moments([START + 5_000_000, *[START] * (N_ITEMS - 1)]))
    tables["item_embeddings"] = tables["item_embeddings"].slice(0, 2)
    found = facts(tables, "interactions")
    assert found["before their item's created_at"] == f"16.7% of the events (2 of {N_EVENTS})"
    assert found["of items with a vector"] == f"50.0% of the events (6 of {N_EVENTS})"


def test_gaps_in_requests_and_conversions_are_counted() -> None:
    tables = changed("interactions", request_id=["r", *[None] * 11], converted=pa.array([None, 1, *[None] * 10]))
    found = facts(tables, "interactions", conversions=True)
    assert found["without request_id"] == f"91.7% of the events (11 of {N_EVENTS})"
    assert found["positives with unknown conversion"] == "5"
    assert "without request_id" not in facts(good(), "interactions")


def test_items_younger_than_their_events_are_a_warning_whose_remedy_helps(tmp_path: Path) -> None:
    last = START + 11 * 1_000_011
    tables = changed("items", created_at=moments([last + DAY, *[START] * (N_ITEMS - 1)]))
    folder = write_tables(tmp_path / "source", tables)
    done = CliRunner().invoke(build_app(), ["data", "check", str(folder)])
    assert done.exit_code == 0
    assert "warning: items: 1 items were created after all of their events" in done.stderr
    tables = changed("items", created_at=moments([None, *[START] * (N_ITEMS - 1)]))
    checked = check(tables, missing_created_at="first_interaction")
    assert checked.reports["items"].warnings == []
    assert "created after all their events" not in checked.reports["items"].facts


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**9).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_a_share_is_all_or_nothing_only_where_it_is(count_total: tuple[int, int]) -> None:
    count, total = count_total
    text = _of(count, total, "the events")
    assert text.startswith("100.0%") == (count == total)
    assert text.startswith("0.0%") == (count == 0)


@pytest.mark.parametrize("total", [0, 1])
def test_nothing_is_a_share_of_nothing(total: int) -> None:
    assert _of(0, total, "the events") == f"0.0% of the events (0 of {total})"
