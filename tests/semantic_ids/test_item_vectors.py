"""Content vectors read from Arrow: who has one, how wide it is, whatever the memory layout."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids import item_vectors
from semantic_ids.encoders import ContentEncoder, Encoder
from semantic_ids.encoders.whitened_views import WhitenedViewsEncoder
from semantic_ids.item_vectors import ItemVectors, matrix_of
from semantic_ids.vector_file import VectorFile
from sidkit.core import row_groups
from sidkit.core.arrays import Ints
from sidkit.core.errors import FitError

LIST = pa.list_(pa.float32())


def column(*chunks: Sequence[object], kind: pa.DataType = LIST) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(chunk, kind) for chunk in chunks], kind)


@st.composite
def columns(draw: st.DrawFn) -> tuple[list[list[float] | None], pa.ChunkedArray]:
    """Rows of one width, some null, and the same rows as a column: cut into chunks, each a slice of a longer array."""
    width = draw(st.integers(1, 4))
    vector = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=width, max_size=width)
    chunks = draw(st.lists(st.lists(st.none() | vector, max_size=5), max_size=4))
    kind = draw(st.sampled_from([LIST, pa.large_list(pa.float64()), pa.list_(pa.float32(), width)]))
    around = [[9.0] * width, None]
    before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    sliced = [pa.array(around[:before] + chunk + around[:after], kind).slice(before, len(chunk)) for chunk in chunks]
    return [row for chunk in chunks for row in chunk], pa.chunked_array(sliced, kind)


@settings(deadline=None, max_examples=200)
@given(columns())
def test_a_matrix_holds_the_columns_rows_whatever_the_chunks_and_slices(
    drawn: tuple[list[list[float] | None], pa.ChunkedArray],
) -> None:
    rows, arrow = drawn
    matrix, present = matrix_of(arrow, "text")
    assert present.tolist() == [row is not None for row in rows]
    assert matrix.dtype == np.float32
    assert len(matrix) == len(rows)
    for row, got in zip(rows, matrix, strict=True):
        assert got.tolist() == (row if row is not None else [0.0] * matrix.shape[1])


def test_a_null_list_is_a_row_of_zeros_that_is_not_present() -> None:
    matrix, present = matrix_of(column([[1, 2], None], [[0, 0]]), "text")
    assert matrix.tolist() == [[1, 2], [0, 0], [0, 0]]
    assert present.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "empty",
    [
        column(),
        column([]),
        column([], []),
        column([[1, 2]]).slice(1),
    ],
)
def test_an_empty_column_has_no_rows(empty: pa.ChunkedArray) -> None:
    matrix, present = matrix_of(empty, "text")
    assert len(matrix) == len(present) == 0


def test_a_column_of_nulls_has_no_width_and_nobody_present() -> None:
    matrix, present = matrix_of(column([None, None], [None]), "text")
    assert matrix.shape == (3, 0)
    assert not present.any()


def test_a_column_of_nulls_without_a_type_is_a_column_of_nulls() -> None:
    matrix, present = matrix_of(pa.table({"text": [None, None]}).column("text"), "text")
    assert matrix.shape == (2, 0)
    assert not present.any()


def test_rows_of_different_widths_are_refused_by_name_with_both_widths() -> None:
    with pytest.raises(FitError, match=r"'image'.* 1 to 3 "):
        matrix_of(column([[1], None], [[1, 2, 3]]), "image")


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.int64()), pa.list_(pa.float16())])
def test_numbers_of_other_types_become_float32(kind: pa.DataType) -> None:
    values = [np.float16(1), np.float16(2)] if kind == pa.list_(pa.float16()) else [1, 2]
    matrix, _ = matrix_of(column([values], kind=kind), "text")
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[1, 2]]


def test_a_null_inside_a_vector_is_not_taken_for_a_zero() -> None:
    matrix, present = matrix_of(column([[1, None]]), "text")
    assert present.tolist() == [True]
    assert np.isnan(matrix[0, 1])


def test_vectors_are_read_by_modality_under_a_prefix() -> None:
    table = pa.table({"a__text": column([[1, 2], None]), "a__image": column([None, [3]]), "text": column([[7], [7]])})
    items = ItemVectors.from_arrow(table, ("text", "image"), prefix="a__")
    assert {name: matrix.tolist() for name, matrix in items.matrices.items()} == {
        "text": [[1, 2], [0, 0]],
        "image": [[0], [3]],
    }
    assert len(items) == 2


@settings(deadline=None)
@given(data=st.data())
def test_rows_of_a_file_are_those_of_its_table(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    vector = st.none() | st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=2)
    texts = data.draw(st.lists(vector, min_size=1, max_size=12))
    table = pa.table({"text": column(texts), "image": column([None] * len(texts)), "at": range(len(texts))})
    rows = np.array(data.draw(st.lists(st.integers(0, len(texts) - 1), unique=True)), dtype=np.int64)
    path = tmp_path_factory.mktemp("vectors") / "content.parquet"
    pq.write_table(table, path, row_group_size=data.draw(st.integers(1, 5)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(row_groups, "_READ_ROWS", data.draw(st.integers(1, 4)))
        patched.setattr(item_vectors, "IN_MEMORY_BYTES", data.draw(st.sampled_from([0, 2**28])))
        found = ItemVectors.from_parquet(path, rows, ("text", "image"), spill=path.parent)
    expected = ItemVectors.from_arrow(table.take(pa.array(rows)), ("text", "image"))
    for name in ("text", "image"):
        assert found.present[name].tolist() == expected.present[name].tolist()
        assert found.matrices[name].tolist() == expected.matrices[name].tolist()


def test_vectors_of_a_file_must_have_one_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "content.parquet"
    pq.write_table(pa.table({"text": column([[1, 2], [3, 4], [5]])}), path)
    monkeypatch.setattr(row_groups, "_READ_ROWS", 2)
    with pytest.raises(FitError, match="'text' must all have the same width, got 1 to 2 elements; embed all items"):
        ItemVectors.from_parquet(path, np.array([2, 0]), ("text",))
    assert ItemVectors.from_parquet(path, np.array([1, 0]), ("text",)).matrices["text"].tolist() == [[3, 4], [1, 2]]


def written(path: Path, rows: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    texts = [None if rng.random() < 0.2 else rng.normal(size=3).tolist() for _ in range(rows)]
    images = [None if rng.random() < 0.5 else rng.normal(size=2).tolist() for _ in range(rows)]
    pq.write_table(pa.table({"text": column(texts), "image": column(images)}), path, row_group_size=11)
    return path


def in_a_file(path: Path, rows: Ints, monkeypatch: pytest.MonkeyPatch) -> ItemVectors:
    """The vectors read with no matrix small enough for memory."""
    with monkeypatch.context() as patched:
        patched.setattr(item_vectors, "IN_MEMORY_BYTES", 0)
        return ItemVectors.from_parquet(path, rows, ("text", "image"), spill=path.parent / "spilled")


@pytest.mark.parametrize("encoder", [ContentEncoder(dim=2), WhitenedViewsEncoder(view_dim=2)])
def test_vectors_in_a_file_are_used_like_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Encoder
) -> None:
    path, rows = written(tmp_path / "content.parquet", 60), np.random.default_rng(0).permutation(60)
    held, filed = ItemVectors.from_parquet(path, rows, ("text", "image")), in_a_file(path, rows, monkeypatch)
    assert filed.mapped
    assert not held.mapped
    monkeypatch.setattr(item_vectors, "_BLOCK_ROWS", 7)
    assert filed.mark() == held.mark()
    assert filed.distinct() == held.distinct()
    chosen = np.array([5, 3, 59, 3])
    for index in (chosen, held.any_present, slice(10, 40)):
        assert filed.rows(index).mark() == held.rows(index).mark()
    assert filed.only(["image"]).mark() == held.only(["image"]).mark()
    expected = encoder.fit(held).encode(held)
    np.testing.assert_array_equal(encoder.fit(filed).encode(filed), expected)


def test_a_file_of_vectors_leaves_nothing_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = in_a_file(written(tmp_path / "content.parquet", 20), np.arange(20), monkeypatch)
    assert items.mapped
    assert list((tmp_path / "spilled").iterdir()) == []


@pytest.mark.parametrize("fault", ["a file is in the way", "the disk is full"])
def test_without_room_for_a_file_vectors_are_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = written(tmp_path / "content.parquet", 20)
    if fault == "a file is in the way":
        (tmp_path / "spilled").write_text("")
    else:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(VectorFile, "write", full)
    items = in_a_file(path, np.arange(20), monkeypatch)
    assert not items.mapped
    assert items.mark() == ItemVectors.from_parquet(path, np.arange(20), ("text", "image")).mark()


def test_an_item_counts_as_present_with_any_one_modality() -> None:
    table = pa.table({"text": column([[1], None, None]), "image": column([None, None, [3]])})
    items = ItemVectors.from_arrow(table, ("text", "image"))
    assert items.any_present.tolist() == [True, False, True]


@settings(deadline=None)
@given(st.data())
def test_a_selection_holds_the_selected_rows_of_every_modality(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    rng = np.random.default_rng(count)
    items = ItemVectors(
        {"text": rng.normal(size=(count, 3)).astype(np.float32), "image": rng.normal(size=(count, 2)).astype("f4")},
        {"text": rng.random(count) < 0.5, "image": rng.random(count) < 0.5},
    )
    wanted = data.draw(st.lists(st.integers(0, count - 1)))
    for index in (np.array(wanted, dtype=np.int64), np.isin(np.arange(count), wanted)):
        chosen = items.rows(index)
        kept = np.arange(count)[index]
        assert len(chosen) == len(kept)
        for name in ("text", "image"):
            assert chosen.matrices[name].tolist() == [items.matrices[name][row].tolist() for row in kept]
            assert chosen.present[name].tolist() == [bool(items.present[name][row]) for row in kept]
