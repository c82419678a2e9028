"""The item table keeps each version of an item once; histories refer to versions as of the row's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, START
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.frame_builder import FrameBuilder
from ranking.data.item_table import ItemTable, ItemTableBuilder
from ranking.data.numeric_features import WINDOWS
from semantic_ids.codebook import Codebook
from semantic_ids.encoders import ContentEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.quantizers import QUANTIZERS
from sidkit.stores.offline.plan import ViewRows

law = settings(max_examples=60, deadline=None, database=None)
TEXT = IMAGE = 4
Vector = Sequence[float] | None


def make_codebook() -> Codebook:
    rng = np.random.default_rng(0)
    vectors = {"text": rng.normal(size=(60, TEXT)), "image": rng.normal(size=(60, IMAGE))}
    items = ItemVectors(
        {name: matrix.astype(np.float32) for name, matrix in vectors.items()},
        {"text": np.ones(60, dtype=bool), "image": np.arange(60) % 5 != 0},
    )
    return Codebook("tiny", ContentEncoder(dim=5).fit(items), QUANTIZERS["residual_kmeans"](sizes=(4, 3)))


CODEBOOK = make_codebook()


FLOAT32, FLOAT64 = pa.float32(), pa.float64()


def content_view(index: list[int], versions: list[tuple[Vector, Vector]], width: pa.DataType = FLOAT32) -> ViewRows:
    table = pa.table(
        {
            "item_content__text": pa.array([text for text, _ in versions], pa.list_(width)),
            "item_content__image": pa.array([image for _, image in versions], pa.list_(width)),
        }
    )
    return ViewRows("item_content", np.array(index, dtype=np.int64), table)


def sid_view(index: list[int], versions: list[list[int] | None]) -> ViewRows:
    table = pa.table({"item_sid__codes": pa.array(versions, pa.list_(pa.int64()))})
    return ViewRows("item_sid", np.array(index, dtype=np.int64), table)


def objects(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


def vector(number: int, width: int = TEXT) -> list[float]:
    return np.random.default_rng(number).normal(size=width).astype(np.float32).tolist()


def encoded(text: Vector, image: Vector) -> np.ndarray:
    """What the codebook's encoder says of one item."""
    if text is None and image is None:
        return np.zeros(CODEBOOK.encoder.output_dim)
    table = content_view([0], [(text, image)]).table
    return CODEBOOK.vectors(ItemVectors.from_arrow(table, ("image", "text"), prefix="item_content__"))[0]


def entry(table: ItemTable, number: int) -> tuple[str, list[int], np.ndarray]:
    return table.ids[number], table.codes[number].tolist(), table.content[number]


def added(builder: ItemTableBuilder, ids: np.ndarray, content: ViewRows, sid: ViewRows) -> np.ndarray:
    return builder.add(ids, {"item_content": content, "item_sid": sid})


def test_entry_zero_is_padding() -> None:
    table = ItemTableBuilder(CODEBOOK).table()
    assert len(table) == 1
    assert entry(table, 0)[:2] == ("", [-1, -1])
    assert not table.content.any()


def test_no_rows_add_nothing() -> None:
    builder = ItemTableBuilder(CODEBOOK)
    assert added(builder, objects(), content_view([], []), sid_view([], [])).tolist() == []
    assert len(builder.table()) == 1


def test_another_content_or_other_codes_make_another_entry_of_the_same_item() -> None:
    builder = ItemTableBuilder(CODEBOOK)
    versions = [(vector(1), None), (vector(2), None)]
    numbers = added(builder,
        objects("a", "a", "a", "a", "b"), content_view([0, 0, 1, 0, 0], versions),
        sid_view([0, 0, 0, 1, 0], [[1, 2], [3, 2]]),
    )  # fmt: skip
    first, again, other_content, other_codes, other_item = numbers.tolist()
    assert first == again
    assert len({first, other_content, other_codes, other_item}) == 4
    table = builder.table()
    assert table.ids[numbers].tolist() == ["a", "a", "a", "a", "b"]
    assert entry(table, other_codes)[1] == [3, 2]
    assert table.content[other_content] == pytest.approx(encoded(*versions[1]), abs=1e-6)


