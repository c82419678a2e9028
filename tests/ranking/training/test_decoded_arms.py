"""Arms whose item vectors are decoded from codes: what they are trained on, controls, and boosting."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from helpers.training_builders import CONTENT_DIM, SERVING, SIZES, TRAINED_ON, random_set
from ranking.data.batches import Batches, vocabulary_of
from ranking.data.control_codes import shuffled_codes
from ranking.data.numeric_features import Scaling
from ranking.models.representations.base import ItemShape
from ranking.models.representations.content import ContentRepresentation
from ranking.models.representations.mba import MbaRepresentation
from ranking.models.spec import ModelSpec
from ranking.training.arm_spec import ArmSpec, RankerSpec
from ranking.training.arms import TrainingContext, train_arm
from ranking.training.gbdt import boosted_features
from ranking.training.ranker import Ranker
from ranking.training.spec import TrainingSpec
from semantic_ids.quantizers import ResidualKMeans
from sidkit.core.arrays import Codes, Floats
from sidkit.core.errors import FitError

DECODED = ArmSpec(representations=("content",), vectors="decoded")
SPEC = RankerSpec(
    model=ModelSpec(dim=4, hidden=(8,), table_rows=100),
    training=TrainingSpec(epochs=2, batch_rows=64, learning_rate=0.01, table_learning_rate=0.05),
)


def quantizer() -> ResidualKMeans:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(300, CONTENT_DIM)).astype(np.float32)
    return ResidualKMeans(sizes=SIZES, force=True).fit(vectors)


def context_of(folder: Path | None = None) -> TrainingContext:
    train = random_set(200, seed=1)
    return TrainingContext(
        train=train,
        validation=random_set(100, seed=2),
        test=random_set(80, seed=3),
        spec=SPEC,
        rate=float(train.rows.label.mean()),
        threads=1,
        trained_on=TRAINED_ON,
        serving=SERVING,
        rankers=folder,
        quantizer=quantizer(),
    )


def expected_vectors(codes: Codes) -> Floats:
    """The sum of the codewords of each item, one by one; zeros for an item without codes."""
    books = quantizer().codebooks_
    vectors = np.zeros((len(codes), CONTENT_DIM), dtype=np.float32)
    for item, own in enumerate(codes):
        if own.min() >= 0:
            vectors[item] = sum(books[level][code] for level, code in enumerate(own))
    return vectors


def test_all_parts_have_the_decoded_vectors_of_their_codes() -> None:
    context = context_of()
    decoded = context.of_arm(DECODED, 0)
    for part in (decoded.train, decoded.validation, decoded.test):
        np.testing.assert_allclose(part.items.content, expected_vectors(part.items.codes), atol=1e-6)
        assert part.items.vectors == "decoded"
    assert context.train.items.vectors == "content"


def test_shuffled_codes_are_shuffled_before_they_are_decoded() -> None:
    context = context_of()
    arm = ArmSpec(representations=("content",), vectors="decoded", shuffle_codes=True)
    shuffled = shuffled_codes(context.train.items, 3)
    np.testing.assert_allclose(context.of_arm(arm, 3).train.items.content, expected_vectors(shuffled.codes), atol=1e-6)


def test_an_arm_on_content_sees_the_same_data_as_before() -> None:
    context = context_of()
    assert context.of_arm(ArmSpec(representations=("content",)), 0).train is context.train


def test_mba_on_decoded_vectors_starts_at_the_content_ranker_on_decoded_vectors() -> None:
    data = context_of().of_arm(DECODED, 0).train
    batch = Batches(data, Scaling.fit(data.features, 0.5), vocabulary_of(data)).batch(torch.arange(100))
    shape = ItemShape(vocabulary_of(data).size, SIZES, CONTENT_DIM)
    content = ContentRepresentation(shape, dim=4)
    mba = MbaRepresentation(shape, dim=4)
    mba.projection.load_state_dict(content.projection.state_dict())
    expected = torch.from_numpy(expected_vectors(batch.items.codes.numpy()))
    assert torch.allclose(batch.items.content, expected, atol=1e-6)
    assert torch.equal(mba(batch.items), content(batch.items))
    matches = mba.match(batch.items, batch.candidate, batch.history, batch.mask)
    assert torch.equal(matches[:, :3], content.match(batch.items, batch.candidate, batch.history, batch.mask))


def test_content_has_no_effect_on_a_trained_arm(tmp_path: Path) -> None:
    context = context_of()
    blank = dataclasses.replace(context.train.items, content=np.zeros_like(context.train.items.content))
    without = dataclasses.replace(
        context,
        **{name: dataclasses.replace(getattr(context, name), items=blank) for name in ("train", "validation", "test")},
    )
    for arm in (DECODED, ArmSpec(representations=("mba",), vectors="decoded"), ArmSpec(kind="gbdt", vectors="decoded")):
        whole, bare = (train_arm(each, "arm", arm, 0, "r") for each in (context, without))
        np.testing.assert_array_equal(whole.test, bare.test)


def test_boosting_reads_decoded_vectors_and_may_be_a_control() -> None:
    context = context_of()
    arm = ArmSpec(kind="gbdt", vectors="decoded")
    control = arm.model_copy(update={"shuffle_codes": True})
    plain, decoded, shuffled = (
        boosted_features(each.train) for each in (context, context.of_arm(arm, 0), context.of_arm(control, 0))
    )
    assert plain.shape == decoded.shape == shuffled.shape
    assert (plain != decoded).any(axis=0).sum() > 5
    assert (shuffled != decoded).any(axis=0).sum() > 5


def test_the_artefact_loads_with_its_vectors(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    result = train_arm(context, "codes_only", DECODED, 0, "codes_only_v1")
    ranker = Ranker.load(tmp_path / "codes_only_v1")
    assert ranker.config.vectors == "decoded"
    np.testing.assert_array_equal(ranker.score(context.of_arm(DECODED, 0).test), result.test)


def test_codes_learned_from_clicks_are_not_matched_when_decoded() -> None:
    context = context_of()
    clicked = dataclasses.replace(context, serving=dataclasses.replace(SERVING, match_codes=False))
    assert clicked.of_arm(DECODED, 0).serving.content_columns == (0, 0)
    assert clicked.of_arm(ArmSpec(representations=("content",)), 0).serving.content_columns is None
    assert context.of_arm(DECODED, 0).serving.content_columns is None


def test_a_quantizer_that_cannot_decode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ResidualKMeans, codes: Codes) -> Floats:
        raise RuntimeError("one way only")

    monkeypatch.setattr(ResidualKMeans, "decode", refuse)
    with pytest.raises(FitError, match=r"ResidualKMeans cannot decode .*one way only\); use another quantizer"):
        context_of().of_arm(DECODED, 0)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((1, CONTENT_DIM)), r"expected ResidualKMeans.decode to return vectors of shape \(\d+, 6\)"),
        (None, "expected ResidualKMeans.decode to return finite vectors"),
    ],
)
def test_wrong_vectors_are_refused(monkeypatch: pytest.MonkeyPatch, returned: np.ndarray | None, message: str) -> None:
    def wrong(self: ResidualKMeans, codes: Codes) -> np.ndarray:
        return np.full((len(codes), CONTENT_DIM), np.nan) if returned is None else returned

    monkeypatch.setattr(ResidualKMeans, "decode", wrong)
    with pytest.raises(FitError, match=message):
        context_of().of_arm(DECODED, 0)


def test_default_vectors_stay_out_of_dumps_and_decoded_ones_read_codes() -> None:
    content = ArmSpec(representations=("content",))
    assert "vectors" not in content.model_dump() and not content.uses_codes(ModelSpec())
    assert DECODED.model_dump()["vectors"] == "decoded" and DECODED.uses_codes(ModelSpec())
    assert ArmSpec(**DECODED.model_dump()) == DECODED
    assert DECODED.can_serve
    with pytest.raises(ValidationError, match="a blend arm reads no item vectors"):
        ArmSpec(kind="blend", of=("one", "two"), vectors="decoded")
    with pytest.raises(ValidationError, match="reads no codes"):
        ArmSpec(kind="gbdt", shuffle_codes=True, features=("!*code_*",))
    assert ArmSpec(kind="gbdt", shuffle_codes=True, features=("!*code_*",), vectors="decoded").is_control


def test_batches_have_the_decoded_vectors() -> None:
    context = context_of().of_arm(DECODED, 0)
    vocabulary = vocabulary_of(context.train)
    batches = Batches(context.train, Scaling.fit(context.train.features, 0.5), vocabulary)
    items = batches.batch(torch.arange(20)).items
    np.testing.assert_allclose(items.content.numpy(), expected_vectors(items.codes.numpy()), atol=1e-6)
