"""A dataset as a ``torch`` dataset, to train a model of one's own on the features of the rankers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data import Dataset as MapDataset

from ranking.data.batch import Batch
from ranking.data.batches import Batches, vocabulary_of
from ranking.data.coded_inputs import CodedInputs
from ranking.data.numeric_features import Scaling, feature_names
from ranking.data.torch_inputs import TorchInputs
from ranking.data.vocabulary import Vocabulary
from sidkit.core.errors import EvaluationError

if TYPE_CHECKING:
    from ranking.data.dataset import Dataset


class TorchDataset(MapDataset[Batch]):
    """Rows with their features, codes and content as tensors; candidates and histories share one table of items.

    Parameters
    ----------
    data : Dataset
        The rows.
    sizes : tuple of int
        Codes per level.
    labelled : bool
        Whether the labels are real; without labels, ``Batch.label`` is NaN.
    like : TorchDataset or TorchInputs, optional
        Use the scaling and the vocabulary of another dataset. Pass the training data for validation and test data, or what was
        saved of it (``inputs``) for served rows: then nothing is fitted on them.
    """

    def __init__(
        self,
        data: Dataset,
        sizes: tuple[int, ...],
        *,
        labelled: bool = True,
        like: TorchDataset | TorchInputs | None = None,
    ) -> None:
        if not len(data):
            raise EvaluationError(
                "expected at least one row, got none; pass rows with user_id, item_id, event_timestamp"
            )
        self.sizes = sizes
        """Codes per level."""
        self.labelled = labelled
        """Whether the rows have labels."""
        self.scaling: Scaling = like.scaling if like else Scaling.fit_chunks(data.feature_chunks(), 0.0)
        """Centre and scale of the numeric features."""
        self.vocabulary: Vocabulary = like.vocabulary if like else vocabulary_of(data)
        """Item ids with a row of their own in an id table."""
        self.content_dim: int = data.items.content.shape[1]
        """Width of the content vectors."""
        self.history_length: int = data.history_items.shape[1]
        """Columns of a history."""
        self.coded: CodedInputs = like.coded if like else CodedInputs.fit(data)
        """The coded features: one tensor each in ``Batch.coded``."""
        self._schema = data.schema
        self._batches = Batches(data, self.scaling, self.vocabulary, self.coded)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def inputs(self) -> TorchInputs:
        """What was fitted on these rows, to be saved with a model."""
        return TorchInputs(self.scaling, self.vocabulary, self.coded)

    @property
    def numeric_names(self) -> tuple[str, ...]:
        """Names of the columns of ``Batch.numeric``."""
        return feature_names(self._schema)

    @property
    def vocabulary_size(self) -> int:
        """Rows of an id table: padding (0), unknown items (1), and the items of the training rows."""
        return self.vocabulary.size

    def __getitem__(self, rows: int | Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(rows, dtype=torch.int64).reshape(-1)
        batch = self._batches.batch(index)
        return batch if self.labelled else batch.without_labels()

    def loader(
        self, batch_size: int = 512, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False
    ) -> DataLoader[Batch]:
        """A loader that yields :class:`ranking.data.batch.Batch`.

        Parameters
        ----------
        batch_size : int
            Rows per batch.
        shuffle : bool
            Visit the rows in a random order, another one in each epoch.
        seed : int
            Seed of the order.
        drop_last : bool
            Leave out a last batch with fewer rows.
        """
        order = (
            RandomSampler(self, generator=torch.Generator().manual_seed(seed)) if shuffle else SequentialSampler(self)
        )
        return DataLoader(self, sampler=BatchSampler(order, batch_size, drop_last), batch_size=None)
