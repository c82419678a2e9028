"""The input contract: what a user brings, read in chunks, checked row by row, with nothing dropped silently."""

from sidkit.contract.inspect import SourceFacts, inspect_source
from sidkit.contract.reader import Source, open_source, same_source
from sidkit.contract.report import TableReport
from sidkit.contract.validator import ValidatedTables, validate

__all__ = [
    "Source",
    "SourceFacts",
    "TableReport",
    "ValidatedTables",
    "inspect_source",
    "open_source",
    "same_source",
    "validate",
]
