"""The input contract: reads a user's tables in chunks and validates every row; no row is dropped silently."""

from sidkit.contract.feature_section import features_section
from sidkit.contract.inspect import SourceFacts, inspect_source
from sidkit.contract.reader import located, open_source, same_source
from sidkit.contract.report import TableReport
from sidkit.contract.source import Source
from sidkit.contract.stated import stated_settings
from sidkit.contract.validator import ValidatedTables, validate

__all__ = [
    "Source",
    "SourceFacts",
    "TableReport",
    "ValidatedTables",
    "features_section",
    "inspect_source",
    "located",
    "open_source",
    "same_source",
    "stated_settings",
    "validate",
]
