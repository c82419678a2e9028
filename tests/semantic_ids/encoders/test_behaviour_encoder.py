"""The behaviour encoder: its loss against a few lines of numpy, its batches, and that it learns what it is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.encoders import BehaviourEncoder, ContentEncoder
from semantic_ids.encoders.behaviour_training import Projection
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.losses import info_nce
from semantic_ids.pairs.batches import KnownPairs, PairBatches
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.errors import FitError

ROWS = 400
SMALL: dict[str, Any] = {"dim": 8, "hidden": 16, "steps": 60, "batch": 64, "learning_rate": 0.02}


def world(rows: int = ROWS, missing: float = 0.0, seed: int = 0) -> tuple[ItemVectors, ItemPairs, ItemPairs]:
    """Content in which behaviour is a weak subspace, pairs to learn from, and other pairs to judge by.

    Ten directions of content are loud and say nothing; items that lie close in the four faint ones are clicked together.
    """
    rng = np.random.default_rng(seed)
    taste, loud = rng.normal(size=(rows, 4)), 3 * rng.normal(size=(rows, 10))
    turn = np.linalg.qr(rng.normal(size=(14, 14)))[0]
    text = (np.hstack([taste, loud]) @ turn + 2).astype(np.float32)
    image = (np.hstack([taste, loud]) @ rng.normal(size=(14, 9)) + 4 * rng.normal(size=(rows, 9)) - 1).astype(
        np.float32
    )
    unit = taste / np.linalg.norm(taste, axis=1, keepdims=True)
    close = unit @ unit.T
    np.fill_diagonal(close, -1)
    near = np.argsort(-close, axis=1)[:, :8]
    target = np.repeat(np.arange(rows), 8)
    order = rng.permutation(len(target))
    known, later = order[: len(order) // 2], order[len(order) // 2 :]
    clicks = rng.integers(1, 50, rows)
    there = rng.random(rows) >= missing
    image[~there] = 0
    items = ItemVectors({"text": text, "image": image}, {"text": np.ones(rows, bool), "image": there})
    known_pairs, later_pairs = (
        ItemPairs(near.ravel()[part], target[part], np.ones(len(part), np.float32), clicks, 0)
        for part in (known, later)
    )
    return items, known_pairs, later_pairs


def hit_rate(vectors: npt.NDArray[np.float32], pairs: ItemPairs, among: int = 10) -> float:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    close = unit @ unit.T
    np.fill_diagonal(close, -2)
    top = np.argsort(-close, axis=1)[:, :among]
    return float((top[pairs.trigger] == pairs.target[:, None]).any(axis=1).mean())


@pytest.fixture(scope="module")
def fitted() -> tuple[ItemVectors, BehaviourEncoder]:
    items, known, _ = world(missing=0.3)
    return items, BehaviourEncoder(**SMALL).fit(items, known)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(6, 9), st.sampled_from([0.07, 0.5]))
def test_the_loss_is_infonce_with_log_q_and_masks(seed: int, rows: int, candidates: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rows, 4)), rng.normal(size=(candidates, 4))
    positive, log_q = rng.integers(0, candidates, rows), rng.normal(size=candidates)
    excluded = rng.random((rows, candidates)) < 0.4
    losses = []
    for row in range(rows):
        kept = [place for place in range(candidates) if place == positive[row] or not excluded[row, place]]
        logits = {place: a[row] @ b[place] / temperature - log_q[place] for place in kept}
        largest = max(logits.values())
        losses.append(largest + np.log(sum(np.exp(z - largest) for z in logits.values())) - logits[positive[row]])
    found = info_nce(*map(torch.from_numpy, (a, b, positive, log_q, excluded)), temperature)
    assert float(found) == pytest.approx(float(np.mean(losses)), rel=1e-9)


def test_a_popular_negative_weighs_less_by_log_q() -> None:
    a, b = torch.ones(1, 2), torch.ones(2, 2)
    apart = torch.zeros(1, 2, dtype=torch.bool)
    first = torch.zeros(1, dtype=torch.int64)
    plain = info_nce(a, b, first, torch.zeros(2), apart, 1.0)
    corrected = info_nce(a, b, first, torch.tensor([0.0, 3.0]), apart, 1.0)
    assert float(corrected) < float(plain)


def test_gradients_reach_the_projection_through_trigger_and_target() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 5, generator=rng)
    everything = (torch.arange(3), torch.zeros(3), torch.eye(3, dtype=torch.bool), 0.07)
    found = []
    for frozen in ("trigger", "target", None):
        model = Projection(7, 4, torch.ones(5), torch.Generator().manual_seed(1))
        with torch.no_grad():
            model.second += 0.1
        trigger, target = model(rows[:3]), model(rows[3:])
        trigger, target = (
            trigger.detach() if frozen == "trigger" else trigger,
            target.detach() if frozen == "target" else target,
        )
        info_nce(trigger, target, *everything).backward()  # type: ignore[no-untyped-call]
        grads = [parameter.grad for parameter in model.parameters()]
        assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)
        found.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
    torch.testing.assert_close(found[0] + found[1], found[2])


def test_no_item_is_twice_in_a_batch_and_all_targets_are_drawn_alike() -> None:
    rng = np.random.default_rng(0)
    target = np.concatenate([np.zeros(500, np.int64), np.arange(1, 60)])  # item 0 has 500 pairs
    trigger = np.concatenate([rng.integers(60, 100, 500), rng.integers(60, 100, 59)])
    batches = list(islice(PairBatches(trigger, target, np.ones(559, np.float32)).stream(10, rng), 400))
    drawn = np.zeros(60)
    allowed = set(zip(trigger.tolist(), target.tolist(), strict=True))
    for one, other in batches:
        assert 2 <= len(one) <= 10
        assert len(np.unique(np.concatenate([one, other]))) == 2 * len(one)
        assert set(zip(one.tolist(), other.tolist(), strict=True)) <= allowed
        drawn[other] += 1
    assert drawn[0] < 2 * drawn[1:].mean()
    assert drawn.min() > 0


def test_a_targets_pairs_are_drawn_by_weight() -> None:
    trigger, target = np.array([1, 2, 4]), np.array([0, 0, 3])
    stream = PairBatches(trigger, target, np.array([3, 1, 5], np.float32)).stream(8, np.random.default_rng(0))
    first = [int(one[other == 0][0]) for one, other in islice(stream, 2000)]
    assert np.mean(np.array(first) == 1) == pytest.approx(0.75, abs=0.04)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: pair[0] != pair[1]), min_size=1))
def test_a_stream_ends_only_where_no_two_pairs_are_apart(listed: list[tuple[int, int]]) -> None:
    trigger, target = (np.array(column) for column in zip(*listed, strict=True))
    stream = PairBatches(trigger, target, np.ones(len(listed), np.float32)).stream(4, np.random.default_rng(0))
    apart = any(not set(one) & set(other) for one in listed for other in listed)
    assert (next(stream, None) is not None) == apart


def test_known_positives_in_either_direction_and_the_pair_itself_are_no_negatives() -> None:
    pairs = ItemPairs(np.array([0, 2]), np.array([1, 0]), np.ones(2, np.float32), np.ones(6, np.int64), 0)
    found = KnownPairs(pairs).no_negatives(np.array([0, 4]), np.array([3, 5]), np.arange(6))
    assert np.flatnonzero(found[0]).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(found[1]).tolist() == [4, 5]


def test_held_out_pairs_are_found_more_often_than_by_content() -> None:
    items, known, later = world()
    content = hit_rate(ContentEncoder(dim=8).fit(items).encode(items), later)
    encoder = BehaviourEncoder(dim=8, hidden=32, steps=600, batch=128).fit(items, known)
    assert hit_rate(encoder.encode(items), later) > max(0.3, 3 * content)
    assert min(encoder.curve_) < encoder.curve_[0]


def test_new_items_from_no_pair_gain_as_well() -> None:
    items, known, later = world()
    cold = np.random.default_rng(1).random(ROWS) < 0.2
    warm = ~(cold[known.trigger] | cold[known.target])
    fewer = ItemPairs(known.trigger[warm], known.target[warm], known.weight[warm], known.clicks, 0)
    both = cold[later.trigger] & cold[later.target]
    asked = ItemPairs(later.trigger[both], later.target[both], later.weight[both], later.clicks, 0)
    encoder = BehaviourEncoder(dim=8, hidden=32, steps=600, batch=128).fit(items, fewer)
    assert hit_rate(encoder.encode(items), asked) > 1.5 * hit_rate(ContentEncoder(8).fit(items).encode(items), asked)


def test_pairs_that_teach_nothing_leave_content_as_it_was() -> None:
    items, known, _ = world()
    rng = np.random.default_rng(0)
    trigger = rng.integers(0, ROWS, len(known))
    noise = ItemPairs(trigger, (trigger + rng.integers(1, ROWS, len(known))) % ROWS, known.weight, known.clicks, 0)
    encoder = BehaviourEncoder(**{**SMALL, "log_q": 0.0, "steps": 200}).fit(items, noise)
    content = ContentEncoder(dim=8).fit(items).encode(items).astype(float)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(items), content, atol=1e-5)
    assert len(encoder.curve_) > 2


def test_the_start_is_content_of_length_one() -> None:
    items, known, _ = world()
    encoder = BehaviourEncoder(**{**SMALL, "steps": 1, "learning_rate": 1e-12}).fit(items, known)
    content = ContentEncoder(dim=8).fit(items).encode(items).astype(float)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(items), content, atol=1e-5)


def test_content_beside_what_is_learned_stays_as_it_is() -> None:
    items, known, later = world()
    encoder = BehaviourEncoder(**{**SMALL, "steps": 300}, content_weight=0.5).fit(items, known)
    assert encoder.content_columns == (0, 8)
    alone = BehaviourEncoder(**{**SMALL, "steps": 25}).fit(items, known)
    assert alone.content_columns == (0, 0), "nothing in it is content alone"
    vectors = encoder.encode(items).astype(float)
    content = ContentEncoder(dim=8).fit(items).encode(items).astype(float)
    assert vectors.shape == (ROWS, 16) == (ROWS, encoder.output_dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    beside = 0.5 * content / np.linalg.norm(content, axis=1, keepdims=True) / np.hypot(1, 0.5)
    np.testing.assert_allclose(vectors[:, :8], beside, atol=1e-5)
    assert hit_rate(vectors.astype(np.float32), later) > hit_rate(content.astype(np.float32), later)
    again = BehaviourEncoder(**json.loads(json.dumps(encoder.config()))).load_tensors(encoder.tensors())
    np.testing.assert_array_equal(again.encode(items), encoder.encode(items))


def test_vectors_are_float32_of_length_one_and_zeros_without_content(
    fitted: tuple[ItemVectors, BehaviourEncoder],
) -> None:
    items, encoder = fitted
    nothing = np.arange(ROWS) == 5
    bare = ItemVectors(items.matrices, {name: mask & ~nothing for name, mask in items.present.items()})
    vectors = encoder.encode(bare)
    assert vectors.dtype == np.float32 and vectors.shape == (ROWS, 8) == (ROWS, encoder.output_dim)
    assert not vectors[5].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[~nothing], axis=1), 1, atol=1e-6)


def probe_auc(vectors: npt.NDArray[np.float32], label: npt.NDArray[np.bool_]) -> float:
    """How well the best linear direction tells the label, on rows that it was not fitted on."""
    half = len(vectors) // 2
    design = np.hstack([vectors.astype(float), np.ones((len(vectors), 1))])
    weights = np.linalg.lstsq(design[:half], label[:half].astype(float), rcond=None)[0]
    score, truth = (design @ weights)[half:], label[half:]
    return float((score[truth][:, None] > score[~truth][None, :]).mean())


def test_no_direction_says_that_a_modality_is_missing_at_random() -> None:
    items, known, _ = world(rows=1000, missing=0.4)
    vectors = BehaviourEncoder(**{**SMALL, "dim": 14}).fit(items, known).encode(items)
    assert probe_auc(vectors, ~items.present["image"]) < 0.6


def test_the_projection_adds_nothing_to_what_filled_content_says_of_gaps() -> None:
    items, known, _ = world(rows=1000)
    # Gaps that depend on content show in it to begin with.
    there = items.matrices["text"][:, 0] < np.median(items.matrices["text"][:, 0])
    gaps = ItemVectors(
        {**items.matrices, "image": items.matrices["image"] * there[:, None]}, {**items.present, "image": there}
    )
    filled = probe_auc(ContentEncoder(256).fit(gaps).encode(gaps), ~there)
    assert probe_auc(BehaviourEncoder(**SMALL).fit(gaps, known).encode(gaps), ~there) < filled + 0.02


def test_an_item_is_encoded_alone_as_in_company(fitted: tuple[ItemVectors, BehaviourEncoder]) -> None:
    items, encoder = fitted
    together = encoder.encode(items)
    for row in range(0, ROWS, 23):
        np.testing.assert_array_equal(encoder.encode(items.rows(np.array([row])))[0], together[row])


def test_a_saved_encoder_gives_identical_vectors(fitted: tuple[ItemVectors, BehaviourEncoder]) -> None:
    items, encoder = fitted
    arguments = json.loads(json.dumps(encoder.config()))
    assert "threads" not in arguments
    again = BehaviourEncoder(**arguments).load_tensors(encoder.tensors())
    np.testing.assert_array_equal(again.encode(items), encoder.encode(items))
    assert again.modalities_ == encoder.modalities_ and again.output_dim == encoder.output_dim
    assert again.curve_ == encoder.curve_


def test_the_same_seed_gives_the_same_vectors_and_leaves_other_draws_alone() -> None:
    items, known, _ = world()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = BehaviourEncoder(**SMALL).fit(items, known).encode(items)
    assert torch.rand(1) == expected
    np.testing.assert_array_equal(BehaviourEncoder(**SMALL).fit(items, known).encode(items), first)
    assert not np.array_equal(BehaviourEncoder(**{**SMALL, "seed": 1}).fit(items, known).encode(items), first)


def test_no_pairs_is_refused_with_a_remedy() -> None:
    items, known, _ = world(60)
    empty = ItemPairs(known.trigger[:0], known.target[:0], known.weight[:0], known.clicks, 0)
    for pairs in (None, empty):
        with pytest.raises(FitError, match=r"'behaviour' learns from pairs.*got none; pass .*mine them.*'content'"):
            BehaviourEncoder().fit(items, pairs)


def test_pairs_of_other_items_are_refused() -> None:
    items, known, _ = world(60)
    with pytest.raises(FitError, match="expected pairs mined for 30 items, got pairs for 60"):
        BehaviourEncoder().fit(items.rows(np.arange(30)), known)


def test_pairs_without_content_on_both_sides_are_refused() -> None:
    items, known, _ = world(60)
    odd = np.arange(60) % 2 == 1
    bare = ItemVectors(items.matrices, dict.fromkeys(items.present, odd))
    mixed = odd[known.trigger] != odd[known.target]
    pairs = ItemPairs(known.trigger[mixed], known.target[mixed], known.weight[mixed], known.clicks, 0)
    with pytest.raises(FitError, match="content for both items"):
        BehaviourEncoder().fit(bare, pairs)


@pytest.mark.parametrize("count", [1, 2])
def test_pairs_too_few_to_be_judged_are_refused(count: int) -> None:
    items, known, _ = world(60)
    pairs = ItemPairs(known.trigger[:count], known.target[:count], known.weight[:count], known.clicks, 0)
    with pytest.raises(FitError, match="mine more pairs"):
        BehaviourEncoder().fit(items, pairs)


def test_pairs_that_all_share_an_item_are_refused() -> None:
    items, _, _ = world(60)
    star = ItemPairs(np.zeros(59, np.int64), np.arange(1, 60), np.ones(59, np.float32), np.ones(60, np.int64), 0)
    for seed in range(4):  # the shared item may or may not be among those held out
        with pytest.raises(FitError, match="no negatives|leaves no pairs"):
            BehaviourEncoder(seed=seed).fit(items, star)


def test_groups_that_can_only_be_learned_by_heart_leave_content_as_it_was() -> None:
    items, known, _ = world()
    clique = np.random.default_rng(0).permutation(ROWS).reshape(-1, 8)  # as of users who each clicked eight items
    trigger, target = (
        np.concatenate([members[list(side)] for members in clique])
        for side in zip(*[(i, j) for i in range(8) for j in range(8) if i != j], strict=True)
    )
    pairs = ItemPairs(trigger, target, np.ones(len(trigger), np.float32), known.clicks, 0)
    encoder = BehaviourEncoder(dim=8, hidden=64, steps=400, batch=128).fit(items, pairs)
    content = ContentEncoder(dim=8).fit(items).encode(items).astype(float)
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(items), content, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"batch": 1},
        {"held_out": 0.0},
        {"held_out": 1.0},
        {"temperature": 0.0},
        {"learning_rate": -1.0},
        {"content_weight": -1.0},
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(change: dict[str, Any]) -> None:
    items, known, _ = world(60)
    with pytest.raises(FitError, match=next(iter(change))):
        BehaviourEncoder(**change).fit(items, known)


def test_content_that_cannot_be_used_is_refused(fitted: tuple[ItemVectors, BehaviourEncoder]) -> None:
    items, encoder = fitted
    bad = {**items.matrices, "text": items.matrices["text"].copy()}
    bad["text"][3, 1] = np.nan
    with pytest.raises(FitError, match=r"'text'.*NaN"):
        encoder.encode(ItemVectors(bad, items.present))
    wide = {**items.matrices, "text": np.zeros((ROWS, 3), np.float32)}
    with pytest.raises(FitError, match="with 14 elements, as at fit, got 3"):
        encoder.encode(ItemVectors(wide, items.present))
    with pytest.raises(FitError, match="not fitted"):
        BehaviourEncoder().encode(items)


def test_loading_and_encoding_need_no_torch(fitted: tuple[ItemVectors, BehaviourEncoder], tmp_path: Path) -> None:
    items, encoder = fitted
    np.savez(tmp_path / "tensors.npz", **encoder.tensors())  # type: ignore[arg-type]
    np.savez(tmp_path / "items.npz", **items.matrices)
    script = (
        "import sys, numpy as np\n"
        "from semantic_ids.encoders import BehaviourEncoder\n"
        "from semantic_ids.item_vectors import ItemVectors\n"
        f"encoder = BehaviourEncoder(**{encoder.config()!r})\n"
        f"encoder.load_tensors(dict(np.load({str(tmp_path / 'tensors.npz')!r})))\n"
        f"matrices = dict(np.load({str(tmp_path / 'items.npz')!r}))\n"
        f"encoder.encode(ItemVectors(matrices, {{name: np.ones({ROWS}, bool) for name in matrices}}))\n"
        "print('torch' in sys.modules, 'scipy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
