"""File formats of a table's parts: Parquet, CSV, JSON lines, and NumPy arrays of vectors."""

from __future__ import annotations

from pathlib import Path

from sidkit.contract.formats.base import Part
from sidkit.contract.formats.csv import CsvPart
from sidkit.contract.formats.json_lines import JsonPart
from sidkit.contract.formats.parquet import ParquetPart

_SUFFIXES: dict[str, type[Part]] = {
    ".parquet": ParquetPart,
    ".csv": CsvPart,
    ".tsv": CsvPart,
    ".jsonl": JsonPart,
    ".ndjson": JsonPart,
}
_COMPRESSED = (".gz", ".bz2", ".zst")
ACCEPTED = ".parquet, .csv, .jsonl, .ndjson"
"""The formats in the words of an error."""


def format_of(path: Path) -> tuple[str, type[Part]] | None:
    """The name of a file without its suffixes, and its format; None if it is no table. The case does not matter."""
    stem, folded = path.name, path.name.lower()
    ending = next((each for each in _COMPRESSED if folded.endswith(each)), "")
    stem, folded = stem[: len(stem) - len(ending)], folded[: len(folded) - len(ending)]
    for suffix, part in _SUFFIXES.items():
        if folded.endswith(suffix) and not (ending and part is ParquetPart):
            return stem[: -len(suffix)], part
    return None


__all__ = ["ACCEPTED", "CsvPart", "JsonPart", "ParquetPart", "Part", "format_of"]
