"""Files as other people publish them, as SQL relations: delimited text, lines and JSON lines.

Every value is text; a query casts what it needs with ``TRY_CAST``, so that a malformed value becomes null, which the input
contract then rejects by name.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from sidkit.core.engine import literal
from sidkit.core.errors import ContractError, MissingTableError, TableSchemaError

_SHOWN = 12


def found(folder: Path, patterns: Sequence[str], table: str, what: str) -> list[Path]:
    """Files of a folder that match the first pattern with a match, sorted by path.

    Raises
    ------
    MissingTableError
        When no file matches any pattern.
    """
    for pattern in patterns:
        if files := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return files
    present = sorted(path.name for path in folder.iterdir())[:_SHOWN] if folder.is_dir() else []
    raise MissingTableError(
        table,
        f"expected {what} ({' or '.join(patterns)}) in {folder}, got {', '.join(present) or 'nothing'}; unpack the data set "
        "as published, and name the folder that holds these files",
    )


def delimited(
    files: Sequence[Path],
    needed: Sequence[str],
    table: str,
    *,
    names: Sequence[str] | None = None,
    delimiter: str = ",",
) -> str:
    """SQL relation of delimited files, each with its own header, with all columns as text and the column ``filename``.

    Parameters
    ----------
    files : sequence of Path
        One or more files; ``.gz`` is unpacked.
    needed : sequence of str
        Columns that must be present.
    table : str
        Table of the input contract that is made of them, for errors.
    names : sequence of str, optional
        Column names of files without a header; such files have no quoted values.
    delimiter : str
        One character.

    Raises
    ------
    TableSchemaError
        When a file lacks a needed column.
    """
    return " UNION ALL BY NAME ".join(
        f"SELECT * FROM {_one_delimited(file, needed, table, names, delimiter)}" for file in files
    )


def _one_delimited(file: Path, needed: Sequence[str], table: str, names: Sequence[str] | None, delimiter: str) -> str:
    columns = list(names) if names is not None else _header(file, table, delimiter)
    missing = [name for name in needed if name not in columns]
    if missing:
        raise TableSchemaError(
            table,
            f"expected column {', '.join(map(repr, missing))} in {file}, got {', '.join(columns[:_SHOWN])}; use the file as "
            "published",
        )
    typed = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in columns)
    quote = '"' if names is None else ""
    return (
        f"read_csv({literal(file)}, columns = {{{typed}}}, header = {names is None}, delim = {literal(delimiter)}, "
        f"quote = {literal(quote)}, escape = {literal(quote)}, auto_detect = false, filename = true)"
    )


def _header(file: Path, table: str, delimiter: str) -> list[str]:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8-sig", newline="") as text:
            return next(csv.reader(text, delimiter=delimiter), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ContractError(table, f"{file} cannot be read as text ({error}); download it again") from error


def split_lines(file: Path, names: Sequence[str], separator: str, encoding: str) -> str:
    """SQL relation of a file without header and quotes whose values are separated by several characters.

    Lines with another number of values have nulls, or lose what is behind the last column.
    """
    parts = ", ".join(
        f"string_split(line, {literal(separator)})[{number}] AS {name}" for number, name in enumerate(names, start=1)
    )
    return (
        f"SELECT {parts} FROM read_csv({literal(file)}, columns = {{'line': 'VARCHAR'}}, header = false, delim = '\x01', "
        f"quote = '', escape = '', auto_detect = false, encoding = {literal(encoding)})"
    )


def json_lines(files: Sequence[Path], columns: Mapping[str, str]) -> str:
    """SQL relation of files with one JSON object per line; keys that are missing are null, other keys are left out."""
    listed = ", ".join(literal(file) for file in files)
    typed = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in columns.items())
    return f"SELECT * FROM read_json([{listed}], columns = {{{typed}}}, format = 'newline_delimited', filename = true)"
