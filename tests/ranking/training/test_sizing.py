"""Arms of a comparison have the same number of parameters, by the width or by a table's rows."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.training_builders import ranker_config
from ranking.data.batches import Vocabulary
from ranking.data.numeric_features import Scaling
from ranking.models.spec import ModelSpec
from ranking.training.ranker import RankerConfig, make_model
from ranking.training.sizing import Budget, parameters_of, sized

VOCABULARY = Vocabulary(tuple(f"i{number:03}" for number in range(300)))


def config(*representations: str, **model: object) -> RankerConfig:
    spec = ModelSpec.model_validate({"dim": 8, **model})
    return ranker_config(representations, spec, Scaling(0.1, (), ()), sizes=(8, 8, 8), content_dim=12)


def counted(given: RankerConfig) -> int:
    return sum(parameter.numel() for parameter in make_model(given, VOCABULARY, {}).parameters())


@pytest.mark.parametrize("parts", [("id",), ("id", "content"), ("id", "sid"), ("sid",), ("id", "mba")])
def test_parameters_are_counted_without_making_them(parts: tuple[str, ...]) -> None:
    assert parameters_of(config(*parts), VOCABULARY) == counted(config(*parts))


@settings(deadline=None, max_examples=40)
@given(budget=st.integers(1, 60_000), by=st.sampled_from(["dim", "table_rows"]))
def test_no_other_size_comes_nearer_to_the_budget(budget: int, by: str) -> None:
    start = config("id", "prefix_ngram", table_rows=300)
    found = sized(start, VOCABULARY, {}, Budget(budget, by))  # type: ignore[arg-type]
    assert dataclasses.replace(found, model=start.model) == start
    assert found.model.model_copy(update={by: getattr(start.model, by)}) == start.model
    size, distance = getattr(found.model, by), abs(counted(found) - budget)
    for other in {max(1, size - 1), size + 1, max(1, size // 2), 2 * size}:
        changed = dataclasses.replace(found, model=found.model.model_copy(update={by: other}))
        assert abs(counted(changed) - budget) >= distance


def test_a_model_of_the_budget_stays_as_it_is() -> None:
    start = config("id", "sid", dim=13)
    assert sized(start, VOCABULARY, {}, Budget(counted(start), "dim")) == start
