"""Codes as features: per-level tables, n-grams and SentencePiece pieces, each against a few lines of numpy or the library."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data.batch import ItemBatch, Seen
from ranking.data.item_table import shown_items
from ranking.models.representations.base import ItemShape
from ranking.models.representations.ngram import NgramRepresentation
from ranking.models.representations.sid import SidRepresentation
from ranking.models.representations.spm import SpmRepresentation
from ranking.models.representations.spm_vocabulary import learn_pieces
from ranking.models.spec import ModelSpec
from sidkit.core.errors import ConfigError

law = settings(max_examples=40, deadline=None, database=None)
SIZES = (4, 3, 2)
SHAPE = ItemShape(vocabulary=5, sizes=SIZES, content_dim=2)
CODES = st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1, max_size=6)
BARE = (-1, -1, -1)


def items_of(codes: list[tuple[int, ...]]) -> ItemBatch:
    return ItemBatch(torch.ones(len(codes), dtype=torch.int64), torch.tensor(codes), torch.zeros(len(codes), 2))


@law
@given(CODES)
def test_sid_is_the_sum_of_the_rows_of_its_codes(codes: list[tuple[int, ...]]) -> None:
    part = SidRepresentation(SHAPE, dim=3)
    table, starts = part.codes.table.weight.detach().numpy(), (1, 5, 8)
    expected = [sum(table[start + code] for start, code in zip(starts, row, strict=True)) for row in codes]
    assert part(items_of(codes)).detach().numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert len(table) == 1 + sum(SIZES)


@law
@given(CODES)
def test_sid_side_by_side_is_a_linear_map_of_the_rows(codes: list[tuple[int, ...]]) -> None:
    part = SidRepresentation(SHAPE, dim=3, pool="concat")
    assert part.join is not None
    table = part.codes.table.weight.detach().numpy()
    weight, bias = part.join.weight.detach().numpy(), part.join.bias.detach().numpy()
    rows = np.array([np.concatenate([table[1 + a], table[5 + b], table[8 + c]]) for a, b, c in codes])
    assert part(items_of(codes)).detach().numpy() == pytest.approx(rows @ weight.T + bias, abs=1e-6)


@pytest.mark.parametrize("kind", [SidRepresentation, NgramRepresentation])
def test_an_item_without_codes_has_a_row_that_no_code_shares(kind: type) -> None:
    part = kind(SHAPE, dim=3)
    every = items_of([BARE, *itertools.product(*map(range, SIZES))])
    rows = part.codes.rows(every.codes) if kind is SidRepresentation else part.ngram_rows(every.codes)
    assert (rows[0] == 0).all()
    assert (rows[1:] > 0).all()


@pytest.mark.parametrize(
    ("sizes", "ngram", "tables"),
    [((4, 3, 2), 1, [4, 3, 2]), ((4, 3, 2), 2, [12, 2]), ((4, 3, 2, 5), 2, [12, 10]), ((4, 3, 2), 7, [24])],
)
def test_each_ngram_of_a_position_has_a_row_of_its_own(sizes: tuple[int, ...], ngram: int, tables: list[int]) -> None:
    part = NgramRepresentation(ItemShape(5, sizes, 2), dim=2, ngram=ngram)
    assert part.rows == tables
    codes = list(itertools.product(*map(range, sizes)))
    rows = part.ngram_rows(torch.tensor(codes)).tolist()
    seen = {}
    for code, found in zip(codes, rows, strict=True):
        for group, row in enumerate(found):
            seen.setdefault((group, code[group * ngram : (group + 1) * ngram]), set()).add(row)
    assert all(len(found) == 1 for found in seen.values())
    numbers = sorted(next(iter(found)) for found in seen.values())
    assert numbers == list(range(1, sum(tables) + 1)), "no two n-grams share a row, none is left out, 0 is kept"


@law
@given(CODES)
def test_ngrams_are_summed(codes: list[tuple[int, ...]]) -> None:
    part = NgramRepresentation(SHAPE, dim=3)
    table = part.table.weight.detach().numpy()
    expected = [table[1 + a * 3 + b] + table[1 + 12 + c] for a, b, c in codes]
    assert part(items_of(codes)).detach().numpy() == pytest.approx(np.array(expected), abs=1e-6)


def test_too_many_ngrams_are_hashed_into_the_table_and_no_code_is_lost_on_the_way() -> None:
    part = NgramRepresentation(ItemShape(5, (64, 64), 2), dim=2, ngram=2, rows=64)
    assert part.table.weight.shape == (65, 2)
    rows = part.ngram_rows(torch.cartesian_prod(torch.arange(64), torch.arange(64))).view(64, 64)
    assert (rows.min().item(), rows.max().item()) == (1, 64)
    # A plain remainder would be the last code alone.
    assert all(len(set(rows[:, last].tolist())) > 20 for last in range(64))
    assert all(len(set(rows[first].tolist())) > 20 for first in range(64))


def test_ngrams_beyond_64_bits_stay_in_the_table() -> None:
    part = NgramRepresentation(ItemShape(5, (4096,) * 8, 2), dim=2, ngram=8, rows=100)
    rows = part.ngram_rows(torch.tensor([[4095] * 8, [4095] * 7 + [1], [17] * 8, [0] * 8]))
    assert ((rows >= 1) & (rows <= 100)).all()


def skewed(count: int, seed: int = 0) -> np.ndarray:
    """Codes of which a few combinations are common."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, count) * (rng.random(count) < 0.5) for size in SIZES], axis=1)


