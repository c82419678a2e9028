"""Item representations, each against a few lines of numpy."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ranking.data.batch import ItemBatch
from ranking.data.batches import Vocabulary
from ranking.models.representations import REPRESENTATIONS, representation
from ranking.models.representations.base import ItemShape
from ranking.models.representations.content import ContentRepresentation
from ranking.models.representations.id import IdRepresentation
from ranking.models.representations.prefix_ngram import PrefixNgramRepresentation
from ranking.models.spec import ModelSpec

law = settings(max_examples=60, deadline=None, database=None)
SHAPE = ItemShape(vocabulary=12, sizes=(4, 4, 4), content_dim=5)
EVERY_SHAPE = dataclasses.replace(
    SHAPE, residual_levels=2, numeric_dim=3
)  # one that every representation can be built on


def items_of(codes: list[list[int]] | None = None, index: list[int] | None = None, seed: int = 0) -> ItemBatch:
    count = len(codes if codes is not None else index or [])
    content = torch.randn((count, SHAPE.content_dim), generator=torch.Generator().manual_seed(seed))
    return ItemBatch(
        torch.tensor(index if index is not None else [1] * count),
        torch.tensor(codes if codes is not None else [[-1] * len(SHAPE.sizes)] * count),
        content,
    )


@st.composite
def matched(draw: st.DrawFn) -> tuple[ItemBatch, Tensor, Tensor, Tensor]:
    """Items of which number 0 is padding and some have neither codes nor content; candidates; padded histories."""
    count, rows, length = draw(st.integers(1, 8)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    # Few codes, so that prefixes are shared often.
    coded = st.lists(st.integers(0, 1), min_size=3, max_size=3)
    codes = [[-1, -1, -1], *draw(st.lists(st.one_of(coded, st.just([-1, -1, -1])), min_size=count, max_size=count))]
    items = items_of(codes, seed=draw(st.integers(0, 1000)))
    content = items.content * (items.codes[:, :1] >= 0)
    lengths = draw(st.lists(st.integers(0, length), min_size=rows, max_size=rows))
    numbers = draw(st.lists(st.integers(1, count), min_size=rows * length, max_size=rows * length))
    mask = torch.arange(length) < torch.tensor(lengths)[:, None]
    history = torch.tensor(numbers).view(rows, length) * mask
    candidate = torch.tensor(draw(st.lists(st.integers(1, count), min_size=rows, max_size=rows)))
    return ItemBatch(items.index, items.codes, content), candidate, history, mask


@pytest.mark.parametrize("name", REPRESENTATIONS)
@law
@given(case=matched())
def test_every_representation_gives_one_finite_vector_per_item_and_its_matches_per_row(
    name: str, case: tuple[ItemBatch, Tensor, Tensor, Tensor]
) -> None:
    items, candidate, history, mask = case
    part = representation(name).from_spec(EVERY_SHAPE, ModelSpec(dim=6))
    vectors = part(items)
    matches = part.match(items, candidate, history, mask)
    assert vectors.shape == (len(items.index), 6)
    assert matches.shape == (len(candidate), part.match_dim)
    assert torch.isfinite(vectors).all()
    assert torch.isfinite(matches).all()
    assert matches.dtype == vectors.dtype == torch.float32


@pytest.mark.parametrize("name", REPRESENTATIONS)
@law
@given(case=matched(), noise=st.integers(0, 10**6))
def test_no_match_depends_on_what_lies_in_the_padding(
    name: str, case: tuple[ItemBatch, Tensor, Tensor, Tensor], noise: int
) -> None:
    items, candidate, history, mask = case
    part = representation(name).from_spec(EVERY_SHAPE, ModelSpec())
    other = torch.randint(0, len(items.index), history.shape, generator=torch.Generator().manual_seed(noise))
    told = part.match(items, candidate, torch.where(mask, history, other), mask)
    assert torch.equal(told, part.match(items, candidate, history, mask))


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_an_empty_history_matches_nothing(name: str) -> None:
    part = representation(name).from_spec(EVERY_SHAPE, ModelSpec())
    items = items_of([[-1, -1, -1], [1, 2, 3]])
    none = torch.zeros((1, 4), dtype=torch.int64)
    assert part.match(items, torch.tensor([1]), none, none.bool()).tolist() == [[0.0] * part.match_dim]


def test_an_id_is_its_row_of_the_table() -> None:
    part = IdRepresentation(SHAPE, dim=3).eval()
    index = [0, 5, 11, 5, 1]
    assert np.array_equal(part(items_of(index=index)).detach(), part.table.weight.detach().numpy()[index])


def test_ids_that_training_never_saw_share_one_vector() -> None:
    vocabulary = Vocabulary(("a", "b"))
    part = IdRepresentation(ItemShape(vocabulary.size, (4,), 5), dim=3).eval()
    numbers = vocabulary.numbers(np.array(["new", "newer", "a"], dtype=object)).tolist()
    new, newer, known = part(items_of(index=numbers))
    assert torch.equal(new, newer)
    assert not torch.equal(new, known)


def test_id_dropout_puts_the_unknown_id_in_the_stated_share_of_places_and_never_on_padding() -> None:
    torch.manual_seed(0)
    part = IdRepresentation(SHAPE, dim=3, dropout=0.3).train()
    index = [0] * 1000 + [7] * 3000
    vectors = part(items_of(index=index))
    table = part.table.weight
    assert (vectors[:1000] == table[0]).all()
    unknown = (vectors[1000:] == table[1]).all(dim=1)
    known = (vectors[1000:] == table[7]).all(dim=1)
    assert (unknown ^ known).all()
    assert unknown.float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_id_dropout_works_in_training_only() -> None:
    items = items_of(index=[7] * 2000)
    for part in (IdRepresentation(SHAPE, dropout=0.9).eval(), IdRepresentation(SHAPE, dropout=0.0).train()):
        assert (part(items) == part.table.weight[7]).all()


def test_content_is_a_linear_map_of_the_vector() -> None:
    part = ContentRepresentation(SHAPE, dim=3)
    items = items_of([[0, 0, 0]] * 4)
    weight, bias = (each.detach().numpy() for each in (part.projection.weight, part.projection.bias))
    assert part(items).detach().numpy() == pytest.approx(items.content.numpy() @ weight.T + bias, abs=1e-6)


@law
@given(matched())
def test_content_matches_are_cosines_with_the_history_and_with_its_direction(
    case: tuple[ItemBatch, Tensor, Tensor, Tensor],
) -> None:
    items, candidate, history, mask = case

    def cosine(own: np.ndarray, other: np.ndarray) -> float:
        norms = float(np.linalg.norm(own) * np.linalg.norm(other))
        return float(own @ other) / norms if norms > 1e-9 else 0.0

    def direction(vector: np.ndarray) -> np.ndarray:
        return np.array(vector / (np.linalg.norm(vector) or 1.0))

    for columns in [None, (0, 2), (2, 5)]:
        vectors = items.content.numpy().astype(float)[:, slice(*columns or (None,))]
        expected = []
        for own, past, there in zip(candidate.tolist(), history.numpy(), mask.numpy(), strict=True):
            cosines = [cosine(vectors[own], vectors[other]) for other in past[there]]
            towards = cosine(vectors[own], sum(direction(vectors[other]) for other in past[there])) if cosines else 0.0
            expected.append([max(cosines), sum(cosines) / len(cosines), towards] if cosines else [0.0] * 3)
        told = ContentRepresentation(dataclasses.replace(SHAPE, content_columns=columns)).match(
            items, candidate, history, mask
        )
        assert told.numpy() == pytest.approx(np.array(expected), abs=1e-4)


def test_what_learned_from_clicks_is_not_matched_with_a_history_of_them() -> None:
    items = items_of([[0, 0, 0], [1, 1, 1], [2, 2, 2]])
    asked = (torch.tensor([1]), torch.tensor([[2, 1]]), torch.tensor([[True, True]]))
    shape = dataclasses.replace(SHAPE, content_columns=(0, 0))
    for name, codes in [("content", 0), ("mba", 2 * len(SHAPE.sizes))]:
        part = representation(name).from_spec(shape, ModelSpec(dim=2))
        assert part.match(items, *asked).shape == (1, part.match_dim) == (1, codes)


def test_codes_that_refine_no_other_have_rows_and_matches_of_their_own() -> None:
    part = PrefixNgramRepresentation(ItemShape(2, (3, 2, 4, 4), 1, residual_levels=2), dim=2)
    codes = torch.tensor([[0, 1, 2, 3], [2, 1, 2, 3], [0, 1, 0, 3], [-1, -1, -1, -1]])
    # Prefixes: 3 of one level, 6 of two; then 4 and 4 codes that stand for themselves.
    assert part.rows == 3 + 6 + 4 + 4
    assert part.prefix_rows(codes).tolist() == [[1, 5, 12, 17], [3, 9, 12, 17], [1, 5, 10, 17], [0, 0, 0, 0]]
    items = ItemBatch(torch.zeros(4, dtype=torch.int64), codes, torch.zeros(4, 1))
    told = part.match(items, torch.tensor([0]), torch.tensor([[1, 2, 3]]), torch.tensor([[True, True, True]]))
    assert torch.equal(told[0, :4].expm1().round(), torch.tensor([1.0, 1.0, 1.0, 2.0]))


@law
@given(st.integers(2, 9), st.data())
def test_prefix_rows_follow_the_formula_of_the_paper(size: int, data: st.DataObject) -> None:
    levels, table = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 500))
    code = st.integers(0, size - 1)
    codes = data.draw(st.lists(st.lists(code, min_size=levels, max_size=levels), min_size=1, max_size=5))
    part = PrefixNgramRepresentation(ItemShape(2, (size,) * levels, 1), dim=2, rows=table)
    expected = [
        [
            (sum(size ** (i - t) * (row[t - 1] + 1) for t in range(1, i + 1)) - 1) % part.rows + 1
            for i in range(1, levels + 1)
        ]
        for row in codes
    ]
    assert part.prefix_rows(torch.tensor(codes)).tolist() == expected


@pytest.mark.parametrize("sizes", [(3,), (4, 4), (3, 3, 3), (8, 2), (2, 8), (8, 4, 2), (2, 3, 4)])
def test_different_prefixes_have_different_rows_where_the_table_has_room(sizes: tuple[int, ...]) -> None:
    part = PrefixNgramRepresentation(ItemShape(2, sizes, 1), dim=2)
    codes = list(itertools.product(*map(range, sizes)))
    rows = part.prefix_rows(torch.tensor(codes)).tolist()
    row_of: dict[tuple[int, ...], set[int]] = {}
    for code, found in zip(codes, rows, strict=True):
        for level, row in enumerate(found):
            row_of.setdefault(code[: level + 1], set()).add(row)
    assert all(len(found) == 1 for found in row_of.values()), "a prefix must have one row"
    numbers = [min(found) for found in row_of.values()]
    assert len(set(numbers)) == len(row_of) == part.rows
    assert 0 not in numbers


def test_a_small_table_is_never_left() -> None:
    part = PrefixNgramRepresentation(ItemShape(2, (16, 16, 16), 1), dim=2, rows=50)
    codes = torch.cartesian_prod(*[torch.arange(16)] * 3)
    rows = part.prefix_rows(codes)
    assert part.table.weight.shape[0] == 51
    assert (rows.min().item(), rows.max().item()) == (1, 50)


@law
@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_code_vector_is_the_sum_of_the_rows_of_its_prefixes(codes: list[list[int]]) -> None:
    part = PrefixNgramRepresentation(SHAPE, dim=3)
    table = part.table.weight.detach().numpy()
    # The number of a prefix is its place among all prefixes, the short ones first.
    order = [prefix for length in (1, 2, 3) for prefix in itertools.product(range(4), repeat=length)]
    expected = [sum(table[order.index(tuple(row[:length])) + 1] for length in (1, 2, 3)) for row in codes]
    assert part(items_of(codes)).detach().numpy() == pytest.approx(np.array(expected), abs=1e-6)


def test_items_without_codes_share_a_vector_that_no_coded_item_uses() -> None:
    part = PrefixNgramRepresentation(SHAPE, dim=3)
    rows = part.prefix_rows(torch.tensor([[-1, -1, -1], [0, 0, 0], [3, 3, 3]]))
    assert rows[0].tolist() == [0, 0, 0]
    assert (rows[1:] > 0).all()
    bare, other = part(items_of([[-1, -1, -1], [-1, -1, -1]]))
    assert torch.equal(bare, other)


@law
@given(matched())
def test_prefix_matches_count_the_history_items_with_the_same_prefix(
    case: tuple[ItemBatch, Tensor, Tensor, Tensor],
) -> None:
    items, candidate, history, mask = case
    codes = items.codes.tolist()
    expected = []
    for own, past, there in zip(candidate.tolist(), history.numpy(), mask.numpy(), strict=True):
        others = [codes[other] for other in past[there]]
        shared = [sum(other[:depth] == codes[own][:depth] and other[0] >= 0 for other in others) for depth in (1, 2, 3)]
        expected.append([*np.log1p(shared), *(count / max(len(others), 1) for count in shared)])
    told = PrefixNgramRepresentation(SHAPE).match(items, candidate, history, mask)
    assert told.numpy() == pytest.approx(np.array(expected), abs=1e-6)


def test_an_item_without_codes_matches_no_other_item_without_codes() -> None:
    items = items_of([[-1, -1, -1], [-1, -1, -1], [-1, -1, -1]])
    history = torch.tensor([[2, 1, 0]])
    told = PrefixNgramRepresentation(SHAPE).match(items, torch.tensor([1]), history, history != 0)
    assert told.tolist() == [[0.0] * 6]


def test_a_representation_takes_its_widths_from_the_spec() -> None:
    spec = ModelSpec(dim=7, id_dropout=0.25, table_rows=9)
    parts = {name: representation(name).from_spec(EVERY_SHAPE, spec) for name in REPRESENTATIONS}
    assert {name: part.dim for name, part in parts.items()} == dict.fromkeys(REPRESENTATIONS, 7)
    assert isinstance(parts["id"], IdRepresentation)
    assert parts["id"].dropout == 0.25
    assert parts["id"].table.weight.shape == (SHAPE.vocabulary, 7)
    assert isinstance(parts["prefix_ngram"], PrefixNgramRepresentation)
    assert parts["prefix_ngram"].table.weight.shape == (10, 7)
