"""The rows of a dataset without its tables of items and histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ranking.data.coded import Coded, Codes32
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.numeric_features import model_features
from ranking.data.schema import BUILT_IN, FeatureSchema
from sidkit.core.arrays import Floats, Ints


@dataclass(frozen=True)
class FrameRows:
    """The rows of a :class:`Dataset` without its tables."""

    rows: LabelledRows
    numeric: Floats
    candidate: npt.NDArray[np.int32]
    history: npt.NDArray[np.int32]
    coded: Codes32 | None = None
    schema: FeatureSchema = BUILT_IN

    @property
    def features(self) -> Floats:
        """See :attr:`Dataset.features`."""
        return model_features(self.numeric, self.schema)

    def take(self, index: Ints) -> FrameRows:
        """Select rows by index."""
        return replace(
            self,
            rows=self.rows.take(index),
            numeric=self.numeric[index],
            candidate=self.candidate[index],
            history=self.history[index],
            coded=self.coded[index] if self.coded is not None else None,
        )

    @classmethod
    def joined(cls, parts: Sequence[FrameRows | Dataset]) -> FrameRows:
        """Concatenate the rows of several parts that share their tables."""
        return cls(
            LabelledRows.joined([part.rows for part in parts]),
            np.concatenate([part.numeric for part in parts]),
            np.concatenate([part.candidate for part in parts]),
            np.concatenate([part.history for part in parts]),
            np.concatenate([row_codes(part) for part in parts]),
            parts[0].schema,
        )


def row_codes(part: FrameRows | Dataset) -> Codes32:
    """The coded features of rows, ``int32 [rows, features]``."""
    codes = part.coded.codes if isinstance(part.coded, Coded) else part.coded
    return codes if codes is not None else np.zeros((len(part.candidate), 0), dtype=np.int32)
