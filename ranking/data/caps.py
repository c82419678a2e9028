"""How many rows of each part are used, where not all are."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ranking.data.labelled_rows import FAR
from ranking.data.rows_used import PARTS
from ranking.data.split import TimeSplit
from sidkit.core.config import content_hash
from sidkit.core.repo import Repo
from sidkit.tables.labelled_rows import RowSample, SampledWindow


@dataclass(frozen=True)
class Caps:
    """Most rows of the training part, and of the validation and test parts each (None: all); more are thinned by user."""

    train: int | None = None
    evaluation: int | None = None

    def of_part(self, name: str) -> int | None:
        """That of ``train``, ``validation`` or ``test``."""
        return self.train if name == "train" else self.evaluation

    def sample_of(self, repo: Repo, split: TimeSplit, end_us: int | None = None, mark: str = "") -> RowSample | None:
        """The labelled rows that are used, where negatives are sampled and some would be drawn for nothing; else None.

        ``end_us``: no row from there on (microseconds UTC). ``mark`` ends the name of the file.
        """
        if repo.settings.source.feedback != "positives_only" or self == Caps():
            return None
        cuts = (-FAR, split.train_end_us, split.validation_end_us, FAR if end_us is None else end_us)
        windows = tuple(
            SampledWindow(cuts[place], cuts[place + 1], self.of_part(name)) for place, name in enumerate(PARTS)
        )
        return RowSample(repo.data / f"rows-{content_hash(asdict(self))[:8]}{mark}.parquet", windows)
