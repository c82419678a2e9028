"""The data of a control arm: shuffled or random codes, and everything that derives from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ranking.data.code_schema import names_code_stats
from ranking.data.control_codes import ControlKind, random_codes, shuffled_codes
from ranking.data.control_part import ControlPart
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.item_table import ItemTable
from ranking.training.arm_spec import ArmSpec
from ranking.training.serving_spec import ServingSpec
from sidkit.core.errors import ConfigError


class SplitData(NamedTuple):
    """The parts of a frame."""

    train: Dataset | DiskDataset
    validation: Dataset
    test: Dataset

    def with_items(self, items: ItemTable) -> SplitData:
        """The same rows with other item versions."""
        return SplitData(
            dataclasses.replace(self.train, items=items),
            dataclasses.replace(self.validation, items=items),
            dataclasses.replace(self.test, items=items),
        )


def control_data(
    data: SplitData,
    arm: ArmSpec,
    shared: tuple[str, ...] | None,
    seed: int,
    serving: ServingSpec,
    controls: Mapping[ControlKind, Path],
) -> SplitData:
    """Replace the codes of all items, and the features that are counted by codes.

    A control that reads statistics of codes takes both from the control part of its frame, with the same codes for all seeds.
    The codes of any other control differ from seed to seed.

    Parameters
    ----------
    data : SplitData
        The parts with all features.
    arm : ArmSpec
        A control.
    shared : tuple of str, optional
        The patterns of ``ranker.features``.
    seed : int
        Seed of the training.
    serving : ServingSpec
        Its codebook, and the number of codes per level.
    controls : mapping
        Kind of control codes -> folder of the control part of the frame.

    Raises
    ------
    ConfigError
        When the arm reads no codes, or statistics of codes in data without a control part.
    """
    kind = arm.control
    assert kind is not None, "only a control has other codes"
    if not names_code_stats(arm.schema_of(data.train.schema, shared).names):
        if arm.kind == "gbdt" and not arm.is_decoded:
            raise ConfigError(
                f"a gbdt arm with {kind} codes reads codes through statistics of codes, but has none: the codebook "
                f"{serving.codebook} was fitted without (codebook.stats), or ranker.features leaves them out; change either, "
                "or remove the arm"
            )
        items = data.train.items
        changed = shuffled_codes(items, seed) if kind == "shuffled" else random_codes(items, serving.sizes, seed)
        return data.with_items(changed)
    if kind not in controls:
        raise ConfigError(
            f"expected statistics of {kind} codes for this arm, got data that have only those of the codebook's own codes; "
            'train it with `sidkit run` or `sidkit ranker compare`, or set features = ["!*code_*"] in the arm'
        )
    part = ControlPart.load(controls[kind])
    return SplitData(
        part.applied_to_training(data.train),
        part.applied("validation", data.validation),
        part.applied("test", data.test),
    )
