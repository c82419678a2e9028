"""The quality figures of codes against plain counting."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quality.code_metrics import (
    behaviour_cohesion,
    code_quality,
    collision_rate,
    content_cohesion,
    gini,
    independent_code_rate,
    largest_bucket,
    perplexity,
    prefix_utilisation,
    reconstruction_error,
    reconstruction_errors,
    refit_changes,
    unexplained_spread,
    utilisation,
)
from semantic_ids.quality.floors import Floors, below_floors, check_floors
from semantic_ids.quantizers import ResidualKMeans
from sidkit.core.arrays import Codes
from sidkit.core.errors import ConfigError, EvaluationError, FitError


@st.composite
def codes_and_sizes(draw: st.DrawFn) -> tuple[Codes, tuple[int, ...]]:
    sizes = tuple(draw(st.lists(st.integers(2, 6), min_size=1, max_size=3)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = draw(st.lists(row, min_size=1, max_size=30))
    return np.array(rows, dtype=np.int32), sizes


@settings(deadline=None)
@given(codes_and_sizes())
def test_figures_equal_plain_counting(drawn: tuple[Codes, tuple[int, ...]]) -> None:
    codes, sizes = drawn
    rows = [tuple(row) for row in codes.tolist()]
    assert collision_rate(codes) == pytest.approx(1 - len(set(rows)) / len(rows))
    for level, size in enumerate(sizes):
        counts = Counter(row[level] for row in rows)
        assert utilisation(codes, sizes)[level] == pytest.approx(len(counts) / size)
        bits = -sum(count / len(rows) * math.log2(count / len(rows)) for count in counts.values())
        assert perplexity(codes, sizes)[level] == pytest.approx(2**bits / size)
        held = [counts[code] for code in range(size)]
        apart = sum(abs(one - other) for one, other in itertools.product(held, held)) / size**2
        assert gini(codes, sizes)[level] == pytest.approx(apart / (2 * len(rows) / size))
        prefixes = len({row[: level + 1] for row in rows})
        space = math.prod(sizes[: level + 1])
        assert prefix_utilisation(codes, sizes)[0][level] == pytest.approx(prefixes / min(space, len(rows)))
        assert prefix_utilisation(codes, sizes)[1][level] == pytest.approx(prefixes / space)
    buckets = Counter(rows)
    assert independent_code_rate(codes) == pytest.approx(sum(buckets[row] == 1 for row in rows) / len(rows))
    assert largest_bucket(codes) == max(buckets.values())


def test_figures_of_codes_that_are_all_used_alike() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32)
    assert utilisation(codes, (2, 2)) == [1, 1]
    assert perplexity(codes, (2, 2)) == pytest.approx([1, 1])
    assert collision_rate(codes) == 0


def test_figures_of_codes_that_collapsed() -> None:
    codes = np.zeros((8, 2), dtype=np.int32)
    assert utilisation(codes, (4, 2)) == [0.25, 0.5]
    assert perplexity(codes, (4, 2)) == pytest.approx([0.25, 0.5])
    assert collision_rate(codes) == pytest.approx(7 / 8)


def test_no_items_do_not_collide() -> None:
    assert collision_rate(np.zeros((0, 3), dtype=np.int32)) == 0


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 20), st.floats(0, 3))
def test_the_reconstruction_error_is_relative_to_the_spread(seed: int, rows: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(5, 2, size=(rows, 3)).astype(np.float32)
    decoded = (vectors + noise * rng.normal(size=vectors.shape)).astype(np.float32)
    missed = sum(math.dist(x, y) ** 2 for x, y in zip(vectors.tolist(), decoded.tolist(), strict=True))
    mean = np.mean(vectors.astype(float), axis=0)
    spread = sum(math.dist(x, mean) ** 2 for x in vectors.tolist())
    assert reconstruction_error(vectors, decoded) == pytest.approx(missed / spread, rel=1e-3, abs=1e-6)


def test_the_mean_has_error_one_and_the_vectors_themselves_have_none() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert reconstruction_error(vectors, vectors) == 0
    assert reconstruction_error(vectors, np.tile(vectors.mean(axis=0), (50, 1))) == pytest.approx(1)


def test_the_quality_of_a_codebook_is_json_of_these_figures() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    quantizer = ResidualKMeans((5, 3), force=True).fit(vectors)
    codes = quantizer.encode(vectors)
    buckets = Counter(map(tuple, codes.tolist()))
    pairs = drawn_pairs(np.random.default_rng(1), 200, 50)
    quality = json.loads(json.dumps(code_quality(quantizer, vectors, codes, pairs), allow_nan=False))
    assert quality == {
        "items": 200,
        "utilisation": utilisation(codes, (5, 3)),
        "prefix_utilisation": prefix_utilisation(codes, (5, 3))[0],
        "prefix_utilisation_of_all": prefix_utilisation(codes, (5, 3))[1],
        "perplexity": perplexity(codes, (5, 3)),
        "gini": gini(codes, (5, 3)),
        "collision_rate": collision_rate(codes),
        "independent_code_rate": 0,
        "largest_bucket": max(buckets.values()),
        "reconstruction_error": reconstruction_error(vectors, quantizer.decode(codes)),
        "reconstruction_errors": reconstruction_errors(quantizer, vectors, codes),
        "unexplained_spread": unexplained_spread(vectors, codes),
        "content_cohesion": content_cohesion(vectors, codes),
        "behaviour_cohesion": behaviour_cohesion(codes, pairs),
    }
    assert 0 < quality["reconstruction_error"] < 1
    assert "behaviour_cohesion" not in code_quality(quantizer, vectors, codes)


def test_unused_codes_of_a_level_count_against_it() -> None:
    codes = np.array([[0], [3]], dtype=np.int32)
    assert utilisation(codes, (8,)) == [0.25]
    assert perplexity(codes, (8,)) == pytest.approx([0.25])


def test_sizes_whose_product_no_integer_holds_are_counted() -> None:
    codes = np.array([[0] * 9, [255] * 9], dtype=np.int32)
    reachable, possible = prefix_utilisation(codes, (256,) * 9)
    assert reachable == [1] * 9
    assert possible[8] == pytest.approx(2 / 256**9)


def test_closed_cases_of_gini_and_of_codes_of_ones_own() -> None:
    assert gini(np.zeros((8, 1), dtype=np.int32), (4,)) == pytest.approx([0.75])
    assert gini(np.arange(8, dtype=np.int32)[:, None] % 4, (4,)) == pytest.approx([0])
    # Two of five items share a bucket: one distinct code is lost, and two items lose a code of their own.
    codes = np.array([[0], [0], [1], [2], [3]], dtype=np.int32)
    assert (collision_rate(codes), independent_code_rate(codes)) == (pytest.approx(0.2), pytest.approx(0.6))
    none = np.zeros((0, 2), dtype=np.int32)
    assert (independent_code_rate(none), largest_bucket(none)) == (1, 0)


def drawn_pairs(rng: np.random.Generator, items: int, count: int) -> ItemPairs:
    trigger = rng.integers(0, items, count)
    target = (trigger + rng.integers(1, items, count)) % items
    weight = rng.uniform(0.1, 2, count).astype(np.float32)
    return ItemPairs(trigger, target, weight, np.zeros(items, dtype=np.int64), 0)


def cosine(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)


@settings(deadline=None, max_examples=50)
@given(codes_and_sizes(), st.integers(0, 1000), st.booleans())
def test_cohesion_of_content_equals_the_mean_over_all_pairs(
    drawn: tuple[Codes, tuple[int, ...]], seed: int, bare: bool
) -> None:
    codes, sizes = drawn
    vectors = np.random.default_rng(seed).normal(1, 2, size=(len(codes), 3)).astype(np.float32)
    if bare:
        vectors[0] = 0
    rows = range(int(bare), len(codes))
    for depth in range(1, len(sizes) + 1):
        inside, everywhere = [], []
        for i, j in itertools.combinations(rows, 2):
            everywhere.append(cosine(vectors[i].tolist(), vectors[j].tolist()))
            if codes[i, :depth].tolist() == codes[j, :depth].tolist():
                inside.append(everywhere[-1])
        found = content_cohesion(vectors, codes)[depth - 1]
        if not inside:
            assert found is None
        else:
            expected = sum(inside) / len(inside) - sum(everywhere) / len(everywhere)
            assert found == pytest.approx(expected, abs=1e-5)


@settings(deadline=None, max_examples=50)
@given(codes_and_sizes().filter(lambda drawn: len(drawn[0]) > 1), st.integers(0, 1000), st.integers(1, 20))
def test_cohesion_of_behaviour_equals_pairs_drawn_one_by_one(
    drawn: tuple[Codes, tuple[int, ...]], seed: int, count: int
) -> None:
    codes, sizes = drawn
    pairs = drawn_pairs(np.random.default_rng(seed), len(codes), count)
    weight = pairs.weight.astype(float)
    for depth in range(1, len(sizes) + 1):

        def alike(i: int, j: int, depth: int = depth) -> bool:
            return bool((codes[i, :depth] == codes[j, :depth]).all())

        sides = list(zip(pairs.trigger.tolist(), pairs.target.tolist(), weight.tolist(), strict=True))
        shared = sum(w for i, j, w in sides if alike(i, j)) / weight.sum()
        chance = among = 0.0
        for (i, _, v), (_, j, w) in itertools.product(sides, sides):
            among += v * w if i != j else 0
            chance += v * w if i != j and alike(i, j) else 0
        found = behaviour_cohesion(codes, pairs)[depth - 1]
        if chance == 0:
            assert found is None
        else:
            assert found == pytest.approx(shared / (chance / among))


def test_popular_items_in_one_bucket_are_no_merit_and_kept_company_is() -> None:
    codes = np.array([[0], [0], [0], [1], [1], [1]], dtype=np.int32)
    weight = np.ones(6, dtype=np.float32)
    every_two = np.array([(i, j) for i in range(3) for j in range(3) if i != j]).T
    popular = ItemPairs(every_two[0], every_two[1], weight, np.zeros(6, dtype=np.int64), 0)
    assert behaviour_cohesion(codes, popular) == pytest.approx([1])
    both = ItemPairs(
        np.concatenate([every_two[0], every_two[0] + 3]), np.concatenate([every_two[1], every_two[1] + 3]),
        np.ones(12, dtype=np.float32), np.zeros(6, dtype=np.int64), 0,
    )  # fmt: skip
    # By chance 2 of the 5 other items are of the same code.
    assert behaviour_cohesion(codes, both) == pytest.approx([5 / 2])
    empty = np.zeros(0, dtype=np.int64)
    assert behaviour_cohesion(codes, ItemPairs(empty, empty, np.zeros(0, dtype=np.float32), empty, 0)) == [None]


@settings(deadline=None, max_examples=50)
@given(codes_and_sizes(), st.integers(0, 1000))
def test_unexplained_spread_is_what_is_left_around_the_means_of_prefixes(
    drawn: tuple[Codes, tuple[int, ...]], seed: int
) -> None:
    codes, sizes = drawn
    vectors = np.random.default_rng(seed).normal(3, 1, size=(len(codes), 40)).astype(np.float32)
    found = unexplained_spread(vectors, codes)
    spread = ((vectors - vectors.mean(axis=0)).astype(float) ** 2).sum()
    for depth in range(1, len(sizes) + 1):
        members = defaultdict(list)
        for row, vector in zip(codes[:, :depth].tolist(), vectors.astype(float), strict=True):
            members[tuple(row)].append(vector)
        inside = sum(((np.array(rows) - np.mean(rows, axis=0)) ** 2).sum() for rows in members.values())
        assert found[depth - 1] == pytest.approx(inside / max(spread, 1e-30) if len(codes) > 1 else 0, abs=1e-5)
    assert all(deeper <= coarser + 1e-9 for coarser, deeper in itertools.pairwise(found))


@settings(deadline=None, max_examples=30)
@given(codes_and_sizes(), st.integers(0, 1000))
def test_the_order_of_the_items_changes_no_figure(drawn: tuple[Codes, tuple[int, ...]], seed: int) -> None:
    codes, sizes = drawn
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(codes))
    vectors = rng.normal(size=(len(codes), 3)).astype(np.float32)

    def figures(rows: np.ndarray) -> list[Any]:
        listed = [*unexplained_spread(vectors[rows], codes[rows]), *content_cohesion(vectors[rows], codes[rows])]
        return [*listed, *gini(codes[rows], sizes), *perplexity(codes[rows], sizes), collision_rate(codes[rows])]

    for one, other in zip(figures(np.arange(len(codes))), figures(order), strict=True):
        assert one == (other if other is None else pytest.approx(other, abs=1e-5))


def test_a_quantizer_that_decodes_no_prefix_has_the_error_of_all_levels_alone() -> None:
    vectors = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    quantizer = type("Whole", (ResidualKMeans,), {"decode_prefix": None})((4, 4), force=True).fit(vectors)
    codes = quantizer.encode(vectors)
    whole = reconstruction_error(vectors, quantizer.decode(codes))
    assert reconstruction_errors(quantizer, vectors, codes) == [None, whole]


class PrefixDecoder(ResidualKMeans):
    """Decodes prefixes of its first levels, of which the last does not refine the others."""

    residual_levels = 2

    def decode_prefix(self, codes: Codes, levels: int) -> np.ndarray:
        assert levels <= self.residual_levels
        return sum(self.codebooks_[level][codes[:, level]] for level in range(levels))


def test_a_prefix_is_decoded_where_the_quantizer_can_and_where_it_means_something() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    quantizer = PrefixDecoder((4, 4, 4, 4), force=True).fit(vectors)
    codes = quantizer.encode(vectors)
    first, second, third, last = reconstruction_errors(quantizer, vectors, codes)
    residual = vectors - quantizer.codebooks_[0][codes[:, 0]]
    assert first == reconstruction_error(vectors, vectors - residual)
    assert third is None
    assert last == reconstruction_error(vectors, quantizer.decode(codes))
    assert 1 > first > second > last
    # No decoder does better than the means of the prefixes.
    for error, least in zip(
        (first, second, last), np.array(unexplained_spread(vectors, codes))[[0, 1, 3]], strict=True
    ):
        assert error >= least - 1e-6


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 20), st.integers(0, 1000))
def test_changes_of_a_refit_equal_the_best_of_all_matchings(before: int, after: int, items: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    old, new = (rng.integers(0, size, (items, 1)).astype(np.int32) for size in (before, after))
    few, many = sorted([(before, old), (after, new)], key=lambda side: side[0])
    kept = max(
        sum(matching[a] == b for a, b in zip(few[1][:, 0], many[1][:, 0], strict=True))
        for matching in itertools.permutations(range(many[0]), few[0])
    )
    assert refit_changes(old, new) == pytest.approx([1 - kept / items])
    assert refit_changes(old, new) == pytest.approx(refit_changes(new, old))


def test_a_refit_that_only_renames_codes_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (200, 2)).astype(np.int32)
    renamed = np.stack([rng.permutation(16)[codes[:, 0]], rng.permutation(30)[codes[:, 1]]], axis=1).astype(np.int32)
    assert refit_changes(codes, renamed) == [0, 0]
    renamed[:50, 1] = 29
    assert refit_changes(codes, renamed)[0] == 0 < refit_changes(codes, renamed)[1] <= 0.25


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 2), (3, 3)), ((0, 2), (0, 2))])
def test_codes_of_other_items_cannot_be_matched(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(EvaluationError, match="two code arrays of the same shape"):
        refit_changes(*(np.zeros(shape, dtype=np.int32) for shape in shapes))


HEALTHY = {"utilisation": [1.0, 0.9, 0.6], "perplexity": [0.9, 0.5, 0.2]}


def test_codes_above_all_floors_pass() -> None:
    check_floors(HEALTHY, Floors())
    check_floors(HEALTHY, Floors(utilisation=(1.0, 0.9, 0.6), perplexity=(0, 0, 0)))


def test_the_error_names_each_level_its_figure_its_floor_and_a_remedy() -> None:
    floors = Floors(utilisation=(0.5, 0.5, 0.7), perplexity=0.3)
    with pytest.raises(FitError) as caught:
        check_floors(HEALTHY, floors)
    assert "utilisation of level 3 is 0.600, below its floor of 0.7 (many codes are unused" in str(caught.value)
    assert "perplexity of level 3 is 0.200, below its floor of 0.3" in str(caught.value)
    assert "level 1" not in str(caught.value) and "level 2" not in str(caught.value)
    assert len(below_floors(HEALTHY, floors)) == 2


def test_a_figure_that_is_not_a_number_is_below_every_floor() -> None:
    assert len(below_floors({"utilisation": [1.0], "perplexity": [math.nan]}, Floors(utilisation=0, perplexity=0))) == 1


def test_floors_for_another_number_of_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match="the floor of utilisation has 2 values, but the codes have 3 levels"):
        check_floors(HEALTHY, Floors(utilisation=(0.5, 0.5)))


def test_codes_that_collapsed_fall_below_the_default_floors() -> None:
    vectors = np.repeat(np.random.default_rng(0).normal(size=(3, 4)), 30, axis=0).astype(np.float32)
    codes = np.repeat(np.array([[0, 0], [1, 0], [2, 0]], dtype=np.int32), 30, axis=0)
    quantizer = ResidualKMeans((16, 16), force=True).fit(np.random.default_rng(1).normal(size=(90, 4)).astype("f4"))
    with pytest.raises(FitError, match="level 2"):
        check_floors(code_quality(quantizer, vectors, codes), Floors())
