"""Row limits of the training, validation and test parts."""

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
    """Maximum rows of the training part, and of the validation and test parts each (None: all); thinned by user."""

    train: int | None = None
    evaluation: int | None = None

    def of_part(self, name: str) -> int | None:
        """The limit of ``train``, ``validation`` or ``test``."""
        return self.train if name == "train" else self.evaluation

    def sample_of(self, repo: Repo, split: TimeSplit, end_us: int | None = None, mark: str = "") -> RowSample | None:
        """The sample of labelled rows to build, if negatives are sampled and rows are limited; else None.

        ``end_us`` excludes rows from that time on (microseconds UTC); ``mark`` is a suffix of the file name.
        """
        if repo.settings.source.feedback != "positives_only" or self == Caps():
            return None
        start_us = split.train_start_us
        cuts = (
            -FAR if start_us is None else start_us,
            split.train_end_us,
            split.validation_end_us,
            FAR if end_us is None else end_us,
        )
        windows = tuple(
            SampledWindow(cuts[place], cuts[place + 1], self.of_part(name)) for place, name in enumerate(PARTS)
        )
        named_by = asdict(self) if start_us is None else [asdict(self), start_us]
        return RowSample(repo.data / f"rows-{content_hash(named_by)[:8]}{mark}.parquet", windows)
