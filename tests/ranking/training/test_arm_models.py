"""Arms with models of their own, and the controls whose codes mean nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from test_arms import context_of

from helpers.training_builders import SIZES, random_set
from ranking.data.control_codes import random_codes
from ranking.data.dataset import Dataset
from ranking.data.item_table import ItemTable
from ranking.models.spec import ModelSpec
from ranking.pipeline.presets import load_preset
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import train_arm
from ranking.training.ranker import Ranker
from semantic_ids.quantizers.rq_opq import ResidualOPQ
from sidkit.core.errors import ConfigError

TEXT = """
[ranker.model]
dim = 8
heads = 3

[arms.din]
representations = ["id"]

[arms.saviorrec]
representations = ["id", "mba"]
[arms.saviorrec.model]
history = "bidirectional"
dim = 16

[arms.smile]
representations = ["rq_opq_gate"]
model = {gate_parts = "rq", transfer_weight = 0.1}
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_an_arm_overrides_what_it_writes_and_nothing_else(tmp_path: Path) -> None:
    preset = load_preset(written(tmp_path, TEXT))
    shared = preset.ranker.model
    models = {name: arm.model_spec(shared) for name, arm in preset.arms.items()}
    assert models["din"] == shared
    assert models["saviorrec"] == shared.model_copy(update={"history": "bidirectional", "dim": 16})
    assert models["smile"] == shared.model_copy(update={"gate_parts": "rq", "transfer_weight": 0.1})


def test_a_default_that_is_written_overrides_too_and_a_dump_tells() -> None:
    shared = ModelSpec(dim=8)
    silent, written_out = ArmSpec(representations=("id",)), ArmSpec(representations=("id",), model={"dim": 16})
    assert ModelSpec().dim == 16
    assert silent.model_spec(shared).dim == 8
    assert written_out.model_spec(shared).dim == 16
    assert silent.model_dump() != written_out.model_dump()
    assert ArmSpec(**written_out.model_dump()).model_spec(shared) == written_out.model_spec(shared)


def test_an_arm_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ArmSpec(representations=("id",)).model = ModelSpec()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('["id", "mba"]', '["id"]'), r"arms\.saviorrec.*in the modality space"),
        (('["id", "mba"]', '["mba", "content"]'), r"arms\.saviorrec.*in the behaviour space"),
        (('history = "bidirectional"', 'history = "both"'), r"arms\.saviorrec\.model\.history"),
        (("dim = 16", "dims = 16"), r"arms\.saviorrec\.model\.dims"),
        (('representations = ["id"]', 'kind = "gbdt"\nmodel = {dim = 3}'), r"gbdt arm has no model"),
        (
            ('representations = ["id"]', 'kind = "gbdt"\nrandom_codes = true\nfeatures = ["!*code_*"]'),
            r"gbdt arm with these settings reads no codes; .*let features select statistics of codes",
        ),
        (
            ('representations = ["id"]', 'representations = ["id"]\nrandom_codes = true\nshuffle_codes = true'),
            "at most one of shuffle_codes and random_codes",
        ),
        (('representations = ["id"]', 'representations = ["id", "id"]'), "is listed more than once"),
    ],
)  # fmt: skip
def test_an_arm_that_could_never_be_built_is_refused_when_it_is_read(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_preset(written(tmp_path, TEXT.replace(*change, 1)))


def test_a_history_of_all_arms_must_suit_all_arms(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"arms\.din"):
        load_preset(written(tmp_path, TEXT.replace("heads = 3", 'history = "bidirectional"')))


def items_of(count: int) -> ItemTable:
    """Items of two versions each; every seventh lacks codes."""
    ids = np.array(["", *(f"i{number // 2:04d}" for number in range(count))], dtype=object)
    codes = np.zeros((count + 1, 2), dtype=np.int32)
    codes[np.arange(count + 1) % 7 == 0] = -1
    return ItemTable(ids, codes, np.zeros((count + 1, 2), dtype=np.float32))


def test_random_codes_are_uniform_per_level_and_independent_of_each_other() -> None:
    items = items_of(40_000)
    drawn = random_codes(items, (5, 3), seed=0)
    coded = items.codes[:, 0] >= 0
    assert (drawn.codes[~coded] == -1).all()
    firsts = drawn.codes[coded][::2]
    table = np.zeros((5, 3))
    np.add.at(table, (firsts[:, 0], firsts[:, 1]), 1)
    assert table / len(firsts) == pytest.approx(np.full((5, 3), 1 / 15), abs=0.01)


def test_random_codes_depend_on_the_id_and_the_seed_alone() -> None:
    items = items_of(60)
    left, again, other = (random_codes(items, (50, 50), seed).codes for seed in (0, 0, 1))
    assert np.array_equal(left, again)
    assert not np.array_equal(left, other)
    part = dataclasses.replace(items, ids=items.ids[:30], codes=items.codes[:30], content=items.content[:30])
    assert np.array_equal(random_codes(part, (50, 50), 0).codes, left[:30])
    coded = items.codes[:, 0] >= 0
    for name in set(items.ids[coded]):
        assert len(np.unique(left[coded & (items.ids == name)], axis=0)) == 1, "versions of an item share their codes"


def codewords() -> ResidualOPQ:
    """An RQ-OPQ quantizer of the set's sizes, fitted to noise."""
    noise = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    return ResidualOPQ(SIZES[:1], SIZES[1:], force=True).fit(noise)


@pytest.mark.parametrize(
    "arm",
    [
        ArmSpec(representations=("id", "mba"), model={"history": "bidirectional"}),
        ArmSpec(representations=("rq_opq_gate",)),
        ArmSpec(representations=("mba", "rq_opq_gate"), model={"history": "bidirectional"}),
        ArmSpec(representations=("id", "spm", "ngram", "sid"), model={"sid_match": "attention", "cross_layers": 1}),
    ],
    ids=["saviorrec", "smile", "both", "codes"],
)
def test_an_arm_is_trained_and_its_artefact_scores_the_same(tmp_path: Path, arm: ArmSpec) -> None:
    context = context_of(tmp_path)
    context = dataclasses.replace(
        context, quantizer=codewords(), serving=dataclasses.replace(context.serving, residual_levels=1)
    )
    result = train_arm(context, "arm", arm, 0, "ranker")
    assert result.ranker == "ranker"
    loaded = Ranker.load(tmp_path / "ranker")
    assert np.array_equal(loaded.score(context.test), result.test)
    again = train_arm(context, "arm", arm, 0, "again")
    assert np.array_equal(again.test, result.test)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "ranker"], "no checkpoint is left"