@law
@given(st.data())
def test_every_row_finds_its_item_with_its_codes_and_content(data: st.DataObject) -> None:
    some_vector = st.one_of(st.none(), st.integers(0, 5))
    versions = data.draw(st.lists(st.tuples(some_vector, some_vector), min_size=1, max_size=5))
    vectors = [
        (None if text is None else vector(text), None if image is None else vector(image, IMAGE))
        for text, image in versions
    ]
    codes = data.draw(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 3), st.integers(0, 2)).map(list)),
                               min_size=1, max_size=4))  # fmt: skip
    builder = ItemTableBuilder(CODEBOOK)
    asked, numbers = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        rows = data.draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-1, len(versions) - 1),
                                            st.integers(-1, len(codes) - 1)), max_size=12))  # fmt: skip
        asked += rows
        numbers += added(builder,
            objects(*(item for item, _, _ in rows)), content_view([at for _, at, _ in rows], vectors),
            sid_view([at for _, _, at in rows], codes),
        ).tolist()  # fmt: skip
    table = builder.table()
    for (item, at_content, at_codes), number in zip(asked, numbers, strict=True):
        found = entry(table, number)
        assert found[0] == item
        assert found[1] == ((codes[at_codes] if at_codes >= 0 else None) or [-1, -1])
        expected = encoded(*vectors[at_content]) if at_content >= 0 else encoded(None, None)
        assert found[2] == pytest.approx(expected, abs=1e-5)
    # One number per version, and one version per number.
    number_of: dict[object, int] = {}
    version_of: dict[int, object] = {}
    for (item, at_content, at_codes), number in zip(asked, numbers, strict=True):
        version = (
            item,
            str(codes[at_codes]) if at_codes >= 0 else None,
            versions[at_content] if at_content >= 0 else None,
        )
        assert number_of.setdefault(version, number) == number
        assert version_of.setdefault(number, version) == version
    assert len(version_of) == len(table) - 1


def test_the_same_version_from_two_retrievals_is_one_entry() -> None:
    builder = ItemTableBuilder(CODEBOOK)
    first = added(builder, objects("a"), content_view([0], [(vector(1), vector(2, IMAGE))]), sid_view([0], [[1, 2]]))
    # The second retrieval holds the version at another place, among others.
    others = [(None, None), (vector(8), None), (vector(1), vector(2, IMAGE))]
    again = added(builder, objects("b", "a"), content_view([1, 2], others), sid_view([0, 1], [None, [1, 2]]))
    assert again[1] == first[0]
    assert len(builder.table()) == 3


def test_lists_that_the_online_store_widened_are_the_same_version() -> None:
    builder = ItemTableBuilder(CODEBOOK)
    versions = [(vector(1), vector(2, IMAGE))]
    narrow, wide = (
        added(builder, objects("a"), content_view([0], versions, width), sid_view([0], [[1, 2]]))
        for width in (FLOAT32, FLOAT64)
    )
    assert narrow.tolist() == wide.tolist()
    assert len(builder.table()) == 2


def test_vectors_that_differ_in_the_last_bit_or_in_their_order_are_different_versions() -> None:
    base = vector(1)
    nudged = [*base[:-1], float(np.nextafter(np.float32(base[-1]), np.float32(9)))]
    versions = [(base, None), (nudged, None), (base[::-1], None)]
    numbers = added(
        ItemTableBuilder(CODEBOOK),
        objects("a", "a", "a"),
        content_view([0, 1, 2], versions),
        sid_view([0, 0, 0], [[0, 0]]),
    )
    assert len(set(numbers.tolist())) == 3


