"""The clicks that a codebook learned from, and the training rows that follow them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ranking.data.split import TimeSplit
from semantic_ids.codebook import Codebook
from semantic_ids.records import CodebookRecord
from sidkit.core.clock import iso
from sidkit.core.errors import EvaluationError, LeakageError


@dataclass(frozen=True)
class CodebookWindow:
    """The number of training rows that follow the clicks which a codebook learned from."""

    codebook: str
    learned_before: str | None
    """End of those clicks (ISO-8601, UTC); None: it learned from content alone, and all rows could be trained on."""
    rows: int
    """Training rows from then on, before thinning."""
    of: int
    """Rows before the validation rows."""

    def with_rows(self, rows: int) -> CodebookWindow:
        """With the exact number of training rows; sampled negatives are counted only when they are drawn."""
        return replace(self, rows=rows, of=rows + self.of - self.rows)

    @property
    def sentence(self) -> str | None:
        """How many training rows remain; None if all do."""
        if self.learned_before is None:
            return None
        return (
            f"codebook {self.codebook} learned from clicks before {self.learned_before}; {self.rows:,} of {self.of:,} training "
            "rows follow it"
        )


def training_split(split: TimeSplit, record: CodebookRecord, codebook: Codebook) -> TimeSplit:
    """The split for rankers of a codebook: training starts where the clicks end that the codebook learned from.

    Clicks up to ``fit_end_us`` minus the availability delay, which is above 0, were used; rows at ``fit_end_us`` were not.
    """
    return split.training_from(record.fit_end_us) if codebook.learned_from_clicks else split


def refuse_learned_rows(first_us: int, record: CodebookRecord, codebook: Codebook, remedy: str | None = None) -> None:
    """Raise if the codebook learned from clicks that are training rows.

    Parameters
    ----------
    first_us : int
        Time of the first training row, microseconds UTC.
    record : CodebookRecord
        Of the codebook.
    codebook : Codebook
        The codebook.
    remedy : str, optional
        What to do, for the message.

    Raises
    ------
    LeakageError
        Names the codebook, its fit end and the first training row.
    """
    if codebook.learned_from_clicks and first_us < record.fit_end_us:
        raise LeakageError(iso(first_us), {record.name: iso(record.fit_end_us)}, training=True, remedy=remedy)


def check_training_rows(rows: int, split: TimeSplit) -> None:
    """Check that rows remain to train rankers on after the window of a codebook that learns from clicks.

    Raises
    ------
    EvaluationError
        When there are none.
    """
    if not rows:
        raise EvaluationError(
            f"no row lies between the end of the codebook's window ({iso(split.codebook_end_us)}) and the validation rows "
            f"({iso(split.train_end_us)}), so rankers have no training rows. Choose a smaller split.codebook in sidkit.toml, "
            "or use a log with more distinct times"
        )
