"""The data of a control arm: shuffled or random codes, and everything that derives from them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ranking.data.code_schema import names_code_stats
from ranking.data.control_codes import random_codes, shuffled_codes
from ranking.data.control_part import ControlPart
from ranking.data.item_table import ItemTable
from sidkit.core.errors import ConfigError

if TYPE_CHECKING:
    from ranking.training.arm_spec import ArmSpec
    from ranking.training.arms import TrainingContext


def control_data(context: TrainingContext, arm: ArmSpec, seed: int) -> TrainingContext:
    """Replace the codes of all items, and the features that are counted by codes.

    A control that reads statistics of codes takes both from the control part of its frame, with the same codes for all seeds.
    The codes of any other control differ from seed to seed.

    Parameters
    ----------
    context : TrainingContext
        The data with all features.
    arm : ArmSpec
        A control.
    seed : int
        Seed of the training.

    Raises
    ------
    ConfigError
        When the arm reads no codes, or statistics of codes in data without a control part.
    """
    kind, schema = arm.control, arm.schema_of(context.train.schema, context.spec.features)
    assert kind is not None, "only a control has other codes"
    if not names_code_stats(schema.names):
        if arm.kind == "gbdt" and not arm.is_decoded:
            raise ConfigError(
                f"a gbdt arm with {kind} codes reads codes through statistics of codes only, but the codebook "
                f"{context.serving.codebook} has none; set codebook.stats, or remove the arm"
            )
        items = context.train.items
        sizes = context.serving.sizes
        return with_items(
            context, shuffled_codes(items, seed) if kind == "shuffled" else random_codes(items, sizes, seed)
        )
    if kind not in context.controls:
        raise ConfigError(
            f"expected statistics of {kind} codes for this arm, got data that have only those of the codebook's own codes; "
            'train it with `sidkit run` or `sidkit ranker compare`, or set features = ["!*code_*"] in the arm'
        )
    part = ControlPart.load(context.controls[kind])
    return dataclasses.replace(
        context,
        train=part.applied_to_training(context.train),
        validation=part.applied("validation", context.validation),
        test=part.applied("test", context.test),
    )


def with_items(context: TrainingContext, items: ItemTable) -> TrainingContext:
    """The same rows with other item versions."""
    return dataclasses.replace(
        context,
        train=dataclasses.replace(context.train, items=items),
        validation=dataclasses.replace(context.validation, items=items),
        test=dataclasses.replace(context.test, items=items),
    )