def test_text_and_image_that_change_places_are_another_version() -> None:
    versions = [(vector(1), vector(2)), (vector(2), vector(1)), (vector(1), None), (None, vector(1))]
    numbers = added(
        ItemTableBuilder(CODEBOOK),
        objects("a", "a", "a", "a"),
        content_view([0, 1, 2, 3], versions),
        sid_view([0] * 4, [[0, 0]]),
    )
    assert len(set(numbers.tolist())) == 4


def test_codes_in_another_order_are_another_version() -> None:
    content = content_view([0, 0], [(vector(1), None)])
    numbers = added(ItemTableBuilder(CODEBOOK), objects("a", "a"), content, sid_view([0, 1], [[1, 2], [2, 1]]))
    assert numbers[0] != numbers[1]


def test_slices_of_larger_tables_are_read_by_their_own_rows() -> None:
    whole = content_view([0], [(vector(7), None), (vector(1), None), (vector(2), None)])
    sliced = ViewRows("item_content", np.array([0, 1]), whole.table.slice(1))
    codes = sid_view([0], [[3, 1], [1, 2], [2, 0]])
    builder = ItemTableBuilder(CODEBOOK)
    added(builder, objects("a", "b"), sliced, ViewRows("item_sid", np.array([0, 1]), codes.table.slice(1)))
    table = builder.table()
    assert table.codes[1:].tolist() == [[1, 2], [2, 0]]
    assert table.content[1] == pytest.approx(encoded(vector(1), None), abs=1e-6)


# Histories: the second hop.

MOMENTS = [START + day * DAY for day in (1, 2, 3)]


def views_of(histories: list[list[str] | None], index: list[int]) -> dict[str, ViewRows]:
    """The five views of some rows; only histories say anything."""
    rows = len(index)

    def counts(name: str) -> ViewRows:
        kinds = ("exposures", "clicks", "conversions") if name == "item_stats" else ("exposures", "clicks")
        columns = {f"{name}__{kind}_{window}": pa.array([0], pa.int64()) for kind in kinds for window in WINDOWS}
        return ViewRows(name, np.full(rows, -1), pa.table(columns))

    content = content_view([-1] * rows, [(None, None)])
    more = {"item_content__created_at_us": pa.array([0], pa.int64()), "item_content__price": pa.array([1.0])}
    past = pa.table(
        {
            "user_history__item_ids": pa.array(histories, pa.list_(pa.string())),
            "user_history__timestamps_us": pa.array(
                [None if items is None else [START - DAY * at for at in range(len(items))] for items in histories],
                pa.list_(pa.int64()),
            ),
        }
    )
    return {
        "item_content": ViewRows("item_content", content.index, pa.table({**_columns(content.table), **more})),
        "item_sid": sid_view([-1] * rows, [None]),
        "item_stats": counts("item_stats"),
        "user_stats": counts("user_stats"),
        "user_history": ViewRows("user_history", np.array(index, dtype=np.int64), past),
    }


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def codes_at(item: str, at_us: int) -> list[int]:
    """An item's codes change with time, except those of "still"."""
    return [0, 0] if item == "still" else [MOMENTS.index(at_us), len(item) % 3]


def look_up(item_ids: np.ndarray, at_us: np.ndarray) -> Mapping[str, ViewRows]:
    asked = list(zip(item_ids.tolist(), at_us.tolist(), strict=True))
    assert len(set(asked)) == len(asked), "the second hop asks for each (item, moment) once"
    rows = list(range(len(asked)))
    return {
        "item_content": content_view([-1] * len(asked), [(None, None)]),
        "item_sid": sid_view(rows, [codes_at(item, at) for item, at in asked]),
    }


def assembled(
    histories: list[list[str] | None], index: list[int], at_us: list[int], length: int, *, one_moment: bool = False
) -> Dataset:
    rows = LabelledRows(
        objects(*("u" for _ in index)), objects(*("candidate" for _ in index)), np.array(at_us),
        np.zeros(len(index), dtype=np.int8),
    )  # fmt: skip
    builder = FrameBuilder(CODEBOOK, look_up, rate=0.1, history_length=length, one_moment=one_moment)
    return builder.assemble(views_of(histories, index), rows)


