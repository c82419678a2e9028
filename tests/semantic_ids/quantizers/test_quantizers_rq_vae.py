"""What holds for the RQ-VAE alone: its losses, its guards against collapse, and what pairs do to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from helpers.quantizer_builders import clustered, squared_error
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quality.code_metrics import perplexity
from semantic_ids.quantizers import RQVAE, ResidualKMeans
from semantic_ids.quantizers.rq_vae_training import (
    Contrast,
    MovingCodebook,
    Network,
    contrastive_loss,
    quantized,
)
from sidkit.core.arrays import Floats
from sidkit.core.errors import FitError

SMALL: dict[str, Any] = {"epochs": 4, "hidden": (16,), "latent_dim": 8, "batch": 64, "force": True}


def paired(rows: Floats, partners: int = 2, seed: int = 0) -> ItemPairs:
    """Pairs of rows that content does not hold together: each with its next neighbours in a random circle."""
    circle = np.random.default_rng(seed).permutation(len(rows))
    trigger = np.tile(circle, partners)
    target = np.concatenate([np.roll(circle, -step) for step in range(1, partners + 1)])
    clicks = 1 + np.random.default_rng(seed).poisson(3, len(rows))
    return ItemPairs(trigger, target, np.ones(len(trigger), np.float32), clicks, 0)


def cosines(first: Floats, second: Floats) -> npt.NDArray[np.float32]:
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    return (first * second).sum(axis=1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1) + 1e-9)


def test_a_contrast_without_pairs_is_refused_with_both_ways_out() -> None:
    rows = clustered(200)
    with pytest.raises(FitError, match="no pairs were given; mine pairs, or set contrast = 0"):
        RQVAE((8, 4), contrast=0.1, **SMALL).fit(rows)
    none = ItemPairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.ones(200, np.int64), 0)
    with pytest.raises(FitError, match="pairs are empty"):
        RQVAE((8, 4), contrast=0.1, **SMALL).fit(rows, none)
    with pytest.raises(FitError, match="expected pairs mined for 200 items, one per vector, got pairs for 100"):
        RQVAE((8, 4), contrast=0.1, **SMALL).fit(rows, paired(rows[:100]))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("latent_dim", 0),
        ("epochs", 0),
        ("batch", 0),
        ("hidden", (8, 0)),
        ("decay", 1.0),
        ("learning_rate", 0.0),
        ("commitment", -1.0),
        ("contrast", -0.1),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(argument: str, value: object) -> None:
    with pytest.raises(FitError, match=argument):
        RQVAE((8, 4), **{**SMALL, argument: value}).fit(clustered(200))


def test_it_says_whether_it_needs_pairs_and_ignores_them_where_not() -> None:
    rows = clustered(300)
    assert not RQVAE().needs_pairs
    assert RQVAE(contrast=0.1).needs_pairs
    plain = RQVAE((8, 4), **SMALL).fit(rows).encode(rows)
    np.testing.assert_array_equal(RQVAE((8, 4), **SMALL).fit(rows, paired(rows)).encode(rows), plain)


def test_contrast_brings_the_reconstructions_of_pairs_together() -> None:
    rows = clustered(240)
    circle = paired(rows, partners=1)
    two_by_two = ItemPairs(circle.trigger[::2], circle.target[::2], circle.weight[::2], circle.clicks, circle.end_us)
    settings = {**SMALL, "epochs": 60, "hidden": (64,), "learning_rate": 3e-3}
    found = {}
    for contrast in (0.0, 1.0):
        quantizer = RQVAE((16, 8), contrast=contrast, **settings).fit(rows, two_by_two)
        decoded = quantizer.decode(quantizer.encode(rows))
        found[contrast] = cosines(decoded[two_by_two.trigger], decoded[two_by_two.target]).mean()
    assert found[1.0] > found[0.0] + 0.2


def test_neither_the_order_of_rows_nor_that_of_pairs_matters() -> None:
    rows = clustered(200)
    pairs = paired(rows)
    expected = RQVAE((8, 4), contrast=0.5, **SMALL).fit(rows, pairs).encode(rows)
    rng = np.random.default_rng(3)
    order, sort = rng.permutation(200), rng.permutation(len(pairs))
    place = np.argsort(order)
    moved = ItemPairs(
        place[pairs.trigger][sort], place[pairs.target][sort], pairs.weight[sort], pairs.clicks[order], pairs.end_us
    )
    again = RQVAE((8, 4), contrast=0.5, **SMALL).fit(rows[order], moved)
    np.testing.assert_array_equal(again.encode(rows), expected)


def test_it_reconstructs_no_worse_than_residual_kmeans_of_as_many_principal_axes() -> None:
    train, held = clustered(2000), clustered(500, seed=5)
    axes = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)[2][:8].T
    low = (train - train.mean(axis=0)) @ axes
    flat = ResidualKMeans((16, 8, 8)).fit(low)
    low_held = (held - train.mean(axis=0)) @ axes
    back = flat.decode(flat.encode(low_held)) @ axes.T + train.mean(axis=0)
    deep = RQVAE((16, 8, 8), **{**SMALL, "epochs": 10}).fit(train)
    assert squared_error(deep, held).mean() < 1.03 * ((held - back) ** 2).sum(axis=1).mean()
    assert min(perplexity(deep.encode(train), deep.sizes_)) > 0.6


def test_fitting_leaves_torchs_random_state_and_threads_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    RQVAE((4, 2), **SMALL).fit(clustered(100))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_encode_and_decode_in_numpy_are_the_networks_that_were_trained() -> None:
    rows = clustered(150)
    quantizer = RQVAE((8, 4), **{**SMALL, "hidden": (16, 8)}).fit(rows)
    for arrays, hidden, given, got in (
        (quantizer.encoder_, (16, 8), (rows - quantizer.mean_) / quantizer.scale_, quantizer.latents(rows)),
        (
            quantizer.decoder_,
            (8, 16),
            sum(book[quantizer.encode(rows)[:, level]] for level, book in enumerate(quantizer.codebooks_)),
            (quantizer.decode(quantizer.encode(rows)) - quantizer.mean_) / quantizer.scale_,
        ),
    ):
        network = Network(torch.from_numpy(arrays[0]), hidden, torch.Generator())
        with torch.no_grad():
            for at, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
                weight.copy_(torch.from_numpy(arrays[1 + 2 * at]))
                bias.copy_(torch.from_numpy(arrays[2 + 2 * at]))
            np.testing.assert_allclose(network(torch.from_numpy(np.float32(given))).numpy(), got, atol=1e-4)


def test_the_contrast_equals_its_formula_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    trigger, target = rng.normal(size=(2, 5, 3))
    log_q = np.log(rng.dirichlet(np.ones(5)))
    no_negative = rng.random((5, 5)) < 0.3
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (trigger, target)]
    losses = []
    for row in range(5):
        logits = unit[1] @ unit[0][row] / 0.07 - log_q
        kept = [column for column in range(5) if column == row or not no_negative[row, column]]
        losses.append(np.log(np.exp(logits[kept] - logits[row]).sum()))
    found = contrastive_loss(*map(torch.from_numpy, (trigger, target, log_q, no_negative)))
    assert float(found) == pytest.approx(np.mean(losses))


def test_the_own_item_and_known_positives_are_no_negatives() -> None:
    trigger, target = np.array([0, 0, 1, 3]), np.array([1, 2, 2, 4])
    pairs = ItemPairs(trigger, target, np.array([1, 1, 1, 0.5], np.float32), np.array([5, 0, 3, 1, 1]), 0)
    contrast = Contrast(pairs, 4, seed=0)
    expected = [[True, True, True, False], [True, True, True, False], [True, True, True, False], [False] * 3 + [True]]
    found = contrast.known.no_negatives(trigger, target, target)
    assert found.tolist() == expected  # row 2: item 1 is its own trigger
    np.testing.assert_allclose(contrast.log_q.exp().numpy(), [5, 1, 3, 1, 1], rtol=1e-6)


def test_batches_of_pairs_hold_no_item_twice_and_all_targets_alike() -> None:
    trigger, target = np.array([0, 0, 1, 3]), np.array([1, 2, 2, 4])
    pairs = ItemPairs(trigger, target, np.array([1, 1, 1, 0.5], np.float32), np.array([5, 0, 3, 1, 1]), 0)
    contrast, drawn = Contrast(pairs, 4, seed=0), np.zeros(5)
    for _ in range(2000):
        items, log_q, no_negative = contrast.next_batch()
        own, other = items.numpy()[:2], items.numpy()[2:]
        assert len(np.unique(items)) == len(items) == 4
        np.testing.assert_array_equal(log_q, contrast.log_q[items[2:]])
        assert no_negative.tolist() == contrast.known.no_negatives(own, other, other).tolist() == np.eye(2).tolist()
        drawn[other] += 1
    # Two of the three targets share an item whatever is drawn, so that each batch holds one of them.
    np.testing.assert_allclose(drawn / 2000, [0, 0.5, 0.5, 0, 1], atol=0.04)


def test_pairs_that_share_an_item_are_refused_with_both_ways_out() -> None:
    trigger, target = np.array([0, 0, 3]), np.array([1, 2, 0])
    pairs = ItemPairs(trigger, target, np.ones(3, np.float32), np.ones(200, np.int64), 0)
    with pytest.raises(FitError, match="no two of the 3 pairs have four different items.*more pairs, or set contrast"):
        RQVAE((8, 4), contrast=0.1, **SMALL).fit(clustered(200), pairs)


def test_gradients_pass_the_quantizer_straight_through() -> None:
    rng = np.random.default_rng(0)
    levels = [MovingCodebook(rng.normal(size=(4, 3)).astype(np.float32), 0.9, torch.Generator()) for _ in range(2)]
    latent = torch.from_numpy(rng.normal(size=(6, 3)).astype(np.float32)).requires_grad_()
    total, commitment = quantized(latent, levels, update=False)
    weight = torch.from_numpy(rng.normal(size=(6, 3)).astype(np.float32))
    (through,) = torch.autograd.grad((total * weight).sum(), latent, retain_graph=True)
    torch.testing.assert_close(through, weight)
    residual, expected = latent.detach(), torch.zeros(6, 3)
    for level in levels:
        residual = residual - level.words[level.nearest(residual)]
        expected += 2 * residual / residual.numel()
    (pulled,) = torch.autograd.grad(commitment, latent)
    torch.testing.assert_close(pulled, expected)
    torch.testing.assert_close(total.detach(), latent.detach() - residual)


def test_codewords_follow_their_residuals_and_restart_when_none_comes() -> None:
    near = np.array([[0.0, 0.0], [4.0, 0.0], [99.0, 99.0]], np.float32)
    level = MovingCodebook(near, 0.8, torch.Generator().manual_seed(0))
    residual = torch.tensor([[1.0, 1.0]] * 6 + [[5.0, 1.0]] * 6)
    for _ in range(60):
        level.update(residual, level.nearest(residual))
    words = level.words.numpy()
    for point in ([1.0, 1.0], [5.0, 1.0]):
        assert np.abs(words - point).max(axis=1).min() < 1e-2
    assert np.abs(words).max() < 6  # the far one came back