def seen_of(codes: np.ndarray) -> Seen:
    number = np.arange(len(codes))
    return Seen(*shown_items(number, number, len(codes)), np.full(len(codes), 2), codes)


def spm_of(codes: np.ndarray, pieces: int = 14) -> SpmRepresentation:
    spec = ModelSpec(dim=3, spm_pieces=pieces)
    return SpmRepresentation.from_spec(SHAPE, spec, SpmRepresentation.fit(SHAPE, spec, seen_of(codes)))


def library_pieces(part: SpmRepresentation, row: tuple[int, ...]) -> list[tuple[int, ...]]:
    """What the library itself makes of an item, as codes numbered over all levels."""
    read = sentencepiece.SentencePieceProcessor(model_proto=part.fitted_model.numpy().tobytes())
    text = "".join(chr(0xF0000 + start + code) for start, code in zip((0, 4, 7), row, strict=True))
    return [tuple(ord(character) - 0xF0000 for character in piece) for piece in read.encode(text, out_type=str)]


@law
@given(st.integers(0, 1000), st.integers(9, 25))
def test_pieces_are_those_of_the_library(seed: int, pieces: int) -> None:
    part = spm_of(skewed(80, seed), pieces)
    every = list(itertools.product(*map(range, SIZES)))
    rows = part.piece_rows(torch.tensor(every)).tolist()
    longer: dict[tuple[int, ...], int] = {}
    for row, found in zip(every, rows, strict=True):
        expected = library_pieces(part, row)
        used = [each for each in found if each]
        assert len(used) == len(expected)
        for piece, place in zip(expected, used, strict=True):
            if len(piece) == 1:
                assert place == 2 + piece[0]
            else:
                assert longer.setdefault(piece, place) == place >= 2 + sum(SIZES)
    assert len(set(longer.values())) == len(longer)


def test_common_combinations_get_pieces_and_rare_ones_are_spelled() -> None:
    common = np.repeat([[1, 2, 1]], 500, axis=0)
    part = spm_of(np.concatenate([common, skewed(100)]), pieces=20)
    rows = part.piece_rows(torch.tensor([[1, 2, 1], [3, 1, 0]]))
    assert (rows[0] > 0).sum() == 1
    assert (rows[1] > 0).sum() > 1


def test_an_item_is_the_sum_of_its_pieces_rows() -> None:
    part = spm_of(skewed(200))
    codes = list(itertools.product(*map(range, SIZES)))
    table = part.table.weight.detach().numpy()
    rows = part.piece_rows(torch.tensor(codes)).numpy()
    expected = [sum(table[each] for each in row if each) for row in rows]
    assert part(items_of(codes)).detach().numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert part(items_of([BARE])).detach().numpy() == pytest.approx(table[1:2], abs=1e-6)


def test_codes_that_no_training_row_showed_are_pieces_of_their_own() -> None:
    part = spm_of(np.repeat([[0, 0, 0], [1, 1, 1]], 50, axis=0))
    assert part.piece_rows(torch.tensor([[3, 2, 0]])).tolist() == [[2 + 3, 2 + 4 + 2, 2 + 7]]
    plain = SpmRepresentation.from_spec(SHAPE, ModelSpec(dim=3))
    assert plain.piece_rows(torch.tensor([[3, 2, 0]])).tolist() == [[5, 8, 9]]


def test_the_vocabulary_is_of_impressed_training_items_only() -> None:
    codes = skewed(300)
    seen = seen_of(codes)
    unseen = np.concatenate([codes, np.repeat([[3, 2, 1]], 400, axis=0)])
    # The item table also holds items of histories and of later rows; only what candidates show counts.
    shown = shown_items(np.arange(len(codes)), np.arange(len(codes)), len(unseen))
    padded = Seen(*shown, np.full(len(unseen), 2), unseen)
    spec = ModelSpec(spm_pieces=20)
    left, right = (SpmRepresentation.fit(SHAPE, spec, each)["model"] for each in (seen, padded))
    assert torch.equal(left, right)


def test_a_vocabulary_is_learned_the_same_way_every_time_and_weighs_impressions() -> None:
    codes = np.unique(skewed(300), axis=0)
    count = np.arange(1, len(codes) + 1)
    assert learn_pieces(codes, count, SIZES, 16) == learn_pieces(codes, count, SIZES, 16)
    assert learn_pieces(codes, count, SIZES, 16) != learn_pieces(codes, count[::-1].copy(), SIZES, 16)


@pytest.mark.parametrize("codes", [[[0, 0, 0]], [[0, 0, 0], [3, 2, 1]]])
def test_tiny_logs_have_a_vocabulary_too(codes: list[list[int]]) -> None:
    part = spm_of(np.array(codes), pieces=1)
    assert torch.isfinite(part(items_of([(0, 0, 0), (3, 2, 1), BARE]))).all()


def test_training_rows_without_codes_leave_single_codes() -> None:
    part = spm_of(np.full((5, 3), -1))
    assert part.fitted_model.numel() == 0
    assert part.piece_rows(torch.tensor([[1, 1, 1]])).tolist() == [[3, 7, 10]]


def test_more_codes_than_private_characters_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"131,068.*ngram or prefix_ngram"):
        learn_pieces(np.zeros((1, 2), dtype=np.int64), np.ones(1, dtype=np.int64), (70_000, 70_000), 9)