@law
@given(st.data(), st.integers(1, 4), st.sampled_from(MOMENTS))
def test_rows_of_one_moment_need_no_comparison_of_versions(data: st.DataObject, length: int, at_us: int) -> None:
    items = st.lists(st.sampled_from(["still", "x", "yy", "candidate"]), min_size=1, max_size=6)
    histories = data.draw(st.lists(items, min_size=1, max_size=3))
    index = data.draw(st.lists(st.integers(-1, len(histories) - 1), min_size=1, max_size=8))
    one, any_times = (
        assembled(histories, index, [at_us] * len(index), length, one_moment=flag) for flag in (True, False)
    )
    np.testing.assert_array_equal(one.numeric, any_times.numeric)
    np.testing.assert_array_equal(one.history_us[one.history], any_times.history_us[any_times.history])
    for name in ("ids", "content"):
        np.testing.assert_array_equal(
            getattr(one.items, name)[one.history_items[one.history]],
            getattr(any_times.items, name)[any_times.history_items[any_times.history]],
        )
    of_history = one.history_items[one.history], any_times.history_items[any_times.history]
    other = one.items.ids[of_history[0]] != "candidate"  # the candidate itself has the version of the candidate's row
    np.testing.assert_array_equal(one.items.codes[of_history[0]][other], any_times.items.codes[of_history[1]][other])


@law
@given(st.data(), st.integers(1, 4))
def test_a_history_holds_its_newest_items_as_of_the_time_of_its_row(data: st.DataObject, length: int) -> None:
    items = st.lists(st.sampled_from(["still", "x", "yy"]), min_size=1, max_size=6)
    histories = data.draw(st.lists(items, min_size=1, max_size=3))
    rows = data.draw(st.lists(st.tuples(st.integers(-1, len(histories) - 1), st.sampled_from(MOMENTS)), min_size=1,
                              max_size=8))  # fmt: skip
    told = assembled(histories, [at for at, _ in rows], [at for _, at in rows], length)
    for number, (at, moment) in zip(told.history, rows, strict=True):
        expected = histories[at][:length] if at >= 0 else []
        there = told.history_items[number] > 0
        assert there.tolist() == [place < len(expected) for place in range(length)]
        entries = told.history_items[number][there]
        assert told.items.ids[entries].tolist() == expected
        assert told.items.codes[entries].tolist() == [codes_at(item, moment) for item in expected]
        assert told.history_us[number].tolist() == [
            START - DAY * place if place < len(expected) else 0 for place in range(length)
        ]
        assert (number == 0) == (at < 0)


def test_rows_share_a_history_when_its_items_have_not_changed_in_between() -> None:
    told = assembled(
        [["still"], ["still", "x"]], [0, 0, 1, 1, -1], [MOMENTS[0], MOMENTS[2], *MOMENTS[:2], MOMENTS[0]], 3
    )
    first, later, changed, other, none = told.history.tolist()
    assert first == later
    assert changed != other
    assert none == 0
    assert len(told.history_items) == 4


def test_histories_do_not_depend_on_how_many_rows_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [["still"], ["still", "x"]], [0, 1, 0, -1, 1, 0], [MOMENTS[at] for at in (0, 0, 2, 1, 0, 1)], 3
    whole = assembled(*asked)
    monkeypatch.setattr("ranking.data.history_table._CHUNK_ROWS", 1)
    piecewise = assembled(*asked)
    for told in (whole, piecewise):
        assert len(told.history_items) == 3
        assert told.history[0] == told.history[2] == told.history[5]
        assert told.history[1] == told.history[4]
    assert np.array_equal(whole.history_us[whole.history], piecewise.history_us[piecewise.history])


def test_a_set_without_any_history_asks_for_none() -> None:
    told = assembled([["x"]], [-1, -1], MOMENTS[:2], 3)
    assert told.history.tolist() == [0, 0]
    assert told.history_items.tolist() == [[0, 0, 0]]
