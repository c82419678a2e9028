"""What a torch dataset fits on the training rows, saved with a model: scaling of numbers, items, and categories."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.batches import NO_INPUTS
from ranking.data.coded_inputs import CodedInputs
from ranking.data.numeric_features import Scaling
from ranking.data.vocabulary import Vocabulary
from sidkit.core.errors import ArtifactCorruptError

_SCALING, _CODED = b"scaling", b"coded"


@dataclass(frozen=True)
class TorchInputs:
    """Scaling of the numeric features, vocabulary of the item ids, and coded features, of the training rows.

    ``ProjectDataset.to_torch(like=inputs)`` applies them to other rows.
    """

    scaling: Scaling
    vocabulary: Vocabulary
    coded: CodedInputs = NO_INPUTS
    """The coded features: one tensor each in ``Batch.coded``."""

    def save(self, path: str | Path) -> None:
        """Write a Parquet file: the item ids, with all else in its metadata; the same inputs give the same bytes."""
        table = pa.table({"item_id": self.vocabulary.names.cast(pa.string())})
        scaling = json.dumps(asdict(self.scaling), sort_keys=True)
        coded = json.dumps(self.coded.as_json(), sort_keys=True)
        pq.write_table(table.replace_schema_metadata({_SCALING: scaling, _CODED: coded}), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ArtifactCorruptError
            When the file is missing or is another one.
        """
        try:
            table = pq.read_table(path)
            read = json.loads(table.schema.metadata[_SCALING])
            edges = tuple(map(tuple, read["edges"]))
            scaling = Scaling(float(read["rate"]), tuple(read["mean"]), tuple(read["scale"]), edges)
            coded = CodedInputs.of_json(json.loads(table.schema.metadata[_CODED]))
            return cls(scaling, Vocabulary(table.column("item_id")), coded)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ArtifactCorruptError(Path(path), f"cannot be read ({type(error).__name__}: {error})") from error
