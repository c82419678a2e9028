"""Point-in-time features of rows as arrays, for models of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from sidkit.core.arrays import Ints

if TYPE_CHECKING:
    from ranking.data.dataset import Dataset
    from ranking.data.torch_dataset import TorchDataset
    from ranking.data.torch_inputs import TorchInputs
    from semantic_ids.records import CodebookRecord


class ProjectDataset:
    """Rows with the features that a ranker reads: numeric features, codes and content of candidates and histories.

    Parameters
    ----------
    data : Dataset
        The arrays.
    codebook : CodebookRecord
        The codebook of the codes and the content vectors.
    labelled : bool
        Whether the rows have labels.
    rate : float
        The share of positives towards which click rates are smoothed.
    """

    def __init__(self, data: Dataset, codebook: CodebookRecord, *, labelled: bool, rate: float) -> None:
        self.data = data
        self.codebook = codebook
        self.labelled = labelled
        self.rate = rate

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        kind = "labelled rows" if self.labelled else "rows without labels"
        return f"<dataset of {len(self):,} {kind}, {len(self.data.items) - 1:,} items, codebook {self.codebook.name}>"

    @property
    def numeric(self) -> pd.DataFrame:
        """The numeric features, unscaled (counts, rates, ages in days), one column each; for tree models, for example.
        Numbers of your own features are NaN where missing.
        """
        from ranking.data.numeric_features import numeric_columns

        return pd.DataFrame(self.data.numeric, columns=list(numeric_columns(self.data.schema)))

    @property
    def attributes(self) -> pd.DataFrame:
        """The coded features: categories as ``category``, lists and vectors as objects; None where missing."""
        columns = {}
        for feature, values, codes in self.data.coded_columns():
            column = values.take(pa.array(codes)).to_pandas()
            columns[feature.name] = column.astype("category") if feature.kind == "category" else column
        return pd.DataFrame(columns, index=range(len(self.data)))

    @property
    def label(self) -> npt.NDArray[np.int8] | None:
        """Labels ``int8 [rows]``, 0 or 1; None without labels."""
        return self.data.rows.label if self.labelled else None

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """Codes of the candidates ``int32 [rows, levels]``, -1 for an item without codes at the row's time."""
        return self.data.items.codes[self.data.candidate]

    @property
    def content(self) -> npt.NDArray[np.float32]:
        """Item vectors of the candidates ``float32 [rows, dim]``: by the codebook's encoder, zero without content; with
        ``vectors="decoded"``, decoded from their codes, zero without codes.
        """
        return self.data.items.content[self.data.candidate]

    def take(self, index: Ints) -> ProjectDataset:
        """Select rows by index ``int64 [rows]``."""
        return ProjectDataset(self.data.take(index), self.codebook, labelled=self.labelled, rate=self.rate)

    def to_torch(self, *, like: TorchDataset | TorchInputs | None = None) -> TorchDataset:
        """The rows as a ``torch`` dataset, see :class:`ranking.data.torch_dataset.TorchDataset`.

        Parameters
        ----------
        like : TorchDataset or TorchInputs, optional
            The training data, or what was saved of it, whose scaling and item vocabulary are used; default: those of these
            rows.
        """
        from ranking.data.torch_dataset import TorchDataset

        return TorchDataset(self.data, self.codebook.sizes, labelled=self.labelled, like=like)