def test_what_is_fitted_does_not_depend_on_validation_or_test_rows(tmp_path: Path) -> None:
    arm = ArmSpec(representations=("rq_opq_gate", "spm"))

    def fitted(folder: str, **changes: Dataset) -> dict[str, np.ndarray]:
        context = context_of(tmp_path / folder, **changes)
        context = dataclasses.replace(
            context, quantizer=codewords(), serving=dataclasses.replace(context.serving, residual_levels=1)
        )
        train_arm(context, "arm", arm, 0, "ranker")
        state = Ranker.load(tmp_path / folder / "ranker").model.state_dict()
        return {name: each.numpy() for name, each in state.items() if "fitted_" in name}

    left, right = fitted("a"), fitted("b", validation=random_set(90, seed=8), test=random_set(70, seed=9))
    assert {name.rsplit(".", 1)[1] for name in left} == {
        "fitted_counts", "fitted_cells", "fitted_cell_codes", "fitted_neighbours", "fitted_born_us", "fitted_model"
    }  # fmt: skip
    assert all(np.array_equal(left[name], right[name]) for name in left)


def test_a_gate_without_a_codebook_is_refused_by_name(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    context = dataclasses.replace(context, serving=dataclasses.replace(context.serving, residual_levels=1))
    with pytest.raises(ConfigError, match="quantizer"):
        train_arm(context, "arm", ArmSpec(representations=("rq_opq_gate",)), 0, "ranker")


def test_a_control_with_random_codes_is_scored_and_not_kept(tmp_path: Path) -> None:
    arm = ArmSpec(representations=("id", "sid"), random_codes=True)
    assert not arm.can_serve
    result = train_arm(context_of(tmp_path), "random", arm, 0, "control")
    assert result.ranker is None
    assert not (tmp_path / "control").exists()
    real = train_arm(context_of(tmp_path), "codes", ArmSpec(representations=("id", "sid")), 0, "real")
    assert not np.array_equal(real.test, result.test)


def test_a_control_needs_counts_of_its_codes_if_it_reads_statistics_of_codes() -> None:
    shuffled = ArmSpec(representations=("id", "sid"), shuffle_codes=True)
    assert shuffled.counted_control(None) == "shuffled"
    assert ArmSpec(kind="gbdt", random_codes=True).counted_control(("*",)) == "random"
    assert shuffled.counted_control(("item_attributes__*",)) is None
    assert ArmSpec(representations=("id", "sid")).counted_control(None) is None
    without = ArmSpec(representations=("sid",), shuffle_codes=True, features=("!*code_*",))
    assert without.counted_control(None) is None and without.control == "shuffled"
    own = ArmSpec(representations=("sid",), shuffle_codes=True, features=("code_stats_d1__*",))
    assert own.counted_control(("item_attributes__*",)) == "shuffled"
    assert ArmSpec(kind="gbdt", shuffle_codes=True).uses_codes(ModelSpec())


def test_boosting_on_control_codes_is_refused_where_there_are_no_statistics_of_codes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a gbdt arm with shuffled codes .*has none.*or remove the arm"):
        train_arm(context_of(tmp_path), "trees", ArmSpec(kind="gbdt", shuffle_codes=True), 0, "trees")
