"""A local last level: codewords per parent (the tokenizer of OneSearch's published code)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids import ResidualKMeans, ResidualOPQ
from semantic_ids.codebook_parts import make_quantizer
from semantic_ids.laws import check_quantizer
from semantic_ids.quantizers import Quantizer
from sidkit.core.arrays import Floats
from sidkit.core.errors import FitError

LOCAL: dict[str, Any] = {"last_level": "local", "force": True}


def clusters(items: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, 6)) * 3
    return (centres[rng.integers(0, 12, items)] + rng.normal(size=(items, 6))).astype(np.float32)


@pytest.mark.parametrize("parent", ["prefix", "level"])
def test_it_keeps_the_contract_of_quantizers(parent: str) -> None:
    check_quantizer(ResidualKMeans, sizes=(6, 4, 4), local_parent=parent, **LOCAL)
    check_quantizer(ResidualOPQ, sizes=(6, 4, 4), opq_sizes=(4, 4), local_parent=parent, **LOCAL)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), items=st.integers(30, 120), parent=st.sampled_from(["prefix", "level"]))
def test_codes_are_the_nearest_codewords_of_their_own_parent(seed: int, items: int, parent: str) -> None:
    rows = clusters(items, seed)
    quantizer = ResidualKMeans((4, 3, 3), iterations=5, local_parent=parent, **LOCAL).fit(rows)
    new = clusters(40, seed + 1)
    codes, later = quantizer.encode(rows), quantizer.encode(new)
    parents = codes[:, :2] if parent == "prefix" else codes[:, 1:2]
    owner: dict[int, tuple[int, ...]] = {}
    for key in {tuple(row) for row in parents.tolist()}:
        members = (parents == key).all(axis=1)
        used = set(codes[members, 2].tolist())
        assert len(used) <= min(members.sum(), 3)
        assert not used & owner.keys()  # two parents never share a codeword
        owner |= dict.fromkeys(used, key)
    local = quantizer.local_
    assert local is not None and quantizer.sizes_ == (4, 3, 3 * len(local.parents) + 1)
    words = {tuple(key): place for place, key in enumerate(local.parents.tolist())}
    for row, code in zip(np.concatenate([rows, new]), np.concatenate([codes, later]), strict=True):
        key = tuple(code[:2].tolist()) if parent == "prefix" else (int(code[1]),)
        left = row - quantizer.codebooks_[0][code[0]] - quantizer.codebooks_[1][code[1]]
        if key not in words:
            assert code[2] == quantizer.sizes_[2] - 1
            continue
        place = words[key]
        book = local.codewords[local.starts[place] : local.starts[place + 1]]
        distance = ((book.astype(np.float64) - left) ** 2).sum(axis=1)
        chosen = int(code[2]) - 3 * place
        assert 0 <= chosen < len(book)
        assert distance[chosen] <= distance.min() + 1e-5


def test_items_of_small_parents_are_told_apart_and_come_back() -> None:
    rows = clusters(200)
    local = ResidualKMeans((16, 16, 8), **LOCAL).fit(rows)
    plain = ResidualKMeans((16, 16, 8), force=True).fit(rows)
    codes = local.encode(rows)
    few = np.array([(codes[:, :2] == row[:2]).all(axis=1).sum() <= 8 for row in codes])
    assert few.mean() > 0.8
    np.testing.assert_allclose(local.decode(codes)[few], rows[few], atol=1e-5)
    assert len(np.unique(codes[few], axis=0)) == few.sum()
    assert len(np.unique(plain.encode(rows), axis=0)) < len(np.unique(codes, axis=0))


def test_a_parent_without_members_gets_the_code_of_unknown_parents() -> None:
    rows = np.repeat(np.eye(4, dtype=np.float32) * 10, 30, axis=0)
    rows += np.random.default_rng(0).normal(size=rows.shape).astype(np.float32) * 0.01
    quantizer = ResidualKMeans((4, 2, 2), **LOCAL).fit(rows)
    assert quantizer.local_ is not None
    codes = quantizer.encode(rows)
    every = np.array([[first, second] for first in range(4) for second in range(2)])
    unknown = [pair for pair in every.tolist() if pair not in quantizer.local_.parents.tolist()]
    last = quantizer.local_.encode(every.astype(np.int32), np.zeros((8, 4), np.float32))
    assert [code == quantizer.sizes_[2] - 1 for code in last] == [pair in unknown for pair in every.tolist()]
    prefix = quantizer.decode_prefix(codes, 2)
    codes[:, 2] = quantizer.sizes_[2] - 1
    np.testing.assert_array_equal(quantizer.decode(codes), prefix)


def test_sizes_chosen_at_fit_are_restored() -> None:
    rows = clusters(1000)
    for kind in (ResidualKMeans, ResidualOPQ):
        fitted: Quantizer = kind(last_level="local").fit(rows)
        config = json.loads(json.dumps(fitted.config()))
        assert config["sizes"][-1] < 64
        again = kind(**config).fit(rows)
        np.testing.assert_array_equal(again.encode(rows), fitted.encode(rows))


def test_arguments_of_earlier_releases_are_understood(tmp_path: Path) -> None:
    rows = clusters(400)
    old = make_quantizer("residual_kmeans", {"sizes": [8, 8], "balance_last": True})
    assert old.get_params()["last_level"] == "balanced"
    assert make_quantizer("rq_opq", {"balance_last": False}).get_params()["last_level"] == "global"
    old.fit(rows).save(tmp_path / "saved")
    config = tmp_path / "saved" / "config.json"
    written = json.loads(config.read_text())
    assert written["arguments"].pop("last_level") == "balanced"
    assert type(old).arguments_of_release({**written["arguments"], "balance_last": True})["last_level"] == "balanced"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"last_level": "locl"}, "expected last_level as one of global, balanced, local, got 'locl'"),
        ({"last_level": "local", "local_parent": "all"}, "expected local_parent as one of prefix, level, got 'all'"),
        ({"last_level": "local", "sizes": (4,)}, "expected a level before a local one"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(FitError, match=says):
        ResidualKMeans(**{"sizes": (4, 4), **arguments}).fit(clusters(200))
